//! `registries.conf` and `hosts.toml` become endpoints that are hosts and paths, or an error.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image_service::fuzzing::registries_conf(bytes));
