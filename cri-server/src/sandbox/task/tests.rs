//! The task with a monitor played by the test: what is asked of it, what it asks of the monitor.

use std::path::Path;
use std::time::Instant;

use conmon_protocol::{
    Answer, Ask as MonitorAsk, Exit, Message as MonitorMessage, Owner, PidSharing, PodPlan, Scope, Sharing,
    Stdin,
};

use super::slot::Stage;
use super::*;
use crate::config::Config;
use crate::monitor::Monitors;
use crate::monitor::tests::Fake;
use crate::node::Parts;
use crate::sandbox::Name;
use crate::stats::Stats;
use crate::store::Store;
use crate::stream;

const SIGTERM: i32 = 15;
/// Far longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Real parts over a directory of the test's own; no network, since the pods use the host's.
async fn node(dir: &Path) -> Arc<Node> {
    let config = Config { root: dir.join("root"), run: dir.join("run"), ..Config::default() };
    let images = image_service::Images::open(image_service::Settings::new(&config.root)).await.unwrap();
    let network = network::Settings {
        conf_dir: dir.join("cni"),
        state_dir: dir.join("root/cni"),
        ..network::Settings::default()
    };
    Node::new(Parts {
        store: Store::open(&config.run).unwrap(),
        images,
        network: network::Network::open(network).unwrap(),
        monitors: Monitors::new(Path::new("/bin/false")).unwrap(),
        streams: stream::Streams::serve(stream::Settings::default()).await.unwrap(),
        stats: Stats::open().unwrap(),
        config,
    })
}

fn facts(node: &Node) -> Arc<Facts> {
    let metadata = v1::PodSandboxMetadata { name: "p".into(), namespace: "n".into(), ..Default::default() };
    let config = v1::PodSandboxConfig { metadata: Some(metadata), ..Default::default() };
    let pod = PodPlan {
        sandbox_id: "s1".into(),
        pod_dir: node.store.sandbox("s1").dir().into(),
        hostname: None,
        network: Sharing::Host,
        ipc: Sharing::Own,
        uts: Sharing::Host,
        pid: PidSharing::Container,
        user: None,
        sysctls: vec![],
        shm_size_bytes: None,
        cgroup_parent: String::new(),
        cgroup_driver: conmon_protocol::CgroupDriver::Cgroupfs,
        monitor_cgroup: None,
        process_label: None,
        file_label: None,
    };
    let plan = crate::sandbox::Plan {
        pod,
        handler: "berth".into(),
        hostname: "h".into(),
        port_mappings: vec![],
        resolv_conf: String::new(),
        created_at_ns: 1,
        labels: None,
    };
    let request = v1::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    Arc::new(Facts { id: "s1".into(), request, plan })
}

fn running(id: &str) -> Slot {
    let plan = container::plan::ContainerPlan {
        spec: oci_spec::runtime::Spec::default(),
        cgroup_path: "/none".into(),
        log_path: None,
        terminal: false,
        stdin: Stdin::Closed,
        stdio_owner: Owner { uid: 0, gid: 0 },
        user: container::plan::User { uid: 0, gid: 0, groups: vec![] },
        stop_signal: SIGTERM,
        missing_sources: vec![],
        relabelled: vec![],
        file_label: None,
        declared: container::plan::Declared::default(),
    };
    let facts = container::Facts {
        id: id.into(),
        sandbox_id: "s1".into(),
        config: v1::ContainerConfig::default(),
        made: container::Made {
            image_id: String::new(),
            volume_image_ids: Vec::new(),
            created_at_ns: 1,
            plan,
        },
    };
    let life = container::Life::Running { pid: 7, started_at_ns: 2 };
    Slot::new(Stage::Made { facts: Arc::new(facts), life, limits: None })
}

/// A sandbox with one running container, and its monitor.
async fn pod(dir: &Path) -> (Arc<Node>, Mailbox, Fake) {
    let node = node(dir).await;
    let (monitor, fake) = Fake::pair();
    let record = node.store.sandbox("s1");
    record.container("c1").make(&[]).unwrap();
    record.write("monitor.lock", b"").unwrap();
    let (mut task, messages) = Task::new(node.clone(), facts(&node), Life::Ready);
    let events = monitor.events();
    task.adopt(monitor, events);
    task.containers.insert("c1".into(), running("c1"));
    task.publish();
    task.publish_container(&"c1".into());
    let own = task.own.clone();
    tokio::spawn(task.run(messages));
    (node, own, fake)
}

/// Plays a monitor whose container heeds SIGKILL only. Gives what it was asked.
fn play(mut fake: Fake) -> std::thread::JoinHandle<Vec<MonitorAsk>> {
    std::thread::spawn(move || {
        let mut asked = Vec::new();
        while let Some(request) = fake.hear_or_end() {
            fake.answer(request.seq, Answer::Done);
            if let MonitorAsk::Signal { container_id, signal: SIGKILL, .. } = &request.ask {
                let exit = Exit { code: 137, oom_killed: false, finished_at_ns: 3 };
                let container_id = container_id.clone();
                fake.say(&MonitorMessage::Event(MonitorEvent::Exited { container_id, exit }));
            }
            asked.push(request.ask);
        }
        asked
    })
}

async fn ask(task: &Mailbox, ask: ContainerAsk) -> oneshot::Receiver<Result<(), Error>> {
    let (reply, heard) = oneshot::channel();
    task.send(Message::Container { container_id: "c1".into(), ask, reply }).await.unwrap();
    heard
}

