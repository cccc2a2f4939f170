//! Tables of references, good and bad.

use proptest::prelude::*;

use super::*;

const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn a_reference_is_read_into_its_normal_form() {
    let check = |text: &str, canonical: &str, familiar: &str| {
        let text = text.replace("SHA", SHA);
        let reference = Reference::parse(&text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(reference.to_string(), canonical.replace("SHA", SHA), "{text}");
        assert_eq!(reference.familiar(), familiar.replace("SHA", SHA), "{text}");
        assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
        assert_eq!(Reference::parse(&reference.familiar()).unwrap(), reference);
    };
    check("busybox", "docker.io/library/busybox:latest", "busybox");
    check("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36");
    check("busybox@SHA", "docker.io/library/busybox@SHA", "busybox@SHA");
    check("busybox:1@SHA", "docker.io/library/busybox:1@SHA", "busybox:1@SHA");
    check("busybox:latest@SHA", "docker.io/library/busybox:latest@SHA", "busybox:latest@SHA");
    check("library/busybox", "docker.io/library/busybox:latest", "busybox");
    check("docker.io/busybox", "docker.io/library/busybox:latest", "busybox");
    check("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox");
    check("user/app:v1", "docker.io/user/app:v1", "user/app:v1");
    check("a/b/c", "docker.io/a/b/c:latest", "a/b/c");
    check("library/a/b", "docker.io/library/a/b:latest", "library/a/b");
    check("localhost/app", "localhost/app:latest", "localhost/app");
    check("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app");
    check("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000");
    check("127.0.0.1:5000/a/b:t", "127.0.0.1:5000/a/b:t", "127.0.0.1:5000/a/b:t");
    check("[::1]:5000/a:t", "[::1]:5000/a:t", "[::1]:5000/a:t");
    check("[::1]/a:t", "[::1]/a:t", "[::1]/a:t");
    check("Host/app", "Host/app:latest", "Host/app");
    check("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9");
    check("a.b/x__y/p--q/r.s/t_u:A.b-C_1", "a.b/x__y/p--q/r.s/t_u:A.b-C_1", "a.b/x__y/p--q/r.s/t_u:A.b-C_1");
    check("gcr.io/p@SHA", "gcr.io/p@SHA", "gcr.io/p@SHA");
}

#[test]
fn what_is_no_reference_is_refused() {
    let long = format!("h.io/{}", "a".repeat(256));
    let long_tag = format!("a:{}", "t".repeat(129));
    let id = "a".repeat(64);
    let digest_plus = format!("a@{SHA}@{SHA}");
    let upper_digest = format!("a@{}", SHA.to_uppercase());
    for bad in [
        "",
        ":",
        "@",
        "/",
        "a:",
        ":a",
        "a@",
        "/a",
        "a/",
        "a//b",
        "A",
        "user/App",
        "a b",
        "a\n",
        "-a",
        "a-",
        "a_",
        "a___b",
        "a..b",
        "a._b",
        "a/../b",
        "../a",
        "./a",
        "h.io/../x",
        "h.io/a:../x",
        "h.io:/a",
        "h.io:x/a",
        "h.io:99999/a",
        "-h.io/a",
        "h-.io/a",
        "h..io/a",
        ".io/a",
        "[::1/a",
        "[x]/a",
        "[::1]x/a",
        "[::1]:/a",
        "https://h.io/a",
        "docker://h.io/a",
        "a:.t",
        "a:-t",
        "a:t/u:",
        "a@sha256:../../x",
        "a@sha256:ab",
        "a@md5:00000000000000000000000000000000",
        "ä",
        "h.io/ä",
        "a:ä",
        "user:pw@h.io/a",
        "h.io/a?b",
        "h.io/a#b",
        "h.io/a%2fb",
        "h.io/a\0b",
        &long,
        &long_tag,
        &id,
        &digest_plus,
        &upper_digest,
    ] {
        assert!(Reference::parse(bad).is_err(), "{bad:?} passed as {:?}", Reference::parse(bad));
    }
}

#[test]
fn a_short_name_is_one_without_a_registry() {
    for (text, short) in [
        ("busybox", true),
        ("a/b:1", true),
        ("localhost/a", false),
        ("h.io/a", false),
        ("h:5000/a", false),
        ("busybox@sha256:00", true),
        ("localhost:5000", true),
    ] {
        assert_eq!(is_short(text), short, "{text}");
    }
}

#[test]
fn the_digest_selects_before_the_tag() {
    let both = Reference::parse(&format!("a:1@{SHA}")).unwrap();
    assert_eq!(both.selector(), SHA);
    assert_eq!(both.repo_tag(), None);
    let tag = Reference::parse("a").unwrap();
    assert_eq!(tag.selector(), "latest");
    assert_eq!(tag.repo_tag().as_deref(), Some("docker.io/library/a:latest"));
    assert_eq!(
        tag.with_digest(Digest::parse(SHA).unwrap()).to_string(),
        format!("docker.io/library/a@{SHA}")
    );
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,80}") {
        let _ = Reference::parse(&text);
        let _ = is_short(&text);
    }

    #[test]
    fn what_is_read_reads_back_the_same(text in "[a-zA-Z0-9.:/@_\\[\\]-]{0,40}") {
        if let Ok(reference) = Reference::parse(&text) {
            prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference.clone());
            prop_assert_eq!(Reference::parse(&reference.familiar()).unwrap(), reference.clone());
            prop_assert!(!reference.to_string().contains(".."));
        }
    }
}
