//! What workers, and processes that hold models, say on standard error: each has a pipe to the launcher, which passes
//! lines on under the model's name, and no more than so many.
//!
//! Whoever took one over can so neither fill the log nor write lines that look like the server's. Nobody waits for
//! anybody: what does not fit into a pipe is lost where it was said. Nothing is decided by what is heard. Time comes as
//! an argument.

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{pipe2, read},
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// Lines of one pipe that are passed on in each window; whoever ends says why in one.
const LINES_MAX: u32 = 32;
/// Bytes of one pipe that are read in each window.
const BYTES_MAX: usize = 16 << 10;
const WINDOW: Duration = Duration::from_secs(10);
/// Bytes of a line that are passed on.
const LINE_BYTES_MAX: usize = 512;
/// Bytes that are read from one pipe in one turn.
const READ_BYTES: usize = 4096;

/// All pipes.
#[derive(Default)]
pub struct Words {
    voices: Vec<Voice>,
}

/// One pipe, which those share that were forked from one process.
struct Voice {
    model: String,
    pipe: OwnedFd,
    lines: Lines,
}

impl Words {
    /// A new pipe, and its end for a process to write to.
    pub fn open(&mut self, model: &str) -> io::Result<OwnedFd> {
        let (pipe, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        for end in [&pipe, &theirs] {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        self.voices.push(Voice {
            model: model.to_owned(),
            pipe,
            lines: Lines::default(),
        });
        Ok(theirs)
    }

    /// The pipes to wait on: those that may be heard now.
    pub fn readable(&self, now: Instant) -> impl Iterator<Item = BorrowedFd<'_>> {
        let heard = self
            .voices
            .iter()
            .filter(move |voice| voice.lines.until(now).is_none());
        heard.map(|voice| voice.pipe.as_fd())
    }

    /// When one of the others may be heard again.
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        self.voices
            .iter()
            .filter_map(|voice| voice.lines.until(now))
            .min()
    }

    /// Passes on what was said, and lets go of pipes that nobody holds any more.
    pub fn listen(&mut self, now: Instant) {
        self.voices.retain_mut(|voice| {
            let Voice { model, pipe, lines } = voice;
            let mut tell =
                |line: &str| tracing::warn!(model, "a process of this model says: {line}");
            if lines.until(now).is_some() {
                // What nobody holds any more is not kept for what it still has to say.
                return !is_hung_up(pipe);
            }
            let mut bytes = [0; READ_BYTES];
            match read(&*pipe, &mut bytes) {
                Ok(0) => {
                    lines.end(&mut tell);
                    false
                }
                Ok(count) => {
                    lines.take(&bytes[..count], now, &mut tell);
                    true
                }
                Err(Errno::EAGAIN | Errno::EINTR) => true,
                Err(_) => false,
            }
        });
    }
}

/// Makes lines of bytes, and counts them.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    window: Option<Instant>,
    told: u32,
    bytes: usize,
}

impl Lines {
    /// Until when nothing more is passed on, if that is so.
    fn until(&self, now: Instant) -> Option<Instant> {
        let end = self.window? + WINDOW;
        let too_much = self.told >= LINES_MAX || self.bytes >= BYTES_MAX;
        (too_much && now < end).then_some(end)
    }

    /// Passes on whole lines. Those beyond what a window has are lost, which the last of it says.
    fn take(&mut self, bytes: &[u8], now: Instant, tell: &mut impl FnMut(&str)) {
        if self.window.is_none_or(|window| now >= window + WINDOW) {
            (self.window, self.told, self.bytes) = (Some(now), 0, 0);
        }
        self.bytes += bytes.len();
        for &byte in bytes {
            match byte {
                b'\n' => self.pass_on(tell),
                _ if self.line.len() < LINE_BYTES_MAX => self.line.push(byte),
                _ => {}
            }
        }
    }

    fn pass_on(&mut self, tell: &mut impl FnMut(&str)) {
        let line = std::mem::take(&mut self.line);
        self.told += 1;
        match self.told {
            ..LINES_MAX => tell(&readable(&line)),
            LINES_MAX => tell("more than is passed on: it is not heard for some seconds"),
            _ => {}
        }
    }

    /// Passes on what was begun.
    fn end(&mut self, tell: &mut impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.pass_on(tell);
        }
    }
}

/// True where nobody holds the other end any more.
fn is_hung_up(pipe: &OwnedFd) -> bool {
    let mut watched = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
    let found = poll(&mut watched, PollTimeout::ZERO);
    let hung_up = |events: PollFlags| events.contains(PollFlags::POLLHUP);
    found.is_ok() && watched[0].revents().is_some_and(hung_up)
}

/// A line without anything that would move a terminal's cursor or end the line.
fn readable(line: &[u8]) -> String {
    String::from_utf8_lossy(line).escape_debug().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, io::Write};

    fn heard(lines: &mut Lines, bytes: &[u8], now: Instant) -> Vec<String> {
        let mut heard = Vec::new();
        lines.take(bytes, now, &mut |line| heard.push(line.to_owned()));
        heard
    }

    #[test]
    fn lines_come_whole_bounded_and_without_what_moves_a_cursor() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        assert!(heard(&mut lines, b"half a ", now).is_empty());
        assert_eq!(heard(&mut lines, b"line\nmore", now), ["half a line"]);
        let said = heard(&mut lines, b"\x1b[2J\rINFO all is well\xFF\n", now);
        assert_eq!(said, ["more\\u{1b}[2J\\rINFO all is well\u{fffd}"]);
        let long = [b"x".repeat(1 << 16), b"\n".to_vec()].concat();
        assert_eq!(heard(&mut lines, &long, now), ["x".repeat(LINE_BYTES_MAX)]);
    }

    #[test]
    fn who_says_too_much_is_not_heard_until_the_window_is_over() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        let said = heard(&mut lines, &b"x\n".repeat(1000), now);
        assert_eq!(said.len(), LINES_MAX as usize);
        assert!(said[said.len() - 1].contains("not heard"));
        let end = lines.until(now).expect("it is bounded");
        assert_eq!(end, now + WINDOW);
        assert_eq!(lines.until(end), None);
        assert_eq!(heard(&mut lines, b"y\n", end), ["y"]);
    }

    #[test]
    fn nobody_waits_and_a_pipe_goes_with_the_last_who_holds_it() {
        let (mut words, now) = (Words::default(), Instant::now());
        let mut theirs = File::from(words.open("m").expect("a pipe"));
        let full = loop {
            if let Err(error) = theirs.write_all(&[b'\n'; 4096]) {
                break error.kind();
            }
        };
        assert_eq!(full, io::ErrorKind::WouldBlock);
        assert_eq!(words.readable(now).count(), 1);
        words.listen(now);
        assert_eq!(
            (words.readable(now).count(), words.wake_at(now)),
            (0, Some(now + WINDOW))
        );
        // Whatever it still has to say.
        drop(theirs);
        words.listen(now);
        assert!(words.voices.is_empty());
    }

    #[test]
    fn who_never_ends_a_line_is_not_heard_without_end() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        assert!(heard(&mut lines, &vec![b'x'; BYTES_MAX], now).is_empty());
        assert_eq!(lines.until(now), Some(now + WINDOW));
    }
}
