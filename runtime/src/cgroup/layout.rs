//! Which cgroup hierarchies the node has, and where they are mounted: found once a process.
//!
//! Three layouts are known: v2 alone; v1 with a hierarchy per controller (some of them combined); and the
//! hybrid, v1 with cgroup2 beside it. The usual places are tried first; the mount table, which grows with the
//! node's pods, is read only where they disappoint.

use std::fs;
use std::io;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::files::Held;
use super::{Error, files};
use crate::mountinfo;

const MOUNT_POINT: &str = "/sys/fs/cgroup";
/// What files of cgroup2 begin with that belong to no controller.
const CORE: &str = "cgroup";
const CGROUP_MAGIC: u64 = 0x0027_e0eb;
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// A node has a dozen hierarchies, and paths have their bound.
const MAX_SELF_BYTES: u64 = 64 << 10;
const USUAL_SELF_BYTES: usize = 4 << 10;
/// Tens of thousands of mounts.
const MAX_MOUNTS_BYTES: u64 = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// One mounted tree of cgroups.
#[derive(Debug, Clone)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    pub(super) root: PathBuf,
    /// Of v1 known from the beginning; of cgroup2 read when somebody asks, which beside v1 is hardly ever.
    controllers: OnceLock<Vec<String>>,
}

impl Hierarchy {
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers().iter().any(|own| own == controller)
    }

    /// Empty for a named hierarchy such as systemd's.
    pub(super) fn controllers(&self) -> &[String] {
        self.controllers.get_or_init(|| {
            let controllers = files::read(&self.root, "cgroup.controllers").unwrap_or_default();
            controllers.split_whitespace().map(str::to_owned).collect()
        })
    }
}

/// At the same place, and of the same kind.
impl PartialEq for Hierarchy {
    fn eq(&self, other: &Hierarchy) -> bool {
        let same_place = self.version == other.version && self.root == other.root;
        same_place && (self.version == Version::V2 || self.controllers() == other.controllers())
    }
}

impl Eq for Hierarchy {}

static PROVEN: OnceLock<Layout> = OnceLock::new();

/// Of which hierarchies one asks the kernel whether they are where they are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    All,
    Unified,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// The node's, which does not change while it is up.
    pub(super) fn of_node() -> Result<&'static Layout, Error> {
        if let Some(layout) = PROVEN.get() {
            return Ok(layout);
        }
        let found = detect()?;
        Ok(PROVEN.get_or_init(|| found))
    }

    /// The node's if its v1 hierarchies are where they always are, which nobody has checked yet: a cgroup that is made
    /// and has a `tasks` file proves it. Asking about each would take a call for each.
    pub(super) fn presumed(held: &Held) -> Result<&'static Layout, Error> {
        static LAYOUT: OnceLock<Option<Layout>> = OnceLock::new();
        if let Some(layout) = PROVEN.get() {
            return Ok(layout);
        }
        let lines = own_cgroups(held)?;
        // cgroup2's line alone names no controllers.
        let is_v1 = lines.lines().any(|line| line.split(':').nth(1).is_some_and(|names| !names.is_empty()));
        let presume = || places(&lines, Check::Unified).map(|hierarchies| Layout { hierarchies });
        match LAYOUT.get_or_init(presume) {
            Some(layout) if is_v1 && !layout.hierarchies.is_empty() => Ok(layout),
            Some(_) | None => Layout::of_node(),
        }
    }

    /// Spares others the asking.
    pub(super) fn prove(&self) {
        let _ = PROVEN.set(Layout { hierarchies: self.hierarchies.clone() });
    }

    /// The hierarchy that serves a controller; v1's where both could not be (the kernel gives it to one).
    pub(super) fn serving(&self, controller: &str) -> Option<&Hierarchy> {
        if controller == CORE {
            return self.unified().filter(|_| !self.is_hybrid());
        }
        self.hierarchies.iter().find(|hierarchy| hierarchy.has(controller))
    }

    pub(super) fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2)
    }

    /// Whether cgroup2 is there beside v1.
    pub(super) fn is_hybrid(&self) -> bool {
        self.unified().is_some() && self.hierarchies.len() > 1
    }
}

fn detect() -> Result<Layout, Error> {
    let root = Path::new(MOUNT_POINT);
    let hierarchies = if magic(root) == Some(CGROUP2_MAGIC) {
        vec![unified(root.to_owned())]
    } else {
        match usual_places(&own_cgroups(&Held::default())?) {
            Some(found) => found,
            None => from_mounts(&read("/proc/self/mountinfo", MAX_MOUNTS_BYTES)?),
        }
    };
    if hierarchies.is_empty() { Err(Error::NoCgroups) } else { Ok(Layout { hierarchies }) }
}

/// Each line of /proc/self/cgroup is `ID:CONTROLLERS:PATH`; `None` when a hierarchy is not at its usual place.
fn usual_places(lines: &str) -> Option<Vec<Hierarchy>> {
    places(lines, Check::All)
}

fn places(lines: &str, check: Check) -> Option<Vec<Hierarchy>> {
    lines.lines().map(|line| usual_place(line.split(':').nth(1)?, check)).collect()
}

fn usual_place(controllers: &str, check: Check) -> Option<Hierarchy> {
    let place = |name: &str| Path::new(MOUNT_POINT).join(name);
    if controllers.is_empty() {
        let root = place("unified");
        return (magic(&root) == Some(CGROUP2_MAGIC)).then(|| unified(root));
    }
    let root = place(controllers.strip_prefix("name=").unwrap_or(controllers));
    (check == Check::Unified || magic(&root) == Some(CGROUP_MAGIC)).then(|| v1(controllers, root))
}

