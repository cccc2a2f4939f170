//! Plans by their output: a request and a machine in, an OCI configuration or a refusal out.

use conmon_protocol::{IdMap, IdMaps, PidSharing, Sharing};
use oci_spec::runtime::{Capability, LinuxDeviceType, LinuxNamespaceType, Mount};
use v1::security_profile::ProfileType;

use super::*;

/// Everything a plan depends on, all of it ordinary until a test changes it.
#[derive(Debug)]
struct Case {
    config: v1::ContainerConfig,
    sandbox: v1::PodSandboxConfig,
    pod: PodPlan,
    image: TestImage,
    host: HostFacts,
    settings: Settings,
    target_pid: Option<i32>,
    labels: Option<PodLabels>,
    handler: Option<crate::config::HandlerSection>,
    features: v1::RuntimeHandlerFeatures,
}

#[derive(Debug, Default)]
struct TestImage {
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    env: Vec<String>,
    user: String,
    working_dir: String,
    stop_signal: String,
    volumes: Vec<String>,
    passwd: Option<Vec<u8>>,
    group: Option<Vec<u8>>,
}

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/sh\n\
    app:x:1000:1001::/home/app:/bin/sh\n1002:x:0:0::/root:/bin/sh\n4294967296:x:0:0::/:/bin/sh\nbad:x:nine:0::/:\n";
const GROUP: &[u8] =
    b"root:x:0:\nwww-data:x:33:\nvideo:x:44:app,www-data\nwheel:x:10:root,app\n4294967295:x:7:\n";

