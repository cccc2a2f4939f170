//! A name means the same when it is written out and read again.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image_service::fuzzing::reference(bytes));
