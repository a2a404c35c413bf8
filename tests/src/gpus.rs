//! GPUs of pretend under a real server: a program in the place of the one that watches them.
//!
//! Everything behind its packets is as in life.

use nix::{sys::stat::Mode, unistd::mkfifo};
use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// The machine, and how to make things happen to it.
pub struct Gpus {
    program: PathBuf,
    pipe: File,
}

impl Gpus {
    /// A machine with two GPUs, told of by `program` (`bulkhead-fake-gpus`); its pipe lies in `dir`.
    pub fn new(dir: &Path, program: &str) -> Gpus {
        let pipe = dir.join("happenings");
        mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
        let script = dir.join("gpus");
        let text = format!("#!/bin/sh\nexec {program} {}\n", pipe.display());
        fs::write(&script, text).expect("a script");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("may be run");
        // Open on both sides, so that neither opening waits and the other never sees an end.
        let pipe = File::options().read(true).write(true).open(pipe);
        Gpus {
            program: script,
            pipe: pipe.expect("it opens"),
        }
    }

    /// The program for `Options::with_gpus`.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Makes something happen; see `FakeNvml::happen`, and `die`.
    pub fn happen(&mut self, what: &str) {
        writeln!(self.pipe, "{what}").expect("it is open");
    }
}
