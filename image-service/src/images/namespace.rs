//! What pods of one namespace have for themselves: credentials, and a policy.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Settings;
use crate::policy::{Policy, Refusal};

/// More namespaces with policies of their own than this have them read more often.
const MAX_KEPT: usize = 256;
/// A second of the stamp's own, and more than any clock's tick.
const SETTLED: Duration = Duration::from_secs(2);

/// A namespace's own file with credentials.
pub(crate) fn namespace_auth_file(settings: &Settings, namespace: Option<&str>) -> Option<PathBuf> {
    namespace_file(&settings.namespace_auth_dir, namespace)
}

/// The file whose policy is in force for pods of the namespace: its own if it has one, else the node's.
pub(crate) fn policy_file(settings: &Settings, namespace: Option<&str>) -> PathBuf {
    let own = namespace_file(&settings.policy_dir, namespace);
    // One that is there and can't be read decides, too: then nothing is pulled.
    own.filter(|path| path.symlink_metadata().is_ok()).unwrap_or_else(|| settings.policy.clone())
}

/// The policy for pods of the namespace, as it is now.
pub(crate) fn policy_in_force(settings: &Settings, namespace: Option<&str>) -> Result<Policy, Refusal> {
    Policy::in_force(&policy_file(settings, namespace))
}

/// The policies as they were read last. A container that is made costs a look at when they changed, and no reading.
#[derive(Debug, Default)]
pub(super) struct Policies(Mutex<HashMap<PathBuf, (Stamp, Arc<Policy>)>>);

impl Policies {
    /// The policy for pods of the namespace.
    pub(super) fn in_force(
        &self,
        settings: &Settings,
        namespace: Option<&str>,
    ) -> Result<Arc<Policy>, Refusal> {
        let path = policy_file(settings, namespace);
        let found = match self.read(&path)? {
            // A namespace's own may just have gone.
            None if path != settings.policy => self.read(&settings.policy)?,
            found => found,
        };
        Ok(found.unwrap_or_else(|| Arc::new(Policy::accept())))
    }

    /// None: there is no such file.
    fn read(&self, path: &Path) -> Result<Option<Arc<Policy>>, Refusal> {
        let seen = match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(seen) if !seen.is_symlink() => Ok(seen),
            Ok(_) | Err(_) => path.metadata(),
        };
        let Ok(stamp) = seen.map(|seen| Stamp::of(&seen)) else {
            return Policy::in_force(path).map(|policy| Some(Arc::new(policy)));
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, policy)) = known.get(path)
            && *at == stamp
        {
            return Ok(Some(policy.clone()));
        }
        let policy = Arc::new(Policy::in_force(path)?);
        if known.len() >= MAX_KEPT {
            known.clear();
        }
        if stamp.is_settled() {
            known.insert(path.to_owned(), (stamp, policy.clone()));
        }
        Ok(Some(policy))
    }
}

/// Which file it is, and which state of it.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    bytes: u64,
    /// Of its content, and of all that is said of it, in seconds and nanoseconds.
    changed: [(i64, i64); 2],
}

impl Stamp {
    fn of(seen: &Metadata) -> Stamp {
        let changed = [(seen.mtime(), seen.mtime_nsec()), (seen.ctime(), seen.ctime_nsec())];
        Stamp { file: (seen.dev(), seen.ino()), bytes: seen.size(), changed }
    }

    /// Two changes within one tick of the kernel's clock look the same, so a young file is not remembered.
    fn is_settled(&self) -> bool {
        let changed = u64::try_from(self.changed[1].0).unwrap_or(0);
        let age = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(changed));
        age.is_ok_and(|age| age >= SETTLED)
    }
}

/// A namespace's own file. One that is no name as Kubernetes has them (RFC 1123) has none: it could be a path.
fn namespace_file(dir: &Path, namespace: Option<&str>) -> Option<PathBuf> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let good = |name: &&str| !name.is_empty() && name.len() <= 63 && name.bytes().all(plain);
    namespace.filter(good).map(|name| dir.join(format!("{name}.json")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_again_when_its_file_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(dir.path());
        settings.policy = dir.path().join("policy.json");
        settings.policy_dir = dir.path().join("policies.d");
        let policies = Policies::default();
        let in_force = |namespace: Option<&str>| policies.in_force(&settings, namespace);
        let write = |path: &Path, kind: &str, seconds: u64| {
            std::fs::write(path, format!(r#"{{"default": [{{"type": "{kind}"}}]}}"#)).unwrap();
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        };
        assert!(in_force(None).unwrap().accepts_all());
        write(&settings.policy, "reject", 1);
        assert!(!in_force(None).unwrap().accepts_all());
        // It is too young to be remembered: a change in the same tick would not be seen.
        assert!(policies.0.lock().unwrap().is_empty());
        std::thread::sleep(SETTLED + Duration::from_secs(1));
        let first = in_force(None).unwrap();
        assert!(Arc::ptr_eq(&first, &in_force(Some("team")).unwrap()), "it is not read twice");
        std::fs::create_dir(&settings.policy_dir).unwrap();
        let own = settings.policy_dir.join("team.json");
        write(&own, "insecureAcceptAnything", 1);
        assert!(in_force(Some("team")).unwrap().accepts_all());
        assert!(Arc::ptr_eq(&first, &in_force(Some("other")).unwrap()));
        std::fs::remove_file(&own).unwrap();
        std::os::unix::fs::symlink("nowhere", &own).unwrap();
        assert!(in_force(Some("team")).is_err(), "a link to nowhere is no policy");
        write(&settings.policy, "insecureAcceptAnything", 1);
        assert!(in_force(None).unwrap().accepts_all());
        std::fs::remove_file(&settings.policy).unwrap();
        assert!(in_force(None).unwrap().accepts_all());
    }
}
