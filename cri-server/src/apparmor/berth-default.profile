# What containers get under AppArmor unless their pod asks for something else. Loaded by berthd.
#
# Files, sockets and capabilities are left to the container's namespaces, capabilities and seccomp filter; here is
# what those do not keep apart: the kernel's own switches, mounts, and the processes of others.
profile berth-default flags=(attach_disconnected,mediate_deleted) {
  file,
  network,
  unix,
  capability,
  umount,
  deny mount,
  deny remount,
  deny pivot_root,

  # The host's processes may signal and read a container's; a container's only each other.
  signal (receive) peer=unconfined,
  signal (send, receive) peer=berth-default,
  ptrace (readby, tracedby) peer=unconfined,
  ptrace (read, readby, trace, tracedby) peer=berth-default,

  # Of /proc/sys a container may write what its own namespaces answer for: net, and kernel.sem*, shm*, msg*.
  deny /proc/* w,
  deny /proc/{acpi,asound,bus,driver,fs,irq,scsi,tty}/** w,
  deny /proc/sys/[^nk]** w,
  deny /proc/sys/kernel/{[^sm]**,s[^eh]**,se[^m]**,sh[^m]**,m[^s]**,ms[^g]**} w,
  deny /proc/{kcore,kmem,mem,sysrq-trigger} rwklx,

  # Of /sys only the container's cgroups.
  deny /sys/[^f]** wklx,
  deny /sys/f[^s]** wklx,
  deny /sys/fs/[^c]** wklx,
  deny /sys/fs/c[^g]** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
