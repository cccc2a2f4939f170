//! Files in, statistics out.

use super::*;

fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

#[test]
fn lists_are_counted_out() {
    assert_eq!(list("0-2,7"), [0, 1, 2, 7]);
    assert_eq!(list(""), Vec::<u16>::new());
}

#[test]
fn v1_files_become_stats() {
    let dir = dir(&[
        ("cpuacct.usage", "300\n"),
        ("cpuacct.usage_percpu", "100 200 \n"),
        ("cpuacct.stat", "user 2\nsystem 3\n"),
        ("cpuacct.usage_all", "cpu user system\n0 60 40\n1 150 50\n"),
        ("memory.stat", "cache 4096\nrss 8192\n"),
        ("memory.usage_in_bytes", "12288\n"),
        ("memory.limit_in_bytes", "65536\n"),
        ("blkio.throttle.io_service_bytes_recursive", "8:16 Read 10\n8:16 Total 10\nTotal 10\n"),
        ("hugetlb.2MB.usage_in_bytes", "2097152\n"),
        ("hugetlb.2MB.rsvd.usage_in_bytes", "0\n"),
    ]);
    let mut stats = Stats::default();
    for controller in ["cpuacct", "memory", "blkio", "hugetlb"] {
        v1::add(&mut stats, controller, dir.path());
    }
    let usage = &stats.cpu.usage;
    assert_eq!((usage.total, usage.percpu.as_slice()), (300, &[100, 200][..]));
    assert_eq!((usage.user, usage.kernel), (20_000_000, 30_000_000), "ticks of 10 ms");
    assert_eq!((&usage.percpu_user[..], &usage.percpu_kernel[..]), (&[60, 150][..], &[40, 50][..]));
    assert_eq!((stats.memory.cache, stats.memory.usage.limit), (4096, 65536));
    let total = BlkioEntry { major: 8, minor: 16, op: "Total".into(), value: 10 };
    assert_eq!(stats.blkio.io_service_bytes_recursive[1], total);
    assert_eq!(stats.blkio.io_service_bytes_recursive.len(), 2);
    assert_eq!(stats.hugetlb.keys().collect::<Vec<_>>(), ["2MB"]);
}

#[test]
fn v2_files_become_the_same_stats() {
    let dir = dir(&[
        (
            "cpu.stat",
            "usage_usec 300\nuser_usec 200\nsystem_usec 100\nnr_periods 5\nnr_throttled 2\nthrottled_usec 7\n",
        ),
        ("cpu.pressure", "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.00 total=3\n"),
        ("memory.current", "1000\n"),
        ("memory.max", "max\n"),
        ("memory.swap.current", "10\n"),
        ("memory.swap.max", "max\n"),
        ("memory.stat", "anon 1\nfile 4096\n"),
        ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
        ("pids.current", "3\n"),
        ("pids.max", "max\n"),
    ]);
    let mut stats = Stats::default();
    for controller in ["cpu", "memory", "io", "pids"] {
        v2::add(&mut stats, controller, dir.path());
    }
    assert_eq!((stats.cpu.usage.total, stats.cpu.throttling.throttled_time), (300_000, 7_000));
    let psi = stats.cpu.psi.unwrap();
    assert_eq!((psi.some.avg10, psi.some.total, psi.full.total), (1.5, 9, 3));
    assert_eq!((stats.memory.usage.limit, stats.memory.cache), (u64::MAX, 4096));
    assert_eq!((stats.memory.swap.usage, stats.memory.swap.limit), (1010, u64::MAX));
    assert_eq!(stats.blkio.io_serviced_recursive[1].op, "Write");
    assert_eq!((stats.pids.current, stats.pids.limit), (3, 0));
}
