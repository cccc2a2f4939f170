//! `config.json` becomes a plan or an error that names its place; nothing in a plan leads out of the container.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| runtime::fuzzing::config(bytes));
