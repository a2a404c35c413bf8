//! Namespaces of its own, with nothing in them: no network, no file, no other process, no shared memory, no name.
//!
//! They need CAP_SYS_ADMIN, or a kernel that lets users make user namespaces; some machines refuse both, so these
//! layers are welcome and rarely required. The filter of system calls denies in any case what they take out of sight.
//! Nothing that a process entered here can be left again: that would take a capability that it gives up next.

use super::users::{self, Mapped};
use super::{IPCNS, LayerStatus, MNTNS, NETNS, OWN_UID, PIDNS, USERNS, UTSNS};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, pivot_root};

/// What a go-between entered for the worker that it leaves behind.
#[derive(Debug)]
pub struct Apart {
    own_uid: Result<String, String>,
    pidns: Result<String, String>,
}

/// The first time: in a process that is a template's or no template's.
pub(super) fn enter(block: Option<u32>) -> (Vec<LayerStatus>, Option<Mapped>) {
    enter_with(block, leave_files)
}

/// In a worker that has a GPU to open: it needs the machine's file system for that, and no file system can be changed
/// once Landlock leaves it what it needs alone.
pub(super) fn enter_for_gpu(block: Option<u32>) -> (Vec<LayerStatus>, Option<Mapped>) {
    let kept = || Err("a GPU is opened by files of the machine; Landlock takes them".to_owned());
    enter_with(block, kept)
}

fn enter_with(
    block: Option<u32>,
    leave_files: fn() -> Result<String, String>,
) -> (Vec<LayerStatus>, Option<Mapped>) {
    let entered = users::enter(block);
    let mapped = entered.as_ref().ok().copied();
    let mut layers = vec![LayerStatus::of(
        USERNS,
        entered.map(|_| "whatever power it gained would end here".to_owned()),
    )];
    layers.extend(empty());
    layers.push(LayerStatus::of(MNTNS, leave_files()));
    let own_uid = match block {
        // Last: without a user namespace it ends what is left of root's power.
        Some(block) => users::become_first(block, mapped),
        None => Err("the launcher does not run as root".to_owned()),
    };
    layers.push(LayerStatus::of(OWN_UID, own_uid));
    let pidns = Err("only a worker that shares its weights has been forked into one".to_owned());
    layers.push(LayerStatus::of(PIDNS, pidns));
    (layers, mapped)
}

/// In a go-between, for the worker that it forks next: a user of its own where its template may give one, and then a
/// process namespace, which a process cannot enter itself.
pub fn enter_apart(user: Option<u32>, mapped: Option<Mapped>) -> Apart {
    let own_uid = match (user, mapped) {
        (Some(number), Some(Mapped::Block { first })) => users::become_user(number, first, true),
        _ => Err("its template may not become another user".to_owned()),
    };
    let pidns = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID)
        .map(|()| "no process is in sight but itself".to_owned())
        .map_err(|errno| format!("the system grants no process namespace: {errno}"));
    Apart { own_uid, pidns }
}

/// In a worker that a template's go-between left behind.
pub(super) fn enter_again(apart: Apart) -> Vec<LayerStatus> {
    // Inside that of its process namespace it has what it takes.
    let userns = match &apart.pidns {
        Ok(_) => Ok("whatever power it gained would end here".to_owned()),
        Err(_) => Err("as its template's".to_owned()),
    };
    let mut layers = vec![LayerStatus::of(USERNS, userns)];
    layers.extend(empty());
    let files = Err("no file system can be changed after Landlock".to_owned());
    layers.push(LayerStatus::of(MNTNS, files));
    layers.push(LayerStatus::of(OWN_UID, apart.own_uid));
    layers.push(LayerStatus::of(PIDNS, apart.pidns));
    layers
}

/// Those that are empty when they are made.
fn empty() -> [LayerStatus; 3] {
    [
        (
            NETNS,
            CloneFlags::CLONE_NEWNET,
            "an empty network namespace",
        ),
        (
            IPCNS,
            CloneFlags::CLONE_NEWIPC,
            "no shared memory, semaphore or queue is in sight",
        ),
        (
            UTSNS,
            CloneFlags::CLONE_NEWUTS,
            "the host's name cannot be changed",
        ),
    ]
    .map(|(name, flag, what)| {
        let entered = unshare(flag)
            .map(|()| what.to_owned())
            .map_err(|errno| format!("the system grants no such namespace: {errno}"));
        LayerStatus::of(name, entered)
    })
}

/// Puts an empty file system that takes nothing in the place of the machine's.
fn leave_files() -> Result<String, String> {
    // Any folder that every machine has will do: the place is gone with the rest.
    const PLACE: &str = "/proc";
    let nothing = None::<&str>;
    let kept_empty =
        MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    unshare(CloneFlags::CLONE_NEWNS)
        // What is done here shows nowhere else.
        .and_then(|()| {
            mount(
                nothing,
                "/",
                nothing,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                nothing,
            )
        })
        .and_then(|()| mount(nothing, PLACE, Some("tmpfs"), kept_empty, Some("size=4k")))
        .and_then(|()| chdir(PLACE))
        // The old root is stacked over the new one, and taken off.
        .and_then(|()| pivot_root(".", "."))
        .and_then(|()| umount2(".", MntFlags::MNT_DETACH))
        .and_then(|()| chdir("/"))
        .map_err(|errno| format!("the system grants no mount namespace: {errno}"))?;
    Ok("an empty file system, which takes nothing".to_owned())
}
