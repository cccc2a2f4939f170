//! The list of metrics against the names that the conformance suite and dashboards know.

use std::collections::BTreeSet;

use super::*;

/// cri-tools' list (pkg/validate/pod.go, after v1.36.0).
const EXPECTED: &str = "container_blkio_device_usage_total container_cpu_cfs_periods_total
    container_cpu_cfs_throttled_periods_total container_cpu_cfs_throttled_seconds_total
    container_cpu_system_seconds_total container_cpu_usage_seconds_total container_cpu_user_seconds_total
    container_file_descriptors container_fs_inodes_free container_fs_inodes_total container_fs_limit_bytes
    container_fs_reads_bytes_total container_fs_reads_total container_fs_usage_bytes
    container_fs_writes_bytes_total container_fs_writes_total container_hugetlb_max_usage_bytes
    container_hugetlb_usage_bytes container_last_seen container_memory_cache container_memory_failcnt
    container_memory_failures_total container_memory_kernel_usage container_memory_mapped_file
    container_memory_max_usage_bytes container_memory_rss container_memory_swap container_memory_usage_bytes
    container_memory_working_set_bytes container_network_receive_bytes_total
    container_network_receive_errors_total container_network_receive_packets_dropped_total
    container_network_receive_packets_total container_network_transmit_bytes_total
    container_network_transmit_errors_total container_network_transmit_packets_dropped_total
    container_network_transmit_packets_total container_oom_events_total
    container_pressure_cpu_stalled_seconds_total container_pressure_cpu_waiting_seconds_total
    container_pressure_io_stalled_seconds_total container_pressure_io_waiting_seconds_total
    container_pressure_memory_stalled_seconds_total container_pressure_memory_waiting_seconds_total
    container_processes container_sockets container_spec_cpu_period container_spec_cpu_quota
    container_spec_cpu_shares container_spec_memory_limit_bytes container_spec_memory_reservation_limit_bytes
    container_spec_memory_swap_limit_bytes container_start_time_seconds container_threads
    container_threads_max container_ulimits_soft";

#[test]
fn every_metric_that_others_expect_is_described_once() {
    let descriptors = descriptors();
    let names: BTreeSet<&str> = descriptors.iter().map(|descriptor| descriptor.name.as_str()).collect();
    assert_eq!(names.len(), descriptors.len(), "a metric is described twice");
    let missing: Vec<&str> = EXPECTED.split_whitespace().filter(|name| !names.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for descriptor in &descriptors {
        assert_eq!(descriptor.label_keys[..5], ["id", "image", "namespace", "pod", "container"]);
        assert!(!descriptor.help.is_empty() && descriptor.help.ends_with('.'), "{descriptor:?}");
    }
    let of = |name: &str| descriptors.iter().find(|descriptor| descriptor.name == name).unwrap();
    assert_eq!(of("container_cpu_usage_seconds_total").label_keys[5..], ["cpu"]);
    assert_eq!(of("container_network_receive_bytes_total").label_keys[5..], ["interface"]);
    assert_eq!(of("container_memory_failures_total").label_keys[5..], ["failure_type", "scope"]);
}
