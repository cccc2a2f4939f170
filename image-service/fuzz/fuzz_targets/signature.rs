//! What says that it is a signature, a key, a certificate or a log's promise is refused without a panic.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image_service::fuzzing::signature(bytes));
