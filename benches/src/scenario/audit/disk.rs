//! The disk alone: what a durable write of one record costs before any log does anything.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

/// The file is written full once, as the log's journal is, so that no fdatasync has to grow it.
const FILE_BYTES: usize = 16 << 20;

/// Writes `bytes` and waits for the disk, over and over. Returns how long each took.
pub fn fdatasync_loop(folder: &Path, bytes: usize, lasts: Duration) -> io::Result<Vec<Duration>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(folder.join("bare"))?;
    file.write_all_at(&vec![0; FILE_BYTES], 0)?;
    file.sync_all()?;
    let record = vec![1u8; bytes];
    let (started, mut took) = (Instant::now(), Vec::new());
    let mut offset = 0;
    while started.elapsed() < lasts {
        let before = Instant::now();
        file.write_all_at(&record, offset as u64)?;
        file.sync_data()?;
        took.push(before.elapsed());
        offset = (offset + bytes) % (FILE_BYTES - bytes);
    }
    Ok(took)
}
