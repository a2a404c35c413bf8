//! The compute loop: steps while a lease is held, and between steps the messages that came.
//!
//! One thread, in this order: take messages, step, scrub, tell. It reads the socket itself, so that nothing lies between
//! the scheduler's word and the work. So a yield or a cancel takes effect at the
//! next step boundary, a result is never told before its memory is clean, and what a step has to say is on its way
//! before the next begins. Without a lease nothing is computed; the thread waits for a message, and
//! zeroes what a prefix cache has kept for its time, a few blocks between two messages.
//! Time is read for reports and planning only; what is billed is measured by the scheduler.

use crate::engine::{Engine, StepOutcome};
use crate::evidence::{self, Evidence};
use crate::inbox;
use crate::process;
use bulkhead_proto::SILENT_STEPS_MAX;
use bulkhead_proto::frame::{self, FrameError};
use bulkhead_proto::internal::{
    Assign, Counters, Expired, FromWorker, Released, Step, from_worker, to_worker::Message,
};
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Why a worker stops serving.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The other side's fault. Not to be retried with this worker.
    #[error("{0}")]
    Protocol(&'static str),
    /// The other side's fault too. What could not be decoded names a field, never its content.
    #[error(transparent)]
    Frame(FrameError),
    /// The scheduler is gone.
    #[error("the socket failed: {0}")]
    Socket(#[from] io::Error),
    /// Memory that was to be zero is not: this process must not live on.
    #[error("{0} bytes were not zero after a scrub")]
    Residue(u64),
}

/// A worker that belongs to a tenant.
pub struct Server {
    engine: Box<dyn Engine>,
    socket: UnixStream,
    lease: Option<u64>,
    evidence: Evidence,
    started: Instant,
    step_limit_ns: u64,
    steps_over_limit: u64,
    untold: Untold,
}

/// Steps under the lease that had nothing to say: whoever hears next hears of them too.
#[derive(Debug, Default)]
struct Untold {
    steps: u32,
    /// The most that one had.
    sequences: u32,
    step_ns: u64,
    longest_step_ns: u64,
}

impl Untold {
    fn add(&mut self, sequences: u32, step_ns: u64) {
        self.steps += 1;
        self.sequences = self.sequences.max(sequences);
        self.step_ns = self.step_ns.saturating_add(step_ns);
        self.longest_step_ns = self.longest_step_ns.max(step_ns);
    }
}

/// Waits for the assignment, which must be the first message, and binds the engine to it.
pub fn assign(mut engine: Box<dyn Engine>, mut socket: UnixStream) -> Result<Server, ServeError> {
    let first = inbox::next(&mut socket)?;
    let Message::Assign(Assign {
        tenant,
        region,
        residency,
        quota_bytes,
        step_limit_ns,
        prefix_cache,
        prefix_cache_idle_ns,
        ..
    }) = first
    else {
        return Err(ServeError::Protocol("the first message was no assignment"));
    };
    if tenant.is_empty() {
        return Err(ServeError::Protocol("the assignment names no tenant"));
    }
    // The scheduler never places it elsewhere; what cannot be taken back is asked twice.
    if !residency.is_empty() && !residency.contains(&region) {
        return Err(ServeError::Protocol(
            "it is in none of its tenant's regions",
        ));
    }
    if prefix_cache {
        // Drawn after any fork, so that no other worker's is the same.
        let key = u128::from_le_bytes(process::random()?);
        engine.cache_prefixes(key, prefix_cache_idle_ns);
    }
    engine.assign(quota_bytes, step_limit_ns);
    let (evidence, started) = (Evidence::begin(), Instant::now());
    Ok(Server {
        engine,
        socket,
        lease: None,
        evidence,
        started,
        step_limit_ns,
        steps_over_limit: 0,
        untold: Untold::default(),
    })
}

impl Server {
    /// Serves until the scheduler is gone or something cannot go on.
    pub fn run(mut self) -> ServeError {
        loop {
            if let Err(why) = self.turn() {
                return why;
            }
        }
    }

    /// One turn: a message where there is no lease, else all messages and then one step.
    fn turn(&mut self) -> Result<(), ServeError> {
        if self.lease.is_none() {
            return match self.wait()? {
                Some(message) => self.take(message),
                None => self.expire(),
            };
        }
        while inbox::waits(&self.socket, Duration::ZERO)? {
            let message = inbox::next(&mut self.socket)?;
            self.take(message)?;
        }
        match self.lease {
            Some(lease) if self.engine.has_work() => self.step(lease),
            Some(lease) => self.release(lease),
            None => Ok(()),
        }
    }

    /// The next message, or none where something that is kept has to go first.
    fn wait(&mut self) -> Result<Option<Message>, ServeError> {
        if let Some(at) = self.engine.expires_at() {
            let left = Duration::from_nanos(at.saturating_sub(nanos_since(self.started)));
            if !inbox::waits(&self.socket, left)? {
                return Ok(None);
            }
        }
        inbox::next(&mut self.socket).map(Some)
    }

    /// Drops some of what is kept and whose time has come, and gives the evidence.
    fn expire(&mut self) -> Result<(), ServeError> {
        let origin = self.started;
        let cached = self.engine.counters().cached_bytes;
        self.engine.expire(&|| nanos_since(origin));
        if self.engine.counters().cached_bytes == cached {
            // Woken early: there is nothing to tell, and it would not be believed.
            return Ok(());
        }
        let report = self.evidence.scrub(self.engine.as_mut());
        let expired = Expired {
            scrub: Some(report),
            kv_bytes: self.engine.kv_bytes(),
            counters: Some(self.counters()),
        };
        self.tell(from_worker::Message::Expired(expired), report.residue_bytes)
    }

    fn take(&mut self, message: Message) -> Result<(), ServeError> {
        match message {
            Message::Load(_) => Err(ServeError::Protocol("a second load")),
            Message::Assign(_) => Err(ServeError::Protocol("a second assignment")),
            Message::Work(work) => {
                work.items
                    .into_iter()
                    .for_each(|item| self.engine.add(item));
                Ok(())
            }
            Message::Grant(grant) if self.lease.is_none() => {
                self.lease = Some(grant.lease);
                Ok(())
            }
            Message::Grant(_) => Err(ServeError::Protocol("a second lease beside the first")),
            // One that crossed our release on the way has nothing left to take back.
            Message::Yield(asked) if self.lease != Some(asked.lease) => Ok(()),
            Message::Yield(asked) => self.release(asked.lease),
            Message::Forget(forget) => {
                self.engine.forget(forget.agent);
                Ok(())
            }
            Message::Cancel(cancel) => {
                self.engine.cancel(cancel.request);
                Ok(())
            }
        }
    }

    fn step(&mut self, lease: u64) -> Result<(), ServeError> {
        let (origin, start) = (self.started, Instant::now());
        let outcome = self.engine.step(&|| nanos_since(origin));
        let StepOutcome {
            sequences,
            tokens,
            pieces,
            mut finished,
            residue_bytes: mut residue,
            ..
        } = outcome;
        if !finished.is_empty() {
            let report = self.evidence.scrub(self.engine.as_mut());
            evidence::attach(&report, &mut finished);
            residue = report.residue_bytes;
        }
        // Nothing has touched the pool since that scrub, so the lane can go back with what it cleaned. A message that
        // waits may bring more work, or take the lane back itself.
        let dry = !finished.is_empty()
            && !self.engine.has_work()
            && !inbox::waits(&self.socket, Duration::ZERO)?;
        if dry {
            self.lease = None;
        }
        let step_ns = nanos_since(start);
        self.steps_over_limit += u64::from(step_ns > self.step_limit_ns);
        self.untold.add(sequences, step_ns);
        let silent = tokens == 0 && pieces.is_empty() && finished.is_empty() && residue == 0;
        if silent && self.untold.steps <= SILENT_STEPS_MAX {
            return Ok(());
        }
        let step = Step {
            tokens,
            pieces,
            finished,
            released: dry.then_some(Released {
                lease,
                dry,
                scrub: None,
            }),
            ..self.told(lease)
        };
        self.tell(from_worker::Message::Step(step), residue)
    }

    /// All steps that were not told of yet, as one.
    fn told(&mut self, lease: u64) -> Step {
        let untold = std::mem::take(&mut self.untold);
        Step {
            lease,
            step_ns: untold.step_ns,
            sequences: untold.sequences,
            silent_steps: untold.steps.saturating_sub(1),
            longest_step_ns: untold.longest_step_ns,
            kv_bytes: self.engine.kv_bytes(),
            counters: Some(self.counters()),
            ..Step::default()
        }
    }

    fn counters(&self) -> Counters {
        Counters {
            steps_over_limit: self.steps_over_limit,
            ..self.engine.counters()
        }
    }

    /// Gives the lane back. Where nothing is left to run, the whole pool is scrubbed first.
    fn release(&mut self, lease: u64) -> Result<(), ServeError> {
        let dry = !self.engine.has_work();
        let scrub = dry.then(|| self.evidence.scrub(self.engine.as_mut()));
        let residue = scrub.map_or(0, |report| report.residue_bytes);
        self.lease = None;
        let released = Released { lease, dry, scrub };
        let message = match self.untold.steps {
            0 => from_worker::Message::Released(released),
            _ => from_worker::Message::Step(Step {
                released: Some(released),
                ..self.told(lease)
            }),
        };
        self.tell(message, residue)
    }

    /// Sends a message; one that had to admit residue is the last.
    fn tell(&mut self, message: from_worker::Message, residue: u64) -> Result<(), ServeError> {
        tell(&mut self.socket, message)?;
        if residue > 0 {
            return Err(ServeError::Residue(residue));
        }
        Ok(())
    }
}

/// Sends one message.
pub fn tell(socket: &mut UnixStream, message: from_worker::Message) -> io::Result<()> {
    frame::write(
        socket,
        &FromWorker {
            message: Some(message),
        },
    )
}

fn nanos_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
