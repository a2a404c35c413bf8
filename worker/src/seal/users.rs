//! Whose a process is: a user namespace of its own, and in it, where the launcher is root, a user that nobody else is.
//!
//! A process that is root's may have a block of users mapped into its namespace, and become one of them: a template's
//! block holds its workers too, and nobody else's. Blocks lie where systemd's table of user ids (systemd.io/UIDS-GIDS)
//! says that nothing is allocated. Any other process has itself alone mapped, and stays who it is. No user outside the
//! namespace can be become, whatever goes wrong.

use crate::process::{self, Fork};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Pid, Uid, getegid, geteuid, getppid, setgroups, setresgid, setresuid};
use std::fs;
use std::io::{self, Read, Write};

/// The first user of the first block.
const FIRST: u32 = 1_900_000_000;

/// Users of a block, as the launcher counts them (`scheduler/src/launcher/users.rs`). The first of each is nobody's: inside
/// it is root.
const BLOCK: u32 = 1 << 12;

/// Who is mapped into the namespace that this process is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapped {
    /// A block, from this user on: it may become any of it.
    Block { first: u32 },
    /// Itself alone.
    Itself,
}

/// Enters a user namespace of its own, with this block of users where it may have one.
pub(super) fn enter(block: Option<u32>) -> Result<Mapped, String> {
    let (uid, gid) = (geteuid(), getegid());
    match block.map(first_of) {
        Some(first) if enter_with(first)? => return Ok(Mapped::Block { first }),
        Some(_) => {}
        None => leave()?,
    }
    map_itself(uid, gid).map_err(|error| format!("nobody can be mapped into it: {error}"))?;
    Ok(Mapped::Itself)
}

fn first_of(block: u32) -> u32 {
    FIRST + block * BLOCK
}

/// Becomes this user of its block, the first of which `outside` is.
pub(super) fn become_user(number: u32, outside: u32, mapped: bool) -> Result<String, String> {
    if !(1..BLOCK).contains(&number) {
        return Err("the launcher named no user of its block".to_owned());
    }
    let id = if mapped { number } else { outside + number };
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    setgroups(&[])
        .and_then(|()| setresgid(group, group, group))
        .and_then(|()| setresuid(user, user, user))
        .map_err(|errno| format!("the system gives no other user: {errno}"))?;
    Ok(format!("user {}, who owns nothing", outside + number))
}

/// Before anything else: the block's first worker, or the template itself.
pub(super) fn become_first(block: u32, mapped: Option<Mapped>) -> Result<String, String> {
    match mapped {
        Some(Mapped::Block { first }) => become_user(1, first, true),
        Some(Mapped::Itself) => Err("the launcher speaks for no other user".to_owned()),
        None => become_user(1, first_of(block), false),
    }
}

fn leave() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWUSER)
        .map_err(|errno| format!("the system grants no user namespace: {errno}"))
}

/// Enters one, and has a child that stayed behind map a block: only from outside may that be done. False where it
/// could not.
fn enter_with(first: u32) -> Result<bool, String> {
    let io = |error: io::Error| format!("no helper can be started: {error}");
    let (mut entered, mut say_entered) = io::pipe().map_err(io)?;
    match process::fork().map_err(io)? {
        Fork::Child => {
            drop(say_entered);
            let mapped = entered
                .read_exact(&mut [0])
                .and_then(|()| map_block(first, getppid()));
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

fn map_block(first: u32, of: Pid) -> io::Result<()> {
    let map = format!("0 {first} {BLOCK}");
    fs::write(format!("/proc/{of}/gid_map"), &map)?;
    fs::write(format!("/proc/{of}/uid_map"), &map)
}

/// Without this it would be nobody in there, and nobody can make a namespace inside.
fn map_itself(uid: Uid, gid: Gid) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))
}
