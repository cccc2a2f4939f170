//! An image's configuration becomes one or an error.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image_service::fuzzing::config(bytes));
