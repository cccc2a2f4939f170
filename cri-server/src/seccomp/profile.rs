//! RuntimeDefault as data: which calls a container may make, and on what conditions.
//!
//! The verdicts are those of the containers' default profile, so that a workload which runs under Podman or
//! CRI-O runs here. A call that is allowed or forbidden here is so on every kernel; one that is listed nowhere
//! does not exist (ENOSYS), so that a C library falls back to what it used before the call was invented.

use oci_spec::runtime::{
    Capability, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator,
    LinuxSyscall,
};

use super::{Machine, rule};

const EPERM: u32 = 1;
const EINVAL: u32 = 22;
pub(super) const ENOSYS: u32 = 38;

const AF_NETLINK: u64 = 16;
const NETLINK_AUDIT: u64 = 9;
/// personality(2): Linux, UNAME26, 32-bit addresses, both, and the question which one is set.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// All rules for a container that is granted `capabilities`. No call is named by two rules that disagree.
pub(super) fn rules(machine: Machine, capabilities: &[Capability]) -> Vec<LinuxSyscall> {
    let allow = |names: &[&str]| rule(names, LinuxSeccompAction::ScmpActAllow, None);
    let refuse = |names: &[&str]| rule(names, LinuxSeccompAction::ScmpActErrno, Some(EPERM));
    let mut rules: Vec<LinuxSyscall> = ALLOWED.iter().map(|names| allow(&words(names))).collect();
    rules.push(refuse(&words(FORBIDDEN)));
    for (capability, names) in GATED {
        rules.push(if capabilities.contains(capability) { allow(names) } else { refuse(names) });
    }
    let native = NATIVE.iter().filter(|(machines, _)| machines.contains(&machine));
    rules.extend(native.map(|(_, names)| allow(names)));
    rules.extend(PERSONALITIES.map(personality));
    rules.extend(sockets(capabilities.contains(&Capability::AuditWrite)));
    rules
}

