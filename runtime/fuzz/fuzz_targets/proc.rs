//! Lines of /proc, which the kernel writes and names of processes reach.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| runtime::fuzzing::proc(bytes));