impl Case {
    fn new() -> Self {
        let metadata = v1::PodSandboxMetadata {
            name: "web".into(),
            uid: "uid-1".into(),
            namespace: "shop".into(),
            attempt: 0,
        };
        Self {
            config: v1::ContainerConfig {
                metadata: Some(v1::ContainerMetadata { name: "app".into(), attempt: 0 }),
                image: Some(v1::ImageSpec { image: "sha256:11".into(), ..Default::default() }),
                linux: Some(v1::LinuxContainerConfig {
                    resources: Some(v1::LinuxContainerResources::default()),
                    security_context: Some(v1::LinuxContainerSecurityContext::default()),
                }),
                ..Default::default()
            },
            sandbox: v1::PodSandboxConfig {
                metadata: Some(metadata),
                log_directory: "/var/log/pods/shop_web".into(),
                linux: Some(v1::LinuxPodSandboxConfig {
                    security_context: Some(v1::LinuxSandboxSecurityContext::default()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            pod: PodPlan {
                sandbox_id: "s1".into(),
                pod_dir: "/run/berth/sandboxes/s1".into(),
                hostname: Some("web".into()),
                network: Sharing::Own,
                ipc: Sharing::Own,
                uts: Sharing::Own,
                pid: PidSharing::Container,
                user: None,
                sysctls: Vec::new(),
                shm_size_bytes: None,
                cgroup_parent: "/kubepods/poduid-1".into(),
                cgroup_driver: conmon_protocol::CgroupDriver::Cgroupfs,
                monitor_cgroup: None,
                process_label: None,
                file_label: None,
            },
            image: TestImage {
                entrypoint: vec!["/entry".into()],
                cmd: vec!["--serve".into()],
                env: vec!["COLOUR=red".into(), "PATH=/opt/bin:/bin".into()],
                passwd: Some(PASSWD.to_vec()),
                group: Some(GROUP.to_vec()),
                ..Default::default()
            },
            host: HostFacts {
                machine: Machine {
                    cgroup: CgroupVersion::V2,
                    capabilities: capabilities::from_mask((1 << 41) - 1),
                    oom_score_adj_floor: -1000,
                    apparmor: false,
                    selinux: false,
                    hugepage_sizes: ["2MB".to_owned()].into(),
                    swap_accounting: true,
                },
                devices: Vec::new(),
                all_devices: Vec::new(),
                cdi: crate::cdi::Edits::default(),
                hooks: Vec::new(),
                mounts: Vec::new(),
                seccomp_profile: None,
                apparmor_loaded: true,
                block_io: None,
            },
            settings: Settings::default(),
            target_pid: None,
            labels: None,
            handler: None,
            features: crate::handlers::own(),
        }
    }

    fn security(&mut self) -> &mut v1::LinuxContainerSecurityContext {
        self.config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
    }

    fn resources(&mut self) -> &mut v1::LinuxContainerResources {
        self.config.linux.as_mut().unwrap().resources.as_mut().unwrap()
    }

    fn privileged(&mut self) {
        self.security().privileged = true;
        self.sandbox.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    }

    fn mount(&mut self, mount: v1::Mount, propagation: Propagation) {
        let path = PathBuf::from(&mount.host_path);
        self.host.mounts.push(MountSource { path, kind: SourceKind::Directory, propagation });
        self.config.mounts.push(mount);
    }

    fn plan(&self) -> Result<ContainerPlan, Invalid> {
        let image = ImageFacts {
            name: "img",
            entrypoint: &self.image.entrypoint,
            cmd: &self.image.cmd,
            env: &self.image.env,
            user: &self.image.user,
            working_dir: &self.image.working_dir,
            stop_signal: &self.image.stop_signal,
            volumes: &self.image.volumes,
            passwd: self.image.passwd.as_deref(),
            group: self.image.group.as_deref(),
            accounts_unusable: None,
        };
        plan(&Inputs {
            container_id: "c1",
            config: &self.config,
            sandbox: SandboxFacts {
                config: &self.sandbox,
                pod: &self.pod,
                labels: self.labels.as_ref(),
                hostname: "web",
                target_pid: self.target_pid,
            },
            image,
            host: &self.host,
            settings: &self.settings,
            handler: self.handler.as_ref(),
            features: self.features,
            oci_version: crate::handlers::OCI_VERSION,
            volumes_dir: Path::new("/var/lib/berth/containers/c1/volumes"),
        })
    }
}

fn planned(change: impl FnOnce(&mut Case)) -> ContainerPlan {
    let mut case = Case::new();
    change(&mut case);
    case.plan().unwrap()
}

/// The refusal, which must say `words`.
fn refused(words: &str, change: impl FnOnce(&mut Case)) {
    let mut case = Case::new();
    change(&mut case);
    let error = case.plan().expect_err(words).to_string();
    assert!(error.contains(words), "{error:?} does not say {words:?}");
}

/// Sets have no order and the default filter has a test of its own.
fn readable(plan: &ContainerPlan) -> serde_json::Value {
    let mut value = serde_json::to_value(plan).unwrap();
    let sets = value["spec"]["process"]["capabilities"].as_object_mut().unwrap();
    for set in sets.values_mut().filter_map(|set| set.as_array_mut()) {
        set.sort_by_key(|name| name.to_string());
    }
    if let Some(seccomp) = value["spec"]["linux"].get_mut("seccomp") {
        *seccomp = seccomp["defaultAction"].take();
    }
    value
}

fn snapshot(name: &str, change: impl FnOnce(&mut Case)) {
    let plan = planned(change);
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true, sort_maps => true }, {
        insta::assert_json_snapshot!(name, readable(&plan));
    });
}

/// A plan comes back from its file as it went in.
#[test]
fn a_plan_survives_being_stored() {
    let plan = planned(|case| case.privileged());
    let stored = serde_json::to_vec(&plan).unwrap();
    assert_eq!(serde_json::from_slice::<ContainerPlan>(&stored).unwrap(), plan);
}

fn volume(container_path: &str, host_path: &str) -> v1::Mount {
    v1::Mount { container_path: container_path.into(), host_path: host_path.into(), ..Default::default() }
}

#[test]
fn a_pod_of_the_kubelet() {
    snapshot("kubelet", |case| {
        case.config.envs = vec![v1::KeyValue { key: "COLOUR".into(), value: b"blue".to_vec() }];
        case.config.log_path = "app/0.log".into();
        case.mount(volume("/etc/hosts", "/var/lib/kubelet/pods/uid-1/etc-hosts"), Propagation::Private);
        case.mount(volume("/dev/termination-log", "/var/lib/kubelet/pods/uid-1/log"), Propagation::Private);
        *case.resources() = v1::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            memory_swap_limit_in_bytes: 64 << 20,
            oom_score_adj: -997,
            hugepage_limits: ["2MB", "1GB"]
                .map(|size| v1::HugepageLimit { page_size: size.into(), limit: 0 })
                .into(),
            ..Default::default()
        };
        let security = case.security();
        security.run_as_user = Some(v1::Int64Value { value: 1000 });
        security.seccomp = Some(v1::SecurityProfile::default());
        security.masked_paths = vec!["/proc/kcore".into(), "/sys/firmware".into()];
        security.readonly_paths = vec!["/proc/sys".into()];
        security.no_new_privs = true;
    });
}

#[test]
fn a_privileged_container_in_the_hosts_namespaces() {
    snapshot("privileged", |case| {
        case.privileged();
        case.security().seccomp = Some(v1::SecurityProfile::default());
        (case.pod.network, case.pod.ipc, case.pod.uts) = (Sharing::Host, Sharing::Host, Sharing::Host);
        case.pod.pid = PidSharing::Host;
        case.host.all_devices = vec![device("/dev/kmsg", 1, 11), device("/dev/null", 1, 3)];
        let bidirectional = v1::MountPropagation::PropagationBidirectional as i32;
        case.mount(v1::Mount { propagation: bidirectional, ..volume("/csi", "/csi") }, Propagation::Shared);
    });
}

#[test]
fn a_pod_with_users_of_its_own() {
    snapshot("users", |case| {
        let map = IdMap { container_id: 0, host_id: 65_536, length: 65_536 };
        case.pod.user = Some(IdMaps { uids: vec![map], gids: vec![map] });
        case.pod.pid = PidSharing::Pod;
        case.image.user = "app".into();
        let mapping = v1::IdMapping { container_id: 0, host_id: 65_536, length: 65_536 };
        let (uid_mappings, gid_mappings) = (vec![mapping], vec![mapping]);
        case.mount(v1::Mount { uid_mappings, gid_mappings, ..volume("/data", "/vol") }, Propagation::Private);
        case.config.tty = true;
    });
}

fn device(path: &str, major: i64, minor: i64) -> HostDevice {
    HostDevice {
        host_path: path.into(),
        path: path.into(),
        kind: LinuxDeviceType::C,
        major,
        minor,
        mode: 0o600,
        uid: 0,
        gid: 0,
        permissions: "rwm".into(),
    }
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

#[test]
fn command_and_args_stand_over_entrypoint_and_cmd() {
    let check = |command: &[&str], args: &[&str], expected: &[&str]| {
        let plan =
            planned(|case| (case.config.command, case.config.args) = (strings(command), strings(args)));
        assert_eq!(plan.spec.process().as_ref().unwrap().args().as_ref().unwrap(), &strings(expected));
    };
    check(&[], &[], &["/entry", "--serve"]);
    check(&["sh"], &[], &["sh"]);
    check(&[], &["-v"], &["/entry", "-v"]);
    check(&["sh"], &["-c", "x"], &["sh", "-c", "x"]);
    refused("command: neither", |case| (case.image.entrypoint, case.image.cmd) = (Vec::new(), Vec::new()));
    refused("command: a word", |case| case.config.command = vec!["a\0b".into()]);
}

fn env_of(plan: &ContainerPlan) -> &[String] {
    plan.spec.process().as_ref().unwrap().env().as_ref().unwrap()
}

fn set(case: &mut Case, key: &str, value: &[u8]) {
    case.config.envs.push(v1::KeyValue { key: key.into(), value: value.to_vec() });
}

#[test]
fn the_environment_is_made_of_layers() {
    let plan = planned(|case| {
        case.config.tty = true;
        case.settings.default_env = vec!["ZONE=a".into()];
        set(case, "COLOUR", b"blue");
        set(case, "EMPTY", b"");
    });
    let expected =
        ["PATH=/opt/bin:/bin", "TERM=xterm", "ZONE=a", "COLOUR=blue", "HOSTNAME=web", "EMPTY=", "HOME=/root"];
    assert_eq!(env_of(&plan), expected);
    refused("envs[0]: \"\" cannot", |case| set(case, "", b"x"));
    refused("envs[0]: \"A=B\" cannot", |case| set(case, "A=B", b"x"));
    refused("NUL", |case| set(case, "A", b"x\0y"));
    refused("not UTF-8", |case| set(case, "A", b"\xff"));
}

#[test]
fn a_home_directory_cannot_smuggle_a_passwd_line() {
    let plan = planned(|case| set(case, "HOME", b"/h"));
    assert!(env_of(&plan).contains(&"HOME=/h".to_owned()));
    refused("HOME is", |case| set(case, "HOME", b"/h\nevil:x:0:0::/:/bin/sh"));
    refused("HOME is", |case| set(case, "HOME", b"/h:x"));
    refused("HOME is", |case| case.image.env.push("HOME=/h\nx".into()));
}

#[test]
fn users_and_groups_are_found_as_they_were_written() {
    let check = |change: &dyn Fn(&mut Case), uid: u32, gid: u32, groups: &[u32]| {
        let user = planned(change).user;
        assert_eq!((user.uid, user.gid, user.groups.as_slice()), (uid, gid, groups));
    };
    let image = |user: &'static str| move |case: &mut Case| case.image.user = user.into();
    check(&image(""), 0, 0, &[0, 10]);
    check(&image("app"), 1000, 1001, &[1001, 44, 10]);
    check(&image("1000"), 1000, 1001, &[1001, 44, 10]);
    check(&image("app:video"), 1000, 44, &[44, 10]);
    check(&image("1000:1004"), 1000, 1004, &[1004, 44, 10]);
    check(&image("1000:"), 1000, 1001, &[1001, 44, 10]);
    check(&image(":33"), 0, 33, &[33, 10]);
    // A number is never looked up as a name: the entry named 1002 is root's.
    check(&image("1002"), 1002, 0, &[0]);
    let pod = |case: &mut Case| {
        let security = case.security();
        security.run_as_user = Some(v1::Int64Value { value: 1000 });
        security.run_as_group = Some(v1::Int64Value { value: 50 });
        security.supplemental_groups = vec![44, 60_000];
    };
    check(&pod, 1000, 50, &[50, 44, 10, 60_000]);
    let strict = |case: &mut Case| {
        pod(case);
        case.security().supplemental_groups_policy = v1::SupplementalGroupsPolicy::Strict as i32;
    };
    check(&strict, 1000, 50, &[50, 44, 60_000]);
    check(&|case: &mut Case| case.security().run_as_username = "www-data".into(), 33, 33, &[33, 44]);
}

#[test]
fn a_user_that_is_none_is_refused_and_never_root() {
    for user in ["4294967296", "2147483648", "4294967295", "-1", "+5", "99999999999999999999", "-"] {
        let check = |words: &str| refused(words, |case| case.image.user = user.into());
        check("image.config.user: ");
    }
    refused("is not in /etc/passwd", |case| case.image.user = "nobody".into());
    refused("is not in /etc/passwd", |case| case.image.user = "bad".into());
    refused("is not in /etc/group", |case| case.image.user = "app:none".into());
    refused("image.config.user", |case| case.image.user = "app:4294967295".into());
    refused("run_as_group needs", |case| case.security().run_as_group = Some(v1::Int64Value { value: 1 }));
    refused("run_as_user: -1", |case| case.security().run_as_user = Some(v1::Int64Value { value: -1 }));
    refused("run_as_username: 1000 is a number", |case| case.security().run_as_username = "1000".into());
    refused("supplemental_groups: ", |case| case.security().supplemental_groups = vec![1 << 31]);
}

#[test]
fn the_home_directory_is_the_users() {
    let check = |user: &str, home: &str| {
        let plan = planned(|case| case.image.user = user.into());
        assert!(env_of(&plan).contains(&format!("HOME={home}")), "{:?}", env_of(&plan));
    };
    check("app", "/home/app");
    check("1000", "/home/app");
    check("12345", "/");
}

#[test]
fn capabilities_are_added_to_and_taken_from_the_default() {
    let check = |add: &[&str], drop: &[&str], has: &[Capability], lacks: &[Capability], count: usize| {
        let plan = planned(|case| {
            case.security().capabilities = Some(v1::Capability {
                add_capabilities: strings(add),
                drop_capabilities: strings(drop),
                ..Default::default()
            });
        });
        let sets = plan.spec.process().as_ref().unwrap().capabilities().clone().unwrap();
        let bounding = sets.bounding().clone().unwrap();
        assert!(has.iter().all(|c| bounding.contains(c)), "{add:?} {drop:?}");
        assert!(!lacks.iter().any(|c| bounding.contains(c)), "{add:?} {drop:?}");
        assert_eq!(bounding.len(), count, "{add:?} {drop:?}");
        assert!(sets.inheritable().as_ref().unwrap().is_empty());
    };
    check(&[], &[], &[Capability::Chown], &[Capability::SysAdmin], 14);
    check(&["SYS_ADMIN", "cap_net_admin"], &[], &[Capability::SysAdmin, Capability::NetAdmin], &[], 16);
    check(&["ALL"], &["CAP_CHOWN"], &[Capability::SysAdmin], &[Capability::Chown], 40);
    check(&["CHOWN"], &["ALL"], &[Capability::Chown], &[Capability::Kill], 1);
    check(&[], &["all"], &[], &[Capability::Chown], 0);
    refused("there is no capability CAP_FLY", |case| capability(case, "CAP_FLY"));
    refused("does not hold CAP_SYS_RESOURCE", |case| {
        case.host.machine.capabilities.retain(|held| *held != Capability::SysResource);
        capability(case, "SYS_RESOURCE");
    });
}

fn capability(case: &mut Case, name: &str) {
    let capabilities = v1::Capability { add_capabilities: vec![name.into()], ..Default::default() };
    case.security().capabilities = Some(capabilities);
}

#[test]
fn an_ambient_capability_is_inheritable_and_no_other_is() {
    let plan = planned(|case| {
        let capabilities =
            v1::Capability { add_ambient_capabilities: strings(&["NET_ADMIN"]), ..Default::default() };
        case.security().capabilities = Some(capabilities);
    });
    let sets = plan.spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    let expected = Some([Capability::NetAdmin].into());
    assert_eq!((sets.ambient(), sets.inheritable()), (&expected, &expected));
    assert!(sets.permitted().as_ref().unwrap().contains(&Capability::NetAdmin));
}

fn mount_at<'a>(plan: &'a ContainerPlan, path: &str) -> Option<&'a Mount> {
    plan.spec.mounts().as_ref().unwrap().iter().find(|mount| mount.destination() == Path::new(path))
}

