//! A real worker process on the other end of a real socket pair, as the launcher would start it.
#![allow(dead_code)] // Each test binary uses its own part.

pub mod template;

use bulkhead_proto::frame;
use bulkhead_proto::internal::to_worker::Message as To;
use bulkhead_proto::internal::{
    Assign, FromWorker, GenerateJob, Grant, Load, ModelFile, Ready, Released, Step, ToWorker, Work,
    WorkItem, Yield, from_worker::Message as From, work_item::Job,
};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How long a test waits for a frame before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A started worker; killed when the test is done with it.
pub struct Worker {
    pub child: Child,
    pub socket: UnixStream,
}

/// What a null model needs, zeroing on, no layer required.
pub fn null_load() -> Load {
    Load {
        model: "null".to_owned(),
        format: "null".to_owned(),
        threads: 1,
        null_ns_per_token: 1_000_000,
        ..Load::default()
    }
}

/// A file's entry for a load, and the open file behind it. `fd` is where the worker will find it.
pub fn model_file(name: &str, content: &[u8], sha256: &str, fd: RawFd) -> (ModelFile, File) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.rewind().unwrap();
    (
        ModelFile {
            name: name.to_owned(),
            fd,
            sha256: sha256.to_owned(),
        },
        file,
    )
}

/// Starts the binary with this at descriptor 3 and `files` from 4 on.
pub fn start(args: &[&str], theirs: OwnedFd, files: &[File], stderr: Stdio) -> Child {
    let mut inherited = vec![theirs.as_raw_fd()];
    inherited.extend(files.iter().map(AsRawFd::as_raw_fd));
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead-worker"));
    command
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr);
    // SAFETY: between fork and exec only fcntl and dup2 are called, which are async-signal-safe,
    // on memory that was allocated before the fork.
    unsafe {
        command.pre_exec(move || {
            // Out of the way first, so that no target is still a source.
            for fd in &mut inherited {
                *fd = checked(libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, 100))?;
            }
            for (target, fd) in (3..).zip(&inherited) {
                checked(libc::dup2(*fd, target))?;
            }
            Ok(())
        })
    };
    command.spawn().unwrap()
}

impl Worker {
    /// Starts the binary with the socket at descriptor 3 and `files` from 4 on.
    pub fn spawn(files: &[File]) -> Worker {
        Worker::spawn_speaking_to(Stdio::inherit(), files)
    }

    /// As [`Worker::spawn`], with this as its stderr.
    pub fn spawn_speaking_to(stderr: Stdio, files: &[File]) -> Worker {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        Worker {
            child: start(&[], theirs.into(), files, stderr),
            socket: ours,
        }
    }

    /// Starts and loads; what the worker answers is for the caller.
    pub fn load(load: Load, files: &[File]) -> Worker {
        let mut worker = Worker::spawn(files);
        worker.send(To::Load(load));
        worker
    }

    /// A null worker that is ready and assigned.
    pub fn assigned(load: Load) -> (Worker, Ready) {
        Worker::assigned_with(load, &[])
    }

    /// A worker with a model of those files, ready and assigned.
    pub fn assigned_with(load: Load, files: &[File]) -> (Worker, Ready) {
        let mut worker = Worker::load(load, files);
        let ready = match worker.receive() {
            Some(From::Ready(ready)) => ready,
            other => panic!("not ready: {other:?}"),
        };
        worker.send(To::Assign(Assign {
            tenant: "acme".to_owned(),
            quota_bytes: 64 << 20,
            region: "local".to_owned(),
            step_limit_ns: 25_000_000,
            ..Assign::default()
        }));
        (worker, ready)
    }

    pub fn send(&mut self, message: To) {
        frame::write(
            &mut self.socket,
            &ToWorker {
                message: Some(message),
            },
        )
        .unwrap();
    }

    pub fn grant(&mut self, lease: u64) {
        self.send(To::Grant(Grant { lease }));
    }

    pub fn yield_(&mut self, lease: u64) {
        self.send(To::Yield(Yield { lease }));
    }

    pub fn generate(&mut self, request: u64, prompt: &str, max_tokens: u32) {
        let job = GenerateJob {
            prompt: prompt.to_owned(),
            max_tokens,
            ..GenerateJob::default()
        };
        let items = vec![WorkItem {
            request,
            job: Some(Job::Generate(job)),
            ..WorkItem::default()
        }];
        self.send(To::Work(Work { items }));
    }

    /// The next message; none at the end of the connection.
    pub fn receive(&mut self) -> Option<From> {
        let frame = frame::read::<FromWorker>(&mut self.socket).expect("a frame in time");
        frame.map(|frame| frame.message.expect("a known kind"))
    }

    /// All steps up to the release of the lease.
    pub fn until_released(&mut self) -> (Vec<Step>, Released) {
        until_released(|| self.receive())
    }

    /// True when the worker says nothing for this long.
    pub fn is_silent_for(&mut self, span: Duration) -> bool {
        self.socket.set_read_timeout(Some(span)).unwrap();
        let silent = self.socket.read(&mut [0]).is_err();
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }

    /// Waits for the end of the process, whatever it still says.
    pub fn end(mut self) -> ExitStatus {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = self.socket.read_to_end(&mut rest);
        self.child.wait().unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All steps up to the release of the lease, which may come with the last of them.
pub fn until_released(mut receive: impl FnMut() -> Option<From>) -> (Vec<Step>, Released) {
    let mut steps = Vec::new();
    loop {
        match receive() {
            Some(From::Step(mut step)) => {
                let released = step.released.take();
                steps.push(step);
                if let Some(released) = released {
                    return (steps, released);
                }
            }
            Some(From::Released(released)) => return (steps, released),
            other => panic!("neither a step nor a release: {other:?}"),
        }
    }
}

fn checked(result: libc::c_int) -> std::io::Result<libc::c_int> {
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
