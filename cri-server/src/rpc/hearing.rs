//! The thread that hears: it goes before all that pods and builds keep the processors busy with, since it needs
//! microseconds at a time. What it does itself is in [`Lanes`](super::Lanes).

use kernel::SchedAttr;
use tokio::runtime::{Builder, Runtime};

/// The lowest of real time (sched(7), SCHED_RR), still before every ordinary thread. To be nice to it would not do:
/// niceness counts within one cgroup and one session, while pods have cgroups and sessions of their own. And a list
/// is dozens of writes, at each of which an ordinary thread may lose its turn for milliseconds.
const FIRST: SchedAttr = SchedAttr { policy: SCHED_RR, flags: RESET_ON_FORK, priority: 1, ..ORDINARY };
/// Where real time is not given out, as in a cgroup of v1 without a share of it, or without CAP_SYS_NICE.
const NICE: i32 = -10;

/// Of linux/sched.h.
const SCHED_RR: u32 = 2;
/// Whatever it should start one day is ordinary again.
const RESET_ON_FORK: u64 = 1;
const ORDINARY: SchedAttr = SchedAttr {
    size: 0,
    policy: 0,
    flags: 0,
    nice: 0,
    priority: 0,
    runtime: 0,
    deadline: 0,
    period: 0,
    util_min: 0,
    util_max: 0,
};

/// Its one thread holds the connections and answers what is polled.
///
/// # Errors
/// When there is no thread to be had.
pub fn hearing() -> std::io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).max_blocking_threads(1).thread_name("hearing").enable_all();
    builder.on_thread_start(go_first).build()
}

fn go_first() {
    if kernel::sched_setattr(FIRST).is_err() {
        // Without the right to that either, it waits for its turn as all others do.
        let _ = rustix::process::setpriority_process(None, NICE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, nice value and policy of the calling thread: fields 2, 19 and 41 of proc_pid_stat(5).
    fn thread() -> (String, i32, u32) {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (name, rest) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        (name.to_owned(), fields[16].parse().unwrap(), fields[38].parse().unwrap())
    }

    #[test]
    fn the_thread_that_hears_goes_first_and_what_it_starts_does_not() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may go first");
            return;
        }
        let runtime = hearing().unwrap();
        let heard = async {
            let started = std::thread::spawn(thread).join().unwrap();
            (thread(), started)
        };
        let ((name, nice, policy), (_, _, started)) = runtime.block_on(runtime.spawn(heard)).unwrap();
        assert_eq!(name, "hearing");
        if policy == SCHED_RR {
            assert_eq!(started, 0, "what it starts is ordinary");
        } else {
            assert_eq!((policy, nice), (0, NICE), "where real time is not given out");
        }
    }
}