fn options(plan: &ContainerPlan, path: &str) -> Vec<String> {
    mount_at(plan, path).unwrap().options().clone().unwrap()
}

#[test]
fn mounts_have_the_options_that_were_asked_for() {
    let check = |mount: v1::Mount, source: Propagation, expected: &[&str]| {
        let path = mount.container_path.clone();
        let plan = planned(|case| case.mount(mount, source));
        assert_eq!(options(&plan, &path), strings(expected));
    };
    let slave = v1::MountPropagation::PropagationHostToContainer as i32;
    check(volume("/v", "/h"), Propagation::Private, &["rbind", "rprivate", "rw"]);
    check(
        v1::Mount { readonly: true, ..volume("/v", "/h") },
        Propagation::Private,
        &["rbind", "rprivate", "ro"],
    );
    let recursive = v1::Mount { readonly: true, recursive_read_only: true, ..volume("/v", "/h") };
    check(recursive, Propagation::Private, &["rbind", "rprivate", "rro"]);
    let host_to_container = v1::Mount { propagation: slave, ..volume("/v", "/h") };
    check(host_to_container.clone(), Propagation::Shared, &["rbind", "rslave", "rw"]);
    let sealed = v1::Mount { mount_options: strings(&["noexec"]), ..volume("/v", "/h") };
    check(sealed, Propagation::Private, &["rbind", "rprivate", "rw", "noexec"]);
    let plan = planned(|case| case.mount(host_to_container, Propagation::Slave));
    assert_eq!(plan.spec.linux().as_ref().unwrap().rootfs_propagation().as_deref(), Some("rslave"));
}

#[test]
fn mounts_that_cannot_be_are_refused() {
    let check =
        |words: &str, mount: v1::Mount| refused(words, |case| case.mount(mount, Propagation::Private));
    let slave = v1::MountPropagation::PropagationHostToContainer as i32;
    check(
        "recursive_read_only: the mount is not",
        v1::Mount { recursive_read_only: true, ..volume("/v", "/h") },
    );
    let both =
        v1::Mount { recursive_read_only: true, readonly: true, propagation: slave, ..volume("/v", "/h") };
    refused("recursive_read_only: the propagation", |case| case.mount(both, Propagation::Shared));
    let recursive = v1::Mount { recursive_read_only: true, readonly: true, ..volume("/v", "/h") };
    refused("mounts[0].recursive_read_only: RROUnsupported", |case| {
        case.mount(recursive, Propagation::Private);
        case.features.recursive_read_only_mounts = false;
    });
    check("does not propagate so", v1::Mount { propagation: slave, ..volume("/v", "/h") });
    check("mounts[0].host_path", volume("/v", ""));
    check("mounts[0].container_path: \"v\"", volume("v", "/h"));
    check("the root of the container", volume("/x/..", "/h"));
    check("/proc belongs", volume("/proc", "/h"));
    check("/proc/sys belongs", volume("/proc/./sys", "/h"));
    check("suid is not one of", v1::Mount { mount_options: strings(&["suid"]), ..volume("/v", "/h") });
    let image = v1::ImageSpec { image: "x".into(), ..Default::default() };
    let image = v1::Mount { image: Some(image), readonly: true, ..volume("/v", "") };
    check("not of both", v1::Mount { host_path: "/h".into(), ..image.clone() });
    check("nothing to propagate", v1::Mount { propagation: slave, ..image.clone() });
    check("mounts[0].readonly: an image", v1::Mount { readonly: false, ..image.clone() });
    check("suid is not one of", v1::Mount { mount_options: strings(&["suid"]), ..image });
    check("no image is named", v1::Mount { image_sub_path: "x".into(), ..volume("/v", "/h") });
    let relabel = v1::Mount { selinux_relabel: true, ..volume("/v", "/h") };
    assert!(mount_at(&planned(|case| case.mount(relabel.clone(), Propagation::Private)), "/v").is_some());
}

