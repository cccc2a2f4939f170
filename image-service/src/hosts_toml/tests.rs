//! What `hosts.toml` makes of a reference: a line a case.

use super::*;

fn shown(endpoint: &Endpoint) -> String {
    let access = &endpoint.access;
    let scheme = access.scheme.as_ref().map_or("?", |scheme| scheme.as_str());
    let ns = access.namespace.as_ref().map(|ns| format!("?ns={ns}")).unwrap_or_default();
    let role = match endpoint.role {
        Role::Mirror => "mirror",
        Role::Primary => "server",
    };
    let digests = if access.resolves { "" } else { " by digest" };
    format!("{role} {scheme}://{}{}/{}{ns}{digests}", endpoint.host, access.base, endpoint.path)
}

fn ask(name: &str, text: &str, reference: &str) -> Result<Vec<String>, String> {
    ask_to(Purpose::Pull, name, text, reference)
}

fn ask_to(purpose: Purpose, name: &str, text: &str, reference: &str) -> Result<Vec<String>, String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join(name)).unwrap();
    std::fs::write(dir.path().join(name).join(FILE), text).unwrap();
    let found = endpoints(&[dir.path().to_owned()], &Reference::parse(reference).unwrap(), purpose);
    let found = found.map_err(|error| error.to_string())?;
    Ok(found.map(|(_, found)| found.iter().map(shown).collect()).unwrap_or_default())
}

fn check(text: &str, reference: &str, answer: &[&str]) {
    assert_eq!(ask("a.io", text, reference).unwrap(), answer, "{text}");
}

#[test]
fn hosts_are_asked_in_their_order_and_the_server_last() {
    let text =
        "server = 'https://real.a.io'\n[host.'https://z.io']\n[host.'http://b.io:5000/cache']\n[host.'c.io']";
    check(
        text,
        "a.io/x/y:1",
        &[
            "mirror https://z.io/v2/x/y?ns=a.io",
            "mirror http://b.io:5000/cache/v2/x/y?ns=a.io",
            "mirror https://c.io/v2/x/y?ns=a.io",
            "server https://real.a.io/v2/x/y",
        ],
    );
    check("", "a.io/x:1", &["server https://a.io/v2/x"]);
    check("[host.'http://a.io']", "a.io/x:1", &["mirror http://a.io/v2/x", "server https://a.io/v2/x"]);
}

#[test]
fn capabilities_and_paths_count() {
    let digest = "a.io/x@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let pull = "[host.'https://b.io']\ncapabilities = ['pull']";
    // Who may not say what a tag means is asked for what it led to.
    for name in ["a.io/x:1", digest] {
        check(pull, name, &["mirror https://b.io/v2/x?ns=a.io by digest", "server https://a.io/v2/x"]);
    }
    // The keys of the top are the server's.
    let mirrored = "capabilities = ['push']\n[host.'https://b.io']";
    check(mirrored, "a.io/x:1", &["mirror https://b.io/v2/x?ns=a.io"]);
    check("capabilities = ['pull']", digest, &["server https://a.io/v2/x by digest"]);
    check("[host.'https://b.io']\ncapabilities = ['push']", digest, &["server https://a.io/v2/x"]);
    check("server = 'https://b.io/p'\noverride_path = true", "a.io/x:1", &["server https://b.io/p/x"]);
    check("server = 'https://b.io/p/v2/'", "a.io/x:1", &["server https://b.io/p/v2/x"]);
}

#[test]
fn files_and_headers_are_read_in_all_their_forms() {
    let text = "ca = 'own.pem'\n[host.'https://b.io']\nca = ['/c/1.pem', '2.pem']\nskip_verify = true\n\
                client = [['cert.pem', 'key.pem'], ['both.pem', '']]\n[host.'https://b.io'.header]\n\
                x-one = 'a'\nx-many = ['b', 'c']\n[host.'https://d.io']\nclient = 'pem'";
    let file: File = toml::from_str(text).unwrap();
    let reference = Reference::parse("a.io/x:1").unwrap();
    let found = file.endpoints(&reference, Path::new("/dir"), Purpose::Pull).unwrap();
    let tls = found[0].access.tls.clone().unwrap();
    assert_eq!(tls.ca, [PathBuf::from("/c/1.pem"), "/dir/2.pem".into()]);
    assert_eq!(tls.client[0], ("/dir/cert.pem".into(), "/dir/key.pem".into()));
    assert_eq!(tls.client[1], ("/dir/both.pem".into(), "/dir/both.pem".into()));
    assert!(tls.skip_verify && !format!("{:?}", found[0].access.headers).contains('c'));
    assert_eq!(found[0].access.headers.get_all("x-many").iter().count(), 2);
    assert_eq!(found[1].access.tls.as_ref().unwrap().client[0].0, PathBuf::from("/dir/pem"));
    assert_eq!(found[2].access.tls.as_ref().unwrap().ca, [PathBuf::from("/dir/own.pem")]);
}

#[test]
fn a_registry_has_its_own_file_or_the_default() {
    let text = "[host.'http://m.io']";
    for (name, reference, there) in [
        ("a.io", "a.io/x", true),
        ("a.io", "b.io/x", false),
        ("_default", "b.io:5000/x", true),
        ("b.io:5000", "b.io:5000/x", true),
        ("b.io_5000_", "b.io:5000/x", true),
        ("b.io_5000_", "b.io/x", false),
    ] {
        assert_eq!(!ask(name, text, reference).unwrap().is_empty(), there, "{name} {reference}");
    }
}

#[test]
fn what_makes_no_sense_is_named() {
    for (text, word) in [
        ("server = 'ftp://b.io'", "no URL"),
        ("server = 'https://u:p@b.io'", "no URL"),
        ("[host.'']", "no URL"),
        ("[host.'https://b.io']\nheader = {'a b' = 'c'}", "header"),
        ("capabilities = ['push']", "nobody in it"),
        ("capabilities = ['pull']", "pull and resolve a.io/x"),
        ("server = 1", "TOML"),
        ("servr = 'https://b.io'", "TOML"),
        ("[host", "TOML"),
    ] {
        let error = ask("a.io", text, "a.io/x").unwrap_err();
        assert!(error.contains(word) && error.contains("hosts.toml"), "{text}: {error}");
    }
}

#[test]
fn what_is_pushed_goes_to_those_who_take_it() {
    let check = |text: &str, answer: &[&str]| {
        assert_eq!(ask_to(Purpose::Push, "a.io", text, "a.io/x:1").unwrap(), answer, "{text}");
    };
    check("[host.'https://m.io']\ncapabilities = ['pull', 'resolve']", &["server https://a.io/v2/x"]);
    check(
        "[host.'https://m.io']\ncapabilities = ['push']",
        &["mirror https://m.io/v2/x?ns=a.io", "server https://a.io/v2/x"],
    );
    check("capabilities = ['pull']\n", &[]);
}
