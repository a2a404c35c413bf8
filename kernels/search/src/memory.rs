//! The memory of another process, through `/proc/PID/mem`. It is read while that process goes on.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
};

/// Hands every readable piece of a process's memory to `look`, piece by piece with `overlap` bytes
/// of the piece before at its front, so that nothing is missed at a border. An error where the process is gone or may not
/// be read.
pub fn read_memory(pid: i32, overlap: usize, mut look: impl FnMut(&[u8])) -> io::Result<()> {
    const PIECE: usize = 4 << 20;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut piece = vec![0u8; PIECE + overlap];
    for (from, to) in maps.lines().filter_map(readable) {
        let (mut at, mut kept) = (from, 0);
        while at < to {
            let wanted = PIECE.min((to - at) as usize);
            match memory.read_at(&mut piece[kept..kept + wanted], at) {
                // Gone since the maps were read, or not memory.
                Ok(0) | Err(_) => break,
                Ok(got) => {
                    let end = kept + got;
                    look(&piece[..end]);
                    kept = overlap.min(end);
                    piece.copy_within(end - kept..end, 0);
                    at += got as u64;
                }
            }
        }
    }
    Ok(())
}

/// The borders of a mapping that holds memory and can be read: where it starts, and where what follows it starts. `line`
/// is of `/proc/PID/maps`.
pub fn readable(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_whitespace();
    let (range, rights) = (fields.next()?, fields.next()?);
    let name = fields.nth(3).unwrap_or("");
    if !rights.starts_with('r') || name.starts_with("[v") {
        return None;
    }
    let (from, to) = range.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    Some((hex(from)?, hex(to)?))
}
