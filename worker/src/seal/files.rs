//! Closing what was inherited: a descriptor that the launcher forgot is a way out.

use std::io;
use std::os::fd::RawFd;

/// Closes every descriptor but 0 to 3 (null, null, stderr, the socket) and those in `keep`.
pub fn close_all_but(keep: &[RawFd]) -> Result<String, String> {
    let mut kept: Vec<u32> = (0..4).collect();
    kept.extend(keep.iter().filter_map(|fd| u32::try_from(*fd).ok()));
    kept.sort_unstable();
    kept.dedup();
    let mut first = 0;
    for fd in kept {
        if first < fd {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX)?;
    Ok("only what was given by name is open".to_owned())
}

fn close_range(first: u32, last: u32) -> Result<(), String> {
    // SAFETY: called while the process owns no descriptor object in these ranges: it has one thread,
    // and all it has opened or been given is in `keep`.
    let rc = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if rc != 0 {
        return Err(format!("close_range: {}", io::Error::last_os_error()));
    }
    Ok(())
}
