//! The first filter of system calls, before a model's files are read: no reach into another process, or a terminal.
//!
//! A process that loads a model may still need nearly any call, and whoever made the model's files may own it. Processes of
//! one user may set each other's limits and priorities, whatever namespaces they are in; and a terminal that standard
//! error leads to can be typed into. This takes both, for good: what is forked inherits it, and the last filter comes on
//! top. A driver speaks to its device by the call that terminals are asked by too, so on a GPU only what terminals and
//! sockets take is taken from it.

use super::gpu;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};
use std::collections::BTreeMap;

/// Which devices a process speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Devices {
    None,
    Gpu,
}

/// Never made by a process that loads a model.
const FORBIDDEN: &[i64] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_ioprio_set,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // Programs, and doors into the kernel.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
];

/// Of itself alone, which is 0: limits, and how it is scheduled.
const OF_ITSELF: &[i64] = &[
    libc::SYS_prlimit64,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
];

/// What marks a call of x86-64's second kind, with 32-bit pointers, where the kernel has it.
pub(super) const X32: i64 = if cfg!(target_arch = "x86_64") {
    0x4000_0000
} else {
    0
};
/// Of those, the ones with numbers of their own: ioctl, execve, ptrace, process_vm_readv, process_vm_writev,
/// rt_sigqueueinfo, rt_tgsigqueueinfo, move_pages, execveat.
#[cfg(target_arch = "x86_64")]
const X32_OWN: [i64; 9] = [514, 520, 521, 539, 540, 524, 536, 533, 545];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

pub(super) fn restrict(devices: Devices) -> Result<String, String> {
    let filter = filter(devices).map_err(|error| error.to_string())?;
    apply_filter(&filter).map_err(|error| error.to_string())?;
    Ok("no call that reaches into another process, or a terminal".to_owned())
}

fn filter(devices: Devices) -> Result<BpfProgram, BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let (other, listed) = (SeccompAction::Allow, SeccompAction::KillProcess);
    SeccompFilter::new(forbidden(devices)?, other, listed, arch)?.try_into()
}

fn forbidden(devices: Devices) -> Result<Rules, BackendError> {
    let any = |call: i64| (call, Vec::new());
    let mut rules: Rules = FORBIDDEN.iter().copied().map(any).collect();
    #[cfg(target_arch = "x86_64")]
    {
        let some = [libc::SYS_ioctl, libc::SYS_setpriority, libc::SYS_fcntl];
        let second = FORBIDDEN
            .iter()
            .chain(OF_ITSELF)
            .chain(&some)
            .chain(&X32_OWN);
        rules.extend(second.map(|call| any(call | X32)));
    }
    rules.insert(libc::SYS_ioctl, requests(devices)?);
    if devices == Devices::None {
        // One of a pair may speak to others by their names. A driver may need one to open its GPU; it loses them after.
        rules.extend([any(libc::SYS_socketpair), any(libc::SYS_socketpair | X32)]);
    }
    let when = |argument, operator, value: u64| {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
        SeccompRule::new(vec![condition])
    };
    for call in OF_ITSELF {
        rules.insert(*call, vec![when(0, SeccompCmpOp::Ne, 0)?]);
    }
    // Of the calling thread alone: neither a group's nor a user's, nor another's.
    let priority = vec![
        when(0, SeccompCmpOp::Ne, u64::from(libc::PRIO_PROCESS))?,
        when(1, SeccompCmpOp::Ne, 0)?,
    ];
    rules.insert(libc::SYS_setpriority, priority);
    // Whom the kernel signals for a descriptor, and how.
    let own = [libc::F_SETOWN, F_SETOWN_EX, F_SETSIG]
        .map(|command| when(1, SeccompCmpOp::Eq, u64::from(command.cast_unsigned())));
    rules.insert(libc::SYS_fcntl, own.into_iter().collect::<Result<_, _>>()?);
    Ok(rules)
}

/// What no device may be asked: anything, which no rule says, or what terminals and sockets are.
fn requests(devices: Devices) -> Result<Vec<SeccompRule>, BackendError> {
    const KIND: SeccompCmpOp = SeccompCmpOp::MaskedEq(0xFF00);
    let of = |kind: u64| {
        let asked = SeccompCondition::new(1, SeccompCmpArgLen::Dword, KIND, kind << 8)?;
        SeccompRule::new(vec![asked])
    };
    match devices {
        Devices::None => Ok(Vec::new()),
        Devices::Gpu => gpu::OF_TERMINALS.into_iter().map(of).collect(),
    }
}

/// Of `fcntl`, which the library does not name.
const F_SETSIG: libc::c_int = 10;
const F_SETOWN_EX: libc::c_int = 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles_and_fits_the_kernels_limit() {
        for devices in [Devices::None, Devices::Gpu] {
            let filter = filter(devices).expect("a supported processor");
            assert!(!filter.is_empty() && filter.len() < 4096);
        }
    }
}