#[test]
fn a_mount_asked_for_replaces_ours_and_parents_come_first() {
    let plan = planned(|case| {
        case.mount(volume("/a/b/c", "/1"), Propagation::Private);
        case.mount(volume("/a", "/2"), Propagation::Private);
        case.mount(volume("/etc/resolv.conf", "/3"), Propagation::Private);
        case.mount(volume("/proc/meminfo", "/4"), Propagation::Private);
    });
    let mounts = plan.spec.mounts().as_ref().unwrap();
    let place = |path: &str| mounts.iter().position(|mount| mount.destination() == Path::new(path)).unwrap();
    assert!(
        place("/a") < place("/a/b/c")
            && place("/dev") < place("/dev/shm")
            && place("/proc") < place("/proc/meminfo")
    );
    assert_eq!(mount_at(&plan, "/etc/resolv.conf").unwrap().source(), &Some("/3".into()));
    assert_eq!(mounts.iter().filter(|mount| mount.destination() == Path::new("/etc/resolv.conf")).count(), 1);
    let plan = planned(|case| case.mount(volume("/dev", "/dev"), Propagation::Private));
    assert!(mount_at(&plan, "/dev/pts").is_none() && mount_at(&plan, "/dev/shm").is_none());
}

#[test]
fn a_source_that_is_missing_is_to_be_made() {
    let plan = planned(|case| {
        case.mount(volume("/v", "/gone"), Propagation::Private);
        case.host.mounts[0].kind = SourceKind::Missing;
    });
    assert_eq!(plan.missing_sources, [PathBuf::from("/gone")]);
}

fn namespaces(plan: &ContainerPlan) -> Vec<(LinuxNamespaceType, Option<PathBuf>)> {
    let namespaces = plan.spec.linux().as_ref().unwrap().namespaces().as_ref().unwrap();
    namespaces.iter().map(|namespace| (namespace.typ(), namespace.path().clone())).collect()
}

fn with_pid(case: &mut Case, pod: PidSharing, mode: v1::NamespaceMode) {
    case.pod.pid = pod;
    case.security().namespace_options = Some(v1::NamespaceOption { pid: mode as i32, ..Default::default() });
}

#[test]
fn the_pid_namespace_is_the_containers_the_pods_or_the_hosts() {
    let pid = |plan: &ContainerPlan| {
        namespaces(plan).into_iter().find(|(kind, _)| *kind == LinuxNamespaceType::Pid)
    };
    let pin = Some(PathBuf::from("/run/berth/sandboxes/s1/ns/pid"));
    let check = |pod: PidSharing, mode: v1::NamespaceMode, expected: Option<Option<PathBuf>>| {
        let plan = planned(|case| with_pid(case, pod, mode));
        assert_eq!(pid(&plan).map(|(_, path)| path), expected, "{pod:?} {mode:?}");
    };
    check(PidSharing::Container, v1::NamespaceMode::Container, Some(None));
    check(PidSharing::Pod, v1::NamespaceMode::Container, Some(None));
    check(PidSharing::Pod, v1::NamespaceMode::Pod, Some(pin));
    check(PidSharing::Host, v1::NamespaceMode::Node, None);
    let not = |words: &str, pod, mode| refused(words, |case| with_pid(case, pod, mode));
    not("has no PID namespace to share", PidSharing::Container, v1::NamespaceMode::Pod);
    not("not in the host's PID namespace", PidSharing::Pod, v1::NamespaceMode::Node);
    not("no running container \"\" to be seen", PidSharing::Pod, v1::NamespaceMode::Target);
    let seen = planned(|case| {
        with_pid(case, PidSharing::Container, v1::NamespaceMode::Target);
        case.target_pid = Some(77);
    });
    assert_eq!(pid(&seen).map(|(_, path)| path), Some(Some("/proc/77/ns/pid".into())));
    let network = v1::NamespaceOption { network: v1::NamespaceMode::Node as i32, ..Default::default() };
    refused("namespace_options.network", |case| case.security().namespace_options = Some(network));
}

fn profile(kind: ProfileType, path: &str) -> Option<v1::SecurityProfile> {
    Some(v1::SecurityProfile { profile_type: kind as i32, localhost_ref: path.into() })
}

