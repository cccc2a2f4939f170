//! Which networks pods join: the files of the configuration directory, read and chosen from.
//!
//! Files are taken in the order of their names. Without a default network the
//! first one decides, even when it is broken: sliding on to another network
//! because somebody made a typing error would be a surprise of the worst kind.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::bounded::read;
use crate::error::NotReady;

/// A configuration file is a page, not a book; larger is a mistake.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// Plugins in a chain, after those of the directory named for the network are added.
const PLUGINS_MAX: usize = 64;

/// A CNI specification version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(pub u16, pub u16, pub u16);

impl Version {
    /// The first with `interfaces` and a list of `ips`.
    pub const V0_3_0: Version = Version(0, 3, 0);
    /// CHECK, and `prevResult` given to DEL.
    pub const V0_4_0: Version = Version(0, 4, 0);
    /// STATUS and GC.
    pub const V1_1_0: Version = Version(1, 1, 0);

    pub(crate) fn parse(text: &str) -> Option<Version> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        let version = Version(parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(version)
    }

    fn spoken(self) -> bool {
        (Version::V0_3_0..=Version::V1_1_0).contains(&self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Version, String> {
        Version::parse(&text).ok_or_else(|| format!("{text:?} is not a CNI version"))
    }
}

impl From<Version> for String {
    fn from(version: Version) -> String {
        version.to_string()
    }
}

/// A network: the plugins that make it, in the order of ADD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chain {
    pub name: String,
    /// What is spoken with the plugins.
    pub version: Version,
    /// All that the file offers (`cniVersions`), best first.
    pub offered: Vec<Version>,
    pub disable_check: bool,
    pub disable_gc: bool,
    pub plugins: Vec<Plugin>,
}

/// One plugin of a chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plugin {
    /// Name of its program.
    pub kind: String,
    /// The capabilities it declares as true.
    pub capabilities: Vec<String>,
    /// Its configuration as it stands in the file.
    pub conf: Map<String, Value>,
}

/// The networks that a pod joins, `most` at most: the default one, then the others in the order of their files.
///
/// # Errors
/// When there is none, or one of those that should be used is broken: what a pod gets must not hang on a typing error.
pub fn choose(conf_dir: &Path, default_network: Option<&str>, most: usize) -> Result<Vec<Chain>, NotReady> {
    let files = files(conf_dir).map_err(|error| bad(conf_dir, error))?;
    let (default_file, default) = match default_network {
        None => {
            let file = files.first().ok_or(NotReady::NoConfiguration { conf_dir: conf_dir.into() })?;
            (file, load(file)?)
        }
        Some(name) => named(&files, name, conf_dir)?,
    };
    let mut chains = vec![default];
    let others = files.iter().filter(|file| *file != default_file);
    for file in others.take(most.saturating_sub(1)) {
        let chain = load(file)?;
        if chains.iter().any(|other| other.name == chain.name) {
            return Err(bad(file, format!("another file names its network {} too", chain.name)));
        }
        chains.push(chain);
    }
    Ok(chains)
}

fn named<'a>(files: &'a [PathBuf], name: &str, conf_dir: &Path) -> Result<(&'a PathBuf, Chain), NotReady> {
    let mut broken = None;
    for file in files {
        match load(file) {
            Ok(chain) if chain.name == name => return Ok((file, chain)),
            Ok(_) => {}
            Err(error) => broken = broken.or(Some(error)),
        }
    }
    Err(broken.unwrap_or(NotReady::NoSuchNetwork { name: name.into(), conf_dir: conf_dir.into() }))
}

/// Whether a text is a configuration.
pub(crate) fn check(text: &[u8]) -> Result<(), String> {
    let parsed = parse(text)?;
    if parsed.chain.plugins.is_empty() { Err("it has no plugins".into()) } else { Ok(()) }
}

/// Configuration files by name; a directory that is not there has none.
pub(crate) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if is_configuration(&path) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn is_configuration(path: &Path) -> bool {
    let known = path.extension().is_some_and(|ext| ext == "conflist" || ext == "conf" || ext == "json");
    known && std::fs::metadata(path).is_ok_and(|meta| meta.is_file())
}

