//! Limits in three languages: the kubelet's, the plugins' and the runtime's. What the kubelet's has a word for goes by
//! it, so that the rules and the answers of the CRI hold for what plugins want too; the rest goes to the runtime.

use oci_spec::runtime::{
    LinuxCpu as OciCpu, LinuxDeviceCgroup as OciDeviceRule, LinuxDeviceType, LinuxMemory as OciMemory,
    LinuxPids as OciPids, LinuxResources as OciResources,
};
use proto::nri::{
    HugepageLimit, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxPids, LinuxResources, OptionalBool,
    OptionalInt64, OptionalUInt64,
};
use proto::v1::{self, LinuxContainerResources};

use super::apply::Unfit;

fn int(value: i64) -> Option<OptionalInt64> {
    (value != 0).then_some(OptionalInt64 { value })
}

fn uint(value: i64) -> Option<OptionalUInt64> {
    u64::try_from(value).ok().filter(|value| *value != 0).map(|value| OptionalUInt64 { value })
}

/// As the kubelet asked. Zero and empty are its words for nothing.
pub(super) fn from_cri(asked: &LinuxContainerResources) -> LinuxResources {
    LinuxResources {
        memory: Some(LinuxMemory {
            limit: int(asked.memory_limit_in_bytes),
            swap: int(asked.memory_swap_limit_in_bytes),
            ..Default::default()
        }),
        cpu: Some(LinuxCpu {
            shares: uint(asked.cpu_shares),
            quota: int(asked.cpu_quota),
            period: uint(asked.cpu_period),
            cpus: asked.cpuset_cpus.clone(),
            mems: asked.cpuset_mems.clone(),
            ..Default::default()
        }),
        hugepage_limits: asked
            .hugepage_limits
            .iter()
            .map(|limit| HugepageLimit { page_size: limit.page_size.clone(), limit: limit.limit })
            .collect(),
        unified: asked.unified.clone().into_iter().collect(),
        ..Default::default()
    }
}

/// What of it the kubelet's language has words for.
pub(super) fn to_cri(wished: &LinuxResources) -> LinuxContainerResources {
    let (cpu, memory) = (wished.cpu.clone().unwrap_or_default(), wished.memory.unwrap_or_default());
    let signed = |number: Option<OptionalUInt64>| {
        number.map_or(0, |number| i64::try_from(number.value).unwrap_or(i64::MAX))
    };
    LinuxContainerResources {
        cpu_period: signed(cpu.period),
        cpu_quota: cpu.quota.map_or(0, |quota| quota.value),
        cpu_shares: signed(cpu.shares),
        memory_limit_in_bytes: memory.limit.map_or(0, |limit| limit.value),
        memory_swap_limit_in_bytes: memory.swap.map_or(0, |swap| swap.value),
        oom_score_adj: 0,
        cpuset_cpus: cpu.cpus,
        cpuset_mems: cpu.mems,
        hugepage_limits: wished
            .hugepage_limits
            .iter()
            .map(|limit| v1::HugepageLimit { page_size: limit.page_size.clone(), limit: limit.limit })
            .collect(),
        unified: wished.unified.clone().into_iter().collect(),
    }
}

/// The rest, as the runtime has it.
///
/// # Errors
/// When there is something that nobody here can do.
pub(super) fn rest(wished: &LinuxResources) -> Result<Option<OciResources>, Unfit> {
    let mut rest = OciResources::default();
    rest.set_devices(None);
    let nothing = rest.clone();
    rest.set_memory(memory_rest(wished.memory.unwrap_or_default()));
    rest.set_cpu(cpu_rest(wished.cpu.as_ref()));
    rest.set_pids(wished.pids.map(|pids| pids_of(pids.limit)));
    if !wished.devices.is_empty() {
        rest.set_devices(Some(wished.devices.iter().map(device_rule).collect::<Result<_, _>>()?));
    }
    Ok(Some(rest).filter(|rest| *rest != nothing))
}

/// The same for a container that is there.
///
/// # Errors
/// When there is something that nobody here can do, or not any more.
pub(super) fn rest_of_change(wished: &LinuxResources) -> Result<Option<OciResources>, Unfit> {
    for (field, class) in [("rdt_class", &wished.rdt_class), ("blockio_class", &wished.blockio_class)] {
        if let Some(class) = class {
            let why = format!("a container is given its class, here {:?}, when it is made", class.value);
            return Err(Unfit::new(field, why));
        }
    }
    rest(wished)
}

