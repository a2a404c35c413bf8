//! The real audit process, started as the launcher starts it, and a scheduler's side of its socket.
//!
//! One connection, as in service. Each appender has one record on its way at a time: when it is durable,
//! the next is sent, so that as many are outstanding as there are appenders.

use crate::Failure;
use bulkhead_proto::{
    frame,
    internal::{
        Append, AppendBatch, Durable, FromAudit, Hello, RecordKind, Seal, ToAudit,
        from_audit::Message, to_audit,
    },
};
use std::{
    collections::HashMap,
    fs::File,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Longer than any answer takes on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Tenants among which the records are divided.
const TENANTS: u64 = 16;

/// What the appenders saw.
pub struct Appended {
    /// From sending a record until it was known to be durable.
    pub latencies: Vec<Duration>,
    pub took: Duration,
}

/// A running audit process.
pub struct AuditProcess {
    child: Child,
    socket: UnixStream,
    sent: HashMap<u64, Instant>,
    next: u64,
    body: Vec<u8>,
}

impl AuditProcess {
    /// Starts one with a new log and new keys in `folder`.
    pub fn start(program: &Path, folder: &Path) -> Result<AuditProcess, Failure> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(ANSWER_MAX))?;
        ours.set_write_timeout(Some(ANSWER_MAX))?;
        let log = File::create(folder.join("audit.log"))?;
        // The shell puts the socket where the launcher puts it, and becomes the process.
        let child = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<&0 0</dev/null"#])
            .arg(program)
            .args(["serve", "--socket-fd", "3", "--dir"])
            .arg(folder.join("log"))
            .arg("--keys")
            .arg(folder.join("keys"))
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let mut audit = AuditProcess {
            child,
            socket: ours,
            sent: HashMap::new(),
            next: 1,
            body: Vec::new(),
        };
        let session = b"bulkhead-bench..".to_vec();
        audit.say(to_audit::Message::Hello(Hello { session }))?;
        match audit.hear()? {
            Message::Open(_) => Ok(audit),
            other => Err(format!("the audit process did not open its log: {other:?}").into()),
        }
    }

    /// Keeps `appenders` records on their way for as long as this lasts, then ends the process in
    /// order.
    pub fn drive(
        mut self,
        appenders: usize,
        body_bytes: usize,
        lasts: Duration,
    ) -> Result<Appended, Failure> {
        self.body = vec![b'x'; body_bytes];
        let started = Instant::now();
        let mut latencies = Vec::new();
        self.append(appenders)?;
        while !self.sent.is_empty() {
            let durable = self.durable()?;
            let now = Instant::now();
            let sent = durable.iter().filter_map(|d| self.sent.remove(&d.number));
            latencies.extend(sent.map(|sent| now - sent));
            if started.elapsed() < lasts {
                self.append(durable.len())?;
            }
        }
        let took = started.elapsed();
        self.end()?;
        Ok(Appended { latencies, took })
    }

    /// Sends so many records in one frame, as the scheduler does with all that is waiting.
    fn append(&mut self, records: usize) -> Result<(), Failure> {
        let appends = (0..records as u64).map(|n| self.record(self.next + n));
        let appends: Vec<Append> = appends.collect();
        let now = Instant::now();
        self.sent.extend(appends.iter().map(|a| (a.number, now)));
        self.next += records as u64;
        self.say(to_audit::Message::Append(AppendBatch { appends }))
    }

    /// Every odd number admits a request, the even one after it completes it.
    fn record(&self, number: u64) -> Append {
        let request = number.div_ceil(2);
        let kind = match number % 2 {
            1 => RecordKind::Admitted,
            _ => RecordKind::Completed,
        };
        Append {
            number,
            tenant: format!("tenant-{}", request % TENANTS),
            kind: kind.into(),
            request_id: format!("request-{request}"),
            body: self.body.clone(),
        }
    }

    fn durable(&mut self) -> Result<Vec<Durable>, Failure> {
        match self.hear()? {
            Message::Durable(batch) => Ok(batch.durable),
            other => Err(format!("the audit process takes no records: {other:?}").into()),
        }
    }

    fn end(mut self) -> Result<(), Failure> {
        self.say(to_audit::Message::Seal(Seal {}))?;
        match self.hear()? {
            Message::Sealed(_) => {}
            other => return Err(format!("the log was not sealed: {other:?}").into()),
        }
        self.socket.shutdown(std::net::Shutdown::Both)?;
        let status = self.child.wait()?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("the audit process did not end in order: {status}").into()),
        }
    }

    fn say(&mut self, message: to_audit::Message) -> Result<(), Failure> {
        let message = Some(message);
        Ok(frame::write(&mut self.socket, &ToAudit { message })?)
    }

    fn hear(&mut self) -> Result<Message, Failure> {
        frame::read::<FromAudit>(&mut self.socket)?
            .and_then(|answer| answer.message)
            .ok_or_else(|| "the audit process hung up".into())
    }
}

impl Drop for AuditProcess {
    fn drop(&mut self) {
        // Errors mean that it is gone already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
