//! The last layer: which system calls are left once the model is loaded and all threads run.
//!
//! What is allowed is what computing needs: reading and writing sockets that are open, waiting, anonymous memory of
//! its own that is never executable, a clock, random bytes, ending. Everything else kills the process: no correct
//! worker makes such a call, so whoever does is not a worker any more, and its end is on record. Workers of both starter
//! models, traced under load, made no other; some on the list they did not make either. What libraries look up in files
//! they have looked up before, and the C library's allocator is set so that it looks up nothing (see
//! `bulkhead_kernels::alloc::settle`).
//!
//! On a GPU two more are left, and only so far as its driver's library makes them: asking the device, and mapping it.
//! Which descriptor is asked a filter cannot see; but nothing is open then that takes such a request, other than the
//! nodes of that GPU.
//!
//! The filter is put on all threads at once, and where one thread cannot take it none does.

use super::gpu;
use super::reach::Devices;
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

/// Calls that are allowed with some arguments: sendto, mmap, mprotect, prctl, fcntl, tgkill.
const CONDITIONAL: usize = 6;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

pub(super) fn lock(devices: Devices) -> Result<String, String> {
    let filter = filter(devices).map_err(|error| error.to_string())?;
    apply_filter_all_threads(&filter).map_err(|error| error.to_string())?;
    let asking = match devices {
        Devices::None => "",
        Devices::Gpu => ", and its GPU may be asked and mapped",
    };
    Ok(format!(
        "{} calls are left, on all threads{asking}",
        ALLOWED.len() + CONDITIONAL
    ))
}

fn filter(devices: Devices) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let (other, listed) = (SeccompAction::KillProcess, SeccompAction::Allow);
    SeccompFilter::new(allowed(devices)?, other, listed, arch)?.try_into()
}

/// The allow list, with conditions on the arguments of what would be dangerous without.
fn allowed(devices: Devices) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    // Private alone, and neither a stack nor of large pages: such counts for no limit of the process.
    let uncounted = libc::MAP_GROWSDOWN | libc::MAP_HUGETLB;
    let kinds = (libc::MAP_ANONYMOUS | libc::MAP_TYPE | uncounted) as u64;
    let private = (libc::MAP_ANONYMOUS | libc::MAP_PRIVATE) as u64;
    let map = vec![not_executable()?, has_bits(3, kinds, private)?];
    rules.insert(libc::SYS_mmap, vec![SeccompRule::new(map)?]);
    // To whom it is connected to, and to nobody by name.
    let nobody = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_sendto, vec![SeccompRule::new(vec![nobody])?]);
    rules.insert(
        libc::SYS_mprotect,
        vec![SeccompRule::new(vec![not_executable()?])?],
    );
    // A thread that was made before the lock may come to its first lines after it, and gives itself its name.
    let name = is(0, libc::PR_SET_NAME)?;
    rules.insert(libc::SYS_prctl, vec![SeccompRule::new(vec![name])?]);
    // Asked of a descriptor before it is closed, where the standard library checks itself.
    let flags = is(1, libc::F_GETFD)?;
    rules.insert(libc::SYS_fcntl, vec![SeccompRule::new(vec![flags])?]);
    // A process may raise a signal in itself (abort does), and in nobody else.
    let own = is(0, std::process::id().cast_signed())?;
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![own])?]);
    if devices == Devices::Gpu {
        of_gpu(&mut rules)?;
    }
    Ok(rules)
}

/// What a driver's library asks of its device, and its mappings: of a descriptor, shared with the device, and like all
/// others never executable. How much of its own memory a device gives is its driver's to bound.
fn of_gpu(rules: &mut Rules) -> Result<(), seccompiler::BackendError> {
    let asked = |request: &gpu::Request| {
        let operator = SeccompCmpOp::MaskedEq(request.mask);
        let is = SeccompCondition::new(1, SeccompCmpArgLen::Dword, operator, request.value)?;
        SeccompRule::new(vec![is])
    };
    let asks = gpu::REQUESTS.iter().map(asked).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, asks);
    let kinds = (libc::MAP_ANONYMOUS | libc::MAP_TYPE) as u64;
    let map = vec![
        not_executable()?,
        has_bits(3, kinds, libc::MAP_SHARED as u64)?,
    ];
    let maps = rules.entry(libc::SYS_mmap).or_default();
    maps.push(SeccompRule::new(map)?);
    Ok(())
}

/// The third argument of mmap and mprotect has no PROT_EXEC.
fn not_executable() -> Result<SeccompCondition, seccompiler::BackendError> {
    has_bits(2, libc::PROT_EXEC as u64, 0)
}

fn is(argument: u8, value: libc::c_int) -> Result<SeccompCondition, seccompiler::BackendError> {
    let value = u64::from(value.cast_unsigned());
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
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
    fn the_filter_compiles_and_fits_the_kernels_limit() {
        for (devices, more) in [(Devices::None, 0), (Devices::Gpu, 1)] {
            let filter = filter(devices).expect("a supported processor");
            assert!(!filter.is_empty() && filter.len() < 4096);
            let calls = allowed(devices).expect("valid rules").len();
            assert_eq!(calls, ALLOWED.len() + CONDITIONAL + more);
        }
    }

    #[test]
    fn nothing_that_leads_out_is_allowed() {
        let of_gpus = allowed(Devices::Gpu).expect("valid rules");
        let allowed = allowed(Devices::None).expect("valid rules");
        assert!(!allowed.contains_key(&libc::SYS_ioctl));
        for call in [
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_shutdown,
            libc::SYS_clone,
            libc::SYS_clone3,
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
            assert!(!of_gpus.contains_key(&call), "call {call}, on a GPU");
        }
    }
}
