//! A layer becomes entries or an error: no name climbs, nothing grows without a bound.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image_service::fuzzing::tar(bytes));
