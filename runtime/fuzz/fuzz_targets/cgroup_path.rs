//! `cgroupsPath` and a container's id become a place below the root of cgroups, with both drivers.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| runtime::fuzzing::cgroup_path(bytes));
