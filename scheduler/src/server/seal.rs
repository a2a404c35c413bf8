//! What the scheduler gives up once its sockets are open and before it has a second thread: every file that is not its
//! own, every new socket, every program and process, every look into another process.
//!
//! It reads what agents send, so it is what an attacker would take over first. What is left then is what it holds: the
//! connections, the tenants' directory, the workers' sockets. The log's keys, the models, the CA's key and the machine
//! are out of reach. A layer that the kernel does not have is told and missing; nothing here decides whether that is
//! acceptable.

use crate::config::Paths;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    Scope,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};
use std::{collections::BTreeMap, path::PathBuf};

/// The newest rights that this program was written for.
const KNOWN: ABI = ABI::V6;

/// A layer, and what the kernel said to it.
pub struct Layer {
    pub name: &'static str,
    /// How far it goes, or why it is not there.
    pub outcome: Result<String, String>,
}

/// Gives all of it up, for this thread and those that it starts.
pub fn restrict(paths: &Paths) -> [Layer; 2] {
    [
        Layer {
            name: "landlock",
            outcome: files(paths),
        },
        Layer {
            name: "seccomp",
            outcome: calls(),
        },
    ]
}

/// What it may do with which paths: keep its state, read its own certificate and the policies.
fn own(paths: &Paths) -> Vec<(PathBuf, BitFlags<AccessFs>)> {
    let read = AccessFs::ReadFile;
    let list = read | AccessFs::ReadDir;
    let keep =
        list | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg | AccessFs::RemoveFile;
    let state = paths
        .identity_db()
        .parent()
        .map(|dir| (dir.to_owned(), keep));
    let files = [paths.ca_cert(), paths.server_cert(), paths.server_key()];
    (state.into_iter())
        .chain(files.map(|file| (file, read.into())))
        .chain([(paths.policy_dir(), list)])
        .collect()
}

fn files(paths: &Paths) -> Result<String, String> {
    let rules = own(paths).into_iter().filter_map(|(path, access)| {
        // What is not there cannot be read; who needs it says so.
        let opened = PathFd::new(path).ok()?;
        Some(Ok::<_, RulesetError>(PathBeneath::new(opened, access)))
    });
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(|all| all.handle_access(AccessNet::from_all(KNOWN)))
        .and_then(|all| all.scope(Scope::from_all(KNOWN)))
        .and_then(|all| all.create())
        .and_then(|all| all.add_rules(rules))
        .and_then(|all| all.restrict_self())
        .map_err(|error| error.to_string())?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, landlock) => Err(format!("not enforced: {landlock:?}")),
        (_, LandlockStatus::Available { effective_abi, .. }) => {
            let abi = effective_abi.min(KNOWN) as i32;
            Ok(format!("its own files alone (ABI {abi})"))
        }
        (_, landlock) => Err(format!("not available: {landlock:?}")),
    }
}

/// Calls that a scheduler never makes and whoever took it over might.
const FORBIDDEN: &[i64] = &[
    // Programs and processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_setpriority,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_semget,
    libc::SYS_msgget,
    // Files by their paths, where Landlock has no say: whose they are, who may, and on older kernels how long.
    libc::SYS_truncate,
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_utimensat,
    // Sockets: those that it needs are open, or come through these.
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    // The machine, and doors into the kernel.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mknodat,
    libc::SYS_open_by_handle_at,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_memfd_create,
    libc::SYS_pkey_mprotect,
    libc::SYS_personality,
    libc::SYS_quotactl,
    libc::SYS_acct,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
];

/// Of `fcntl`: F_SETOWN, F_SETSIG, F_SETOWN_EX.
const SIGNALLING_COMMANDS: [u64; 3] = [8, 10, 15];
/// Of `ioctl`: TIOCSTI, TIOCSPGRP, TIOCSCTTY, TIOCLINUX, TIOCSETD; FIOSETOWN, SIOCSPGRP.
const FORBIDDEN_REQUESTS: [u64; 7] = [0x5412, 0x5410, 0x540E, 0x541C, 0x5423, 0x8901, 0x8902];

/// Newer than the library that names the others.
const SYS_FCHMODAT2: i64 = 452;

