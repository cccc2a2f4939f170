//! The metrics that there are: name, meaning, type and labels. A static list.

use proto::v1;
use proto::v1::MetricType::{Counter, Gauge};

/// What every metric says of whom it is about.
pub(super) const BASE_LABELS: [&str; 5] = ["id", "image", "namespace", "pod", "container"];

/// One metric.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) name: &'static str,
    pub(super) kind: v1::MetricType,
    /// Those it has besides [`BASE_LABELS`], after them.
    pub(super) labels: &'static [&'static str],
    help: &'static str,
}

/// All of them, in the interface's words.
pub fn descriptors() -> Vec<v1::MetricDescriptor> {
    let labels = |own: &[&str]| BASE_LABELS.iter().chain(own).map(ToString::to_string).collect();
    let descriptor = |described: &&Described| v1::MetricDescriptor {
        name: described.name.to_owned(),
        help: described.help.to_owned(),
        label_keys: labels(described.labels),
    };
    ALL.iter().map(descriptor).collect()
}

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $constant: Described =
            Described { name: $name, kind: $kind, labels: &[$($label),*], help: $help };)*
        const ALL: &[&Described] = &[$(&$constant),*];
    };
}

metrics! {
    CPU_USER = Counter "container_cpu_user_seconds_total" []
        "Cumulative user CPU time consumed in seconds.";
    CPU_SYSTEM = Counter "container_cpu_system_seconds_total" []
        "Cumulative system CPU time consumed in seconds.";
    CPU_USAGE = Counter "container_cpu_usage_seconds_total" ["cpu"]
        "Cumulative CPU time consumed in seconds.";
    CPU_PERIODS = Counter "container_cpu_cfs_periods_total" []
        "Number of elapsed enforcement period intervals.";
    CPU_THROTTLED_PERIODS = Counter "container_cpu_cfs_throttled_periods_total" []
        "Number of throttled period intervals.";
    CPU_THROTTLED = Counter "container_cpu_cfs_throttled_seconds_total" []
        "Total time duration the container has been throttled.";
    FS_INODES_FREE = Gauge "container_fs_inodes_free" []
        "Number of free inodes.";
    FS_INODES = Gauge "container_fs_inodes_total" []
        "Total number of inodes.";
    FS_LIMIT = Gauge "container_fs_limit_bytes" []
        "Filesystem limit in bytes.";
    FS_USAGE = Gauge "container_fs_usage_bytes" []
        "Current filesystem usage in bytes.";
    FS_READS_BYTES = Counter "container_fs_reads_bytes_total" ["device"]
        "Cumulative count of bytes read.";
    FS_READS = Counter "container_fs_reads_total" ["device"]
        "Cumulative count of reads completed.";
    FS_WRITES_BYTES = Counter "container_fs_writes_bytes_total" ["device"]
        "Cumulative count of bytes written.";
    FS_WRITES = Counter "container_fs_writes_total" ["device"]
        "Cumulative count of writes completed.";
    BLKIO_USAGE = Counter "container_blkio_device_usage_total" ["device", "major", "minor", "operation"]
        "Bytes to and from a block device.";
    HUGETLB_USAGE = Gauge "container_hugetlb_usage_bytes" ["pagesize"]
        "Current huge page usage in bytes.";
    HUGETLB_MAX_USAGE = Gauge "container_hugetlb_max_usage_bytes" ["pagesize"]
        "Greatest huge page usage recorded in bytes; 0 where the kernel keeps none.";
    MEMORY_CACHE = Gauge "container_memory_cache" []
        "Number of bytes of page cache memory.";
    MEMORY_RSS = Gauge "container_memory_rss" []
        "Size of RSS in bytes.";
    MEMORY_KERNEL = Gauge "container_memory_kernel_usage" []
        "Size of kernel memory allocated in bytes.";
    MEMORY_MAPPED_FILE = Gauge "container_memory_mapped_file" []
        "Size of memory mapped files in bytes.";
    MEMORY_SWAP = Gauge "container_memory_swap" []
        "Container swap usage in bytes.";
    MEMORY_FAILCNT = Counter "container_memory_failcnt" []
        "Number of times memory usage met its limit.";
    MEMORY_USAGE = Gauge "container_memory_usage_bytes" []
        "Current memory usage in bytes, including all memory regardless of when it was accessed.";
    MEMORY_MAX_USAGE = Gauge "container_memory_max_usage_bytes" []
        "Maximum memory usage recorded in bytes.";
    MEMORY_WORKING_SET = Gauge "container_memory_working_set_bytes" []
        "Current working set in bytes.";
    MEMORY_ACTIVE_ANON = Gauge "container_memory_active_anon_bytes" []
        "Current active anonymous memory in bytes.";
    MEMORY_INACTIVE_ANON = Gauge "container_memory_inactive_anon_bytes" []
        "Current inactive anonymous memory in bytes.";
    MEMORY_ANON_THP = Gauge "container_memory_anon_thp_bytes" []
        "Anonymous memory in transparent huge pages, in bytes; 0 on cgroup v1.";
    MEMORY_SHMEM_THP = Gauge "container_memory_shmem_thp_bytes" []
        "Shared memory in transparent huge pages, in bytes; 0 on cgroup v1.";
    MEMORY_FILE_THP = Gauge "container_memory_file_thp_bytes" []
        "File memory in transparent huge pages, in bytes; 0 on cgroup v1.";
    MEMORY_FAILURES = Counter "container_memory_failures_total" ["failure_type", "scope"]
        "Cumulative count of memory allocation failures.";
    NETWORK_RECEIVE_BYTES = Counter "container_network_receive_bytes_total" ["interface"]
        "Cumulative count of bytes received.";
    NETWORK_RECEIVE_PACKETS = Counter "container_network_receive_packets_total" ["interface"]
        "Cumulative count of packets received.";
    NETWORK_RECEIVE_DROPPED = Counter "container_network_receive_packets_dropped_total" ["interface"]
        "Cumulative count of packets dropped while receiving.";
    NETWORK_RECEIVE_ERRORS = Counter "container_network_receive_errors_total" ["interface"]
        "Cumulative count of errors encountered while receiving.";
    NETWORK_TRANSMIT_BYTES = Counter "container_network_transmit_bytes_total" ["interface"]
        "Cumulative count of bytes transmitted.";
    NETWORK_TRANSMIT_PACKETS = Counter "container_network_transmit_packets_total" ["interface"]
        "Cumulative count of packets transmitted.";
    NETWORK_TRANSMIT_DROPPED = Counter "container_network_transmit_packets_dropped_total" ["interface"]
        "Cumulative count of packets dropped while transmitting.";
    NETWORK_TRANSMIT_ERRORS = Counter "container_network_transmit_errors_total" ["interface"]
        "Cumulative count of errors encountered while transmitting.";
    OOM_EVENTS = Counter "container_oom_events_total" []
        "Count of out of memory events observed for the container.";
    FILE_DESCRIPTORS = Gauge "container_file_descriptors" []
        "Number of open file descriptors for the container.";
    PROCESSES = Gauge "container_processes" []
        "Number of processes running inside the container.";
    SOCKETS = Gauge "container_sockets" []
        "Number of open sockets for the container.";
    THREADS = Gauge "container_threads" []
        "Number of threads running inside the container.";
    THREADS_MAX = Gauge "container_threads_max" []
        "Maximum number of threads allowed inside the container, infinity if value is zero.";
    ULIMITS_SOFT = Gauge "container_ulimits_soft" ["ulimit"]
        "Soft ulimit values for the container root process.";
    LAST_SEEN = Gauge "container_last_seen" []
        "Last time a container was seen by the exporter.";
    SPEC_CPU_PERIOD = Gauge "container_spec_cpu_period" []
        "CPU period of the container.";
    SPEC_CPU_SHARES = Gauge "container_spec_cpu_shares" []
        "CPU share of the container.";
    SPEC_CPU_QUOTA = Gauge "container_spec_cpu_quota" []
        "CPU quota of the container.";
    SPEC_MEMORY_LIMIT = Gauge "container_spec_memory_limit_bytes" []
        "Memory limit for the container in bytes; 0 is none.";
    SPEC_MEMORY_RESERVATION = Gauge "container_spec_memory_reservation_limit_bytes" []
        "Memory reservation limit for the container.";
    SPEC_MEMORY_SWAP_LIMIT = Gauge "container_spec_memory_swap_limit_bytes" []
        "Memory swap limit for the container.";
    START_TIME = Gauge "container_start_time_seconds" []
        "Start time of the container since unix epoch in seconds.";
    PRESSURE_CPU_STALLED = Counter "container_pressure_cpu_stalled_seconds_total" []
        "Total time duration no tasks in the container could make progress due to CPU congestion.";
    PRESSURE_CPU_WAITING = Counter "container_pressure_cpu_waiting_seconds_total" []
        "Total time duration tasks in the container have waited due to CPU congestion.";
    PRESSURE_MEMORY_STALLED = Counter "container_pressure_memory_stalled_seconds_total" []
        "Total time duration no tasks in the container could make progress due to memory congestion.";
    PRESSURE_MEMORY_WAITING = Counter "container_pressure_memory_waiting_seconds_total" []
        "Total time duration tasks in the container have waited due to memory congestion.";
    PRESSURE_IO_STALLED = Counter "container_pressure_io_stalled_seconds_total" []
        "Total time duration no tasks in the container could make progress due to IO congestion.";
    PRESSURE_IO_WAITING = Counter "container_pressure_io_waiting_seconds_total" []
        "Total time duration tasks in the container have waited due to IO congestion.";
}
