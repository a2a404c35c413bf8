//! A network namespace of its own, with nothing in it, not even a loopback that is up.
//!
//! Needs CAP_SYS_ADMIN, or a kernel that lets users make user namespaces; many machines refuse both, so
//! this layer is welcome and rarely required. Seccomp denies sockets in any case.

use nix::sched::{CloneFlags, unshare};

pub(super) fn leave_network() -> Result<String, String> {
    if unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        return Ok("an empty network namespace".to_owned());
    }
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .map(|()| "an empty network namespace, in a user namespace".to_owned())
        .map_err(|error| format!("the system grants no namespace: {error}"))
}
