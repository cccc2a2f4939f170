//! The generated code is what `cri-v1.proto` gives today.

use std::path::Path;

/// Messages with a field marked `debug_redact`; `src/redacted.rs` writes their `Debug`.
const REDACTED: &[&str] = &["runtime.v1.AuthConfig"];

fn generate() -> String {
    let proto_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile(["cri-v1.proto"], [proto_dir]).expect("cri-v1.proto compiles");
    let out_dir = tempfile::tempdir().expect("a temporary directory");
    let mut config = tonic_prost_build::Config::new();
    config.skip_debug(REDACTED);
    tonic_prost_build::configure()
        .out_dir(out_dir.path())
        .compile_fds_with_config(descriptors, config)
        .expect("code generation");
    std::fs::read_to_string(out_dir.path().join("runtime.v1.rs")).expect("the generated file")
}

#[test]
fn generated_code_is_current() {
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/v1.rs");
    let generated = generate();
    if std::env::var_os("BERTH_REGENERATE").is_some() {
        std::fs::write(&checked_in, &generated).expect("writing src/v1.rs");
    }
    let present = std::fs::read_to_string(&checked_in).unwrap_or_default();
    assert!(present == generated, "src/v1.rs is stale: run BERTH_REGENERATE=1 cargo test -p proto");
}
