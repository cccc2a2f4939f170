//! In which order credentials are looked for: in files, and by helpers that are for all registries
//! (containers-registries.conf(5), `credential-helpers`). A place that can't be used does not end the search.

use std::path::PathBuf;

use super::files::{self, Error, Found};
use super::{Credentials, credential_helper, host_of};
use crate::error::chain;

/// Among the helpers of registries.conf: the files.
pub(crate) const AUTH_FILES: &str = "containers-auth.json";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    File(PathBuf),
    /// `docker-credential-NAME`, whatever the registry.
    Helper(String),
}

/// What speaks for a repository, as far as can be said without asking a helper.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Key {
        path: PathBuf,
        key: String,
    },
    Helper {
        path: PathBuf,
        name: String,
    },
    /// It is asked, and what comes after it counts when it knows nothing.
    HelperOfAll(String),
}

/// Where to look: who has files of their own looks there first, then by the node's helpers in their order.
pub(crate) fn places(own: &[PathBuf], helpers: &[String], files: &[PathBuf]) -> Vec<Place> {
    let in_files = |files: &[PathBuf]| files.iter().cloned().map(Place::File).collect::<Vec<_>>();
    let mut places = in_files(own);
    for helper in helpers {
        match helper.as_str() {
            AUTH_FILES => places.extend(in_files(files)),
            name => places.push(Place::Helper(name.to_owned())),
        }
    }
    if helpers.is_empty() {
        places.extend(in_files(files));
    }
    places
}

/// The credentials for `host/path` of the first place that has any. A place that can't be used is an error only
/// when none has.
pub(crate) async fn find(places: &[Place], host: &str, path: &str) -> Result<Option<Credentials>, Error> {
    let mut passed = Vec::new();
    for place in places {
        match ask(place, host, path).await {
            Ok(Some(credentials)) => {
                passed.iter().for_each(|error| pass_over(host, error));
                return Ok(Some(credentials));
            }
            Ok(None) => {}
            Err(error) => passed.push(error),
        }
    }
    first(host, passed)
}

async fn ask(place: &Place, host: &str, path: &str) -> Result<Option<Credentials>, Error> {
    let found = match place {
        Place::Helper(name) => credential_helper::get(name, host_of(host)).await?,
        Place::File(file) => match files::look(file, host, path)? {
            Found::Here { credentials, .. } => Some(credentials),
            Found::Helper { name, server } => credential_helper::get(&name, &server).await?,
            Found::Nothing => None,
        },
    };
    Ok(found.filter(|credentials| !credentials.is_empty()))
}

/// What would be asked for `host/path`, up to the first that has credentials for sure.
pub(crate) fn sources(places: &[Place], host: &str, path: &str) -> Result<Vec<Source>, Error> {
    let (mut sources, mut passed) = (Vec::new(), Vec::new());
    for place in places {
        match known(place, host, path) {
            Ok(Some(helper @ Source::HelperOfAll(_))) => sources.push(helper),
            Ok(Some(sure)) => {
                sources.push(sure);
                return Ok(sources);
            }
            Ok(None) => {}
            Err(error) => passed.push(error),
        }
    }
    if sources.is_empty() {
        first::<()>(host, passed)?;
    }
    Ok(sources)
}

fn known(place: &Place, host: &str, path: &str) -> Result<Option<Source>, Error> {
    let file = match place {
        Place::Helper(name) => return Ok(Some(Source::HelperOfAll(name.clone()))),
        Place::File(file) => file.clone(),
    };
    Ok(match files::look(&file, host, path)? {
        Found::Here { key, .. } => Some(Source::Key { path: file, key }),
        Found::Helper { name, .. } => Some(Source::Helper { path: file, name }),
        Found::Nothing => None,
    })
}

/// The first error is told to the caller, the others to the log.
fn first<T>(host: &str, errors: Vec<Error>) -> Result<Option<T>, Error> {
    let mut errors = errors.into_iter();
    let first = errors.next();
    errors.for_each(|error| pass_over(host, &error));
    first.map_or(Ok(None), Err)
}

fn pass_over(registry: &str, error: &Error) {
    let error = chain(error);
    tracing::warn!(registry, %error, "credentials can't be had in one place; others are looked at");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn file(dir: &Path, name: &str, text: &str) -> Place {
        std::fs::write(dir.join(name), text).unwrap();
        Place::File(dir.join(name))
    }

    #[test]
    fn helpers_and_files_are_looked_at_as_registries_conf_orders() {
        let check = |own: &[&str], helpers: &[&str], answer: &[&str]| {
            let own: Vec<PathBuf> = own.iter().map(PathBuf::from).collect();
            let helpers: Vec<String> = helpers.iter().map(ToString::to_string).collect();
            let found = places(&own, &helpers, &["a".into(), "b".into()]);
            let shown: Vec<String> = found
                .iter()
                .map(|place| match place {
                    Place::File(path) => path.display().to_string(),
                    Place::Helper(name) => format!("!{name}"),
                })
                .collect();
            assert_eq!(shown, answer, "{helpers:?}");
        };
        check(&[], &[], &["a", "b"]);
        check(&["own"], &[], &["own", "a", "b"]);
        check(&[], &["one", AUTH_FILES, "two"], &["!one", "a", "b", "!two"]);
        check(&["own"], &["one"], &["own", "!one"]);
    }

    #[tokio::test]
    async fn a_place_that_can_t_be_used_does_not_end_the_search() {
        let dir = tempfile::tempdir().unwrap();
        let broken = file(dir.path(), "broken.json", r#"{"auths":{"a.io":{"auth":"s3cret"#);
        let helped = file(dir.path(), "helped.json", r#"{"credHelpers":{"a.io":"berth-none-of-this-name"}}"#);
        let good = file(dir.path(), "good.json", r#"{"auths":{"a.io":{"auth":"aG9zdDpw"}}}"#);
        let global = Place::Helper("berth-none-of-this-name".to_owned());
        let all = [broken.clone(), helped.clone(), global, good];
        assert_eq!(find(&all, "a.io", "x").await.unwrap().unwrap().username, "host");
        // Where nobody else has any, the first trouble is told, and nothing of a secret.
        let error = find(&[broken, helped.clone()], "a.io", "x").await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains("broken.json") && !text.contains("s3cret"), "{text}");
        let error = find(&[helped], "a.io", "x").await.unwrap_err();
        assert!(error.to_string().contains("docker-credential-berth-none-of-this-name"), "{error}");
        let missing = Place::File(dir.path().join("missing"));
        assert_eq!(find(&[missing], "a.io", "x").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_broken_file_is_named_and_its_secrets_are_not() {
        let dir = tempfile::tempdir().unwrap();
        for text in [r#"{"auths":{"a.io":{"auth":"s3cret"#, r#"{"auths":{"a.io":{"auth":"s3cret!"}}}"#] {
            let place = file(dir.path(), "auth.json", text);
            let error = find(&[place], "a.io", "x").await.unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains("auth.json") && !text.contains("s3cret"), "{text}");
        }
    }
}
