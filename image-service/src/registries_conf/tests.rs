//! Tables: a configuration, a reference, and the endpoints that are asked.

use super::*;

const SHA: &str = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn conf(text: &str) -> RegistriesConf {
    let mut conf = RegistriesConf::default();
    conf.add(text, Path::new("test.conf")).unwrap();
    conf
}

/// The endpoints as `host/path`, with `!` for insecure, separated by spaces; or the error.
fn ask(conf: &RegistriesConf, reference: &str) -> String {
    let reference = Reference::parse(&reference.replace("@SHA", SHA)).unwrap();
    match conf.endpoints(&reference) {
        Ok(endpoints) => {
            let show = |e: &Endpoint| format!("{}{}/{}", if e.insecure { "!" } else { "" }, e.host, e.path);
            assert_eq!(endpoints.last().unwrap().role, Role::Primary);
            endpoints.iter().map(show).collect::<Vec<_>>().join(" ")
        }
        Err(error) => format!("error: {error}"),
    }
}

#[test]
fn without_rules_the_registry_itself_is_asked() {
    let none = RegistriesConf::default();
    assert_eq!(ask(&none, "busybox"), "docker.io/library/busybox");
    assert_eq!(ask(&none, "h.io:5000/a/b:1"), "h.io:5000/a/b");
}

#[test]
fn mirrors_come_first_and_keep_the_path() {
    let conf = conf(
        r#"
        [[registry]]
        location = "registry.k8s.io"
        [[registry.mirror]]
        location = "127.0.0.1:5000"
        insecure = true
        [[registry.mirror]]
        location = "mirror.example/k8s/"
        "#,
    );
    assert_eq!(
        ask(&conf, "registry.k8s.io/e2e/busybox:1"),
        "!127.0.0.1:5000/e2e/busybox mirror.example/k8s/e2e/busybox registry.k8s.io/e2e/busybox"
    );
    assert_eq!(ask(&conf, "registry.k8s.io.evil/a"), "registry.k8s.io.evil/a");
    assert_eq!(ask(&conf, "gcr.io/a"), "gcr.io/a");
}

#[test]
fn mirrors_may_serve_digests_or_tags_only() {
    let by_registry = conf(
        "[[registry]]\nlocation='a.io'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='m.io'",
    );
    assert_eq!(ask(&by_registry, "a.io/x:1"), "a.io/x");
    assert_eq!(ask(&by_registry, "a.io/x@SHA"), "m.io/x a.io/x");
    let by_mirror = conf(
        "[[registry]]\nlocation='a.io'\n\
         [[registry.mirror]]\nlocation='d.io'\npull-from-mirror='digest-only'\n\
         [[registry.mirror]]\nlocation='t.io'\npull-from-mirror='tag-only'\n\
         [[registry.mirror]]\nlocation='all.io'\npull-from-mirror='all'",
    );
    assert_eq!(ask(&by_mirror, "a.io/x"), "t.io/x all.io/x a.io/x");
    assert_eq!(ask(&by_mirror, "a.io/x@SHA"), "d.io/x all.io/x a.io/x");
    assert_eq!(ask(&by_mirror, "a.io/x:1@SHA"), "d.io/x all.io/x a.io/x");
}

#[test]
fn the_longest_prefix_decides() {
    let conf = conf(
        "[[registry]]\nprefix='a.io'\nlocation='one.io'\n\
         [[registry]]\nprefix='a.io/team'\nlocation='two.io/t'\ninsecure=true\n\
         [[registry]]\nprefix='a.io/team/secret'\nblocked=true\n\
         [[registry]]\nprefix='*.wild.io'\nlocation='tame.io/w'\n\
         [[registry]]\nprefix='*.same.io'\ninsecure=true\n\
         [[registry]]\nprefix='b.io:5000'\nlocation='mirror'",
    );
    assert_eq!(ask(&conf, "a.io/x"), "one.io/x");
    assert_eq!(ask(&conf, "a.io/team/x"), "!two.io/t/x");
    assert_eq!(ask(&conf, "a.io/team"), "!two.io/t");
    assert_eq!(ask(&conf, "a.io/teamster/x"), "one.io/teamster/x");
    assert_eq!(
        ask(&conf, "a.io/team/secret"),
        "error: registry a.io/team/secret is blocked by registries.conf"
    );
    assert_eq!(
        ask(&conf, "a.io/team/secret/x:1"),
        "error: registry a.io/team/secret is blocked by registries.conf"
    );
    assert_eq!(ask(&conf, "a.io/team/secrets"), "!two.io/t/secrets");
    assert_eq!(ask(&conf, "x.y.wild.io/p/q"), "tame.io/w/p/q");
    assert_eq!(ask(&conf, "wild.io/p"), "wild.io/p");
    assert_eq!(ask(&conf, "h.io/x.wild.io/p"), "h.io/x.wild.io/p");
    assert_eq!(ask(&conf, "r.same.io/p"), "!r.same.io/p");
    assert_eq!(ask(&conf, "b.io:5000/p"), "mirror/p");
    assert_eq!(ask(&conf, "b.io/p"), "b.io/p");
}