#[test]
fn seccomp_is_what_the_interface_says() {
    let check = |filtered: bool, change: &dyn Fn(&mut Case)| {
        assert_eq!(planned(change).spec.linux().as_ref().unwrap().seccomp().is_some(), filtered);
    };
    check(false, &|_| {});
    check(true, &|case| case.security().seccomp = Some(v1::SecurityProfile::default()));
    check(false, &|case| case.security().seccomp = profile(ProfileType::Unconfined, ""));
    check(false, &|case| {
        case.privileged();
        case.security().seccomp = profile(ProfileType::RuntimeDefault, "");
    });
    let localhost = |case: &mut Case| {
        case.security().seccomp = profile(ProfileType::Localhost, "/p.json");
        case.host.seccomp_profile = Some(br#"{"defaultAction":"SCMP_ACT_ALLOW"}"#.to_vec());
    };
    check(true, &localhost);
    refused("not an absolute path", |case| {
        case.security().seccomp = profile(ProfileType::Localhost, "p.json")
    });
    refused("/p.json: not a seccomp profile", |case| {
        localhost(case);
        case.host.seccomp_profile = Some(b"{".to_vec());
    });
    deprecated_seccomp(check);
}

#[allow(deprecated, reason = "older clients still say it so")]
fn deprecated_seccomp(check: impl Fn(bool, &dyn Fn(&mut Case))) {
    check(true, &|case| case.security().seccomp_profile_path = "runtime/default".into());
    check(false, &|case| case.security().seccomp_profile_path = "unconfined".into());
    refused("names no kind", |case| case.security().seccomp_profile_path = "something".into());
}

#[test]
fn apparmor_and_selinux_are_no_promise_where_they_are_off() {
    let apparmor = |case: &mut Case, kind| case.security().apparmor = profile(kind, "");
    planned(|case| apparmor(case, ProfileType::RuntimeDefault));
    planned(|case| apparmor(case, ProfileType::Unconfined));
    refused("AppArmor is not enabled", |case| {
        case.security().apparmor = profile(ProfileType::Localhost, "localhost/x")
    });
    let options = Some(v1::SeLinuxOption { level: "s0:c1".into(), ..Default::default() });
    planned(|case| case.security().selinux_options.clone_from(&options));
    refused("container.selinux", |case| {
        case.host.machine.selinux = true;
        case.security().selinux_options.clone_from(&options);
    });
    let plan = planned(|case| {
        case.host.machine.apparmor = true;
        case.security().apparmor = profile(ProfileType::Localhost, "localhost/mine");
    });
    assert_eq!(apparmor_of(&plan), Some("mine"));
}

/// Where SELinux is on: a pod with the categories 1 and 2.
fn labelled(case: &mut Case) {
    let policy = crate::selinux::Policy {
        process: "system_u:system_r:container_t:s0".parse().unwrap(),
        file: "system_u:object_r:container_file_t:s0".parse().unwrap(),
        init: None,
    };
    let (free, trust) = (crate::selinux::Level::of_pair(1, 2), crate::selinux::Trust::Confined);
    case.host.machine.selinux = true;
    case.labels = crate::selinux::of_pod(&policy, &v1::SeLinuxOption::default(), trust, &free).ok();
}

fn process_label(plan: &ContainerPlan) -> Option<&str> {
    plan.spec.process().as_ref().unwrap().selinux_label().as_deref()
}

#[test]
fn labels_are_on_the_process_its_file_systems_and_no_others() {
    let plan = planned(labelled);
    let file = Some("system_u:object_r:container_file_t:s0:c1,c2");
    assert_eq!(process_label(&plan), Some("system_u:system_r:container_t:s0:c1,c2"));
    assert_eq!(plan.spec.linux().as_ref().unwrap().mount_label().as_deref(), file);
    assert_eq!(plan.file_label.as_deref(), file);
    let privileged = planned(|case| {
        labelled(case);
        case.privileged();
    });
    assert_eq!(process_label(&privileged), Some("system_u:system_r:spc_t:s0"));
    assert_eq!(privileged.file_label.as_deref(), file);
    let among_the_hosts = planned(|case| {
        labelled(case);
        case.pod.ipc = Sharing::Host;
    });
    assert_eq!(process_label(&among_the_hosts), Some("system_u:system_r:spc_t:s0"));
    assert_eq!(process_label(&planned(|_| {})), None);
    refused("selinux_options.level: \"s0,c4\"", |case| {
        labelled(case);
        case.security().selinux_options =
            Some(v1::SeLinuxOption { level: "s0,c4".into(), ..Default::default() });
    });
}

#[test]
fn a_volume_is_relabelled_when_that_is_asked_for_and_does_no_harm() {
    let relabel = v1::Mount { selinux_relabel: true, ..volume("/v", "/srv/data") };
    let relabelled = |change: &dyn Fn(&mut Case)| {
        planned(|case| {
            change(case);
            case.mount(relabel.clone(), Propagation::Private);
            case.mount(volume("/w", "/srv/other"), Propagation::Private);
        })
        .relabelled
    };
    assert_eq!(relabelled(&labelled), [PathBuf::from("/srv/data")]);
    assert!(relabelled(&|_| {}).is_empty(), "no label where SELinux is off");
    assert!(
        relabelled(&|case| {
            labelled(case);
            case.privileged();
        })
        .is_empty(),
        "what is not confined needs none"
    );
    refused("mounts[0].selinux_relabel: /usr", |case| {
        labelled(case);
        case.mount(v1::Mount { host_path: "/usr".into(), ..relabel.clone() }, Propagation::Private);
    });
}

fn apparmor_of(plan: &ContainerPlan) -> Option<&str> {
    plan.spec.process().as_ref().unwrap().apparmor_profile().as_deref()
}

#[test]
#[allow(deprecated, reason = "older clients still say it so")]
fn where_apparmor_is_on_a_container_has_the_default_profile_unless_it_asks_otherwise() {
    let check = |expected: Option<&str>, change: &dyn Fn(&mut Case)| {
        let plan = planned(|case| {
            case.host.machine.apparmor = true;
            change(case);
        });
        assert_eq!(apparmor_of(&plan), expected);
    };
    check(Some("berth-default"), &|_| {});
    check(Some("berth-default"), &|case| case.security().apparmor = profile(ProfileType::RuntimeDefault, ""));
    check(Some("unconfined"), &|case| case.security().apparmor = profile(ProfileType::Unconfined, ""));
    check(Some("berth-default"), &|case| case.security().apparmor_profile = "runtime/default".into());
    check(Some("unconfined"), &|case| case.security().apparmor_profile = "unconfined".into());
    check(Some("mine"), &|case| case.security().apparmor_profile = "localhost/mine".into());
    check(None, &Case::privileged);
    check(Some("the-nodes"), &|case| case.settings.apparmor_profile = "the-nodes".into());
    refused("mine is not loaded", |case| {
        case.host.machine.apparmor = true;
        case.host.apparmor_loaded = false;
        case.security().apparmor = profile(ProfileType::Localhost, "mine");
    });
}

fn masked(plan: &ContainerPlan) -> usize {
    plan.spec.linux().as_ref().unwrap().masked_paths().as_ref().unwrap().len()
}

#[test]
fn paths_are_masked_unless_the_pod_has_users_of_its_own_and_asks_for_none() {
    assert_eq!(masked(&planned(|_| {})), 12);
    assert_eq!(masked(&planned(|case| case.security().masked_paths = vec!["/x".into()])), 2);
    assert_eq!(masked(&planned(|case| case.privileged())), 0);
    let users = |case: &mut Case| {
        let map = IdMap { container_id: 0, host_id: 65_536, length: 65_536 };
        case.pod.user = Some(IdMaps { uids: vec![map], gids: vec![map] });
    };
    assert_eq!(masked(&planned(users)), 0);
}

#[test]
fn devices_are_made_and_allowed_as_asked() {
    let asked = |permissions: &str| v1::Device {
        host_path: "/dev/fuse".into(),
        container_path: "/dev/fuse".into(),
        permissions: permissions.into(),
    };
    let plan = planned(|case| {
        case.config.devices = vec![asked("rw")];
        case.host.devices = vec![HostDevice { permissions: "rw".into(), ..device("/dev/fuse", 10, 229) }];
    });
    let linux = plan.spec.linux().as_ref().unwrap();
    assert_eq!(linux.devices().as_ref().unwrap().len(), 1);
    let rules = linux.resources().as_ref().unwrap().devices().clone().unwrap();
    let last = rules.last().unwrap();
    assert_eq!((last.major(), last.minor(), last.access().as_deref()), (Some(10), Some(229), Some("rw")));
    assert!(!rules[0].allow());
    refused("devices[0].permissions", |case| case.config.devices = vec![asked("x")]);
    refused("devices[0].permissions", |case| case.config.devices = vec![asked("")]);
}

#[test]
fn what_devices_and_hook_files_add_is_in_the_plan() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"{"cdiVersion": "1.0.0", "kind": "v.com/gpu", "devices": [{"name": "0", "containerEdits": {
        "env": ["COLOUR=blue", "GPU=0"], "additionalGids": [44], "deviceNodes": [{"path": "/dev/gpu", "hostPath": "/dev/zero",
        "permissions": "r", "gid": 44}], "mounts": [{"hostPath": "/usr/lib/x", "containerPath": "/x", "options": ["ro"]}],
        "hooks": [{"hookName": "createContainer", "path": "/bin/cdi"}],
        "netDevices": [{"hostInterfaceName": "ib7", "name": "ib0"}], "intelRdt": {"closID": "gold"}}}]}"#;
    std::fs::write(dir.path().join("gpu.json"), text).unwrap();
    let hook = r#"{"version": "1.0.0", "hook": {"path": "/bin/hook"}, "when": {"commands": ["^/entry$"]}, "stages": ["createContainer", "poststop"]}"#;
    std::fs::write(dir.path().join("10.json"), hook).unwrap();
    let hooks_dir = dir.path().join("hooks");
    std::fs::create_dir(&hooks_dir).unwrap();
    std::fs::rename(dir.path().join("10.json"), hooks_dir.join("10.json")).unwrap();
    let settings = Settings {
        cdi_spec_dirs: vec![dir.path().into()],
        hooks_dirs: vec![hooks_dir],
        ..Settings::default()
    };
    let plan = planned(|case| {
        case.config.cdi_devices = vec![v1::CdiDevice { name: "v.com/gpu=0".into() }];
        let found = gather(&case.config, &case.sandbox, &settings, None, seen_of(&case.config)).unwrap();
        (case.host.cdi, case.host.devices, case.host.hooks) = (found.cdi, found.devices, found.hooks);
    });
    let process = plan.spec.process().as_ref().unwrap();
    let env = process.env().as_ref().unwrap();
    assert!(env.contains(&"COLOUR=blue".to_owned()) && env.contains(&"GPU=0".to_owned()), "{env:?}");
    assert!(!env.contains(&"COLOUR=red".to_owned()));
    assert!(plan.user.groups.contains(&44));
    let linux = plan.spec.linux().as_ref().unwrap();
    let node = &linux.devices().as_ref().unwrap()[0];
    assert_eq!(
        (node.path().as_path(), node.major(), node.minor(), node.gid()),
        (Path::new("/dev/gpu"), 1, 5, Some(44))
    );
    let rules = linux.resources().as_ref().unwrap().devices().clone().unwrap();
    assert_eq!(rules.last().unwrap().access().as_deref(), Some("r"));
    let mount = mount_at(&plan, "/x").unwrap();
    assert_eq!(mount.options().as_ref().unwrap(), &strings(&["ro", "rbind"]));
    assert_eq!(linux.net_devices().as_ref().unwrap()["ib7"].name().as_deref(), Some("ib0"));
    assert_eq!(linux.intel_rdt().as_ref().unwrap().clos_id().as_deref(), Some("gold"));
    let hooks = plan.spec.hooks().as_ref().unwrap();
    let paths: Vec<_> =
        hooks.create_container().as_ref().unwrap().iter().map(|hook| hook.path().clone()).collect();
    assert_eq!(paths, [Path::new("/bin/hook"), Path::new("/bin/cdi")]);
    assert_eq!(hooks.poststop().as_ref().unwrap().len(), 1);
    let refused = gather(
        &v1::ContainerConfig {
            cdi_devices: vec![v1::CdiDevice { name: "v.com/gpu=9".into() }],
            ..Default::default()
        },
        &v1::PodSandboxConfig::default(),
        &settings,
        None,
        Vec::new(),
    );
    assert!(refused.unwrap_err().to_string().contains("v.com/gpu=9"));
}

