//! What went through the interfaces of network namespaces, as the kernel counts it in `/proc/net/dev` (proc(5)).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A line is about 130 bytes; a pod with more interfaces than this holds is not counted to the end.
const TABLE_MAX_BYTES: u64 = 1 << 20;

/// One interface since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    pub interface: String,
    pub received: Traffic,
    pub sent: Traffic,
}

/// One direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// The interfaces of each namespace but its loopback, in the order asked; a namespace that is gone has none. Blocks;
/// the work is done in a thread of its own, because one that has joined another namespace must serve nobody else.
///
/// # Errors
/// When there can be no such thread.
pub fn of_namespaces(namespaces: Vec<PathBuf>) -> io::Result<Vec<Vec<Counters>>> {
    let visit = move || namespaces.iter().map(|path| of_namespace(path).unwrap_or_default()).collect();
    let thread = std::thread::Builder::new().name("netns-counters".into()).spawn(visit)?;
    thread.join().map_err(|_| io::Error::other("the counting thread panicked"))
}

fn of_namespace(netns: &Path) -> io::Result<Vec<Counters>> {
    let namespace = File::open(netns)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let mut table = String::new();
    // Of the thread, not of the process: only the thread has moved.
    File::open("/proc/thread-self/net/dev")?.take(TABLE_MAX_BYTES).read_to_string(&mut table)?;
    Ok(table.lines().filter_map(line).filter(|counters| counters.interface != "lo").collect())
}

/// Name, then eight numbers received and eight sent: bytes, packets, errors, drops, and four more each.
fn line(line: &str) -> Option<Counters> {
    let (interface, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let traffic = |at: usize| {
        let [bytes, packets, errors, dropped, ..] = numbers.get(at..)? else { return None };
        Some(Traffic { bytes: *bytes, packets: *packets, errors: *errors, dropped: *dropped })
    };
    Some(Counters { interface: interface.trim().to_owned(), received: traffic(0)?, sent: traffic(8)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_read() {
        let text = "  eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0";
        let expected = Counters {
            interface: "eth0".into(),
            received: Traffic { bytes: 1, packets: 2, errors: 3, dropped: 4 },
            sent: Traffic { bytes: 5, packets: 6, errors: 7, dropped: 8 },
        };
        assert_eq!(line(text), Some(expected));
        assert_eq!(line(" face |bytes    packets errs drop"), None);
        assert_eq!(line("eth0: 1 2 3"), None);
    }

    #[test]
    fn this_namespace_can_be_counted_and_none_is_empty() {
        let asked = vec![PathBuf::from("/proc/self/ns/net"), PathBuf::from("/no/such")];
        let counted = of_namespaces(asked).unwrap();
        assert_eq!(counted.len(), 2);
        assert!(counted[0].iter().all(|counters| counters.interface != "lo"));
        assert_eq!(counted[1], []);
    }
}