/// Zero and less: no limit (runtime-spec, config-linux.md, PIDs).
fn pids_of(limit: i64) -> OciPids {
    let mut pids = OciPids::default();
    pids.set_limit(if limit > 0 { limit } else { -1 });
    pids
}

fn memory_rest(wished: LinuxMemory) -> Option<OciMemory> {
    let mut memory = OciMemory::default();
    memory
        .set_reservation(wished.reservation.map(|bytes| bytes.value))
        .set_kernel(wished.kernel.map(|bytes| bytes.value))
        .set_kernel_tcp(wished.kernel_tcp.map(|bytes| bytes.value))
        .set_swappiness(wished.swappiness.map(|percent| percent.value))
        .set_disable_oom_killer(wished.disable_oom_killer.map(|yes| yes.value))
        .set_use_hierarchy(wished.use_hierarchy.map(|yes| yes.value));
    (memory != OciMemory::default()).then_some(memory)
}

fn cpu_rest(wished: Option<&LinuxCpu>) -> Option<OciCpu> {
    let mut cpu = OciCpu::default();
    cpu.set_realtime_runtime(wished?.realtime_runtime.map(|us| us.value))
        .set_realtime_period(wished?.realtime_period.map(|us| us.value));
    (cpu != OciCpu::default()).then_some(cpu)
}

fn device_rule(wished: &LinuxDeviceCgroup) -> Result<OciDeviceRule, Unfit> {
    let kind = match wished.r#type.as_str() {
        "" | "a" => LinuxDeviceType::A,
        kind => device_type(kind)?,
    };
    let mut rule = OciDeviceRule::default();
    rule.set_allow(wished.allow)
        .set_typ(Some(kind))
        .set_major(wished.major.map(|number| number.value))
        .set_minor(wished.minor.map(|number| number.value))
        .set_access(Some(wished.access.clone()).filter(|access| !access.is_empty()));
    Ok(rule)
}

/// mknod(1)'s letters.
pub(super) fn device_type(kind: &str) -> Result<LinuxDeviceType, Unfit> {
    match kind {
        "b" => Ok(LinuxDeviceType::B),
        "c" | "u" => Ok(LinuxDeviceType::C),
        "p" => Ok(LinuxDeviceType::P),
        other => Err(Unfit::new("devices", format!("{other:?} is no type of device"))),
    }
}

/// Lays the rest over what the runtime is told already.
pub(crate) fn lay_over(into: &mut OciResources, rest: &OciResources) {
    if let Some(from) = rest.memory() {
        let before = (*into.memory()).unwrap_or_default();
        let mut memory = before;
        memory
            .set_reservation(from.reservation().or(before.reservation()))
            .set_kernel(from.kernel().or(before.kernel()))
            .set_kernel_tcp(from.kernel_tcp().or(before.kernel_tcp()))
            .set_swappiness(from.swappiness().or(before.swappiness()))
            .set_disable_oom_killer(from.disable_oom_killer().or(before.disable_oom_killer()))
            .set_use_hierarchy(from.use_hierarchy().or(before.use_hierarchy()));
        into.set_memory(Some(memory));
    }
    if let Some(from) = rest.cpu() {
        let before = into.cpu().clone().unwrap_or_default();
        let mut cpu = before.clone();
        cpu.set_realtime_runtime(from.realtime_runtime().or(before.realtime_runtime()))
            .set_realtime_period(from.realtime_period().or(before.realtime_period()));
        into.set_cpu(Some(cpu));
    }
    if rest.pids().is_some() {
        into.set_pids(*rest.pids());
    }
    if let Some(rules) = rest.devices() {
        let mut all = into.devices().clone().unwrap_or_default();
        all.extend(rules.iter().cloned());
        into.set_devices(Some(all));
    }
}

