//! Which endpoints, certificates and credentials would be used for a reference, and why: for people.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{Error, Purpose, Registry, certs};
use crate::auth::lookup::{self, Place, Source};
use crate::auth::{self, Credentials};
use crate::reference::Reference;
use crate::registries_conf::Role;

/// One endpoint, in the order asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// `host/path`.
    pub place: String,
    pub role: Role,
    pub insecure: bool,
    /// The directories of `certs.d` that count for it: more than one for Docker's registry, which has two names.
    pub certs_dirs: Vec<PathBuf>,
    pub credentials: Shown,
    /// The only scheme, where it is said.
    pub scheme: Option<String>,
    pub why: Why,
}

/// What sends a pull there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The rule of registries.conf with this prefix.
    Rule(String),
    /// This hosts.toml.
    Hosts(PathBuf),
    /// It is the name's own registry.
    Nothing,
}

/// Whose credentials an endpoint that asks for some would be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Those that came with the request.
    Given,
    /// Those that a file has under this key.
    File {
        path: PathBuf,
        key: String,
    },
    /// What a credential helper, named by a file, would say.
    Helper {
        path: PathBuf,
        name: String,
    },
    /// What a credential helper for all registries, named by registries.conf, would say; else the other.
    HelperOfAll {
        name: String,
        otherwise: Box<Shown>,
    },
    Nothing,
}