#[test]
fn a_runtime_is_told_only_the_annotations_that_it_is_allowed() {
    let plan = |allowed: &[&str]| {
        planned(|case| {
            for name in ["io.katacontainers.x", "run.oci.handler", "io.kubernetes.cri.sandbox-id"] {
                case.sandbox.annotations.insert(name.to_owned(), "pod".to_owned());
            }
            case.handler = Some(crate::config::HandlerSection {
                allowed_annotations: strings(allowed),
                ..Default::default()
            });
        })
    };
    let told =
        |allowed: &[&str], name: &str| plan(allowed).spec.annotations().as_ref().unwrap().get(name).cloned();
    assert_eq!(told(&[], "run.oci.handler"), None);
    assert_eq!(told(&["io.katacontainers.*"], "run.oci.handler"), None);
    assert_eq!(told(&["io.katacontainers.*"], "io.katacontainers.x").as_deref(), Some("pod"));
    assert_eq!(
        told(&["*"], "io.kubernetes.cri.sandbox-id").as_deref(),
        Some("s1"),
        "ours are not the pod's to say"
    );
}

#[test]
fn an_image_is_mounted_where_it_waits_below_the_containers_directory() {
    let image = Some(v1::ImageSpec { image: "sha256:22".into(), ..Default::default() });
    let mount_options = strings(&["noexec"]);
    let plan = planned(|case| {
        let asked = v1::Mount { image, mount_options, readonly: true, ..volume("/model", "") };
        case.mount(asked, Propagation::Private);
        case.host.mounts[0] =
            MountSource { path: PathBuf::new(), kind: SourceKind::Other, propagation: Propagation::Private };
    });
    let mount = mount_at(&plan, "/model").unwrap();
    assert_eq!(mount.source().as_deref(), Some(Path::new("/run/berth/sandboxes/s1/containers/c1/images/0")));
    let options = strings(&["rbind", "rprivate", "ro", "nosuid", "nodev", "noexec"]);
    assert_eq!(mount.options().as_ref(), Some(&options));
    assert!(plan.missing_sources.is_empty());
}

#[test]
fn an_image_is_mapped_as_its_pod_is_or_not_at_all() {
    let case = |pods: Option<u32>, asked: u32| {
        let mut case = Case::new();
        let map = |host_id| IdMap { container_id: 0, host_id, length: 65_536 };
        case.pod.user = pods.map(|id| IdMaps { uids: vec![map(id)], gids: vec![map(id)] });
        let mappings = vec![v1::IdMapping { host_id: asked, container_id: 0, length: 65_536 }];
        let image = Some(v1::ImageSpec { image: "x".into(), ..Default::default() });
        let (uid_mappings, gid_mappings) = (mappings.clone(), mappings);
        let mount = v1::Mount { image, readonly: true, uid_mappings, gid_mappings, ..volume("/model", "") };
        case.mount(mount, Propagation::Private);
        case.plan().map_err(|error| error.to_string())
    };
    let plan = case(Some(200_000), 200_000).unwrap();
    // What is mounted there is shifted already.
    assert!(mount_at(&plan, "/model").unwrap().uid_mappings().is_none());
    for (pods, asked) in [(Some(200_000), 300_000), (None, 200_000)] {
        let error = case(pods, asked).unwrap_err();
        assert!(error.starts_with("mounts[0].uid_mappings: the owners of an image's"), "{error}");
    }
}

