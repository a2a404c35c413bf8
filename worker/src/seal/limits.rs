//! Resource limits: what the kernel refuses even where a filter would let the call pass.
//!
//! Most are applied with the lock and not before, since loading still needs descriptors and threads. How much memory
//! it may have is the launcher's to say, which sets that from outside.

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

/// Descriptors 0 to 3 exist; none may follow.
const DESCRIPTORS_MAX: u64 = 4;

/// The kernel's strongest preference.
const OOM_SCORE_ADJ_MAX: &str = "1000";

/// Soft and hard limits alike, so that they cannot be raised again. Memory locking stays as it was:
/// a tenant's pool is kept out of swap with it.
const LIMITS: [(Resource, u64); 6] = [
    (Resource::RLIMIT_CORE, 0),
    (Resource::RLIMIT_FSIZE, 0),
    (Resource::RLIMIT_NPROC, 0),
    (Resource::RLIMIT_NOFILE, DESCRIPTORS_MAX),
    (Resource::RLIMIT_MSGQUEUE, 0),
    (Resource::RLIMIT_RTPRIO, 0),
];

/// Has the kernel end this process, and those forked from it, before others where memory runs out.
pub(super) fn end_first() -> Result<String, String> {
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ_MAX)
        .map_err(|error| format!("oom_score_adj: {error}"))?;
    Ok("it ends before others where memory runs out".to_owned())
}

pub(super) fn lock() -> Result<String, String> {
    // Where stderr is a file, a last message must fail to be written, not kill before it is known.
    // SAFETY: ignoring a signal installs no handler, so no code runs in a signal's context.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.map_err(|error| error.to_string())?;
    for (resource, value) in LIMITS {
        setrlimit(resource, value, value).map_err(|error| format!("{resource:?}: {error}"))?;
    }
    Ok("no core, no file, no process, no further descriptor".to_owned())
}