fn load(file: &Path) -> Result<Chain, NotReady> {
    let text = read(file, FILE_MAX_BYTES).map_err(|error| bad(file, error))?;
    let mut chain = parse(&text).map_err(|reason| bad(file, reason))?;
    add_from_directory(&mut chain, file).map_err(|reason| bad(file, reason))?;
    Ok(chain.chain)
}

fn bad(file: &Path, reason: impl fmt::Display) -> NotReady {
    NotReady::BadConfiguration { file: file.into(), reason: reason.to_string() }
}

struct Parsed {
    chain: Chain,
    /// Spec 1.1: more plugins may come from a directory beside the file, named for the network.
    only_inlined: bool,
}

fn parse(text: &[u8]) -> Result<Parsed, String> {
    let mut file: Map<String, Value> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let name = file.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    check_name(&name).map_err(|rule| format!("name {name:?} {rule}"))?;
    let offered = offered(&file)?;
    let inlined = match file.remove("plugins") {
        Some(Value::Array(plugins)) => plugins,
        Some(_) => return Err("plugins is not a list".into()),
        // A file from before there were lists: one plugin, the file itself.
        None if file.contains_key("type") => vec![Value::Object(file.clone())],
        None => return Err("it has neither plugins nor a type".into()),
    };
    let plugins = inlined.into_iter().map(plugin).collect::<Result<Vec<_>, _>>()?;
    let only_inlined = flag(&file, "loadOnlyInlinedPlugins")?;
    let chain = Chain {
        name,
        version: offered[0],
        offered,
        disable_check: flag(&file, "disableCheck")?,
        disable_gc: flag(&file, "disableGC")?,
        plugins,
    };
    if only_inlined && chain.plugins.is_empty() {
        return Err("it has no plugins".into());
    }
    Ok(Parsed { chain, only_inlined })
}

/// The versions that the file allows and we speak, best first.
fn offered(file: &Map<String, Value>) -> Result<Vec<Version>, String> {
    let one = file.get("cniVersion").and_then(Value::as_str);
    let many = file.get("cniVersions").and_then(Value::as_array).into_iter().flatten();
    let named: Vec<&str> = many.filter_map(Value::as_str).chain(one).collect();
    let mut versions: Vec<Version> =
        named.iter().filter_map(|text| Version::parse(text)).filter(|version| version.spoken()).collect();
    versions.sort_by(|a, b| b.cmp(a));
    versions.dedup();
    if versions.is_empty() {
        let said = if named.is_empty() { "none".into() } else { named.join(", ") };
        return Err(format!("cniVersion is {said}; 0.3.0 to 1.1.0 are supported"));
    }
    Ok(versions)
}

fn plugin(value: Value) -> Result<Plugin, String> {
    let Value::Object(conf) = value else { return Err("a plugin is not an object".into()) };
    let kind = conf.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    check_kind(&kind).map_err(|rule| format!("plugin type {kind:?} {rule}"))?;
    // The IPAM plugin is run by the plugin, with our CNI_PATH: the same rule, or it would be the way around.
    if let Some(kind) = conf.get("ipam").and_then(|ipam| ipam.get("type")).and_then(Value::as_str) {
        check_kind(kind).map_err(|rule| format!("ipam type {kind:?} {rule}"))?;
    }
    let declared = conf.get("capabilities").and_then(Value::as_object).into_iter().flatten();
    let capabilities =
        declared.filter(|(_, on)| **on == Value::Bool(true)).map(|(name, _)| name.clone()).collect();
    Ok(Plugin { kind, capabilities, conf })
}

/// Some writers put booleans into strings; libcni reads both.
fn flag(file: &Map<String, Value>, key: &str) -> Result<bool, String> {
    match file.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(on)) => Ok(*on),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(format!("{key} is neither true nor false")),
    }
}

