//! The real `bulkhead-audit`, started as the launcher starts it, and a scheduler's side to talk to it.

use bulkhead_audit::journal::SEGMENT_BYTES_MIN;
use bulkhead_audit::note::VerifierKey;
use bulkhead_audit::read::{Filter, Record, records};
use bulkhead_audit::verify::{Report, verify};
use bulkhead_proto::frame;
use bulkhead_proto::internal::{
    Append, AppendBatch, FromAudit, Hello, Open, RecordKind, Seal, ToAudit, from_audit::Message,
    to_audit,
};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Longer than any answer takes on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(60);

pub const BINARY: &str = env!("CARGO_BIN_EXE_bulkhead-audit");

pub struct Home {
    _folder: Option<TempDir>,
    pub log: PathBuf,
    pub keys: PathBuf,
}

impl Home {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (log, keys) = (folder.path().join("log"), folder.path().join("keys"));
        Home {
            _folder: Some(folder),
            log,
            keys,
        }
    }

    /// A home whose log is on a disk of its own.
    pub fn at(log: &Path, keys: &Path) -> Self {
        Home {
            _folder: None,
            log: log.to_owned(),
            keys: keys.to_owned(),
        }
    }

    pub fn start(&self, extra: &[&str]) -> Audit {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(ANSWER_MAX)).unwrap();
        // The shell puts the socket where the launcher puts it, and becomes the process.
        let child = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<&0 0</dev/null"#, BINARY, "serve"])
            .arg("--dir")
            .arg(&self.log)
            .arg("--keys")
            .arg(&self.keys)
            .args([
                "--socket-fd",
                "3",
                "--segment-bytes",
                &SEGMENT_BYTES_MIN.to_string(),
            ])
            .args(extra)
            .stdin(OwnedFd::from(theirs))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Audit {
            child,
            socket: ours,
        }
    }

    pub fn key(&self) -> VerifierKey {
        VerifierKey::parse(&fs::read_to_string(self.log.join("public.key")).unwrap()).unwrap()
    }

    pub fn verify(&self) -> Report {
        verify(&self.log, &self.key(), &[]).unwrap()
    }

    /// The records that a session sent, by their numbers; no number is there twice.
    pub fn recorded(&self, session: &[u8]) -> BTreeMap<u64, Record> {
        let mut found = BTreeMap::new();
        for record in records(&self.log, &self.keys, Filter::default()).unwrap() {
            let record = record.unwrap();
            if record.session == session && record.number > 0 {
                let number = record.number;
                assert!(
                    found.insert(number, record).is_none(),
                    "{number} is recorded twice"
                );
            }
        }
        found
    }
}

pub struct Audit {
    pub child: Child,
    pub socket: UnixStream,
}

impl Audit {
    pub fn say(&mut self, message: to_audit::Message) {
        self.try_say(message).unwrap();
    }

    pub fn try_say(&mut self, message: to_audit::Message) -> std::io::Result<()> {
        frame::write(
            &mut self.socket,
            &ToAudit {
                message: Some(message),
            },
        )
    }

    /// The next answer; `None` when the process is gone.
    pub fn hear(&mut self) -> Option<Message> {
        hear(&mut self.socket)
    }

    pub fn hello(&mut self, session: &[u8]) -> Open {
        self.say(to_audit::Message::Hello(Hello {
            session: session.to_vec(),
        }));
        match self.hear() {
            Some(Message::Open(open)) => open,
            other => panic!("no Open but {other:?}"),
        }
    }

    pub fn append(&mut self, appends: Vec<Append>) {
        self.say(to_audit::Message::Append(AppendBatch { appends }));
    }

    pub fn seal(&mut self) {
        self.say(to_audit::Message::Seal(Seal {}));
    }