#[test]
fn a_rewrite_that_makes_no_name_is_an_error() {
    let conf = conf("[[registry]]\nprefix='a.io/x'\nlocation='b.io'");
    assert!(ask(&conf, "a.io/x").starts_with("error: registries.conf sends a.io/x:latest to b.io"));
    assert_eq!(ask(&conf, "a.io/x/y"), "b.io/y");
}

#[test]
fn a_later_file_overrides_by_prefix() {
    let mut conf =
        conf("unqualified-search-registries=['x.io']\n[[registry]]\nlocation='a.io'\ninsecure=true");
    conf.add("[[registry]]\nlocation='a.io'\n[[registry]]\nlocation='b.io'\nblocked=true", Path::new("2"))
        .unwrap();
    assert_eq!(ask(&conf, "a.io/x"), "a.io/x");
    assert!(ask(&conf, "b.io/x").starts_with("error: registry b.io is blocked"));
    assert_eq!(conf.search, ["x.io"]);
    conf.add("unqualified-search-registries=[]", Path::new("3")).unwrap();
    assert!(conf.search.is_empty());
}

#[test]
fn files_are_read_in_order_and_may_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (file, drop_ins) = (dir.path().join("registries.conf"), dir.path().join("registries.conf.d"));
    assert_eq!(RegistriesConf::load(&file, &drop_ins).unwrap(), RegistriesConf::default());
    std::fs::write(&file, "[[registry]]\nlocation='a.io'\nblocked=true").unwrap();
    std::fs::create_dir(&drop_ins).unwrap();
    std::fs::write(drop_ins.join("20.conf"), "[[registry]]\nprefix='a.io'\nlocation='c.io'").unwrap();
    std::fs::write(drop_ins.join("10.conf"), "[[registry]]\nprefix='a.io'\nlocation='b.io'").unwrap();
    std::fs::write(drop_ins.join("30.txt"), "not toml at all [").unwrap();
    assert_eq!(ask(&RegistriesConf::load(&file, &drop_ins).unwrap(), "a.io/x"), "c.io/x");
    std::fs::write(drop_ins.join("40.conf"), "not toml at all [").unwrap();
    let error = RegistriesConf::load(&file, &drop_ins).unwrap_err().to_string();
    assert!(error.contains("40.conf is not valid TOML"), "{error}");
}

