//! Large pages for memory that was filled once and is read ever after, such as a model's weights.
//!
//! A product with a model's weights reads all of them, and with pages of 4 KiB each needs a walk through the page tables,
//! in a virtual machine through two of them. What is collapsed reads the same, and a forked process that writes to it
//! copies 4 KiB as before. No content changes here, and where the kernel refuses nothing is lost but speed.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};

/// A large page, bytes.
pub(super) const LARGE_BYTES: usize = 2 << 20;

/// What this process has mapped, and how much of it is there. Asked of the kernel through a file that is opened before the
/// process may open none; in a forked child it would still tell of the parent.
#[derive(Debug)]
pub struct Mappings(File);

impl Mappings {
    /// Of the calling process.
    pub fn of_this_process() -> io::Result<Mappings> {
        File::open("/proc/self/smaps").map(Mappings)
    }

    /// Has the kernel move what lies in private memory by now into large pages, where a whole one fits and nearly all of the
    /// mapping is there: what is not would be from then on, and a heap that was trimmed would grow again. That takes as
    /// long as copying it. How many bytes are in large pages afterwards: 0 on kernels that cannot (before Linux 6.1).
    pub fn collapse(&mut self) -> io::Result<usize> {
        let mut text = String::new();
        self.0.rewind()?;
        self.0.read_to_string(&mut text)?;
        let ranges: Vec<Range<usize>> = full(&text).into_iter().flat_map(pages).collect();
        Ok(ranges.into_iter().filter(moved).count() * LARGE_BYTES)
    }
}

impl AsRawFd for Mappings {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The private memory that the file tells of and of which at least nine tenths are there.
fn full(smaps: &str) -> Vec<Range<usize>> {
    let (mut found, mut last) = (Vec::new(), None);
    for line in smaps.lines() {
        if let Some(range) = heap(line) {
            last = Some(range);
        } else if let Some(bytes) = resident(line) {
            let there = |range: &Range<usize>| bytes / 9 >= range.len() / 10;
            found.extend(last.take().filter(there));
        }
    }
    found
}

/// Bytes that are there, where the line says so.
fn resident(line: &str) -> Option<usize> {
    let kib = line.strip_prefix("Rss:")?.trim().strip_suffix(" kB")?;
    kib.parse().ok().map(|kib: usize| kib << 10)
}

/// Where a line of the file tells of private memory that is no file's, not a stack, and may be written.
fn heap(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (range, access, name) = (words.next()?, words.next()?, words.nth(3));
    if access != "rw-p" || !matches!(name, None | Some("[heap]")) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let number = |digits| usize::from_str_radix(digits, 16).ok();
    Some(number(start)?..number(end)?)
}

/// The large pages that lie in `range` whole.
fn pages(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let first = range.start.next_multiple_of(LARGE_BYTES);
    let fits = move |start: &usize| *start + LARGE_BYTES <= range.end;
    let starts = (first..).step_by(LARGE_BYTES).take_while(fits);
    starts.map(|start| start..start + LARGE_BYTES)
}

fn moved(page: &Range<usize>) -> bool {
    // SAFETY: changes which physical pages hold the range and nothing that anybody can read in it. Where it was unmapped
    // meanwhile, or holds nothing, the kernel says no.
    let rc = unsafe {
        libc::madvise(
            std::ptr::with_exposed_provenance_mut(page.start),
            LARGE_BYTES,
            libc::MADV_COLLAPSE,
        )
    };
    rc == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heaps_are_told_from_files_stacks_and_what_cannot_be_written() {
        let of = |line| heap(line);
        assert_eq!(of("1000-3000 rw-p 00000000 00:00 0 "), Some(0x1000..0x3000));
        assert_eq!(
            of("1000-3000 rw-p 00000000 00:00 0            [heap]"),
            Some(0x1000..0x3000)
        );
        for other in [
            "1000-3000 r--p 00000000 00:00 0 ",
            "1000-3000 rw-s 00000000 00:00 0 ",
            "1000-3000 rw-p 00000000 00:00 0            [stack]",
            "1000-3000 rw-p 00000000 fe:00 1234         /lib/libc.so.6",
            "1000 rw-p 00000000 00:00 0 ",
            "",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    /// Fails where what was never touched, or was given back, would take memory for the sake of large pages.
    #[test]
    fn only_what_is_nearly_all_there_is_moved() {
        let smaps = "1000-b000 rw-p 00000000 00:00 0 \nSize: 40 kB\nRss:                  36 kB\nVmFlags: rd wr\n\
            10000-1a000 rw-p 00000000 00:00 0            [heap]\nSize: 40 kB\nRss:                  32 kB\n\
            20000-2a000 r--p 00000000 fe:00 12         /lib/libc.so.6\nRss:                  40 kB\n";
        let [range] = full(smaps).try_into().expect("one of the three");
        assert_eq!(range, 0x1000..0xb000);
    }

    #[test]
    fn only_whole_large_pages_count() {
        let starts = |range| pages(range).map(|page| page.start).collect::<Vec<_>>();
        assert_eq!(starts(0x1ff000..0x600000), [0x200000, 0x400000]);
        assert_eq!(starts(0x200000..0x3ff000), [0; 0]);
    }

    #[test]
    fn what_is_collapsed_reads_the_same() {
        let memory: Vec<u32> = (0..4 << 20).collect();
        let bytes = Mappings::of_this_process().unwrap().collapse().unwrap();
        assert!(memory.iter().copied().eq(0..4 << 20));
        // Kernels without it say no to every page.
        assert!(bytes == 0 || bytes >= 8 << 20, "{bytes}");
    }
}
