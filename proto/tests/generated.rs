//! The generated code is what the definitions give today.

use std::path::Path;

/// Messages with a field marked `debug_redact`; `src/redacted.rs` writes their `Debug`.
const REDACTED: &[&str] = &["runtime.v1.AuthConfig"];
/// Answers that may be put together from encoded items; `src/list.rs` has them.
const LISTS: &[&str] = &["ListPodSandboxResponse", "ListContainersResponse", "ListImagesResponse"];

fn generate(definitions: &str, package: &str) -> String {
    let proto_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile([definitions], [proto_dir]).expect("the definitions compile");
    let out_dir = tempfile::tempdir().expect("a temporary directory");
    let mut config = tonic_prost_build::Config::new();
    config.skip_debug(REDACTED);
    for name in LISTS {
        config.extern_path(format!(".runtime.v1.{name}"), format!("crate::{name}"));
    }
    tonic_prost_build::configure()
        .out_dir(out_dir.path())
        .compile_fds_with_config(descriptors, config)
        .expect("code generation");
    std::fs::read_to_string(out_dir.path().join(format!("{package}.rs"))).expect("the generated file")
}

/// Messages alone, where the calls go by another road than gRPC. Maps are in the order of their keys.
fn generate_messages(definitions: &str, package: &str) -> String {
    let proto_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile([definitions], [proto_dir]).expect("the definitions compile");
    let out_dir = tempfile::tempdir().expect("a temporary directory");
    let mut config = tonic_prost_build::Config::new();
    config.out_dir(out_dir.path()).btree_map(["."]);
    config.compile_fds(descriptors).expect("code generation");
    std::fs::read_to_string(out_dir.path().join(format!("{package}.rs"))).expect("the generated file")
}

fn check(generated: &str, checked_in: &str) {
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join(checked_in);
    if std::env::var_os("BERTH_REGENERATE").is_some() {
        std::fs::write(&checked_in, generated).expect("writing the generated code");
    }
    let present = std::fs::read_to_string(&checked_in).unwrap_or_default();
    let path = checked_in.display();
    assert!(present == generated, "{path} is stale: run BERTH_REGENERATE=1 cargo test -p proto");
}

#[test]
fn generated_code_is_current() {
    check(&generate("cri-v1.proto", "runtime.v1"), "src/v1.rs");
    check(&generate("berth-v1.proto", "berth.v1"), "src/operator.rs");
    check(&generate_messages("nri-v1alpha1.proto", "nri.pkg.api.v1alpha1"), "src/nri.rs");
}