#[test]
fn a_device_with_another_name_is_bound_in_a_pod_with_users_of_its_own() {
    let renamed = |case: &mut Case| {
        case.host.devices = vec![HostDevice { path: "/dev/other".into(), ..device("/dev/fuse", 10, 229) }];
    };
    let plan = planned(renamed);
    assert!(mount_at(&plan, "/dev/other").is_none());
    assert_eq!(plan.spec.linux().as_ref().unwrap().devices().as_ref().unwrap().len(), 1);
    let plan = planned(|case| {
        renamed(case);
        let map = IdMap { container_id: 0, host_id: 65_536, length: 65_536 };
        case.pod.user = Some(IdMaps { uids: vec![map], gids: vec![map] });
    });
    assert_eq!(mount_at(&plan, "/dev/other").unwrap().source(), &Some("/dev/fuse".into()));
    assert!(plan.spec.linux().as_ref().unwrap().devices().as_ref().unwrap().is_empty());
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let check = |words: &str, resources: v1::LinuxContainerResources| {
        refused(words, |case| *case.resources() = resources);
    };
    let limits = v1::LinuxContainerResources::default;
    check("cpu_shares", v1::LinuxContainerResources { cpu_shares: -1, ..limits() });
    check("cpu_period", v1::LinuxContainerResources { cpu_period: 5, ..limits() });
    check("cpu_quota", v1::LinuxContainerResources { cpu_quota: -2, ..limits() });
    check("cpuset_cpus", v1::LinuxContainerResources { cpuset_cpus: "0-1\n".into(), ..limits() });
    check("memory_limit", v1::LinuxContainerResources { memory_limit_in_bytes: -5, ..limits() });
    let swap =
        v1::LinuxContainerResources { memory_limit_in_bytes: 10, memory_swap_limit_in_bytes: 5, ..limits() };
    check("memory_swap_limit", swap);
    check("oom_score_adj", v1::LinuxContainerResources { oom_score_adj: 1001, ..limits() });
    let pages = vec![v1::HugepageLimit { page_size: "1GB".into(), limit: 5 }];
    check(
        "cannot limit huge pages of 1GB",
        v1::LinuxContainerResources { hugepage_limits: pages, ..limits() },
    );
    let unified = |name: &str| [(name.to_owned(), "1".to_owned())].into();
    check("not a file", v1::LinuxContainerResources { unified: unified("../memory.max"), ..limits() });
    refused("no unified", |case| {
        case.host.machine.cgroup = CgroupVersion::V1;
        case.resources().unified = unified("memory.high");
    });
}

#[test]
fn a_daemon_that_may_not_lower_the_score_gives_what_it_may() {
    let plan = planned(|case| {
        case.host.machine.oom_score_adj_floor = 0;
        case.resources().oom_score_adj = -997;
    });
    assert_eq!(plan.spec.process().as_ref().unwrap().oom_score_adj(), Some(0));
}

#[test]
fn the_stop_signal_is_the_pods_then_the_images() {
    let check = |asked: v1::Signal, image: &str, expected: i32| {
        let plan = planned(|case| {
            case.config.stop_signal = asked as i32;
            case.image.stop_signal = image.into();
        });
        assert_eq!(plan.stop_signal, expected, "{asked:?} {image}");
    };
    check(v1::Signal::RuntimeDefault, "", 15);
    check(v1::Signal::RuntimeDefault, "SIGQUIT", 3);
    check(v1::Signal::Sigusr1, "SIGQUIT", 10);
    check(v1::Signal::Sigrtminplus1, "", 35);
    refused("stop signal of img", |case| case.image.stop_signal = "SIGWHAT".into());
}

#[test]
fn the_log_stays_below_the_sandboxs_directory() {
    let plan = planned(|case| case.config.log_path = "app/0.log".into());
    assert_eq!(plan.log_path.as_deref(), Some(Path::new("/var/log/pods/shop_web/app/0.log")));
    assert_eq!(planned(|_| {}).log_path, None);
    refused("log_path", |case| case.config.log_path = "../x".into());
    refused("log_path", |case| case.config.log_path = "/etc/x".into());
}

#[test]
fn a_privileged_container_needs_a_privileged_sandbox() {
    refused("the sandbox is not privileged", |case| case.security().privileged = true);
}

#[test]
fn an_exec_is_the_containers_process_with_another_command() {
    let plan = planned(|case| case.security().no_new_privs = true);
    let process = exec_process(&plan, &strings(&["ls", "-l"]), true);
    assert_eq!(process["args"], serde_json::json!(["ls", "-l"]));
    assert_eq!((&process["terminal"], &process["noNewPrivileges"]), (&true.into(), &true.into()));
    assert!(process["env"].as_array().unwrap().contains(&"TERM=xterm".into()));
    assert_eq!(process["capabilities"]["bounding"].as_array().unwrap().len(), 14);
}

#[test]
fn cgroup_paths_are_below_the_pods() {
    assert_eq!(cgroup_path("", "c"), "/berth/berth-c");
    assert_eq!(cgroup_path("/kubepods/pod1/", "c"), "/kubepods/pod1/berth-c");
}

proptest::proptest! {
    /// Whatever an image says, nobody is root who was not named so.
    #[test]
    fn root_is_only_who_is_called_root(user in "[-+0-9a-z:]{0,12}|[0-9]{1,25}(:[0-9]{1,25})?|\\PC{0,8}") {
        let mut case = Case::new();
        case.image.user.clone_from(&user);
        let name = user.split(':').next().unwrap_or_default();
        let called_root = name.is_empty() || name == "root" || name.bytes().all(|byte| byte == b'0');
        if let Ok(plan) = case.plan() {
            proptest::prop_assert_eq!(plan.user.uid == 0, called_root);
        }
    }

    /// Every line that is a plan's answer to some request is one that a process can be given.
    #[test]
    fn the_environment_is_fit_for_a_process(key in "\\PC{0,6}|[A-Z=]{0,4}", value: Vec<u8>) {
        let mut case = Case::new();
        set(&mut case, &key, &value);
        if let Ok(plan) = case.plan() {
            for entry in env_of(&plan) {
                proptest::prop_assert!(entry.split_once('=').is_some_and(|(name, _)| !name.is_empty()));
                proptest::prop_assert!(!entry.contains('\0'));
            }
        }
    }

    /// Wherever a mount is asked for, it lies below the root, is written plainly, and is not the runtime's /proc.
    #[test]
    fn mounts_lie_where_they_may(path in "(/|\\.|\\.\\.|proc|sys|a|meminfo){0,9}|/\\PC{0,9}") {
        let mut case = Case::new();
        case.mount(volume(&path, "/h"), Propagation::Private);
        if let Ok(plan) = case.plan() {
            let mounts = plan.spec.mounts().clone().unwrap();
            let bound = mounts.iter().find(|mount| mount.source() == &Some("/h".into())).unwrap();
            let text = bound.destination().to_str().unwrap();
            proptest::prop_assert!(text.starts_with('/') && text.len() > 1);
            proptest::prop_assert!(!text[1..].split('/').any(|part| ["", ".", ".."].contains(&part)), "{}", text);
            let in_proc = text == "/proc" || (text.starts_with("/proc/") && text != "/proc/meminfo");
            proptest::prop_assert!(!in_proc, "{}", text);
        }
    }

    /// Whatever name is given, the log is below the directory that the kubelet watches.
    #[test]
    fn logs_lie_where_they_may(name in "(/|\\.|\\.\\.|a){0,9}") {
        let mut case = Case::new();
        case.config.log_path = name;
        if let Ok(ContainerPlan { log_path: Some(path), .. }) = case.plan() {
            let below = path.strip_prefix("/var/log/pods/shop_web").unwrap();
            proptest::prop_assert!(!below.components().any(|part| part.as_os_str() == ".."));
        }
    }
}

#[test]
fn a_scope_is_in_the_pods_slice_and_counted_there() {
    let mut pod = Case::new().pod;
    pod.cgroup_driver = CgroupDriver::Systemd;
    pod.cgroup_parent = "/a.slice/a-b.slice".into();
    let expected = ("a-b.slice:cri-berth:c".to_owned(), "/a.slice/a-b.slice/cri-berth-c.scope".to_owned());
    assert_eq!(cgroup(&pod, "c"), expected);
    pod.cgroup_parent = String::new();
    assert_eq!(cgroup(&pod, "c").1, "/berth.slice/cri-berth-c.scope");
}