/// What marks a call of x86-64's second kind, with 32-bit pointers, where the kernel has it.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;
/// Of those, the ones with numbers of their own: execve, ptrace, process_vm_readv, process_vm_writev, execveat.
#[cfg(target_arch = "x86_64")]
const X32_OWN: [i64; 5] = [520, 521, 539, 540, 545];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn calls() -> Result<String, String> {
    let [unknown, forbidden] = filters().map_err(|error| error.to_string())?;
    // The first answers one call; the second kills for the rest, and the kernel obeys the stricter.
    for filter in [&unknown, &forbidden] {
        apply_filter(filter).map_err(|error| error.to_string())?;
    }
    Ok("no program, no process, no socket, no other's memory".to_owned())
}

fn filters() -> Result<[BpfProgram; 2], BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = |rules: Rules, answer: SeccompAction| {
        SeccompFilter::new(rules, SeccompAction::Allow, answer, arch)?.try_into()
    };
    // Its flags lie in memory, where a filter cannot read; C libraries then try `clone`.
    let unknown = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let no_such_call = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    Ok([
        filter(unknown, no_such_call)?,
        filter(forbidden()?, SeccompAction::KillProcess)?,
    ])
}

fn forbidden() -> Result<Rules, BackendError> {
    let mut calls = FORBIDDEN.to_vec();
    #[cfg(target_arch = "x86_64")]
    {
        // All that is forbidden below with some arguments is forbidden here with any.
        let with_arguments = [
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_mmap,
            libc::SYS_mprotect,
            libc::SYS_tgkill,
            libc::SYS_prlimit64,
            libc::SYS_socketpair,
            libc::SYS_sendto,
            libc::SYS_fcntl,
            libc::SYS_ioctl,
        ];
        let second = calls.iter().chain(&X32_OWN).chain(&with_arguments);
        let second: Vec<i64> = second.map(|call| call | X32).collect();
        calls.extend(second);
    }
    let mut rules: Rules = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let bits = |argument, mask: libc::c_int, value: libc::c_int| {
        let operator = SeccompCmpOp::MaskedEq(mask as u64);
        SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value as u64)
    };
    let one = |condition| Ok::<_, BackendError>(vec![SeccompRule::new(vec![condition])?]);
    // Threads alone; memory that is never run; signals to itself alone.
    rules.insert(libc::SYS_clone, one(bits(0, libc::CLONE_THREAD, 0)?)?);
    let executable = || bits(2, libc::PROT_EXEC, libc::PROT_EXEC);
    rules.insert(libc::SYS_mmap, one(executable()?)?);
    rules.insert(libc::SYS_mprotect, one(executable()?)?);
    let not = |argument, value: u64| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
    };
    rules.insert(libc::SYS_tgkill, one(not(0, std::process::id().into())?)?);
    // Limits of its own alone, which is 0.
    rules.insert(libc::SYS_prlimit64, one(not(0, 0)?)?);
    // Nobody is signalled for a descriptor, which the kernel lets root do whatever else it may.
    let is = |argument, value: u64| {
        let operator = SeccompCmpOp::Eq;
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value);
        SeccompRule::new(vec![condition?])
    };
    let any_of = |values: &[u64]| -> Result<Vec<SeccompRule>, BackendError> {
        values.iter().map(|value| is(1, *value)).collect()
    };
    rules.insert(libc::SYS_fcntl, any_of(&SIGNALLING_COMMANDS)?);
    // A terminal that standard error leads to is neither typed into nor taken.
    rules.insert(libc::SYS_ioctl, any_of(&FORBIDDEN_REQUESTS)?);
    // Pairs of streams alone: a datagram can be sent to any path.
    const KINDS: libc::c_int = 0xF;
    let kinds = [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET];
    let kinds = kinds.map(|kind| SeccompRule::new(vec![bits(1, KINDS, kind)?]));
    rules.insert(
        libc::SYS_socketpair,
        kinds.into_iter().collect::<Result<_, _>>()?,
    );
    // No data that makes a connection by itself.
    for (call, flags) in [
        (libc::SYS_sendto, 3),
        (libc::SYS_sendmsg, 2),
        (libc::SYS_sendmmsg, 3),
    ] {
        let fast_open = bits(flags, libc::MSG_FASTOPEN, libc::MSG_FASTOPEN)?;
        rules.insert(call, one(fast_open)?);
    }
    Ok(rules)
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
