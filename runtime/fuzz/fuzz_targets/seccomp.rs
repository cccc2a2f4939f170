//! A seccomp profile becomes a program that the kernel takes and that answers every call, or an error.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| runtime::fuzzing::seccomp(bytes));
