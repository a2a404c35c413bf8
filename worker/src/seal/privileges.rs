//! Privileges: none to gain, none to keep, and nobody to read this process's memory.

use nix::sys::prctl;
use std::io;

pub(super) fn no_new_privs() -> Result<String, String> {
    prctl::set_no_new_privs().map_err(|error| error.to_string())?;
    Ok("set for this process and its threads".to_owned())
}

/// Non-dumpable: no core file, and `/proc/PID/mem` and ptrace only for who holds CAP_SYS_PTRACE.
/// After everything that changes credentials, since the kernel then sets the flag anew.
pub(super) fn non_dumpable() -> Result<String, String> {
    prctl::set_dumpable(false).map_err(|error| error.to_string())?;
    Ok("no core dump, no ptrace by the same user".to_owned())
}

/// The header of `capset`, in the form of version 3.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// One half (32 bits) of each of the three sets.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

/// CAP_SETGID and CAP_SETUID.
pub(super) const BECOMING_ANOTHER: u32 = 1 << 6 | 1 << 7;

/// Empties all capability sets but for these. Even uid 0 is then subject to ownership and modes.
pub(super) fn drop_capabilities(but: u32) -> Result<String, String> {
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let kept = Sets {
        effective: but,
        permitted: but,
        inheritable: 0,
    };
    let sets = [kept, Sets::default()];
    // SAFETY: version 3 reads one header and two halves of sets, which is what these are; it writes
    // to neither when the version is known.
    let rc = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    if rc != 0 {
        return Err(format!("capset: {}", io::Error::last_os_error()));
    }
    Ok("all sets are empty".to_owned())
}