/// Spec 1.1: `<dir>/<network>/*.conf` are further plugins of the chain.
fn add_from_directory(parsed: &mut Parsed, file: &Path) -> Result<(), String> {
    if !parsed.only_inlined
        && let Some(dir) = file.parent().map(|dir| dir.join(&parsed.chain.name))
    {
        let files = files(&dir).map_err(|error| error.to_string())?;
        for file in files.iter().filter(|file| file.extension().is_some_and(|ext| ext == "conf")) {
            let text = read(file, FILE_MAX_BYTES).map_err(|error| format!("{}: {error}", file.display()))?;
            let value =
                serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", file.display()))?;
            parsed.chain.plugins.push(plugin(value)?);
        }
    }
    match parsed.chain.plugins.len() {
        0 => Err("it has no plugins".into()),
        count if count > PLUGINS_MAX => Err(format!("it has more than {PLUGINS_MAX} plugins")),
        _ => Ok(()),
    }
}

/// A plugin's type is a file name in a plugin directory and nothing else (CVE-2021-20206).
pub(crate) fn check_kind(kind: &str) -> Result<(), &'static str> {
    match kind {
        "" => Err("is empty"),
        "." | ".." => Err("is not a file name"),
        _ if kind.contains(['/', '\\', '\0']) => Err("must not contain a path separator"),
        _ => Ok(()),
    }
}

