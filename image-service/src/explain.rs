//! What a name would come to on this node, and why: the endpoints in their order, whose credentials they
//! would be shown, and what the policy says. Reads the node's files and asks nobody.

use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, chain};
use crate::images::{Settings, namespace_auth_file, policy_file};
use crate::policy::Policy;
use crate::reference::Reference;
use crate::registries_conf::RegistriesConf;
use crate::registry::{self, Explained, Registry};

/// One thing that the name may mean.
#[derive(Debug)]
pub struct Explanation {
    /// The reference in full.
    pub reference: Reference,
    /// In the order in which they would be asked.
    pub endpoints: Vec<Explained>,
    pub policy_file: PathBuf,
    /// The kinds of signature that the policy wants the image to have.
    pub wanted: Vec<&'static str>,
    /// Why the policy refuses it; None when it does not.
    pub refused: Option<String>,
}

/// Everything that the name may mean, in the order in which it would be tried, for pods of `namespace`.
pub fn explain(settings: &Settings, name: &str, namespace: Option<&str>) -> Result<Vec<Explanation>, Error> {
    let registries = RegistriesConf::load(&settings.registries_conf, &settings.registries_conf_dir)
        .map_err(Error::registries)?;
    let candidates = registries.candidates(name).map_err(Error::registries)?;
    let own = namespace_auth_file(settings, namespace);
    let registry = Registry::new(registry::Settings {
        registries,
        certs_dirs: settings.certs_dirs.clone(),
        auth_files: own.into_iter().chain(settings.auth_files.clone()).collect(),
        ..registry::Settings::default()
    });
    let explain = |reference: Reference| {
        let endpoints = registry.explain(&reference, None).map_err(|error| Error::registry(name, error))?;
        let policy_file = policy_file(settings, namespace);
        let policy = Policy::in_force(&policy_file);
        let wanted = policy.as_ref().map_or_else(|_| Vec::new(), |policy| policy.wanted(&reference));
        let refused = policy.and_then(|policy| policy.check(&reference));
        let refused = refused.err().map(|refusal| chain(&refusal));
        Ok(Explanation { reference, endpoints, policy_file, wanted, refused })
    };
    candidates.into_iter().map(explain).collect()
}

impl fmt::Display for Explanation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.reference)?;
        for (number, endpoint) in self.endpoints.iter().enumerate() {
            writeln!(out, "  {}. {endpoint}", number + 1)?;
        }
        let file = self.policy_file.display();
        match &self.refused {
            Some(why) => writeln!(out, "  policy: {why} ({file})"),
            None if !self.wanted.is_empty() => {
                writeln!(out, "  policy: it must be {} ({file})", self.wanted.join(" and "))
            }
            None if self.policy_file.exists() => writeln!(out, "  policy: not refused by {file}"),
            None => writeln!(out, "  policy: anything goes, since there is no {file}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_told_with_its_endpoints_credentials_and_policy() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut settings = Settings::new(dir.path());
        settings.registries_conf = path("registries.conf");
        settings.registries_conf_dir = path("none");
        settings.certs_dirs = vec![path("certs.d")];
        settings.policy = path("policy.json");
        settings.policy_dir = path("none");
        settings.namespace_auth_dir = path("auth");
        let conf = "unqualified-search-registries = ['a.io', 'b.io']\n[[registry]]\nlocation = 'a.io'\n\
                    [[registry.mirror]]\nlocation = 'm.io/cache'\n";
        std::fs::write(&settings.registries_conf, conf).unwrap();
        std::fs::create_dir_all(path("certs.d/b.io")).unwrap();
        std::fs::write(path("certs.d/b.io/hosts.toml"), "[host.'http://c.io']").unwrap();
        std::fs::create_dir(path("auth")).unwrap();
        std::fs::write(path("auth/team.json"), r#"{"auths":{"m.io":{"auth":"aG9zdDpw"}}}"#).unwrap();
        let policy = r#"{"default":[{"type":"insecureAcceptAnything"}],
                         "transports":{"docker":{"b.io":[{"type":"reject"}]}}}"#;
        std::fs::write(&settings.policy, policy).unwrap();
        let told: String =
            explain(&settings, "app:1", Some("team")).unwrap().iter().map(ToString::to_string).collect();
        let dir = dir.path().display();
        let expected = format!(
            "a.io/app:1\n  \
             1. mirror m.io/cache/app by https, credentials for m.io in {dir}/auth/team.json, since registries.conf has a rule for a.io\n  \
             2. registry a.io/app by https, no credentials, since registries.conf has a rule for a.io\n  \
             policy: not refused by {dir}/policy.json\n\
             b.io/app:1\n  \
             1. mirror c.io/app by http, no credentials, since {dir}/certs.d/b.io/hosts.toml says so\n  \
             2. registry b.io/app by https, no credentials, since {dir}/certs.d/b.io/hosts.toml says so\n  \
             policy: the policy rejects b.io/app:1 (by its entry for b.io) ({dir}/policy.json)\n"
        );
        assert_eq!(told, expected);
        let told = explain(&settings, "z.io/app:1", None).unwrap()[0].to_string();
        assert!(
            told.contains("registry z.io/app by https, no credentials, since nothing speaks of it"),
            "{told}"
        );
        settings.policy_dir = path("policies");
        std::fs::create_dir(path("policies")).unwrap();
        let signed = r#"{"default":[{"type":"sigstoreSigned","keyPath":"/k"}]}"#;
        std::fs::write(path("policies/team.json"), signed).unwrap();
        let told = explain(&settings, "z.io/app:1", Some("team")).unwrap()[0].to_string();
        let expected = format!("policy: it must be sigstoreSigned ({dir}/policies/team.json)");
        assert!(told.contains(&expected), "{told}");
        let other = explain(&settings, "m.io/app", Some("../auth/team")).unwrap()[0].to_string();
        assert!(other.contains("no credentials"), "{other}");
        assert!(explain(&settings, "UPPER", None).is_err());
    }
}
