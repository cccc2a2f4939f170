//! A manifest or an index becomes what it says or an error; digests are digests.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image_service::fuzzing::manifest(bytes));