/// The specification's rule for network names and container ids; both become file names in plugins.
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    match name.chars().next() {
        None => Err("is empty"),
        Some(first) if !first.is_ascii_alphanumeric() => Err("must begin with a letter or digit"),
        Some(_) if !name.chars().all(good) => Err("may have letters, digits, '_', '.' and '-' only"),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(&str, &[&str]), &str>) {
        let parsed = parse(text.as_bytes()).map(|parsed| parsed.chain);
        match (parsed, expected) {
            (Ok(chain), Ok((name, kinds))) => {
                assert_eq!(chain.name, name);
                assert_eq!(chain.plugins.iter().map(|p| p.kind.as_str()).collect::<Vec<_>>(), kinds);
            }
            (Err(reason), Err(part)) => assert!(reason.contains(part), "{reason:?} lacks {part:?}"),
            (got, expected) => panic!("got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_file_is_a_chain_or_a_single_plugin() {
        let list = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#;
        check(list, Ok(("n", &["bridge", "portmap"])));
        check(r#"{"cniVersion":"0.3.1","name":"n","type":"ptp"}"#, Ok(("n", &["ptp"])));
        check(r#"{"cniVersion":"1.0.0","name":"n"}"#, Err("neither plugins nor a type"));
        check(r#"{"cniVersion":"1.0.0","name":"n","plugins":{}}"#, Err("not a list"));
        check(r#"{"cniVersion":"1.0.0","plugins":[]}"#, Err("name \"\" is empty"));
        check(r#"{"cniVersion":"1.0.0","name":"../n","plugins":[]}"#, Err("must begin with"));
        check("{", Err("EOF"));
        check("[]", Err("invalid type"));
    }

    #[test]
    fn a_plugin_type_cannot_leave_its_directory() {
        for kind in ["", ".", "..", "../../bin/sh", "/bin/sh", "a/b", "a\\b"] {
            let chain = serde_json::json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": kind}]});
            check(&chain.to_string(), Err("plugin type"));
            let chain = serde_json::json!({"cniVersion": "1.0.0", "name": "n",
                "plugins": [{"type": "bridge", "ipam": {"type": kind}}]});
            check(&chain.to_string(), Err("ipam type"));
        }
    }

    #[test]
    fn the_best_version_that_both_know_is_taken() {
        let versions = |text: &str| parse(text.as_bytes()).map(|parsed| parsed.chain.offered);
        let plugins = r#""name":"n","plugins":[{"type":"a"}]"#;
        let of = |head: &str| versions(&format!("{{{head}{plugins}}}"));
        assert_eq!(of(r#""cniVersion":"1.0.0","#).unwrap(), [Version(1, 0, 0)]);
        let many = r#""cniVersion":"0.4.0","cniVersions":["1.0.0","1.1.0","2.0.0","0.4.0"],"#;
        assert_eq!(of(many).unwrap(), [Version(1, 1, 0), Version(1, 0, 0), Version(0, 4, 0)]);
        assert!(of(r#""cniVersion":"0.2.0","#).unwrap_err().contains("0.2.0"));
        assert!(of(r#""cniVersion":"9.0.0","#).unwrap_err().contains("supported"));
        assert!(of("").unwrap_err().contains("none"));
    }

    #[test]
    fn flags_may_be_strings() {
        let text = r#"{"cniVersion":"1.0.0","name":"n","disableCheck":"TRUE","disableGC":true,"type":"a"}"#;
        let chain = parse(text.as_bytes()).unwrap().chain;
        assert!(chain.disable_check && chain.disable_gc);
    }

    fn write(dir: &Path, name: &str, network: &str) {
        let text = format!(r#"{{"cniVersion":"1.0.0","name":"{network}","plugins":[{{"type":"bridge"}}]}}"#);
        std::fs::write(dir.join(name), text).unwrap();
    }

    fn one(dir: &Path, default_network: Option<&str>) -> Result<Chain, NotReady> {
        choose(dir, default_network, 1).map(|mut chains| chains.remove(0))
    }

    #[test]
    fn the_first_file_by_name_decides_unless_a_default_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(one(dir.path(), None), Err(NotReady::NoConfiguration { .. })));
        write(dir.path(), "20-b.conflist", "b");
        write(dir.path(), "10-a.conf", "a");
        write(dir.path(), "05-ignored.txt", "x");
        std::fs::create_dir(dir.path().join("00-dir.conf")).unwrap();
        assert_eq!(one(dir.path(), None).unwrap().name, "a");
        assert_eq!(one(dir.path(), Some("b")).unwrap().name, "b");
        assert!(matches!(one(dir.path(), Some("c")), Err(NotReady::NoSuchNetwork { .. })));
    }

    #[test]
    fn a_broken_first_file_is_said_and_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "20-b.conflist", "b");
        std::fs::write(dir.path().join("10-a.conflist"), "{").unwrap();
        let refused = one(dir.path(), None).unwrap_err();
        assert!(refused.to_string().contains("10-a.conflist"), "{refused}");
        assert_eq!(one(dir.path(), Some("b")).unwrap().name, "b");
        std::fs::write(dir.path().join("10-a.conflist"), vec![b' '; (FILE_MAX_BYTES + 1) as usize]).unwrap();
        assert!(one(dir.path(), None).unwrap_err().to_string().contains("larger"));
    }

    #[test]
    fn a_directory_named_for_the_network_adds_plugins() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "10-a.conflist", "a");
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/10-tuning.conf"), r#"{"type":"tuning"}"#).unwrap();
        let chain = one(dir.path(), None).unwrap();
        assert_eq!(chain.plugins.iter().map(|p| p.kind.as_str()).collect::<Vec<_>>(), ["bridge", "tuning"]);
    }

    #[test]
    fn several_networks_come_in_the_order_of_their_files_and_the_default_one_first() {
        let dir = tempfile::tempdir().unwrap();
        for (file, network) in [("10-a.conflist", "a"), ("20-b.conflist", "b"), ("30-c.conflist", "c")] {
            write(dir.path(), file, network);
        }
        let names = |default: Option<&str>, most| -> Vec<String> {
            choose(dir.path(), default, most).unwrap().into_iter().map(|chain| chain.name).collect()
        };
        assert_eq!(names(None, 1), ["a"]);
        assert_eq!(names(None, 2), ["a", "b"]);
        assert_eq!(names(Some("b"), 2), ["b", "a"]);
        assert_eq!(names(Some("c"), 9), ["c", "a", "b"]);
        write(dir.path(), "40-again.conflist", "b");
        let refused = choose(dir.path(), None, 9).unwrap_err().to_string();
        assert!(
            refused.contains("40-again.conflist") && refused.contains("names its network b"),
            "{refused}"
        );
        std::fs::write(dir.path().join("20-b.conflist"), "{").unwrap();
        let refused = choose(dir.path(), None, 2).unwrap_err().to_string();
        assert!(refused.contains("20-b.conflist"), "{refused}");
        assert_eq!(names(None, 1), ["a"], "what no pod joins holds up nothing");
    }
}
