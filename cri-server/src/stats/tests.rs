//! Readings of this machine's own cgroups, and what is made of them.

use super::parse::{keyed, number, pressure};
use super::*;

#[test]
fn the_kernels_texts_are_read() {
    assert_eq!(number(b"42\n"), Some(42));
    assert_eq!(number(b"max\n"), None);
    assert_eq!(keyed(b"anon 1\ninactive_file 2\ninactive_file_x 3\n", "inactive_file"), Some(2));
    assert_eq!(keyed(b"anon 1\n", "file"), None);
    let text =
        b"some avg10=1.50 avg60=0.25 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
    let pressure = pressure(text).unwrap();
    assert_eq!(
        (pressure.some.average_10s, pressure.some.total_ns, pressure.full.total_ns),
        (1.5, 12_000, 3_000)
    );
}

#[test]
fn a_rate_is_made_of_two_readings_far_enough_apart() {
    let check = |last: Option<(i64, u64)>, now: (i64, u64), rate: Option<u64>| {
        let last = last.map(|(at_ns, usage_ns)| Sample { at_ns, usage_ns, rate_nanocores: Some(7) });
        assert_eq!(Sample::after(last.as_ref(), now.0, now.1).rate_nanocores, rate, "{last:?} {now:?}");
    };
    check(None, (1_000_000_000, 5), None);
    check(Some((0, 0)), (1_000_000_000, 500_000_000), Some(500_000_000));
    check(Some((0, 0)), (2_000_000_000, 500_000_000), Some(250_000_000));
    // Too close: the rate before.
    check(Some((0, 0)), (50_000_000, 1), Some(7));
    // The counter went back: another cgroup of the same name.
    check(Some((0, 9)), (1_000_000_000, 5), None);
}

#[test]
fn the_cgroup_that_holds_everything_has_used_something() {
    let mut reader = Reader::open().unwrap();
    let stats = reader.read("/", 1).unwrap();
    assert!(stats.cpu.is_some_and(|cpu| cpu.usage_ns > 0 && cpu.at_ns == 1), "{stats:?}");
    // The root of v2 has no memory.current.
    if let Some(memory) = stats.memory {
        assert!(memory.working_set_bytes <= memory.usage_bytes && memory.page_faults > 0, "{memory:?}");
        assert_eq!(memory.available_bytes, None);
    }
}

#[test]
fn a_cgroup_that_is_not_there_is_gone_and_none_is_outside() {
    let mut reader = Reader::open().unwrap();
    assert!(matches!(reader.read("/no/such", 1), Err(Error::Gone { .. })));
    assert!(matches!(reader.read("/../../etc", 1), Err(Error::Open { .. })));
}

#[test]
fn the_second_reading_of_a_busy_cgroup_has_a_rate() {
    let stats = Stats::open().unwrap();
    assert_eq!(stats.read("/").unwrap().cpu.unwrap().rate_nanocores, None);
    let until = std::time::Instant::now() + std::time::Duration::from_millis(150);
    while std::time::Instant::now() < until {}
    assert!(stats.read("/").unwrap().cpu.unwrap().rate_nanocores.unwrap() > 0);
}

#[test]
fn block_devices_are_read_in_both_formats() {
    let expected = [
        detail::DeviceIo { major: 8, minor: 0, read_bytes: 10, written_bytes: 20, reads: 1, writes: 2 },
        detail::DeviceIo { major: 259, minor: 3, read_bytes: 5, ..Default::default() },
    ];
    let v2 = b"8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n259:3 rbytes=5\nnonsense\n";
    assert_eq!(parse::devices(v2), expected);
    let mut v1 = Vec::new();
    let bytes = b"8:0 Read 10\n8:0 Write 20\n8:0 Sync 30\n8:0 Total 30\n259:3 Read 5\nTotal 35\n";
    parse::device_io(bytes, &mut v1, |device, read, write| {
        device.read_bytes = read.unwrap_or(device.read_bytes);
        device.written_bytes = write.unwrap_or(device.written_bytes);
    });
    parse::device_io(b"8:0 Read 1\n8:0 Write 2\n", &mut v1, |device, read, write| {
        device.reads = read.unwrap_or(device.reads);
        device.writes = write.unwrap_or(device.writes);
    });
    assert_eq!(v1, expected);
}

#[test]
fn the_cgroup_that_holds_everything_has_details() {
    let detail = Reader::open().unwrap().read_detail("/", 1).unwrap();
    assert!(detail.user_ns.is_some_and(|ns| ns > 0) && detail.system_ns.is_some(), "{detail:?}");
    assert!(detail.basic.cpu.is_some());
    if let Some(memory) = detail.memory {
        assert!(memory.cache_bytes > 0, "{memory:?}");
    }
}

#[test]
fn files_are_read_to_their_end() {
    let dir = tempfile::tempdir().unwrap();
    let long = "0123456789".repeat(3000);
    std::fs::write(dir.path().join("long"), &long).unwrap();
    let open = |path: &std::path::Path| std::os::fd::OwnedFd::from(std::fs::File::open(path).unwrap());
    let mut buffer = Vec::with_capacity(8192);
    let files = open(dir.path());
    assert_eq!(read::text(&files, "long", &mut buffer), long.as_bytes());
    assert_eq!(read::text(&files, "none", &mut buffer), b"");
    // The kernel gives this one away a page at a time, as it does cgroup.procs. The stack is among the last, and each
    // thread has two lines.
    let gate = std::sync::Barrier::new(65);
    let maps = std::thread::scope(|scope| {
        (0..64).for_each(|_| drop(scope.spawn(|| gate.wait())));
        let maps = read::list(&open("/proc/self".as_ref()), "maps", &mut buffer);
        gate.wait();
        maps
    });
    assert!(maps.len() > 4096, "{} bytes", maps.len());
    assert!(maps.windows(7).any(|word| word == b"[stack]"), "{}", String::from_utf8_lossy(maps));
}
