//! Layers unpacked by processes of their own, whose work is counted in a cgroup.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use image_service::{Error, Outcome, PullCgroup, PullRequest, Repair, Settings, Verifying};
use serde_json::json;
use tokio::sync::watch;

use crate::support::picture;
use crate::support::shelf::{Node, Shelf, image, image_claiming, request, tar};

const NAME: &str = "one.test/a/b:1";
const CGROUPS: &str = "/sys/fs/cgroup";

/// The process: this very program, told to run nothing but this.
#[test]
#[ignore = "it is what the other tests start"]
fn unpacks_for_another() {
    // Its standard output is the recipe's place: nothing may be said there afterwards.
    _ = image_service::unpack_for_a_daemon();
    std::process::exit(0);
}

/// A cgroup of this test's own in every hierarchy, removed when dropped.
struct Cgroup(String);

impl Cgroup {
    fn new(name: &str) -> Cgroup {
        Cgroup(format!("/berth-test-{name}-{}", std::process::id()))
    }

    fn places(&self) -> Vec<PathBuf> {
        let name = self.0.trim_start_matches('/');
        let root = Path::new(CGROUPS);
        let hierarchies = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path().join(name));
        hierarchies.chain([root.join(name)]).filter(|path| path.is_dir()).collect()
    }

    fn number(&self, file: &str, key: &str) -> Option<u64> {
        let texts =
            self.places().into_iter().filter_map(|place| std::fs::read_to_string(place.join(file)).ok());
        let line = |text: String| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
        texts.filter_map(line).max()
    }

    /// In milliseconds, whatever is mounted here.
    fn cpu_ms(&self) -> u64 {
        let v1 = self.number("cpuacct.usage", "").map(|ns| ns / 1_000_000);
        v1.or_else(|| self.number("cpu.stat", "usage_usec ").map(|us| us / 1000)).expect("a count of time")
    }

    fn leaves(&self) -> usize {
        let children = |place: PathBuf| {
            std::fs::read_dir(place).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
        };
        self.places().into_iter().map(children).sum()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for place in self.places() {
            _ = std::fs::remove_dir(place);
        }
    }
}

/// The program that unpacks, and its words.
pub(crate) fn unpacker() -> Vec<OsString> {
    let own = std::env::current_exe().unwrap().into_os_string();
    let words = ["counted::unpacks_for_another", "--exact", "--ignored", "--nocapture"].map(Into::into);
    [own].into_iter().chain(words).collect()
}

fn apart(settings: &mut Settings, cgroup: PullCgroup) {
    settings.unpacker = unpacker();
    settings.pull_cgroup = cgroup;
}

fn told(error: &Error) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[tokio::test]
async fn unpacking_is_counted_where_the_operator_says() {
    let noise: String = picture::noise(24 << 20).iter().map(|byte| char::from(b'0' + byte % 64)).collect();
    // One layer that comes by way of the disk, one that does not.
    let layers = [tar(&[("large", &noise)]), tar(&[("app", "hello"), ("link -> app", "")])];
    let shelf = Shelf::default();
    shelf.put("a/b:1", &image(&layers, json!({})));
    let fake = shelf.serve();
    let mut node = Node::new(&fake.host());
    let cgroup = Cgroup::new("pulls");
    apart(&mut node.settings, PullCgroup::Path(cgroup.0.clone()));
    // A daemon was killed here.
    let place =
        Path::new(CGROUPS).join(if Path::new(CGROUPS).join("memory").exists() { "memory" } else { "" });
    std::fs::create_dir_all(place.join(&cgroup.0[1..]).join("berth-pull-01234567")).unwrap();
    let images = node.open().await;
    assert_eq!(cgroup.leaves(), 0);
    images.pull(request(NAME)).await.map_err(|error| told(&error)).unwrap();
    assert_eq!(std::fs::read(node.layer(&layers[1]).join("link")).unwrap(), b"hello");
    assert_eq!(std::fs::read(node.layer(&layers[0]).join("large")).unwrap(), noise.as_bytes());
    assert!(cgroup.cpu_ms() > 20, "{} ms for 24 MiB", cgroup.cpu_ms());
    let peak = cgroup.number("memory.max_usage_in_bytes", "").or(cgroup.number("memory.peak", ""));
    assert!(peak.is_none_or(|bytes| bytes > 16 << 20), "{peak:?} bytes: its pages are not counted there");
    assert_eq!(cgroup.leaves(), 0);
    // The process has told what it takes to write the archives again.
    let verify =
        async || images.verify(&[], &Repair::mend(), watch::channel(Verifying::default()).0).await.unwrap();
    assert_eq!(verify().await.findings, []);
    std::fs::write(node.layer(&layers[1]).join("app"), "jello").unwrap();
    let found = verify().await.findings;
    assert_eq!(found.iter().map(|one| &one.outcome).collect::<Vec<_>>(), [&Outcome::Mended]);
    assert_eq!(verify().await.findings, []);
}