async fn ask_sandbox(task: &Mailbox, ask: Ask) -> Result<(), Error> {
    let (reply, heard) = oneshot::channel();
    task.send(Message::Sandbox { ask, reply }).await.unwrap();
    tokio::time::timeout(PATIENCE, heard).await.unwrap().unwrap()
}

fn signal(signal: i32, scope: Scope) -> MonitorAsk {
    MonitorAsk::Signal { container_id: "c1".into(), signal, scope }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_stop_shortens_the_one_that_it_joins() {
    let dir = tempfile::tempdir().unwrap();
    let (node, task, fake) = pod(dir.path()).await;
    let played = play(fake);
    let began = Instant::now();
    let now_ms = node.now_ms();
    let patient = ask(&task, ContainerAsk::Stop { kill_at_ms: now_ms + 600_000, now_ms }).await;
    let hasty = ask(&task, ContainerAsk::Stop { kill_at_ms: now_ms + 100, now_ms }).await;
    let both = async { (patient.await.unwrap(), hasty.await.unwrap()) };
    let (patient, hasty) = tokio::time::timeout(PATIENCE, both).await.unwrap();
    assert!(patient.is_ok() && hasty.is_ok());
    assert!(began.elapsed() >= Duration::from_millis(90), "the shorter grace was not given");
    let life = node.world.now().container("c1").unwrap().life;
    assert_eq!(life.exit().map(|exit| exit.code), Some(137));
    assert_eq!(life.started_at_ns(), 2);
    assert!(ask_sandbox(&task, Ask::Remove).await.is_ok());
    let asked = played.join().unwrap();
    assert_eq!(asked[..2], [signal(SIGTERM, Scope::Init), signal(SIGKILL, Scope::All)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_the_sandbox_kills_first_and_leaves_what_can_be_asked_about() {
    let dir = tempfile::tempdir().unwrap();
    let (node, task, fake) = pod(dir.path()).await;
    let played = play(fake);
    let (one, other) = tokio::join!(ask_sandbox(&task, Ask::Stop), ask_sandbox(&task, Ask::Stop));
    assert!(one.is_ok() && other.is_ok());
    let world = node.world.now();
    assert_eq!(world.sandbox("s1").unwrap().life, Life::Stopped);
    assert!(world.sandbox("s1").unwrap().monitor.is_none());
    assert!(world.container("c1").unwrap().life.exit().is_some());
    assert!(ask_sandbox(&task, Ask::Stop).await.is_ok(), "stopped already is a yes");
    let refused = {
        let (reply, heard) = oneshot::channel();
        let metadata = v1::ContainerMetadata { name: "new".into(), attempt: 0 };
        let config = Box::new(v1::ContainerConfig { metadata: Some(metadata), ..Default::default() });
        task.send(Message::Create { config, from: None, reply }).await.unwrap();
        heard.await.unwrap().unwrap_err()
    };
    assert!(matches!(refused, Error::State { .. }), "{refused}");
    assert_eq!(played.join().unwrap(), [signal(SIGKILL, Scope::All), MonitorAsk::UnmakePod]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_sandbox_leaves_neither_entry_nor_name_nor_files() {
    let dir = tempfile::tempdir().unwrap();
    let (node, task, fake) = pod(dir.path()).await;
    node.name_made(Name::of(&facts(&node).request), "s1".into());
    let played = play(fake);
    assert!(ask_sandbox(&task, Ask::Remove).await.is_ok());
    assert!(node.world.now().sandboxes.is_empty() && node.world.now().containers.is_empty());
    assert!(!node.knows("s1"));
    assert!(!node.store.sandbox("s1").dir().exists());
    drop(played.join());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_not_removed_under_a_container_that_is_being_made() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    node.store.sandbox("s1").container("c2").make(&[]).unwrap();
    let (mut task, messages) = Task::new(node.clone(), facts(&node), Life::Stopped);
    let progress = crate::step::Progress::new("c2".into(), crate::step::Step::ContainerPlan);
    let (underway, done) = Underway::new(Noun::Container, "c2".into(), progress);
    let attempt = super::slot::Attempt { config: Box::default(), underway: underway.clone(), done };
    task.containers.insert("c2".into(), Slot::new(Stage::Making { attempt, ended: None }));
    let (go, gate) = oneshot::channel::<()>();
    task.work_on(async move {
        let _ = gate.await;
        Outcome::ContainerMade { id: "c2".into(), made: Err(Error::Stopping) }
    });
    task.publish();
    let own = task.own.clone();
    tokio::spawn(task.run(messages));
    let removal = tokio::spawn(async move { ask_sandbox(&own, Ask::Remove).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!removal.is_finished() && node.store.sandbox("s1").dir().exists());
    go.send(()).unwrap();
    assert!(underway.wait(None).await.is_err());
    removal.await.unwrap().unwrap();
    assert!(!node.store.sandbox("s1").dir().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_seen_by_readers_with_nobody_asking() {
    let dir = tempfile::tempdir().unwrap();
    let (node, _task, mut fake) = pod(dir.path()).await;
    let exit = Exit { code: 137, oom_killed: true, finished_at_ns: 3 };
    fake.say(&MonitorMessage::Event(MonitorEvent::Exited { container_id: "c1".into(), exit }));
    let until = Instant::now() + PATIENCE;
    while node.world.now().container("c1").unwrap().life.exit().is_none() {
        assert!(Instant::now() < until, "the end was not published");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let kept: container::Life = node.store.sandbox("s1").container("c1").read_json("life").unwrap();
    assert_eq!(kept, container::Life::Exited { started_at_ns: 2, exit });
}