fn v1(controllers: &str, root: PathBuf) -> Hierarchy {
    let controllers: Vec<String> =
        controllers.split(',').filter(|name| !name.starts_with("name=")).map(str::to_owned).collect();
    Hierarchy { version: Version::V1, root, controllers: OnceLock::from(controllers) }
}

fn unified(root: PathBuf) -> Hierarchy {
    Hierarchy { version: Version::V2, root, controllers: OnceLock::new() }
}

/// Hierarchies by the mount table; the first mount of each counts.
fn from_mounts(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for hierarchy in mountinfo.lines().filter_map(mounted) {
        let again = |other: &Hierarchy| match hierarchy.version {
            Version::V2 => other.version == Version::V2,
            Version::V1 if hierarchy.controllers().is_empty() => {
                other.root.file_name() == hierarchy.root.file_name()
            }
            Version::V1 => other.version == Version::V1 && other.controllers() == hierarchy.controllers(),
        };
        if !found.iter().any(again) {
            found.push(hierarchy);
        }
    }
    found
}

/// A line of mountinfo: `ID PARENT DEVICE ROOT MOUNTPOINT OPTIONS [TAGS] - TYPE SOURCE SUPER_OPTIONS`.
fn mounted(line: &str) -> Option<Hierarchy> {
    let (front, back) = line.split_once(" - ")?;
    let root = mountinfo::path(front.split(' ').nth(4)?.as_bytes());
    let mut back = back.split(' ');
    match back.next()? {
        "cgroup2" => Some(unified(root)),
        "cgroup" => {
            let options = back.nth(1)?;
            let known =
                |option: &&str| !matches!(*option, "rw" | "ro" | "xattr" | "clone_children" | "noprefix");
            let plain = |option: &&str| known(option) && !option.contains("release_agent=");
            Some(v1(&options.split(',').filter(plain).collect::<Vec<_>>().join(","), root))
        }
        _ => None,
    }
}

/// A table of either kind, for the fuzzer.
#[cfg(feature = "fuzzing")]
pub(crate) fn read_tables(text: &str) {
    from_mounts(text);
    usual_places(text);
}

fn magic(path: &Path) -> Option<u64> {
    rustix::fs::statfs(path).ok().map(|fs| fs.f_type as u64)
}

/// /proc/self/cgroup, which the kernel gives whole to whoever has room for it.
fn own_cgroups(held: &Held) -> Result<String, Error> {
    let fail = |source| Error::Read { path: "/proc/self/cgroup".into(), source };
    let mut text = vec![0; USUAL_SELF_BYTES];
    let mut file = fs::File::open("/proc/self/cgroup").map_err(fail)?;
    let length = file.read(&mut text).map_err(fail)?;
    text.truncate(length);
    if length == USUAL_SELF_BYTES {
        (&file).take(MAX_SELF_BYTES).read_to_end(&mut text).map_err(fail)?;
    }
    held.close(file);
    String::from_utf8(text).map_err(|_| fail(io::ErrorKind::InvalidData.into()))
}

fn read(path: &'static str, max_bytes: u64) -> Result<String, Error> {
    let fail = |source| Error::Read { path: path.into(), source };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(fail)?;
    file.take(max_bytes).read_to_string(&mut text).map_err(fail)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mountinfo: &str, expected: &[(&str, &[&str])]) {
        let found = from_mounts(mountinfo);
        let found: Vec<(&str, Vec<&str>)> = found
            .iter()
            .map(|h| (h.root.to_str().unwrap(), h.controllers().iter().map(String::as_str).collect()))
            .collect();
        let expected: Vec<(&str, Vec<&str>)> = expected.iter().map(|(root, c)| (*root, c.to_vec())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn hierarchies_are_found_in_the_mount_table() {
        check(
            "31 23 0:28 / /cg rw,relatime - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /cg/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             33 31 0:30 / /cg/memory rw - cgroup cgroup rw,memory\n\
             90 12 0:30 / /elsewhere/memory rw - cgroup cgroup rw,memory\n\
             40 31 0:37 / /cg/system\\040d rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
             41 31 0:38 / /cg/no-such-place rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n\
             50 1 8:1 / /home rw - ext4 /dev/sda rw",
            &[
                ("/cg/cpu,cpuacct", &["cpu", "cpuacct"]),
                ("/cg/memory", &["memory"]),
                ("/cg/system d", &[]),
                ("/cg/no-such-place", &[]),
            ],
        );
        check("", &[]);
        check("32 31 0:29 / - cgroup\nnonsense - \n - ", &[]);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_mount_table_and_no_list_of_hierarchies_is_a_surprise(
            mounts in "([0-9 /a-z\\\\,=-]{0,30}( - )?(cgroup2?)?[ a-z,]{0,20}\n){0,8}",
            anything in ".{0,200}",
        ) {
            from_mounts(&mounts);
            from_mounts(&anything);
            usual_places(&anything);
        }
    }

    #[test]
    fn the_usual_places_and_the_mount_table_agree_on_this_machine() {
        let layout = detect().unwrap();
        let mut usual = layout.hierarchies;
        let mut mounted = from_mounts(&read("/proc/self/mountinfo", MAX_MOUNTS_BYTES).unwrap());
        usual.sort_by(|a, b| a.root.cmp(&b.root));
        mounted.sort_by(|a, b| a.root.cmp(&b.root));
        assert_eq!(usual, mounted);
    }
}
