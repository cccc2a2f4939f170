//! Compiled filters in the real kernel: it takes them, and answers as they say.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use runtime::seccomp::{Filter, compile};
use runtime::spec::Seccomp;
use rustix::io::Errno;

/// In a thread of its own, which is all that a filter without TSYNC binds. Needs root, else no_new_privs.
fn under<T: Send + 'static>(filter: Filter, act: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(move || {
        kernel::set_no_new_privs().unwrap();
        let begun = Instant::now();
        kernel::seccomp_set_mode_filter(&filter.program, filter.flags).unwrap();
        println!("{} instructions loaded in {:?}", filter.program.len(), begun.elapsed());
        act()
    })
    .join()
    .unwrap()
}

fn profile(json: &str) -> Seccomp {
    serde_json::from_str(json).unwrap()
}

#[test]
fn the_kernel_answers_as_the_profile_says() {
    let filter = compile(&profile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": [
            {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 74},
            {"names": ["eventfd2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 75,
             "args": [{"index": 0, "op": "SCMP_CMP_GT", "value": 4}, {"index": 1, "op": "SCMP_CMP_MASKED_EQ", "value": 2048, "valueTwo": 2048}]}]}"#,
    ))
    .unwrap();
    let (name, small, blocking, large) = under(filter, || {
        use rustix::event::{EventfdFlags, eventfd};
        (
            rustix::system::sethostname(b"x"),
            eventfd(4, EventfdFlags::NONBLOCK).map(drop),
            eventfd(5, EventfdFlags::empty()).map(drop),
            eventfd(5, EventfdFlags::NONBLOCK).map(drop),
        )
    });
    assert_eq!(name, Err(Errno::BADMSG));
    assert_eq!((small, blocking), (Ok(()), Ok(())));
    assert_eq!(large, Err(Errno::OVERFLOW));
}

#[test]
fn the_longest_jumps_land_where_they_should() {
    // Every other call has its own argument to look at, so the tree's leaves are far apart.
    let names =
        ["getuid", "geteuid", "getgid", "getegid", "getppid", "getpgrp", "gettid", "getpgid", "getsid"];
    let rules: Vec<String> = (0..300)
        .map(|value| {
            let name = names[value % names.len()];
            format!(
                r#"{{"names": ["{name}"], "action": "SCMP_ACT_ERRNO", "errnoRet": 74,
                    "args": [{{"index": 5, "op": "SCMP_CMP_EQ", "value": {}}}]}}"#,
                0xdead_beef_0000_0000_u64 + value as u64
            )
        })
        .collect();
    let json = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{}]}}"#, rules.join(","));
    let filter = compile(&profile(&json)).unwrap();
    assert!(filter.program.len() > 800);
    let parent = under(filter, || rustix::process::getppid().is_some());
    assert!(parent);
}
