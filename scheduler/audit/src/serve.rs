//! The audit process at work: one connection to one scheduler, group commit, checkpoints.
//!
//! A thread reads frames into a bounded channel; this one takes all that is waiting, writes it as one
//! group, syncs once and answers. Whatever the disk does, what was acknowledged is durable, and what
//! was not is asked for again: on trouble the scheduler hears `Unavailable`, and `Open` when it is over.
//!
//! Nothing here knows what a record means, and nothing waits on the network.

mod input;

use crate::log::{Append, Appended, Durable, Log, LogError, Options};
use crate::record::Kind;
use bulkhead_proto::frame::{self, FrameError};
use bulkhead_proto::internal::{self as wire, from_audit, to_audit};
use crossbeam::channel::{Receiver, RecvTimeoutError};
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

pub use input::{Input, channel, spawn_reader};

/// How often checkpoints of what has grown are signed.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// How often a log in trouble tries whether the trouble is over.
pub const RETRY_EVERY: Duration = Duration::from_millis(500);
/// How long after a request to terminate the scheduler may still send what it has.
pub const TERMINATE_AFTER: Duration = Duration::from_secs(5);
/// How long the scheduler may leave an answer unread before the connection counts as broken.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);
/// Bytes after which a group is written although more is waiting.
const GROUP_BYTES: usize = 1 << 20;

/// Why the process ends other than in good order.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The log cannot go on.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The connection broke in the middle of a frame, or carried what is none. The log was closed.
    #[error("the scheduler's connection: {0}")]
    Connection(#[from] FrameError),
    /// The connection ended while the log could take nothing. All that was acknowledged is durable.
    #[error("ended without a final checkpoint: {0}")]
    NotClosed(String),
}