/// Mounts of which the kernel has nothing at hand are taken to be files.
fn seen_of(config: &v1::ContainerConfig) -> Vec<conmon_protocol::Seen> {
    let other = |path: &Path| conmon_protocol::Seen::Other(path.into());
    let paths = config.mounts.iter().map(|mount| Path::new(&mount.host_path));
    paths.map(|path| glance(path).unwrap_or_else(|| other(path))).collect()
}

#[test]
fn a_class_of_service_is_named_by_an_annotation() {
    let named = |own: Option<&str>, pod: &[(&str, &str)]| {
        let plan = planned(|case| {
            let own = own.map(|class| ("io.kubernetes.cri.rdt-class".to_owned(), class.to_owned()));
            case.config.annotations.extend(own);
            let key = |key: &str| format!("rdt.resources.beta.kubernetes.io/{key}");
            case.sandbox.annotations.extend(pod.iter().map(|(name, class)| (key(name), (*class).to_owned())));
        });
        let rdt = plan.spec.linux().as_ref().and_then(|linux| linux.intel_rdt().clone());
        rdt.and_then(|rdt| rdt.clos_id().clone())
    };
    assert_eq!(named(None, &[]), None);
    assert_eq!(named(None, &[("pod", "bronze")]).as_deref(), Some("bronze"));
    assert_eq!(named(None, &[("pod", "bronze"), ("container.app", "silver")]).as_deref(), Some("silver"));
    assert_eq!(named(Some("gold"), &[("container.app", "silver")]).as_deref(), Some("gold"));
    assert_eq!(named(None, &[("container.other", "silver")]), None);
    refused("no class of Intel RDT", |case| {
        case.config.annotations.insert("io.kubernetes.cri.rdt-class".into(), "../evil".into());
    });
}

#[test]
fn an_images_own_volumes_are_made_bound_or_nothing_and_never_over_a_mount() {
    let with = |kind: ImageVolumes, change: fn(&mut Case)| {
        planned(|case| {
            case.settings.image_volumes = kind;
            case.image.volumes = strings(&["/srv/a/../b/", "data", "/", "/cache/deep", "/log", "/data"]);
            case.mount(volume("/cache/./", "/host"), Propagation::Private);
            case.mount(volume("/log", "/host"), Propagation::Private);
            case.mount(volume("/data/inner", "/host"), Propagation::Private);
            change(case);
        })
    };
    let wanted = strings(&["/data", "/srv/b"]);
    let plan = with(ImageVolumes::Mkdir, |_| {});
    assert_eq!(plan.declared, Declared::Made(wanted.clone()));
    assert!(mount_at(&plan, "/data").is_none());
    assert_eq!(with(ImageVolumes::Ignore, |_| {}).declared, Declared::Nothing);

    let plan = with(ImageVolumes::Bind, |_| {});
    assert_eq!(plan.declared, Declared::Bound(wanted));
    let mounts = plan.spec.mounts().as_ref().unwrap();
    let first: Vec<_> = mounts.iter().take(2).map(|mount| mount.destination().as_path()).collect();
    assert_eq!(first, [Path::new("/data"), Path::new("/srv/b")], "all else comes over them");
    let bound = mount_at(&plan, "/srv/b").unwrap();
    assert_eq!(bound.source().as_deref(), Some(Path::new("/var/lib/berth/containers/c1/volumes/1")));
    assert!(bound.uid_mappings().is_none());
    assert_eq!(mount_at(&plan, "/log").unwrap().source().as_deref(), Some(Path::new("/host")));
    assert!(mount_at(&plan, "/cache/deep").is_none());
}

#[test]
fn an_images_own_volumes_belong_to_the_user_as_the_disk_knows_it() {
    let with = |kind: ImageVolumes| {
        let mut case = Case::new();
        case.settings.image_volumes = kind;
        case.image.volumes = strings(&["/data"]);
        case.image.user = "1000:1001".into();
        let map = IdMap { container_id: 0, host_id: 200_000, length: 65_536 };
        case.pod.user = Some(IdMaps { uids: vec![map], gids: vec![map] });
        let plan = case.plan().unwrap();
        (owners(&plan, &case.pod), plan)
    };
    let (made, _) = with(ImageVolumes::Mkdir);
    assert_eq!(
        (made.uid, made.gid, made.uids.len()),
        (201_000, 201_001, 1),
        "of a layer that shows host ids"
    );
    assert_eq!((made.uids[0].image, made.uids[0].disk), (0, 200_000));
    let (bound, plan) = with(ImageVolumes::Bind);
    assert_eq!((bound.uid, bound.gid, bound.uids.len()), (1000, 1001, 0), "of a mount that maps them");
    assert_eq!(mount_at(&plan, "/data").unwrap().uid_mappings().as_ref().unwrap()[0].host_id(), 200_000);
}

#[test]
fn a_class_of_block_io_is_named_by_an_annotation_and_its_limits_are_in_the_plan() {
    let named = |own: Option<&str>, pod: &[(&str, &str)]| {
        let mut case = Case::new();
        let own = own.map(|class| ("io.kubernetes.cri.blockio-class".to_owned(), class.to_owned()));
        case.config.annotations.extend(own);
        let key = |key: &str| format!("blockio.resources.beta.kubernetes.io/{key}");
        case.sandbox.annotations.extend(pod.iter().map(|(name, class)| (key(name), (*class).to_owned())));
        classes::block_io(&case.config, &case.sandbox).map(str::to_owned)
    };
    assert_eq!(named(None, &[]), None);
    assert_eq!(named(None, &[("pod", "slow"), ("container.app", "fast")]).as_deref(), Some("fast"));
    assert_eq!(named(None, &[("pod", "slow"), ("container.other", "fast")]).as_deref(), Some("slow"));
    assert_eq!(named(Some("own"), &[("pod", "slow")]).as_deref(), Some("own"));
    assert_eq!(named(None, &[("container.app", ""), ("pod", "slow")]), None, "it is taken out of the pod's");

    let mut limits = oci_spec::runtime::LinuxBlockIo::default();
    limits.set_weight(Some(50));
    let plan = planned(|case| case.host.block_io = Some(limits.clone()));
    assert_eq!(plan.spec.linux().as_ref().unwrap().resources().as_ref().unwrap().block_io(), &Some(limits));

    // What the machine is asked: the class, in the operator's file.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "Classes: {slow: [{Weight: 80}]}").unwrap();
    let settings = Settings { blockio_config_file: file.path().into(), ..Settings::default() };
    let gathered = |class: &str| {
        let mut case = Case::new();
        case.sandbox.annotations.insert("blockio.resources.beta.kubernetes.io/pod".into(), class.into());
        gather(&case.config, &case.sandbox, &settings, None, Vec::new()).map(|host| host.block_io)
    };
    assert_eq!(gathered("slow").unwrap().unwrap().weight(), Some(80));
    let error = gathered("fast").unwrap_err().to_string();
    assert!(error.starts_with("annotations: ") && error.contains("\"fast\"; it has slow"), "{error}");
}
