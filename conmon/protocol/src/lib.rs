//! What berthd and a pod's monitor say to each other: the messages, and how they lie in a byte stream.
//!
//! Pure: bytes and values. Who reads the socket and who owns the descriptors is decided by the two ends.
//!
//! A message is one [`frame`]. Its descriptors ride as SCM_RIGHTS with the first byte of the frame that
//! names them, so a reader that queues descriptors as they arrive can hand each frame its own in order.

pub mod ask;
pub mod frame;
pub mod plan;
pub mod reply;

pub use ask::{Ask, Request, Scope};
pub use frame::{Decoder, Frame, FrameError, HEADER, MAX_FDS, MAX_FRAME, encode};
pub use plan::{
    CgroupDriver, ContainerPlan, Dump, ExecPlan, Handler, IdMap, IdMaps, Images, MonitorCgroup, Owner,
    PidSharing, PodPlan, Rootfs, Sharing, Stdin, Volume,
};
pub use reply::{
    Answer, ContainerState, Event, Exit, Kept, KeptExec, Message, Phase, PodState, Refusal, RefusalKind, Seen,
};

/// The version of this protocol; a monitor refuses a daemon that speaks another.
pub const VERSION: u32 = 1;

/// The word by which a monitor's program says what it is, and does nothing else.
pub const VERSION_ARGUMENT: &str = "--version";

/// What it says then, without the end of the line. `package`: the version of berth that it is of.
pub fn version_words(package: &str) -> String {
    format!("berth-conmon {package} protocol {VERSION}")
}

/// The protocol in such words; none when a monitor does not talk so.
pub fn version_in(words: &str) -> Option<u32> {
    words.strip_prefix("berth-conmon ")?.trim_end().rsplit_once(" protocol ")?.1.parse().ok()
}

/// A variable that a monitor wants in its environment, name and value. It works for moments and idles for days, so its
/// heap is to be small, not fast: large pieces are mapped and unmapped, and free ones are not kept aside where
/// malloc_trim(3) can't see them. It saves 100 KiB a pod; without it everything works.
pub const HEAP_VARIABLE: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0:glibc.malloc.mmap_threshold=16384:glibc.malloc.top_pad=4096",
);

/// Most data in one packet of an attach socket, either way; the monitor puts one byte before it.
pub const ATTACH_PACKET: usize = 16 << 10;
/// First byte of a packet on an attach socket: the bytes that follow came from the container's stdout.
pub const STREAM_STDOUT: u8 = 1;
/// First byte of a packet on an attach socket: the bytes that follow came from the container's stderr.
pub const STREAM_STDERR: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitors_own_words_are_understood() {
        assert_eq!(version_in(&format!("{}\n", version_words("0.1.0"))), Some(VERSION));
        for other in ["", "berth-conmon", "conmon version 2.1 protocol 1", "berth-conmon 0.1.0 protocol x"] {
            assert_eq!(version_in(other), None, "{other:?}");
        }
    }
}