#[test]
fn unknown_keys_are_ignored_and_wrong_ones_refused() {
    conf("some-new-key = 1\ncredential-helpers=['x']\n[[registry]]\nlocation='a.io'\nnew='x'\n[extra]\nk=1");
    for (text, why) in [
        ("[[registry]]\ninsecure=true", "neither prefix nor location"),
        ("[[registry]]\nlocation='https://a.io'", "without a scheme"),
        ("[[registry]]\nprefix='a.*.io'", "wildcard can only stand in front"),
        ("[[registry]]\nprefix='*.*.io'", "wildcard can only stand in front"),
        ("[[registry]]\nprefix='*.a.io'\nlocation='*.b.io'", "can't have a wildcard"),
        ("[[registry]]\nlocation='a.io'\n[[registry.mirror]]\ninsecure=true", "neither prefix nor location"),
        ("[[registry]]\nlocation='a.io'\n[[registry]]\nlocation='a.io'\nblocked=true", "two different rules"),
        ("[registries.search]\nregistries=['a.io']", "version 1"),
        ("short-name-mode='maybe'", "not valid TOML"),
        ("[aliases]\n'a.io/x'='b.io/x'", "without registry"),
        ("[aliases]\n'x'='y'", "full name"),
        (
            "[[registry]]\nlocation='a.io'\nmirror-by-digest-only=true\n\
             [[registry.mirror]]\nlocation='m.io'\npull-from-mirror='all'",
            "contradict",
        ),
    ] {
        let error = RegistriesConf::default().add(text, Path::new("x")).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn a_short_name_means_an_alias_or_the_search_registries() {
    let names = |conf: &RegistriesConf, text: &str| match conf.candidates(&text.replace("@SHA", SHA)) {
        Ok(list) => list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ").replace(SHA, "@SHA"),
        Err(error) => format!("error: {error}"),
    };
    let none = RegistriesConf::default();
    assert_eq!(names(&none, "busybox"), "docker.io/library/busybox:latest");
    let text = "unqualified-search-registries=['a.io','docker.io']\n[aliases]\n'fedora'='r.io/fedora'";
    let permissive = conf(text);
    assert_eq!(names(&permissive, "busybox:1"), "a.io/busybox:1 docker.io/library/busybox:1");
    assert_eq!(names(&permissive, "u/x"), "a.io/u/x:latest docker.io/u/x:latest");
    assert_eq!(names(&permissive, "fedora"), "r.io/fedora:latest");
    assert_eq!(names(&permissive, "fedora:40@SHA"), "r.io/fedora:40@SHA");
    assert_eq!(names(&permissive, "b.io/x"), "b.io/x:latest");
    let enforcing = conf(&format!("short-name-mode='enforcing'\n{text}"));
    assert!(names(&enforcing, "busybox").contains("short-name-mode is enforcing"));
    assert_eq!(names(&enforcing, "fedora"), "r.io/fedora:latest");
    let disabled = conf(&format!("short-name-mode='disabled'\n{text}"));
    assert_eq!(names(&disabled, "fedora"), "a.io/fedora:latest docker.io/library/fedora:latest");
    assert!(names(&none, "UPPER").starts_with("error:"));
}

#[test]
fn only_a_host_that_is_named_itself_is_insecure() {
    let conf = conf(
        "[[registry]]\nlocation='a.io'\ninsecure=true\n[[registry]]\nlocation='b.io'\n\
         [[registry.mirror]]\nlocation='m.io:5000/x'\ninsecure=true",
    );
    for (host, insecure) in
        [("a.io", true), ("m.io:5000", true), ("m.io", false), ("b.io", false), ("x.io", false)]
    {
        assert_eq!(conf.is_insecure_host(host), insecure, "{host}");
    }
}

mod no_panic {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_file_makes_the_reader_panic(
            text in "(\\[\\[registry(\\.mirror)?\\]\\]\n|prefix='[a-z*./:]{0,8}'\n|location='[a-z*./:]{0,8}'\n|blocked=true\n|\\PC{0,6}\n){0,8}",
            name in "[a-z]{1,3}\\.[a-z]{1,3}/[a-z]{1,4}(/[a-z]{1,3})?",
        ) {
            let mut conf = RegistriesConf::default();
            if conf.add(&text, Path::new("x")).is_ok() {
                let _ = conf.endpoints(&Reference::parse(&name).unwrap());
            }
        }
    }
}

#[test]
fn credential_helpers_of_the_last_file_that_names_some_count() {
    let mut conf = RegistriesConf::default();
    let mut add =
        |text: &str| conf.add(text, Path::new("test.conf")).map(|()| conf.credential_helpers().to_vec());
    assert_eq!(add("").unwrap(), Vec::<String>::new());
    assert_eq!(
        add("credential-helpers = ['a', 'containers-auth.json']").unwrap(),
        ["a", "containers-auth.json"]
    );
    assert_eq!(add("credential-helpers = []").unwrap(), ["a", "containers-auth.json"]);
    assert_eq!(add("credential-helpers = ['b']").unwrap(), ["b"]);
    let error = add("credential-helpers = ['../evil']").unwrap_err();
    assert!(error.to_string().contains("credential-helpers: \"../evil\""), "{error}");
}
