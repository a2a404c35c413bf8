//! The thin wrapper around the system calls that are about processes: fork, harden, bound, wait. Starting a program is
//! [`super::spawn`]'s. Nothing here decides what is started, or when.

use super::spawn::FIRST_FD;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::{ForkResult, Gid, Pid, Uid, fork, setgid, setuid},
};
use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    time::{Duration, Instant},
};

/// What a fork came back as.
pub enum Fork {
    Parent(Pid),
    Child,
}

/// Memory that a process has alone or shares with what it forked, bytes: what is resident and backed by
/// no file. None where the kernel does not say.
pub fn resident_bytes(pid: Pid) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut pages = text.split_whitespace().skip(1).map(str::parse::<u64>);
    let (resident, of_files) = (pages.next()?.ok()?, pages.next()?.ok()?);
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(resident.saturating_sub(of_files) * u64::try_from(page).ok()?)
}

/// Forks this process. Refuses where another thread exists: it would not exist in the child, and
/// neither would the unlocking of the locks that it held.
pub fn fork_alone() -> io::Result<Fork> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!(
            "the launcher must be single-threaded to fork, and has {threads} threads"
        )));
    }
    // SAFETY: no other thread exists, so the child may do whatever this process may.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        ForkResult::Child => Ok(Fork::Child),
    }
}

/// Takes from the forked scheduler what it must not have: the launcher's descriptors (all but
/// `keep`), signals meant for the launcher, privileges, core dumps, and being read by others of the
/// same user.
pub fn harden_scheduler(launcher: Pid, keep: BorrowedFd<'_>) -> io::Result<()> {
    die_with(launcher)?;
    detach()?;
    let keep = keep.as_raw_fd() as u32;
    if keep > FIRST_FD as u32 {
        close_range(FIRST_FD as u32, keep - 1, 0)?;
    }
    close_range(keep + 1, u32::MAX, 0)?;
    let zero = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: plain system calls on numbers and one pointer to a live struct.
    unsafe {
        Errno::result(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        Errno::result(libc::setrlimit(libc::RLIMIT_CORE, &zero))?;
    }
    drop_capabilities()?;
    // SAFETY: as above. Last, because changing credentials sets it again.
    unsafe { Errno::result(libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0))? };
    Ok(())
}

