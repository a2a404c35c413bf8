//! Whose a process is: a user namespace of its own, and in it, where the launcher is root, a user that nobody else is.
//!
//! A process that is root's may have a range of users mapped into its namespace, and become one of them. The range lies
//! where systemd's table of user ids (systemd.io/UIDS-GIDS) says that nothing is allocated. Any other process has
//! itself alone mapped, and stays who it is. No user outside the namespace can be become, whatever goes wrong.

use crate::process::{self, Fork};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Pid, Uid, getegid, geteuid, getppid, setgroups, setresgid, setresuid};
use std::fs;
use std::io::{self, Read, Write};

/// The first user of the range.
const FIRST: u32 = 1_900_000_000;

/// Users of the range; numbers are never used twice while a scheduler lives.
const COUNT: u32 = 1 << 27;

/// Who is mapped into the namespace that this process is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapped {
    /// The range: it may become any of it.
    Range,
    /// Itself alone.
    Itself,
}

/// Enters a user namespace of its own.
pub(super) fn enter() -> Result<Mapped, String> {
    let (uid, gid) = (geteuid(), getegid());
    let mapped = match uid.is_root() {
        true => enter_with_range()?,
        false => {
            leave()?;
            false
        }
    };
    if mapped {
        return Ok(Mapped::Range);
    }
    map_itself(uid, gid).map_err(|error| format!("nobody can be mapped into it: {error}"))?;
    Ok(Mapped::Itself)
}

/// Becomes this user of the range.
pub(super) fn become_user(number: u32, mapped: Option<Mapped>) -> Result<String, String> {
    let id = match mapped {
        Some(Mapped::Range) => number,
        Some(Mapped::Itself) => return Err("the launcher speaks for no other user".to_owned()),
        None => FIRST + number,
    };
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    setgroups(&[])
        .and_then(|()| setresgid(group, group, group))
        .and_then(|()| setresuid(user, user, user))
        .map_err(|errno| format!("the system gives no other user: {errno}"))?;
    Ok(format!("user {}, who owns nothing", FIRST + number))
}

fn leave() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWUSER)
        .map_err(|errno| format!("the system grants no user namespace: {errno}"))
}

/// Enters one, and has a child that stayed behind map the range: only from outside may that be done. False where it
/// could not.
fn enter_with_range() -> Result<bool, String> {
    let io = |error: io::Error| format!("no helper can be started: {error}");
    let (mut entered, mut say_entered) = io::pipe().map_err(io)?;
    match process::fork().map_err(io)? {
        Fork::Child => {
            drop(say_entered);
            let mapped = entered
                .read_exact(&mut [0])
                .and_then(|()| map_range(getppid()));
            process::end(match mapped {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().unwrap_or(Errno::EPERM as i32),
            })
        }
        Fork::Parent(helper) => {
            drop(entered);
            let left = leave();
            if left.is_ok() {
                // One that is gone has mapped nothing, and says so below.
                let _ = say_entered.write_all(&[1]);
            }
            drop(say_entered);
            let mapped = process::wait_for(helper);
            left.map(|()| mapped.is_ok())
        }
    }
}

fn map_range(of: Pid) -> io::Result<()> {
    let map = format!("0 {FIRST} {COUNT}");
    fs::write(format!("/proc/{of}/gid_map"), &map)?;
    fs::write(format!("/proc/{of}/uid_map"), &map)
}

/// Without this it would be nobody in there, and nobody can make a namespace inside.
fn map_itself(uid: Uid, gid: Gid) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))
}
