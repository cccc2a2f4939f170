//! Requests in, plans or refusals out.

use proto::v1::NamespaceMode;

use super::*;
use crate::config::RuntimeSection;

fn request(change: impl FnOnce(&mut v1::PodSandboxConfig)) -> v1::RunPodSandboxRequest {
    let metadata = v1::PodSandboxMetadata {
        name: "web".into(),
        uid: "u1".into(),
        namespace: "default".into(),
        attempt: 0,
    };
    let mut config =
        v1::PodSandboxConfig { metadata: Some(metadata), hostname: "web".into(), ..Default::default() };
    change(&mut config);
    v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() }
}

fn plan_of(request: &v1::RunPodSandboxRequest) -> Result<Plan, String> {
    let host = Host { hostname: "node1", resolv_conf: "nameserver 1.1.1.1\n", selinux: Selinux::Unwanted };
    let handlers = RuntimeSection::default();
    let inputs = Inputs {
        sandbox_id: "s1",
        request,
        pod_dir: std::path::Path::new("/run/berth/sandboxes/s1"),
        handlers: &handlers,
        known: &Handlers::default(),
        host: &host,
    };
    plan(&inputs).map_err(|invalid| invalid.to_string())
}

fn namespaces(change: impl FnOnce(&mut v1::NamespaceOption)) -> v1::RunPodSandboxRequest {
    let mut options = v1::NamespaceOption::default();
    change(&mut options);
    request(|config| linux(config).security_context = Some(security(options)))
}

fn security(options: v1::NamespaceOption) -> v1::LinuxSandboxSecurityContext {
    v1::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() }
}

fn linux(config: &mut v1::PodSandboxConfig) -> &mut v1::LinuxPodSandboxConfig {
    config.linux.get_or_insert_default()
}

#[test]
fn a_plain_pod_owns_its_namespaces_and_shares_nothing() {
    let plan = plan_of(&request(|_| {})).unwrap();
    assert_eq!((plan.pod.network, plan.pod.ipc, plan.pod.uts), (Sharing::Own, Sharing::Own, Sharing::Own));
    assert_eq!(plan.pod.pid, PidSharing::Pod);
    assert_eq!(plan.pod.hostname.as_deref(), Some("web"));
    assert_eq!(plan.handler, "berth");
    assert_eq!(plan.resolv_conf, "nameserver 1.1.1.1\n");
    assert_eq!(plan.netns(), Some("/run/berth/sandboxes/s1/ns/net".into()));
}

#[test]
fn the_network_hears_who_the_pod_is_and_where_its_cgroup_is() {
    let asked = request(|config| {
        config.hostname = "www".into();
        linux(config).cgroup_parent = "/kubepods/pod1".into();
    });
    let pod = network_pod(&plan_of(&asked).unwrap(), asked.config.as_ref().unwrap());
    assert_eq!((pod.name.as_str(), pod.namespace.as_str(), pod.uid.as_str()), ("web", "default", "u1"));
    assert_eq!(pod.aliases, ["web", "www"]);
    assert_eq!(pod.cgroup_parent.as_deref(), Some("/kubepods/pod1"));
    let plain = request(|_| {});
    let pod = network_pod(&plan_of(&plain).unwrap(), plain.config.as_ref().unwrap());
    assert_eq!(pod.aliases, ["web"], "one name is said once");
}

#[test]
fn the_hosts_network_brings_the_hosts_name() {
    let plan = plan_of(&namespaces(|options| options.network = NamespaceMode::Node.into())).unwrap();
    assert_eq!((plan.pod.uts, plan.pod.hostname.as_deref()), (Sharing::Host, None));
    assert_eq!(plan.hostname, "node1");
    assert_eq!(plan.netns(), None);
}

#[test]
fn resolver_wishes_become_a_file() {
    let dns = v1::DnsConfig {
        servers: vec!["10.0.0.1".into(), "10.0.0.2".into()],
        searches: vec!["a.b".into(), "b".into()],
        options: vec!["ndots:8".into()],
    };
    let plan = plan_of(&request(|config| config.dns_config = Some(dns))).unwrap();
    assert_eq!(plan.resolv_conf, "search a.b b\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:8\n");
}