    /// Hangs up and waits for the end.
    pub fn hang_up(self) -> (ExitStatus, String) {
        let Audit { child, socket } = self;
        drop(socket);
        let output = child.wait_with_output().unwrap();
        (
            output.status,
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    /// Waits for the end while the connection stays open.
    pub fn wait(self) -> (ExitStatus, String) {
        let Audit { child, socket } = self;
        let output = child.wait_with_output().unwrap();
        drop(socket);
        (
            output.status,
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }
}

fn hear(socket: &mut UnixStream) -> Option<Message> {
    match frame::read::<FromAudit>(socket) {
        Ok(Some(message)) => message.message,
        // A killed process ends the stream, or resets it where it left something unread.
        Ok(None) => None,
        Err(frame::FrameError::Io(e)) if e.kind() != std::io::ErrorKind::WouldBlock => None,
        Err(e) => panic!("the audit process does not answer: {e}"),
    }
}

/// Every odd number admits a request, the even one after it completes it.
pub fn record(number: u64, body: Vec<u8>) -> Append {
    let kind = if number % 2 == 1 {
        RecordKind::Admitted
    } else {
        RecordKind::Completed
    };
    let request = number.div_ceil(2);
    let tenant = if request.is_multiple_of(3) {
        "globex"
    } else {
        "acme"
    };
    Append {
        number,
        tenant: tenant.into(),
        kind: kind.into(),
        request_id: format!("req-{request}"),
        body,
    }
}

/// A scheduler that sends records until all are durable, whatever happens in between.
pub struct Sender {
    pub acknowledged: BTreeMap<u64, u64>,
    pub refusals: u64,
    total: u64,
    body_bytes: usize,
}

impl Sender {
    pub fn new(total: u64, body_bytes: usize) -> Self {
        Sender {
            acknowledged: BTreeMap::new(),
            refusals: 0,
            total,
            body_bytes,
        }
    }

    /// Sends what follows `last`, as fast as the answers come, until all is durable. Called when the
    /// log says that it takes nothing: `on_refusal`.
    pub fn drive(&mut self, audit: &mut Audit, last: u64, mut on_refusal: impl FnMut()) {
        self.send_from(audit, last + 1);
        while self.acknowledged.len() < self.total as usize {
            match audit.hear().expect("the audit process lives") {
                Message::Durable(batch) => self.acknowledge(batch.durable),
                Message::Unavailable(unavailable) => {
                    assert!(!unavailable.reason.is_empty());
                    self.refusals += 1;
                    on_refusal();
                }
                Message::Open(open) => {
                    self.check_last(open.last_number);
                    self.send_from(audit, open.last_number + 1);
                }
                Message::Sealed(_) => panic!("nobody asked for a seal"),
            }
        }
    }

    /// Nothing that was acknowledged is unknown to the log.
    pub fn check_last(&self, last: u64) {
        let acknowledged = self
            .acknowledged
            .last_key_value()
            .map_or(0, |(number, _)| *number);
        assert!(
            last >= acknowledged,
            "{acknowledged} was acknowledged, the log knows {last}"
        );
    }

    /// Numbers that no answer has come for.
    pub fn waiting(&self) -> Vec<u64> {
        (1..=self.total)
            .filter(|number| !self.acknowledged.contains_key(number))
            .collect()
    }

    /// Takes the next answer; `None` when the process is gone.
    pub fn hear_durable(&mut self, socket: &mut UnixStream) -> Option<()> {
        match hear(socket)? {
            Message::Durable(batch) => self.acknowledge(batch.durable),
            other => panic!("{other:?}"),
        }
        Some(())
    }

    fn acknowledge(&mut self, durable: Vec<bulkhead_proto::internal::Durable>) {
        for durable in durable {
            let before = self.acknowledged.insert(durable.number, durable.position);
            assert!(before.is_none_or(|position| position == durable.position));
        }
    }

    fn send_from(&self, audit: &mut Audit, first: u64) {
        for number in first..=self.total {
            audit.append(vec![record(number, vec![b'x'; self.body_bytes])]);
        }
    }
}