fn words(names: &'static str) -> Vec<&'static str> {
    names.split_ascii_whitespace().collect()
}

/// Other personalities turn protections of the address space off.
fn personality(domain: u64) -> LinuxSyscall {
    let mut rule = rule(&["personality"], LinuxSeccompAction::ScmpActAllow, None);
    rule.set_args(Some(vec![arg(0, LinuxSeccompOperator::ScmpCmpEq, domain)]));
    rule
}

/// The kernel's audit socket answers EPERM to those who may not use it, and some libraries take that as fatal;
/// EINVAL is what a kernel without audit says, and they go on.
fn sockets(may_write_audit: bool) -> Vec<LinuxSyscall> {
    let mut any = rule(&["socket"], LinuxSeccompAction::ScmpActAllow, None);
    if may_write_audit {
        return vec![any];
    }
    let mut other_protocol = any.clone();
    any.set_args(Some(vec![arg(0, LinuxSeccompOperator::ScmpCmpNe, AF_NETLINK)]));
    other_protocol.set_args(Some(vec![arg(2, LinuxSeccompOperator::ScmpCmpNe, NETLINK_AUDIT)]));
    let mut audit = rule(&["socket"], LinuxSeccompAction::ScmpActErrno, Some(EINVAL));
    let (domain, protocol) = (LinuxSeccompOperator::ScmpCmpEq, LinuxSeccompOperator::ScmpCmpEq);
    audit.set_args(Some(vec![arg(0, domain, AF_NETLINK), arg(2, protocol, NETLINK_AUDIT)]));
    vec![audit, other_protocol, any]
}

fn arg(index: usize, op: LinuxSeccompOperator, value: u64) -> LinuxSeccompArg {
    let arg = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
    arg.build().expect("every field that must be is set")
}

/// Allowed to those who hold the capability, forbidden (EPERM) to others.
///
/// Everything here acts on the whole machine or looks past the container's walls. `setns` is not here: it is in
/// `MOUNTS`, since the kernel asks for the capability itself, in the namespace that it is about.
const GATED: &[(Capability, &[&str])] = &[
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (
        Capability::SysAdmin,
        &[
            "bpf",
            "fanotify_init",
            "lookup_dcookie",
            "perf_event_open",
            "quotactl",
            "setdomainname",
            "sethostname",
        ],
    ),
    (Capability::SysChroot, &["chroot"]),
    (Capability::SysModule, &["delete_module", "finit_module", "init_module", "query_module"]),
    (Capability::SysPacct, &["acct"]),
    (Capability::SysPtrace, &["kcmp", "process_madvise"]),
    (Capability::SysRawio, &["ioperm", "iopl"]),
    (Capability::SysTime, &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    (Capability::SysTtyConfig, &["vhangup"]),
];

/// Calls that only some processors have.
const NATIVE: &[(&[Machine], &[&str])] = &[
    (&[Machine::Amd64], &["arch_prctl", "modify_ldt"]),
    (
        &[Machine::Arm64],
        &[
            "arm_fadvise64_64",
            "arm_sync_file_range",
            "breakpoint",
            "cacheflush",
            "set_tls",
            "sync_file_range2",
        ],
    ),
    (&[Machine::Ppc64le], &["sync_file_range2"]),
    (&[Machine::S390x], &["s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr"]),
];

/// Opening, reading, writing and closing.
const FILES: &str = "
    open openat openat2 creat close close_range read readv pread64 preadv preadv2 write writev pwrite64
    pwritev pwritev2 lseek _llseek dup dup2 dup3 fcntl fcntl64 ioctl flock sendfile sendfile64 splice tee
    copy_file_range readahead fadvise64 fadvise64_64 fallocate truncate truncate64 ftruncate ftruncate64
    fsync fdatasync sync syncfs sync_file_range pipe pipe2 memfd_create memfd_secret
";

/// Names, links, directories and what stat tells.
const DIRECTORIES: &str = "
    access faccessat faccessat2 chdir fchdir getcwd mkdir mkdirat rmdir mknod mknodat link linkat symlink
    symlinkat unlink unlinkat rename renameat renameat2 readlink readlinkat readdir getdents getdents64
    stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx statfs statfs64 fstatfs fstatfs64
    name_to_handle_at umask utime utimes utimensat utimensat_time64 futimesat
";

/// Owners, modes and extended attributes.
const OWNERSHIP: &str = "
    chmod fchmod fchmodat chown chown32 fchown fchown32 fchownat lchown lchown32 getxattr lgetxattr
    fgetxattr setxattr lsetxattr fsetxattr listxattr llistxattr flistxattr removexattr lremovexattr
    fremovexattr
";

/// Waiting for descriptors, and asynchronous I/O.
const EVENTS: &str = "
    poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_create epoll_create1
    epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2 eventfd eventfd2 signalfd
    signalfd4 inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark io_setup
    io_destroy io_submit io_cancel io_getevents
";

/// Address space.
const MEMORY: &str = "
    brk mmap mmap2 munmap mremap mprotect madvise msync mincore mlock mlock2 mlockall munlock munlockall
    mbind get_mempolicy set_mempolicy membarrier pkey_alloc pkey_free pkey_mprotect remap_file_pages
";

/// Making, ending, tracing and waiting for processes and threads.
const PROCESSES: &str = "
    clone clone3 fork vfork execve execveat exit exit_group wait4 waitid waitpid getpid getppid gettid
    getpgid getpgrp setpgid getsid setsid set_tid_address set_robust_list get_robust_list set_thread_area
    get_thread_area rseq restart_syscall prctl ptrace process_vm_readv process_vm_writev process_mrelease
    pidfd_open pidfd_getfd pidfd_send_signal futex futex_time64 times getrusage seccomp
";

/// Signals.
const SIGNALS: &str = "
    kill tkill tgkill pause alarm signal sigaction sigaltstack sigpending sigprocmask sigreturn
    sigsuspend rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
";

/// Users, groups, capabilities and keys.
const IDENTITY: &str = "
    getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 getresgid
    getresgid32 getgroups getgroups32 setuid setuid32 setgid setgid32 setreuid setreuid32 setregid
    setregid32 setresuid setresuid32 setresgid setresgid32 setfsuid setfsuid32 setfsgid setfsgid32
    setgroups setgroups32 capget capset keyctl landlock_create_ruleset landlock_add_rule
    landlock_restrict_self
";

/// Scheduling, limits and what the machine tells about itself.
const SCHEDULING: &str = "
    sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam
    sched_setparam sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min
    sched_rr_get_interval sched_rr_get_interval_time64 getpriority setpriority ioprio_get ioprio_set
    getrlimit setrlimit prlimit64 ugetrlimit getcpu sysinfo uname getrandom syslog
";

/// Clocks and timers. Setting the clock is another matter.
const TIME: &str = "
    time gettimeofday clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
    clock_nanosleep_time64 clock_adjtime clock_adjtime64 adjtimex nanosleep getitimer setitimer
    timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
    timer_settime64 timerfd timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64
";

/// Sockets; which sockets may be made is decided with the capability AUDIT_WRITE.
const SOCKETS: &str = "
    accept accept4 bind connect listen getpeername getsockname getsockopt setsockopt recv recvfrom
    recvmsg recvmmsg recvmmsg_time64 send sendto sendmsg sendmmsg shutdown socketpair socketcall
";

/// System V and POSIX inter-process communication.
const IPC: &str = "
    ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt
    shmget mq_open mq_unlink mq_notify mq_getsetattr mq_timedreceive mq_timedreceive_time64 mq_timedsend
    mq_timedsend_time64
";

/// Mounts, namespaces and reboot. The kernel itself asks for capabilities here, and a user namespace inside
/// the container may have them.
const MOUNTS: &str = "
    mount mount_setattr move_mount open_tree fsopen fsconfig fsmount fspick umount umount2 pivot_root
    unshare setns reboot
";

/// `syscall(2)` as a call of its own, on the architectures that have one.
const INDIRECT: &str = "
    syscall
";

/// What every container may call, by concern.
const ALLOWED: [&str; 14] = [
    FILES,
    DIRECTORIES,
    OWNERSHIP,
    EVENTS,
    MEMORY,
    PROCESSES,
    SIGNALS,
    IDENTITY,
    SCHEDULING,
    TIME,
    SOCKETS,
    IPC,
    MOUNTS,
    INDIRECT,
];

/// Calls that programs probe for: they are told EPERM, while a call nobody listed does not exist (ENOSYS).
const FORBIDDEN: &str = "
    bdflush io_pgetevents kexec_file_load kexec_load migrate_pages move_pages nfsservctl nice oldfstat
    oldlstat oldolduname oldstat olduname pciconfig_iobase pciconfig_read pciconfig_write sgetmask
    ssetmask swapcontext swapoff swapon sysfs uselib userfaultfd ustat vm86 vm86old vmsplice
";
