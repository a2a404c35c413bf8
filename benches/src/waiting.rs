//! How long this process's threads were ready to run and had no processor: time that other programs
//! took, and that no planning of our own can give back.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};

/// The threads that there were at the beginning.
#[derive(Debug)]
pub struct Waiting {
    /// The kernel's figures of each thread, kept open.
    threads: Vec<File>,
}

impl Waiting {
    /// Of all threads that there are now. An error where the kernel keeps no such figures.
    pub fn of_all_threads() -> io::Result<Waiting> {
        let threads = fs::read_dir("/proc/self/task")?
            .map(|thread| File::open(thread?.path().join("schedstat")))
            .collect::<io::Result<_>>()?;
        Ok(Waiting { threads })
    }

    /// So far, nanoseconds, all threads together.
    pub fn total_ns(&mut self) -> u64 {
        self.threads.iter_mut().filter_map(waited_ns).sum()
    }
}

/// The second of a thread's three numbers; `None` once the thread is gone.
fn waited_ns(thread: &mut File) -> Option<u64> {
    let mut text = String::new();
    thread.rewind().ok()?;
    thread.read_to_string(&mut text).ok()?;
    text.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_runs_has_figures_that_never_fall() {
        let mut waiting = Waiting::of_all_threads().expect("the kernel keeps them");
        assert!(!waiting.threads.is_empty());
        let before = waiting.total_ns();
        assert!(waiting.total_ns() >= before);
    }
}
