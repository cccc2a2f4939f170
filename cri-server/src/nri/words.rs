//! Words that plugins and the OCI configuration have in common, from one to the other.

use oci_spec::runtime::{LinuxIOPriority, LinuxMemoryPolicy, LinuxSeccomp, Scheduler};
use proto::nri::{
    self, IoPrioClass, LinuxSchedulerFlag, LinuxSchedulerPolicy, LinuxSyscall, MpolFlag, MpolMode,
};
use serde_json::{Value, json};

use super::apply::{Unfit, typed};

/// None takes the container's own away.
pub(super) fn io_priority(wished: &nri::LinuxIoPriority) -> Result<Option<LinuxIOPriority>, Unfit> {
    match IoPrioClass::try_from(wished.class) {
        Ok(IoPrioClass::IoprioClassNone) => Ok(None),
        Ok(class) => {
            typed("io_priority", json!({"class": class.as_str_name(), "priority": wished.priority})).map(Some)
        }
        Err(_) => Err(Unfit::new("io_priority", format!("there is no class {}", wished.class))),
    }
}

/// None takes the container's own away.
pub(super) fn scheduler(wished: &nri::LinuxScheduler) -> Result<Option<Scheduler>, Unfit> {
    let field = "scheduler";
    let policy = match LinuxSchedulerPolicy::try_from(wished.policy) {
        Ok(LinuxSchedulerPolicy::SchedNone) => return Ok(None),
        Ok(policy) => policy.as_str_name(),
        Err(_) => return Err(Unfit::new(field, format!("there is no policy {}", wished.policy))),
    };
    let flag = |flag: &i32| {
        let known = LinuxSchedulerFlag::try_from(*flag);
        known
            .map(|flag| flag.as_str_name())
            .map_err(|_| Unfit::new(field, format!("there is no flag {flag}")))
    };
    let flags: Vec<&str> = wished.flags.iter().map(flag).collect::<Result<_, _>>()?;
    let mut value = json!({"policy": policy});
    // Zero is no word about it.
    for (name, number) in [("nice", wished.nice), ("priority", wished.priority)] {
        if number != 0 {
            value[name] = number.into();
        }
    }
    for (name, ns) in [("runtime", wished.runtime), ("deadline", wished.deadline), ("period", wished.period)]
    {
        if ns != 0 {
            value[name] = ns.into();
        }
    }
    if !flags.is_empty() {
        value["flags"] = flags.into();
    }
    typed(field, value).map(Some)
}

pub(super) fn memory_policy(wished: &nri::LinuxMemoryPolicy) -> Result<LinuxMemoryPolicy, Unfit> {
    let field = "memory_policy";
    let mode = MpolMode::try_from(wished.mode)
        .map_err(|_| Unfit::new(field, format!("there is no mode {}", wished.mode)))?;
    let flag = |flag: &i32| {
        let known = MpolFlag::try_from(*flag);
        known
            .map(|flag| flag.as_str_name())
            .map_err(|_| Unfit::new(field, format!("there is no flag {flag}")))
    };
    let flags: Vec<&str> = wished.flags.iter().map(flag).collect::<Result<_, _>>()?;
    let mut value = json!({"mode": mode.as_str_name()});
    if !wished.nodes.is_empty() {
        value["nodes"] = wished.nodes.clone().into();
    }
    if !flags.is_empty() {
        value["flags"] = flags.into();
    }
    typed(field, value)
}

pub(super) fn seccomp(wished: &nri::LinuxSeccomp) -> Result<LinuxSeccomp, Unfit> {
    let mut value = json!({"defaultAction": wished.default_action});
    if let Some(errno) = &wished.default_errno {
        value["defaultErrnoRet"] = errno.value.into();
    }
    if !wished.architectures.is_empty() {
        value["architectures"] = wished.architectures.clone().into();
    }
    if !wished.flags.is_empty() {
        value["flags"] = wished.flags.clone().into();
    }
    if !wished.listener_path.is_empty() {
        value["listenerPath"] = wished.listener_path.clone().into();
        value["listenerMetadata"] = wished.listener_metadata.clone().into();
    }
    if !wished.syscalls.is_empty() {
        value["syscalls"] = wished.syscalls.iter().map(syscall).collect::<Vec<Value>>().into();
    }
    typed("seccomp_policy", value)
}

fn syscall(wished: &LinuxSyscall) -> Value {
    let mut value = json!({"names": wished.names, "action": wished.action});
    if let Some(errno) = &wished.errno_ret {
        value["errnoRet"] = errno.value.into();
    }
    if !wished.args.is_empty() {
        let argument = |arg: &nri::LinuxSeccompArg| json!({"index": arg.index, "value": arg.value, "valueTwo": arg.value_two, "op": arg.op});
        value["args"] = wished.args.iter().map(argument).collect::<Vec<Value>>().into();
    }
    value
}
