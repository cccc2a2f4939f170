//! What a layer's annotations say of its encryption opens with one of two keys, or not; nothing grows or panics.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image_service::fuzzing::encryption(bytes));
