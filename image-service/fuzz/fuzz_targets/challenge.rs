//! Headers of a stranger become a challenge or nothing, and only pulling is ever asked for.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image_service::fuzzing::challenge(bytes));