#[test]
fn a_host_port_of_zero_is_no_mapping() {
    let mapping = |host_port| v1::PortMapping { container_port: 80, host_port, ..Default::default() };
    let plan = plan_of(&request(|config| config.port_mappings = vec![mapping(0), mapping(8080)])).unwrap();
    assert_eq!(plan.port_mappings.len(), 1);
    assert_eq!(plan.port_mappings[0].host_port, 8080);
}

#[test]
fn what_cannot_be_is_refused_with_its_field() {
    let check = |request: v1::RunPodSandboxRequest, words: &str| {
        let error = plan_of(&request).unwrap_err();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    };
    let map = |host_id, length| v1::IdMapping { host_id, container_id: 0, length };
    let users = |mode: NamespaceMode, uids: Vec<v1::IdMapping>| {
        let gids = uids.clone();
        namespaces(|o| o.userns_options = Some(v1::UserNamespace { mode: mode.into(), uids, gids }))
    };
    let sysctl = |name: &str| request(|config| drop(linux(config).sysctls.insert(name.into(), "1".into())));
    check(v1::RunPodSandboxRequest::default(), "config: is missing");
    check(request(|config| config.metadata = None), "config.metadata: is missing");
    check(request(|config| config.hostname = "x".repeat(65)), "config.hostname: is longer");
    check(request(|config| linux(config).cgroup_parent = "/a/../..".into()), "upwards");
    check(request(|config| linux(config).cgroup_parent = "/kubepods.slice".into()), "cgroupfs");
    check(request(|config| linux(config).cgroup_parent = "/kubepods.slice".into()), "runtime.cgroup_driver");
    check(v1::RunPodSandboxRequest { runtime_handler: "kata".into(), ..request(|_| {}) }, "\"kata\"");
    check(namespaces(|o| o.network = NamespaceMode::Container.into()), "POD or NODE");
    check(namespaces(|o| o.pid = NamespaceMode::Target.into()), "namespace_options.pid");
    check(users(NamespaceMode::Container, vec![]), "POD or NODE");
    check(users(NamespaceMode::Pod, vec![]), "0 mappings");
    check(users(NamespaceMode::Pod, vec![map(1, 0)]), "not a range");
    check(users(NamespaceMode::Pod, vec![map(1, u32::MAX)]), "not a range");
    check(users(NamespaceMode::Pod, vec![map(1, 5), map(100, 5)]), "overlap");
    let rootless = v1::IdMapping { host_id: 1000, container_id: 1, length: 5 };
    check(users(NamespaceMode::Pod, vec![rootless]), "ID 0");
    check(users(NamespaceMode::Node, vec![map(1, 5)]), "no mappings");
    check(sysctl("kernel.panic"), "kernel.panic is not a sysctl of a namespace");
    check(sysctl("net/../kernel"), "not a sysctl");
    let mut host_ipc = namespaces(|options| options.ipc = NamespaceMode::Node.into());
    linux(host_ipc.config.as_mut().unwrap()).sysctls.insert("kernel.shmmax".into(), "1".into());
    check(host_ipc, "would change the host");
    let mapping = v1::PortMapping { container_port: 0, host_port: 80, ..Default::default() };
    check(request(|config| config.port_mappings = vec![mapping]), "0 is not a port");
    let selinux = v1::SeLinuxOption { level: "s0".into(), ..Default::default() };
    let mut asked = namespaces(|_| {});
    let config = asked.config.as_mut().unwrap();
    linux(config).security_context.as_mut().unwrap().selinux_options = Some(selinux);
    check(asked, "container.selinux in berth.toml is \"off\"");
    let dns = v1::DnsConfig { servers: vec!["1.1.1.1\noptions debug".into()], ..Default::default() };
    check(request(|config| config.dns_config = Some(dns)), "resolv.conf");
}

#[test]
fn a_slice_is_where_systemd_puts_it() {
    let check = |parent: &str, path: Option<&str>| {
        assert_eq!(cgroup_parent(parent, CgroupDriver::Systemd).ok().as_deref(), path, "{parent:?}");
    };
    check(
        "kubepods-besteffort-pod1.slice",
        Some("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice"),
    );
    check("/kubepods.slice/kubepods-pod1.slice", Some("/kubepods.slice/kubepods-pod1.slice"));
    check("/test.slice", Some("/test.slice"));
    check("", Some(""));
    check("/kubepods/pod1", None);
    check("/a--b.slice", None);
    check("-.slice", None);
    check("/a.slice/..", None);
    check("a b.slice", None);
}