/// Empties every capability set. Without CAP_SETPCAP the bounding set stays, which no_new_privs has
/// then made meaningless.
pub(super) fn drop_capabilities() -> nix::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`: two words a set.
    const VERSION_3: u32 = 0x2008_0522;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let none = [[0u32; 3]; 2];
    // SAFETY: plain system calls; the two structures are laid out as capset(2) says and outlive it.
    unsafe {
        for capability in 0..64 {
            if libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) < 0 {
                break;
            }
            match Errno::result(libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0)) {
                Ok(_) | Err(Errno::EPERM) => {}
                Err(e) => return Err(e),
            }
        }
        let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL;
        Errno::result(libc::prctl(libc::PR_CAP_AMBIENT, clear, 0, 0, 0))?;
        Errno::result(libc::syscall(libc::SYS_capset, &header, none.as_ptr()))?;
    }
    Ok(())
}

/// Has the kernel kill this child when the launcher's (only) thread ends.
pub(super) fn die_with(launcher: Pid) -> nix::Result<()> {
    // SAFETY: plain system calls on numbers.
    unsafe {
        Errno::result(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
        // It may have ended before the line above.
        if libc::getppid() != launcher.as_raw() {
            libc::_exit(127);
        }
    }
    Ok(())
}

/// A process group of its own, no blocked signals, and SIGTERM and SIGINT ignored. Not a session of
/// its own: the kernel groups CPU time by session first (sched_autogroup), and between groups a
/// worker's low priority would count for nothing against the scheduler.
pub(super) fn detach() -> nix::Result<()> {
    // SAFETY: plain, async-signal-safe system calls; the empty set outlives its use.
    unsafe {
        Errno::result(libc::setpgid(0, 0))?;
        for signal in [libc::SIGTERM, libc::SIGINT] {
            if libc::signal(signal, libc::SIG_IGN) == libc::SIG_ERR {
                return Err(Errno::last());
            }
        }
        let none = SigSet::empty();
        let how = libc::SIG_SETMASK;
        Errno::result(libc::sigprocmask(how, none.as_ref(), ptr::null_mut()))?;
    }
    Ok(())
}

pub(super) fn close_range(first: u32, last: u32, flags: libc::c_uint) -> nix::Result<()> {
    // SAFETY: plain system call on numbers; callers hold no descriptor of that range afterwards.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

/// Kills a child that leads a process group, and all that is in its group.
pub fn kill_group(child: Pid) {
    // Before it has made the group there is only itself.
    let _ = killpg(child, Signal::SIGKILL);
    kill_now(child);
}

/// True where the kernel says that this is a child of ours that has not been waited for, alive or not.
pub fn is_child(pid: Pid) -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    pid.as_raw() > 0 && waitid(Id::Pid(pid), look).is_ok()
}

/// What allocators reserve and never touch, bytes: part of what a process maps, and not of what it can write.
const RESERVED_BYTES: u64 = 4 << 30;

/// What a process may map beside what it can write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// What allocators reserve.
    Bounded,
    /// Whatever it likes: a driver maps all of its device. Neither that, which is shared with the device, nor what cannot
    /// be written to counts for what can (`is_data_mapping` in the kernel's mm/vma.h).
    Free,
}

/// Bounds a process to the memory that it has and `more` bytes: what it can write to, and so, with room for
/// what is only reserved, what it can map. Not to be undone by the process.
pub fn bound_memory(pid: Pid, more: u64, mapped_too: Mapped) -> io::Result<()> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: Vec<u64> = (text.split_whitespace())
        .map_while(|word| word.parse().ok())
        .collect();
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or(4096) as u64;
    // All that is mapped, and of that what is private and can be written.
    let &[mapped, _, _, _, _, data, ..] = pages.as_slice() else {
        return Err(io::Error::other(
            "the kernel does not tell what a process maps",
        ));
    };
    let beside = |pages: u64| pages.saturating_mul(page).saturating_add(more);
    let mapped = match mapped_too {
        Mapped::Bounded => beside(mapped).saturating_add(RESERVED_BYTES),
        Mapped::Free => libc::RLIM_INFINITY,
    };
    let limits = [(libc::RLIMIT_DATA, beside(data)), (libc::RLIMIT_AS, mapped)];
    let set = || {
        limits.iter().try_for_each(|(resource, bytes)| {
            let mut limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: a plain system call on numbers and one pointer to a live struct, which it fills.
            let rc = unsafe { libc::prlimit(pid.as_raw(), *resource, ptr::null(), &mut limit) };
            Errno::result(rc)?;
            // One that is tighter already stays.
            limit.rlim_max = limit.rlim_max.min(*bytes);
            limit.rlim_cur = limit.rlim_max;
            // SAFETY: as above; nothing is written back.
            let rc = unsafe { libc::prlimit(pid.as_raw(), *resource, &limit, ptr::null_mut()) };
            Errno::result(rc).map(drop)
        })
    };
    match set() {
        // Another user's process: its owner may, and so may who can become its owner.
        Err(Errno::EPERM) => as_owner_of(pid, set),
        other => Ok(other?),
    }
}

/// Does something in a child that belongs to whom `pid` belongs to.
fn as_owner_of(pid: Pid, what: impl FnOnce() -> nix::Result<()>) -> io::Result<()> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let id = |field| {
        let mut lines = status.lines();
        let ids = lines.find_map(|line| line.strip_prefix(field));
        let first = ids.and_then(|ids| ids.split_whitespace().next()?.parse().ok());
        first.ok_or_else(|| io::Error::other("the kernel does not tell whose a process is"))
    };
    let (user, group) = (Uid::from_raw(id("Uid:")?), Gid::from_raw(id("Gid:")?));
    match fork_alone()? {
        Fork::Child => {
            let done = setgid(group)
                .and_then(|()| setuid(user))
                .and_then(|()| what());
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(done.map_or_else(|errno| errno as i32, |()| 0)) }
        }
        Fork::Parent(child) => loop {
            return match waitpid(child, None) {
                Err(Errno::EINTR) => continue,
                Ok(WaitStatus::Exited(_, 0)) => Ok(()),
                Ok(WaitStatus::Exited(_, errno)) => Err(io::Error::from_raw_os_error(errno)),
                other => Err(io::Error::other(format!("its helper ended: {other:?}"))),
            };
        },
    }
}

/// From now on what descendants leave behind when they end becomes this process's child.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// How long a child that was killed may take to end before it counts as hung: one that is in a driver's hands may never.
const END_WAIT: Duration = Duration::from_secs(2);

/// Ends and buries children. Which of them hang and cannot be buried: nobody is to wait for these any more.
pub fn end_all(children: &[Pid]) -> Vec<Pid> {
    children.iter().for_each(|child| kill_now(*child));
    let deadline = Instant::now() + END_WAIT;
    let hangs = |child: &&Pid| !matches!(ended_by(**child, deadline), Ok(Some(_)));
    let hung: Vec<Pid> = children.iter().filter(hangs).copied().collect();
    if !hung.is_empty() {
        tracing::error!(
            "{} processes hang in a driver; they are left behind",
            hung.len()
        );
    }
    hung
}

/// Ends and buries children that are not `known`. To be called while none is on its way to become
/// known. Where the kernel does not list children, those that nobody knows are left alone. Which of them hang.
pub fn end_strays(known: impl Fn(Pid) -> bool) -> Vec<Pid> {
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let pids = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    let strays: Vec<Pid> = pids.map(Pid::from_raw).filter(|pid| !known(*pid)).collect();
    for pid in &strays {
        tracing::warn!(pid = pid.as_raw(), "killing a child that nobody asked for");
    }
    end_all(&strays)
}

/// Sends SIGKILL to a child that has not been waited for; nothing happens if it is gone.
pub fn kill_now(child: Pid) {
    let _ = kill(child, Signal::SIGKILL);
}

/// Ends a child that has not been waited for, and buries it.
pub fn kill_and_wait(child: Pid) {
    kill_now(child);
    while waitpid(child, None) == Err(Errno::EINTR) {}
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal(Signal),
    /// Somebody else has waited for it.
    Lost(Errno),
}

impl Ended {
    /// The number of the signal that ended it; 0 where none did.
    pub fn signal(self) -> i32 {
        match self {
            Ended::Signal(signal) => signal as i32,
            Ended::Code(_) | Ended::Lost(_) => 0,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Code(code) => write!(f, "exit {code}"),
            Ended::Signal(signal) => write!(f, "signal {} ({signal})", *signal as i32),
            Ended::Lost(errno) => write!(f, "lost: {errno}"),
        }
    }
}

/// How a child ended, if it has.
pub fn ended(child: Pid) -> Option<Ended> {
    match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(_, code)) => Some(Ended::Code(code)),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(Ended::Signal(signal)),
        Ok(_) | Err(Errno::EINTR) => None,
        Err(errno) => Some(Ended::Lost(errno)),
    }
}

/// Whether a child has ended, and is still to be buried.
pub fn has_ended(child: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    !matches!(
        waitid(Id::Pid(child), flags),
        Ok(WaitStatus::StillAlive) | Err(Errno::EINTR)
    )
}

/// How a child ended; `None` if it is still there at `deadline`.
pub fn ended_by(child: Pid, deadline: Instant) -> io::Result<Option<Ended>> {
    // SAFETY: a plain system call; the descriptor it makes is ours alone.
    let watch = unsafe {
        let raw = libc::syscall(libc::SYS_pidfd_open, child.as_raw(), 0);
        OwnedFd::from_raw_fd(Errno::result(raw)? as RawFd)
    };
    loop {
        if let Some(how) = ended(child) {
            return Ok(Some(how));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(
            &mut [PollFd::new(watch.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