impl Registry {
    /// Reads the node's files and asks nobody.
    pub fn explain(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Vec<Explained>, Error> {
        let settings = &self.shared.settings;
        let (why, places) = self.shared.places(reference, Purpose::Pull)?;
        let auth_places = self.shared.auth_places(&[]);
        let explain = |place: crate::registries_conf::Endpoint| {
            let hosts = [reference.domain(), place.host.as_str()];
            let given = credentials.filter(|given| !given.is_empty() && given.are_for(&hosts));
            let credentials = match (place.role, given) {
                (Role::Primary, Some(_)) => Shown::Given,
                (Role::Primary | Role::Mirror, _) => shown(&auth_places, &place.host, &place.path)?,
            };
            let certs_dirs = certs::directories(&settings.certs_dirs, &place.host);
            let has_any = |dir: &PathBuf| place.access.tls.is_none() && has_certificates(dir);
            let certs_dirs = certs_dirs.into_iter().filter(has_any).collect();
            Ok(Explained {
                place: format!("{}/{}", place.host, place.path),
                role: place.role,
                insecure: place.insecure,
                certs_dirs,
                credentials,
                scheme: place.access.scheme.map(|scheme| scheme.to_string()),
                why: why.clone(),
            })
        };
        places.into_iter().map(explain).collect()
    }
}

/// A directory may be there for its hosts.toml only.
fn has_certificates(dir: &Path) -> bool {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    names.into_iter().any(|path| path.extension().is_some_and(|kind| kind == "crt" || kind == "cert"))
}

fn shown(places: &[Place], host: &str, path: &str) -> Result<Shown, Error> {
    let failed = |error: auth::files::Error| {
        let mut failure = super::Failure::new(format!("explaining {host}/{path}"));
        failure.add(host, &error.into());
        failure.into_error()
    };
    let sources = lookup::sources(places, host, path).map_err(failed)?;
    Ok(sources.into_iter().rfold(Shown::Nothing, |otherwise, source| match source {
        Source::Key { path, key } => Shown::File { path, key },
        Source::Helper { path, name } => Shown::Helper { path, name },
        Source::HelperOfAll(name) => Shown::HelperOfAll { name, otherwise: Box::new(otherwise) },
    }))
}

impl fmt::Display for Shown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shown::Given => write!(out, "the credentials given"),
            Shown::File { path, key } => write!(out, "credentials for {key} in {}", path.display()),
            Shown::Helper { path, name } => {
                write!(out, "credentials by docker-credential-{name}, named in {}", path.display())
            }
            Shown::HelperOfAll { name, otherwise } => {
                write!(
                    out,
                    "credentials by docker-credential-{name}, named in registries.conf, else {otherwise}"
                )
            }
            Shown::Nothing => write!(out, "no credentials"),
        }
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Mirror => "mirror",
            Role::Primary => "registry",
        };
        let how = match &self.scheme {
            Some(scheme) => scheme.as_str(),
            None if self.insecure => "https unverified, then http",
            None => "https",
        };
        write!(out, "{role} {} by {how}", self.place)?;
        for (number, dir) in self.certs_dirs.iter().enumerate() {
            let joint = if number == 0 { ", certificates of" } else { " and" };
            write!(out, "{joint} {}", dir.display())?;
        }
        write!(out, ", {}", self.credentials)?;
        match &self.why {
            Why::Rule(prefix) => write!(out, ", since registries.conf has a rule for {prefix}"),
            Why::Hosts(path) => write!(out, ", since {} says so", path.display()),
            Why::Nothing => write!(out, ", since nothing speaks of it but its name"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registries_conf::RegistriesConf;
    use crate::registry::Settings;

    #[test]
    fn each_endpoint_is_told_with_its_certificates_and_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let (auth, certs) = (dir.path().join("auth.json"), dir.path().join("certs.d"));
        let files = r#"{"auths":{"m.io/k8s":{"auth":"aG9zdDpw"}},"credHelpers":{"k8s.gcr.io":"gcr"}}"#;
        std::fs::write(&auth, files).unwrap();
        std::fs::create_dir_all(certs.join("m.io")).unwrap();
        std::fs::write(certs.join("m.io/ca.crt"), "").unwrap();
        let mut registries = RegistriesConf::default();
        let conf = "[[registry]]\nlocation='k8s.gcr.io'\n[[registry.mirror]]\nlocation='m.io/k8s'\n\
                    [[registry.mirror]]\nlocation='n.io'\ninsecure=true";
        registries.add(conf, Path::new("conf")).unwrap();
        let registry = Registry::new(Settings {
            registries,
            certs_dirs: vec![certs.clone()],
            auth_files: vec![auth.clone()],
            ..Settings::default()
        });
        let tell = |given: Option<&Credentials>| {
            let explained =
                registry.explain(&Reference::parse("k8s.gcr.io/pause:3.9").unwrap(), given).unwrap();
            explained.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let mirror = format!(
            "mirror m.io/k8s/pause by https, certificates of {}, credentials for m.io/k8s in {}, since registries.conf has a rule for k8s.gcr.io",
            certs.join("m.io").display(),
            auth.display()
        );
        let other = "mirror n.io/pause by https unverified, then http, no credentials, since registries.conf has a rule for k8s.gcr.io".to_owned();
        let helper = format!(
            "registry k8s.gcr.io/pause by https, credentials by docker-credential-gcr, named in {}, since registries.conf has a rule for k8s.gcr.io",
            auth.display()
        );
        assert_eq!(tell(None), [mirror.clone(), other.clone(), helper]);
        let given = Credentials { username: "u".to_owned(), ..Credentials::default() };
        let own = "registry k8s.gcr.io/pause by https, the credentials given, since registries.conf has a rule for k8s.gcr.io".to_owned();
        assert_eq!(tell(Some(&given)), [mirror, other, own]);
    }
    #[test]
    fn helpers_of_registries_conf_and_both_names_of_docker_s_registry_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let (auth, certs) = (dir.path().join("auth.json"), dir.path().join("certs.d"));
        std::fs::write(&auth, r#"{"auths":{"docker.io":{"auth":"aG9zdDpw"}}}"#).unwrap();
        for name in ["docker.io", "registry-1.docker.io"] {
            std::fs::create_dir_all(certs.join(name)).unwrap();
            std::fs::write(certs.join(name).join("ca.crt"), "").unwrap();
        }
        let mut registries = RegistriesConf::default();
        registries
            .add("credential-helpers = ['ecr-login', 'containers-auth.json']", Path::new("conf"))
            .unwrap();
        let settings = Settings {
            registries,
            certs_dirs: vec![certs.clone()],
            auth_files: vec![auth.clone()],
            ..Settings::default()
        };
        let told = Registry::new(settings).explain(&Reference::parse("busybox").unwrap(), None).unwrap();
        let expected = format!(
            "registry docker.io/library/busybox by https, certificates of {0}/docker.io and {0}/registry-1.docker.io, \
             credentials by docker-credential-ecr-login, named in registries.conf, else credentials for docker.io in \
             {1}, since nothing speaks of it but its name",
            certs.display(),
            auth.display()
        );
        assert_eq!(told[0].to_string(), expected);
    }
}
