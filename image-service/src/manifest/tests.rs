//! Documents good, bad and ambiguous.

use super::*;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn descriptor(media_type: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{SHA}","size":7}}"#)
}

fn image(own_type: &str, layer_types: &[&str]) -> String {
    let own = if own_type.is_empty() { String::new() } else { format!(r#""mediaType":"{own_type}","#) };
    let config = descriptor("application/vnd.oci.image.config.v1+json");
    let layers: Vec<_> = layer_types.iter().map(|t| descriptor(t)).collect();
    format!(r#"{{"schemaVersion":2,{own}"config":{config},"layers":[{}]}}"#, layers.join(","))
}

fn list(own_type: &str) -> String {
    let own = if own_type.is_empty() { String::new() } else { format!(r#""mediaType":"{own_type}","#) };
    let entry = descriptor(OCI_MANIFEST).replace(
        r#""size":7"#,
        r#""size":7,"platform":{"os":"linux","architecture":"arm64","variant":"v8"},"annotations":null,"urls":["https://evil"]"#,
    );
    format!(r#"{{"schemaVersion":2,{own}"manifests":[{entry}],"annotations":null}}"#)
}

const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The document, how it was announced, and what comes out: its type, or a word of the error.
fn check(document: &str, announced: &str, answer: &str) {
    let announced = (!announced.is_empty()).then_some(announced);
    match parse(document.as_bytes(), announced) {
        Ok(document) => assert_eq!(document.media_type().as_str(), answer),
        Err(error) => assert!(error.to_string().contains(answer), "{document}\n{error}"),
    }
}

#[test]
fn the_four_kinds_are_told_apart() {
    check(&image(OCI_MANIFEST, &[TAR_GZIP]), OCI_MANIFEST, OCI_MANIFEST);
    check(&image("", &[TAR_GZIP]), OCI_MANIFEST, OCI_MANIFEST);
    check(&image("", &[TAR_GZIP]), "", OCI_MANIFEST);
    check(&image("", &[TAR_GZIP]), "application/json; charset=utf-8", OCI_MANIFEST);
    check(&image(DOCKER_MANIFEST, &[TAR_GZIP]), DOCKER_MANIFEST, DOCKER_MANIFEST);
    check(&image(DOCKER_MANIFEST, &[TAR_GZIP]), "text/plain", DOCKER_MANIFEST);
    check(&list(OCI_INDEX), OCI_INDEX, OCI_INDEX);
    check(&list(""), "", OCI_INDEX);
    check(&list(DOCKER_LIST), DOCKER_LIST, DOCKER_LIST);
}

#[test]
fn a_document_that_is_not_what_was_announced_is_refused() {
    check(&image(OCI_MANIFEST, &[]), OCI_INDEX, "announced as");
    check(&image(OCI_MANIFEST, &[]), DOCKER_MANIFEST, "announced as");
    check(&list(DOCKER_LIST), DOCKER_MANIFEST, "announced as");
    check(&image("", &[]), "text/html", "unknown type \"text/html\"");
    check(&image("", &[]), OCI_INDEX, "an index with layers");
    check(&list(""), OCI_MANIFEST, "list of manifests");
}

#[test]
fn an_ambiguous_document_is_refused() {
    let both = image("", &[TAR_GZIP]).replace("\"layers\"", "\"manifests\":[],\"layers\"");
    for announced in ["", OCI_MANIFEST, OCI_INDEX] {
        check(&both, announced, "ambiguous");
    }
    check(&list("").replace("\"manifests\"", "\"config\":null,\"layers\":[],\"manifests\""), "", "ambiguous");
    let twice = image("", &[TAR_GZIP]).replace("\"layers\"", "\"layers\":[],\"layers\"");
    check(&twice, "", "not the JSON");
    check(&image("", &[]).replace("\"layers\"", "\"fsLayers\":[],\"layers\""), "", "schema 1");
}

#[test]
fn what_cannot_be_run_is_refused_with_its_reason() {
    check(r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#, "", "schema 1");
    check("{}", "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1");
    check(r#"{"schemaVersion":3,"manifests":[]}"#, "", "schemaVersion 3");
    check(r#"{"schemaVersion":2}"#, "", "no config");
    check(r#"{"schemaVersion":2,"manifests":[]}"#, OCI_INDEX, OCI_INDEX);
    check(&image("", &[]).replace("image.config", "other.config"), "", "artifact");
    check(&image("", &["application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"]), "", "foreign");
    check(&image("", &["application/vnd.oci.image.layer.nondistributable.v1.tar"]), "", "foreign");
    check(&image("", &["application/x-sh+encrypted"]), "", "unknown type \"application/x-sh+encrypted\"");
    check(&image("", &["application/vnd.oci.image.layer.nondistributable.v1.tar+encrypted"]), "", "foreign");
    check(&image("", &["application/x-sh"]), "", "unknown type \"application/x-sh\"");
    check("", "", "not the JSON");
    check("[1]", "", "not the JSON");
    check(&image("", &[TAR_GZIP]).replace(SHA, "sha256:../../x"), "", "not the JSON");
    check(&image("", &[TAR_GZIP]).replace("\"size\":7", "\"size\":-7"), "", "not the JSON");
    check(&image("", &[TAR_GZIP]).replace("\"size\":7", "\"size\":18446744073709551615"), "", "add up");
    check(&image("", &[TAR_GZIP]).replace("\"size\":7", "\"size\":9000000000"), "", "add up");
}

#[test]
fn everything_has_a_bound() {
    check(&" ".repeat(MAX_DOCUMENT_BYTES + 1), "", "larger than");
    check(&image("", &vec![TAR_GZIP; MAX_LAYERS]), "", OCI_MANIFEST);
    check(&image("", &vec![TAR_GZIP; MAX_LAYERS + 1]), "", "501 layers");
    check(&image("", &vec![TAR_GZIP; 10_000]), "", "10000 layers");
    let entries = vec![descriptor(OCI_MANIFEST); MAX_ENTRIES + 1].join(",");
    check(&format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#), "", "1001 entries");
    check(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), "", "not the JSON");
}

#[test]
fn layers_know_their_compression_and_entries_their_platform() {
    let types = [
        ("application/vnd.oci.image.layer.v1.tar", Compression::None),
        ("application/vnd.oci.image.layer.v1.tar+gzip", Compression::Gzip),
        ("application/vnd.oci.image.layer.v1.tar+zstd", Compression::Zstd),
        ("application/vnd.docker.image.rootfs.diff.tar", Compression::None),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", Compression::Gzip),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", Compression::Zstd),
    ];
    let names: Vec<_> = types.iter().map(|(name, _)| *name).collect();
    let Document::Manifest(manifest) = parse(image("", &names).as_bytes(), None).unwrap() else { panic!() };
    let found: Vec<_> = manifest.layers.iter().map(|layer| (layer.compression, layer.encrypted)).collect();
    assert_eq!(found, types.map(|(_, compression)| (compression, false)));
    let sealed: Vec<_> = names.iter().take(3).map(|name| format!("{name}+encrypted")).collect();
    let sealed: Vec<_> = sealed.iter().map(String::as_str).collect();
    let Document::Manifest(manifest) = parse(image("", &sealed).as_bytes(), None).unwrap() else { panic!() };
    let found: Vec<_> = manifest.layers.iter().map(|layer| (layer.compression, layer.encrypted)).collect();
    assert_eq!(found, [Compression::None, Compression::Gzip, Compression::Zstd].map(|packed| (packed, true)));
    let Document::Index(index) = parse(list("").as_bytes(), None).unwrap() else { panic!() };
    assert_eq!(index.manifests[0].platform.as_ref().unwrap().to_string(), "linux/arm64/v8");
    assert!(!serde_json::to_string(&index.manifests[0]).unwrap().contains("evil"));
}

mod no_panic {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_damage_makes_the_reader_panic(at in 0usize..400, byte: u8, index: bool) {
            let mut bytes = if index { list(OCI_INDEX) } else { image(OCI_MANIFEST, &[TAR_GZIP]) }.into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = parse(&bytes, None);
            let _ = parse(&bytes[..at], None);
        }
    }
}
