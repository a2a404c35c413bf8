//! The real audit process, started as the launcher starts it, and a scheduler's side of its socket.
//!
//! One connection, as in service. `saturate` keeps so many records on their way, the next leaving when one
//! is durable: that shows how many a second are possible, and its latencies are only their number over
//! that rate. `paced` sends on a fixed schedule and counts from the time that it named: that shows what a
//! request waits.

use crate::Failure;
use bulkhead_proto::{
    frame,
    internal::{
        Append, AppendBatch, Durable, FromAudit, Hello, RecordKind, Seal, ToAudit,
        from_audit::Message, to_audit,
    },
};
use std::{
    fs::File,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Longer than any answer takes on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Tenants among which the records are divided.
const TENANTS: u64 = 16;

/// A running audit process.
pub struct AuditProcess {
    child: Child,
    socket: UnixStream,
    /// The number of the next record.
    next: u64,
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
            next: 1,
        };
        let session = b"bulkhead-bench..".to_vec();
        audit.say(to_audit::Message::Hello(Hello { session }))?;
        match hear(&mut audit.socket)? {
            Message::Open(_) => Ok(audit),
            other => Err(format!("the audit process did not open its log: {other:?}").into()),
        }
    }

    /// Keeps `appenders` records of `body_bytes` on their way for as long as this lasts. Returns how
    /// many became durable in a second.
    pub fn saturate(
        &mut self,
        appenders: u64,
        body_bytes: usize,
        lasts: Duration,
    ) -> Result<f64, Failure> {
        let (started, mut done, mut outstanding) = (Instant::now(), 0, appenders);
        self.append(appenders, body_bytes)?;
        while outstanding > 0 {
            let durable = durable(&mut self.socket)?.len() as u64;
            done += durable;
            outstanding -= durable;
            if started.elapsed() < lasts {
                self.append(durable, body_bytes)?;
                outstanding += durable;
            }
        }
        Ok(done as f64 / started.elapsed().as_secs_f64())
    }

    /// Sends one record each `every`, whether earlier ones are durable or not, for as long as this
    /// lasts. Returns how long each waited, from the time at which it was due.
    pub fn paced(
        &mut self,
        every: Duration,
        body_bytes: usize,
        lasts: Duration,
    ) -> Result<Vec<Duration>, Failure> {
        let mut answers = self.socket.try_clone()?;
        let (start, first) = (Instant::now(), self.next);
        let count = (lasts.as_nanos() / every.as_nanos()) as u64;
        let due = move |index: u64| start + every * index as u32;
        let waiting = thread::spawn(move || -> Result<Vec<Duration>, Failure> {
            let mut latencies = Vec::new();
            while (latencies.len() as u64) < count {
                let durable = durable(&mut answers)?;
                let now = Instant::now();
                latencies.extend(durable.iter().map(|d| now - due(d.number - first)));
            }
            Ok(latencies)
        });
        for index in 0..count {
            thread::sleep(due(index).saturating_duration_since(Instant::now()));
            self.append(1, body_bytes)?;
        }
        waiting
            .join()
            .map_err(|_| "the thread that takes answers panicked")?
    }

    /// Sends so many records in one frame, as the scheduler does with all that is waiting.
    fn append(&mut self, records: u64, body_bytes: usize) -> Result<(), Failure> {
        let numbers = self.next..self.next + records;
        self.next = numbers.end;
        let appends = numbers.map(|n| record(n, body_bytes)).collect();
        self.say(to_audit::Message::Append(AppendBatch { appends }))
    }

    /// Has the log sealed, and waits for the process's orderly end. Returns how many records it was
    /// sent.
    pub fn end(mut self) -> Result<u64, Failure> {
        self.say(to_audit::Message::Seal(Seal {}))?;
        match hear(&mut self.socket)? {
            Message::Sealed(_) => {}
            other => return Err(format!("the log was not sealed: {other:?}").into()),
        }
        self.socket.shutdown(std::net::Shutdown::Both)?;
        let status = self.child.wait()?;
        match status.success() {
            true => Ok(self.next - 1),
            false => Err(format!("the audit process did not end in order: {status}").into()),
        }
    }

    fn say(&mut self, message: to_audit::Message) -> Result<(), Failure> {
        let message = Some(message);
        Ok(frame::write(&mut self.socket, &ToAudit { message })?)
    }
}

/// Every odd number admits a request, the even one after it completes it.
fn record(number: u64, body_bytes: usize) -> Append {
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
        body: vec![b'x'; body_bytes],
    }
}

fn durable(socket: &mut UnixStream) -> Result<Vec<Durable>, Failure> {
    match hear(socket)? {
        Message::Durable(batch) => Ok(batch.durable),
        other => Err(format!("the audit process takes no records: {other:?}").into()),
    }
}

fn hear(socket: &mut UnixStream) -> Result<Message, Failure> {
    frame::read::<FromAudit>(socket)?
        .and_then(|answer| answer.message)
        .ok_or_else(|| "the audit process hung up".into())
}

impl Drop for AuditProcess {
    fn drop(&mut self) {
        // Errors mean that it is gone already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