/// Serves one connection until it ends, then closes the log.
pub fn run(
    options: Options,
    socket: UnixStream,
    inputs: &Receiver<Input>,
) -> Result<(), ServeError> {
    socket
        .set_write_timeout(Some(ANSWER_WAIT_MAX))
        .map_err(FrameError::Io)?;
    let now = Instant::now();
    let mut server = Server {
        options,
        socket,
        log: None,
        session: None,
        trouble: None,
        resending: false,
        seal: Seal::No,
        checkpoint_at: now + CHECKPOINT_EVERY,
        retry_at: now,
        terminate_at: None,
    };
    server.attempt()?;
    server.serve(inputs)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seal {
    No,
    Asked,
    Done,
}

struct Server {
    options: Options,
    socket: UnixStream,
    /// `None` while it has to be recovered.
    log: Option<Log>,
    /// The scheduler's, once it said hello.
    session: Option<Vec<u8>>,
    /// Why the log takes nothing now.
    trouble: Option<String>,
    /// After trouble, records on their way have gaps before them until the scheduler sends again.
    resending: bool,
    seal: Seal,
    checkpoint_at: Instant,
    retry_at: Instant,
    terminate_at: Option<Instant>,
}

impl Server {
    fn serve(&mut self, inputs: &Receiver<Input>) -> Result<(), ServeError> {
        loop {
            let mut ended = match inputs.recv_deadline(self.next_deadline()) {
                Ok(input) => self.take(input)?,
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(End::Orderly),
            };
            while ended.is_none()
                && self
                    .log
                    .as_ref()
                    .is_none_or(|log| log.staged_bytes() < GROUP_BYTES)
            {
                let Ok(input) = inputs.try_recv() else { break };
                ended = self.take(input)?;
            }
            self.commit()?;
            let now = Instant::now();
            if self.terminate_at.is_some_and(|at| now >= at) {
                ended = ended.or(Some(End::Orderly));
            }
            if let Some(end) = ended {
                return self.finish(end);
            }
            self.tick(now)?;
        }
    }

    fn next_deadline(&self) -> Instant {
        let work = if self.trouble.is_some() {
            self.retry_at
        } else {
            self.checkpoint_at
        };
        self.terminate_at.map_or(work, |at| at.min(work))
    }

    fn take(&mut self, input: Input) -> Result<Option<End>, ServeError> {
        match input {
            Input::Message(message) => return self.message(message),
            Input::Terminate => {
                self.terminate_at
                    .get_or_insert_with(|| Instant::now() + TERMINATE_AFTER);
            }
            Input::End => return Ok(Some(End::Orderly)),
            Input::Broken(error) => return Ok(Some(End::Broken(error))),
        }
        Ok(None)
    }

    fn message(&mut self, message: wire::ToAudit) -> Result<Option<End>, ServeError> {
        let protocol = |why: &str| LogError::Protocol(why.to_owned());
        match message.message {
            _ if self.seal != Seal::No => Err(protocol("something came after the seal"))?,
            Some(to_audit::Message::Hello(_)) if self.session.is_some() => {
                Err(protocol("hello is said once on a connection"))?
            }
            Some(to_audit::Message::Hello(hello)) => {
                self.session = Some(hello.session);
                match &self.trouble {
                    Some(reason) => self.answer(unavailable(reason.clone())),
                    None => self.open(),
                }
            }
            _ if self.session.is_none() => Err(protocol("hello has to come first"))?,
            Some(to_audit::Message::Append(batch)) => self.append(batch),
            Some(to_audit::Message::Seal(_)) => {
                self.commit()?;
                self.seal = Seal::Asked;
                self.close_for_seal()
            }
            None => Err(protocol("an empty message"))?,
        }
    }

    fn append(&mut self, batch: wire::AppendBatch) -> Result<Option<End>, ServeError> {
        let mut known = Vec::new();
        for append in batch.appends {
            let append = convert(append)?;
            let number = append.number;
            // In trouble everything is dropped: it will be sent again after the next Open.
            let Some(log) = self.log.as_mut().filter(|_| self.trouble.is_none()) else {
                continue;
            };
            match log.append(append) {
                Ok(Appended::Staged) => self.resending = false,
                Ok(Appended::Already(durable)) => known.push(durable),
                Ok(Appended::Ahead) if self.resending => {}
                Ok(Appended::Ahead) => {
                    let why = format!("number {number} came while one before it is missing");
                    return Err(LogError::Protocol(why).into());
                }
                Err(error) => {
                    self.trouble_or_fail(error)?;
                }
            }
        }
        if known.is_empty() {
            Ok(None)
        } else {
            self.answer(durable(known))
        }
    }

    /// Makes what is staged durable and says so.
    fn commit(&mut self) -> Result<(), ServeError> {
        let Some(log) = self.log.as_mut() else {
            return Ok(());
        };
        match log.commit() {
            Ok(done) if done.is_empty() => Ok(()),
            Ok(done) => self.answer(durable(done)).map(drop),
            Err(error) => self.trouble_or_fail(error),
        }
    }

    fn open(&mut self) -> Result<Option<End>, ServeError> {
        let (Some(log), Some(session)) = (self.log.as_mut(), self.session.as_deref()) else {
            return Ok(None);
        };
        match log.hello(session) {
            Ok(opened) => self.answer(from_audit::Message::Open(wire::Open {
                last_number: opened.last_number,
                abandoned: opened.abandoned,
            })),
            Err(error) => self.trouble_or_fail(error).map(|()| None),
        }
    }

    fn tick(&mut self, now: Instant) -> Result<(), ServeError> {
        if self.trouble.is_some() {
            return if now >= self.retry_at {
                self.attempt()
            } else {
                Ok(())
            };
        }
        if now < self.checkpoint_at {
            return Ok(());
        }
        self.checkpoint_at = now + CHECKPOINT_EVERY;
        let Some(log) = self.log.as_mut().filter(|_| self.seal == Seal::No) else {
            return Ok(());
        };
        let signed = log.checkpoint();
        signed.or_else(|error| self.trouble_or_fail(error))
    }

    /// Opens the log, or finds out whether an open one can write again; then greets the scheduler.
    fn attempt(&mut self) -> Result<(), ServeError> {
        self.retry_at = Instant::now() + RETRY_EVERY;
        if let Err(error) = self.restore() {
            return self.trouble_or_fail(error);
        }
        if self.trouble.take().is_some() {
            eprintln!("bulkhead-audit: the log takes records again");
            self.resending = true;
        }
        if self.seal == Seal::Asked {
            return self.close_for_seal().map(drop);
        }
        self.open().map(drop)
    }

    fn restore(&mut self) -> Result<(), LogError> {
        let log = match self.log.take() {
            Some(log) => self.log.insert(log),
            None => self.log.insert(Log::open(self.options.clone())?),
        };
        log.probe()?;
        log.start()
    }

    fn close_for_seal(&mut self) -> Result<Option<End>, ServeError> {
        let Some(log) = self.log.as_mut().filter(|_| self.trouble.is_none()) else {
            return Ok(None);
        };
        match log.close() {
            Ok(()) => {
                self.seal = Seal::Done;
                self.answer(from_audit::Message::Sealed(wire::Sealed {}))
            }
            Err(error) => self.trouble_or_fail(error).map(|()| None),
        }
    }

    /// Passing trouble is announced and tried again later; anything else ends the process.
    fn trouble_or_fail(&mut self, error: LogError) -> Result<(), ServeError> {
        let done = self.log.as_mut().map(Log::take_done).unwrap_or_default();
        if !done.is_empty() {
            self.answer(durable(done))?;
        }
        if !error.temporary() {
            return Err(error.into());
        }
        if error.needs_recovery() {
            self.log = None;
        }
        let reason = error.to_string();
        if self.trouble.replace(reason.clone()).is_none() {
            eprintln!("bulkhead-audit: {reason}; trying again");
            self.retry_at = Instant::now() + RETRY_EVERY;
            self.answer(unavailable(reason))?;
        }
        Ok(())
    }

    /// Sends an answer. A scheduler that is gone is noticed by the reader; what it wrote still counts.
    fn answer(&mut self, message: from_audit::Message) -> Result<Option<End>, ServeError> {
        match frame::write(
            &mut self.socket,
            &wire::FromAudit {
                message: Some(message),
            },
        ) {
            Ok(()) => {}
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                eprintln!("bulkhead-audit: the scheduler does not read its answers; hanging up");
                // Half an answer may be out: nothing more can follow it.
                self.socket
                    .shutdown(std::net::Shutdown::Both)
                    .map_err(FrameError::Io)?;
            }
            Err(_) => {}
        }
        Ok(None)
    }

    fn finish(&mut self, end: End) -> Result<(), ServeError> {
        if self.trouble.is_some() || self.log.is_none() {
            self.restore()
                .map_err(|e| ServeError::NotClosed(e.to_string()))?;
        }
        if let Some(log) = self.log.as_mut() {
            log.close()
                .map_err(|e| ServeError::NotClosed(e.to_string()))?;
        }
        match end {
            End::Orderly => Ok(()),
            End::Broken(error) => Err(error.into()),
        }
    }
}

enum End {
    Orderly,
    Broken(FrameError),
}

fn convert(append: wire::Append) -> Result<Append, LogError> {
    let body = Zeroizing::new(append.body);
    let kind = Kind::from_wire(append.kind).ok_or_else(|| {
        LogError::Protocol(format!(
            "record {}: no scheduler appends kind {}",
            append.number, append.kind
        ))
    })?;
    Ok(Append {
        number: append.number,
        tenant: append.tenant,
        kind,
        request_id: append.request_id,
        body,
    })
}

fn durable(done: Vec<Durable>) -> from_audit::Message {
    let durable = done
        .into_iter()
        .map(|Durable { number, position }| wire::Durable { number, position })
        .collect();
    from_audit::Message::Durable(wire::DurableBatch { durable })
}

fn unavailable(reason: String) -> from_audit::Message {
    from_audit::Message::Unavailable(wire::Unavailable { reason })
}
