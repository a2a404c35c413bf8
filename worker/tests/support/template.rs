//! A real template, with the test in the launcher's place: it adopts what go-betweens leave behind.

use super::start;
use bulkhead_proto::frame;
use bulkhead_proto::internal::to_worker::Message as To;
use bulkhead_proto::internal::{
    Assign, Fork, FromTemplate, FromWorker, Load, Loaded, Ready, ToTemplate, ToWorker,
    from_template::Message as Told, from_worker::Message as From, to_template::Message as Ask,
};
use bulkhead_proto::packet::{self, Packet};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

/// How long a test waits for a frame before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A template; killed when the test is done with it.
pub struct Template {
    pub child: Child,
    pub control: OwnedFd,
}

/// A worker that a template forked; killed when the test is done with it.
pub struct Forked {
    pub pid: Pid,
    pub socket: UnixStream,
}

impl Template {
    /// Starts one and tells it to load.
    pub fn load(load: Load, files: &[File]) -> Template {
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let (control, theirs) = packet::pair().unwrap();
        packet::name_senders(control.as_fd()).unwrap();
        let child = start(&["--template"], theirs, files, Stdio::inherit());
        let template = Template { child, control };
        template.ask(Ask::Load(load), None);
        template
    }

    /// Starts one and waits until it has loaded.
    pub fn loaded(load: Load, files: &[File]) -> (Template, Loaded) {
        let template = Template::load(load, files);
        match template.hear() {
            Some((Told::Loaded(loaded), _)) => (template, loaded),
            other => panic!("not loaded: {other:?}"),
        }
    }

    /// Sends a packet.
    pub fn ask(&self, ask: Ask, pass: Option<&UnixStream>) {
        let message = ToTemplate { message: Some(ask) };
        packet::send(self.control.as_fd(), &message, pass.map(AsFd::as_fd)).unwrap();
    }

    /// What it says next, and who says it; none once it has hung up. How far it has come with loading is
    /// passed over.
    pub fn hear(&self) -> Option<(Told, Option<i32>)> {
        loop {
            let packet = packet::recv_packet::<FromTemplate>(self.control.as_fd()).unwrap();
            let Packet {
                message, sender, ..
            } = packet?;
            match message.message.unwrap() {
                Told::Progress(_) => {}
                told => return Some((told, sender)),
            }
        }
    }

    /// Has it fork a worker.
    pub fn fork(&self) -> Forked {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        self.ask(Ask::Fork(Fork::default()), Some(&theirs));
        drop(theirs);
        match self.hear() {
            Some((Told::Forked(_), Some(pid))) => Forked {
                pid: Pid::from_raw(pid),
                socket: ours,
            },
            other => panic!("not forked: {other:?}"),
        }
    }

    /// Waits for its end.
    pub fn end(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Forked {
    /// Waits until it is ready.
    pub fn ready(&mut self) -> Ready {
        match self.receive() {
            Some(From::Ready(ready)) => ready,
            other => panic!("not ready: {other:?}"),
        }
    }

    /// Assigns it to a tenant.
    pub fn assign(&mut self, tenant: &str) {
        self.send(To::Assign(Assign {
            tenant: tenant.to_owned(),
            quota_bytes: 64 << 20,
            region: "local".to_owned(),
            step_limit_ns: 25_000_000,
            ..Assign::default()
        }));
    }

    pub fn send(&mut self, message: To) {
        let message = Some(message);
        frame::write(&mut self.socket, &ToWorker { message }).unwrap();
    }

    /// The next message; none at the end of the connection.
    pub fn receive(&mut self) -> Option<From> {
        let frame = frame::read::<FromWorker>(&mut self.socket).expect("a frame in time");
        frame.map(|frame| frame.message.expect("a known kind"))
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}
