//! The last layer: which system calls are left once the model is loaded and all threads run.
//!
//! What is allowed is what computing needs: reading and writing sockets that are open, waiting,
//! anonymous memory that is never executable, a clock, random bytes, ending. Everything else falls in one
//! of three classes:
//! - *Answered "not permitted"*: calls by which libraries look around (is there a cgroup file, how
//!   much memory is there). They reveal nothing, and a library that asks late must not cost a tenant
//!   its worker.
//! - *Answered "no such call"*: `clone3`, whose flags a filter cannot read; C libraries then try `clone`.
//! - *The process is killed*: all the rest, `clone` and `execve` and `socket` among it. No correct worker
//!   calls them, so whoever does is not a worker any more.
//!
//! Three filters, since a filter has one answer to give; the kernel obeys the strictest of them. They are
//! put on all threads at once, and where one thread cannot take them none does.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads,
};
use std::collections::BTreeMap;

/// Calls that are allowed whatever their arguments are.
const ALLOWED: &[i64] = &[
    // The socket, and stderr.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_ppoll,
    // Threads that exist already.
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_getpid,
    libc::SYS_gettid,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    // Time and chance.
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_getrandom,
    // Signals to itself, and the end.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Only x86-64 has these older forms.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

/// Calls that are answered with EPERM.
const REFUSED: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_lseek,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_prlimit64,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_sched_setaffinity,
    libc::SYS_setpriority,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_getrlimit,
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

pub(super) fn lock() -> Result<String, String> {
    let filters = filters().map_err(|error| error.to_string())?;
    // The allow list last: it leaves no call to install another filter with.
    for filter in &filters {
        apply_filter_all_threads(filter).map_err(|error| error.to_string())?;
    }
    Ok(format!(
        "{} calls are left, on all threads",
        ALLOWED.len() + 3
    ))
}

/// The three filters, in the order of applying.
fn filters() -> Result<[BpfProgram; 3], seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let answer = |rules: Rules, errno: i32| {
        let answer = SeccompAction::Errno(errno.unsigned_abs());
        SeccompFilter::new(rules, SeccompAction::Allow, answer, arch)?.try_into()
    };
    let (unknown, refused) = (Rules::from([(libc::SYS_clone3, Vec::new())]), refused()?);
    let mut rules = allowed()?;
    // Answered by the other two, and so not to be killed for.
    rules.extend(
        unknown
            .keys()
            .chain(refused.keys())
            .map(|call| (*call, Vec::new())),
    );
    let killing = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        arch,
    )?;
    Ok([
        answer(unknown, libc::ENOSYS)?,
        answer(refused, libc::EPERM)?,
        killing.try_into()?,
    ])
}

/// The refused calls. Of `prctl` one use stays: setting no_new_privs again, which changes nothing and
/// comes with the installation of every filter.
fn refused() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let no_new_privs = libc::PR_SET_NO_NEW_PRIVS as u64;
    let other = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, no_new_privs)?;
    rules.insert(libc::SYS_prctl, vec![SeccompRule::new(vec![other])?]);
    Ok(rules)
}

/// The allow list, with conditions on the arguments of what would be dangerous without.
fn allowed() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let anonymous = libc::MAP_ANONYMOUS as u64;
    let map = vec![not_executable()?, has_bits(3, anonymous, anonymous)?];
    rules.insert(libc::SYS_mmap, vec![SeccompRule::new(map)?]);
    rules.insert(
        libc::SYS_mprotect,
        vec![SeccompRule::new(vec![not_executable()?])?],
    );
    // A process may raise a signal in itself (abort does), and in nobody else.
    let own = u64::from(std::process::id());
    let own = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, own)?;
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![own])?]);
    Ok(rules)
}

/// The third argument of mmap and mprotect has no PROT_EXEC.
fn not_executable() -> Result<SeccompCondition, seccompiler::BackendError> {
    has_bits(2, libc::PROT_EXEC as u64, 0)
}

fn has_bits(
    argument: u8,
    mask: u64,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    let operator = SeccompCmpOp::MaskedEq(mask);
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_and_fit_the_kernels_limit() {
        for filter in filters().expect("a supported processor") {
            assert!(!filter.is_empty() && filter.len() < 4096);
        }
    }

    #[test]
    fn nothing_that_leads_out_is_allowed() {
        let allowed = allowed().expect("valid rules");
        for call in [
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_clone,
            libc::SYS_execve,
            libc::SYS_openat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_kill,
            libc::SYS_io_uring_setup,
            libc::SYS_bpf,
            libc::SYS_memfd_create,
            libc::SYS_seccomp,
        ] {
            assert!(!allowed.contains_key(&call), "call {call}");
        }
        assert!(ALLOWED.iter().all(|call| !REFUSED.contains(call)));
    }
}
