//! `policy.json` becomes a policy that decides, or an error.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image_service::fuzzing::policy(bytes));