#[tokio::test]
async fn unpacking_is_counted_with_the_pod_when_that_is_asked_for() {
    let layers = [tar(&[("app", "hello")])];
    let shelf = Shelf::default();
    shelf.put("a/b:1", &image(&layers, json!({})));
    let fake = shelf.serve();
    let mut node = Node::new(&fake.host());
    apart(&mut node.settings, PullCgroup::Pod);
    let images = node.open().await;
    let pod = Cgroup::new("pod");
    let of_pod = || PullRequest { pod_cgroup: Some(pod.0.clone()), ..request(NAME) };
    let error = told(&images.pull(of_pod()).await.unwrap_err());
    assert!(error.contains("making a cgroup to unpack in") && error.contains(&pod.0[1..]), "{error}");
    node.check_empty().await;
    // As the kubelet does.
    let root = Path::new(CGROUPS);
    let hierarchies = if root.join("cgroup.controllers").exists() {
        vec![root.to_owned()]
    } else {
        vec![root.join("cpuacct")]
    };
    for hierarchy in hierarchies {
        std::fs::create_dir(hierarchy.join(&pod.0[1..])).unwrap();
    }
    let pulled = images.pull(of_pod()).await.map_err(|error| told(&error)).unwrap();
    assert!(pod.cpu_ms() > 0);
    assert_eq!(pod.leaves(), 0);
    images.remove(&pulled.id).await.unwrap();
    let before = pod.cpu_ms();
    images.pull(request(NAME)).await.map_err(|error| told(&error)).unwrap();
    assert_eq!(pod.cpu_ms(), before, "a pull for nobody's pod is the daemon's");
}

#[tokio::test]
async fn what_a_process_refuses_is_refused_in_the_same_words() {
    let shelf = Shelf::default();
    let fake = shelf.serve();
    let mut node = Node::new(&fake.host());
    let cgroup = Cgroup::new("bad");
    apart(&mut node.settings, PullCgroup::Path(cgroup.0.clone()));
    let good = tar(&[("app", "hello")]);
    let wrong = [image_service::digest::Digest::sha256(b"other")];
    let cases = [
        (
            image(&[tar(&[("a", "x"), ("a/b", "y")])], json!({})),
            "\"a/b\" is refused: the way to it leads through",
        ),
        (image_claiming(std::slice::from_ref(&good), json!({}), &wrong), "its diff ID is"),
    ];
    for (picture, why) in cases {
        shelf.put("a/b:1", &picture);
        let images = node.open().await;
        let error = told(&images.pull(request(NAME)).await.unwrap_err());
        assert!(error.contains(why), "{error}");
        assert!(images.list().is_empty());
        node.check_empty().await;
    }
    shelf.put("a/b:1", &image(std::slice::from_ref(&good), json!({})));
    node.settings.unpacker = vec!["/bin/false".into()];
    let error = told(&node.open().await.pull(request(NAME)).await.unwrap_err());
    assert!(error.contains("the process that unpacks it ended by exit status: 1"), "{error}");
    node.settings.unpacker = vec!["/bin/sh".into(), "-c".into(), "kill -9 $$".into()];
    // What is not taken away when a service ends is left to the next.
    let images = node.open().await;
    let error = told(&images.pull(request(NAME)).await.unwrap_err());
    assert!(error.contains("was killed; is the memory of its cgroup too little?"), "{error}");
    node.check_empty().await;
    assert_eq!(cgroup.leaves(), 0);
}