/// As the runtime was told.
pub(super) fn from_oci(told: &OciResources) -> LinuxResources {
    let int = |number: Option<i64>| number.map(|value| OptionalInt64 { value });
    let uint = |number: Option<u64>| number.map(|value| OptionalUInt64 { value });
    let flag = |flag: Option<bool>| flag.map(|value| OptionalBool { value });
    LinuxResources {
        memory: told.memory().as_ref().map(|memory| LinuxMemory {
            limit: int(memory.limit()),
            reservation: int(memory.reservation()),
            swap: int(memory.swap()),
            kernel: int(memory.kernel()),
            kernel_tcp: int(memory.kernel_tcp()),
            swappiness: uint(memory.swappiness()),
            disable_oom_killer: flag(memory.disable_oom_killer()),
            use_hierarchy: flag(memory.use_hierarchy()),
        }),
        cpu: told.cpu().as_ref().map(|cpu| LinuxCpu {
            shares: uint(cpu.shares()),
            quota: int(cpu.quota()),
            period: uint(cpu.period()),
            realtime_runtime: int(cpu.realtime_runtime()),
            realtime_period: uint(cpu.realtime_period()),
            cpus: cpu.cpus().clone().unwrap_or_default(),
            mems: cpu.mems().clone().unwrap_or_default(),
        }),
        hugepage_limits: told
            .hugepage_limits()
            .iter()
            .flatten()
            .map(|limit| HugepageLimit {
                page_size: limit.page_size().clone(),
                limit: u64::try_from(limit.limit()).unwrap_or_default(),
            })
            .collect(),
        unified: told.unified().clone().unwrap_or_default().into_iter().collect(),
        devices: told.devices().iter().flatten().map(from_rule).collect(),
        pids: told.pids().as_ref().map(|pids| LinuxPids { limit: pids.limit() }),
        ..Default::default()
    }
}

fn from_rule(rule: &OciDeviceRule) -> LinuxDeviceCgroup {
    LinuxDeviceCgroup {
        allow: rule.allow(),
        r#type: rule.typ().map(|kind| kind.as_str().to_owned()).unwrap_or_default(),
        major: rule.major().map(|value| OptionalInt64 { value }),
        minor: rule.minor().map(|value| OptionalInt64 { value }),
        access: rule.access().clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::nri::OptionalString;

    #[test]
    fn what_the_kubelet_has_words_for_comes_back_as_it_went() {
        let asked = LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 512,
            memory_limit_in_bytes: 100,
            memory_swap_limit_in_bytes: 130,
            cpuset_cpus: "0-1".into(),
            cpuset_mems: "0".into(),
            hugepage_limits: vec![v1::HugepageLimit { page_size: "2MB".into(), limit: 0 }],
            unified: [("memory.high".to_owned(), "9".to_owned())].into(),
            oom_score_adj: 0,
        };
        assert_eq!(to_cri(&from_cri(&asked)), asked);
        let nothing = LinuxContainerResources::default();
        assert_eq!(to_cri(&from_cri(&nothing)), nothing);
        assert_eq!(rest(&from_cri(&asked)).unwrap(), None);
    }

    #[test]
    fn what_it_has_no_words_for_goes_to_the_runtime() {
        let wished = LinuxResources {
            memory: Some(LinuxMemory { swappiness: Some(OptionalUInt64 { value: 7 }), ..Default::default() }),
            cpu: Some(LinuxCpu { realtime_period: Some(OptionalUInt64 { value: 9 }), ..Default::default() }),
            pids: Some(LinuxPids { limit: 5 }),
            ..Default::default()
        };
        let rest = rest(&wished).unwrap().unwrap();
        let mut told = OciResources::default();
        let mut memory = OciMemory::default();
        memory.set_limit(Some(3));
        told.set_memory(Some(memory));
        lay_over(&mut told, &rest);
        let told = serde_json::to_value(&told).unwrap();
        assert_eq!(told["memory"], serde_json::json!({"limit": 3, "swappiness": 7}));
        assert_eq!(told["cpu"], serde_json::json!({"realtimePeriod": 9}));
        assert_eq!(told["pids"], serde_json::json!({"limit": 5}));
    }

    #[test]
    fn a_container_that_is_there_keeps_its_classes() {
        let class = Some(OptionalString { value: "gold".into() });
        for (field, wished) in [
            ("rdt_class", LinuxResources { rdt_class: class.clone(), ..Default::default() }),
            ("blockio_class", LinuxResources { blockio_class: class.clone(), ..Default::default() }),
        ] {
            assert_eq!(rest(&wished), Ok(None));
            let error = rest_of_change(&wished).unwrap_err().to_string();
            assert!(error.contains(field) && error.contains("gold"), "{error}");
        }
    }
}
