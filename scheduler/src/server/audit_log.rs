//! The scheduler's side of the audit log: numbers records, sends them in batches, and tells when each
//! is durable.
//!
//! Nothing that was handed in is ever dropped: records that the audit process has not confirmed stay
//! here, in order, and are sent again to its successor, which knows their numbers. What is bounded
//! is who may hand in: new requests are refused while the log is down or `pending_max` is reached,
//! and only ends of requests already admitted may exceed it.

use super::metrics;
use bulkhead_proto::{
    frame,
    internal::{
        Append, AppendBatch, FromAudit, Hello, RecordKind, Seal, ToAudit, from_audit, to_audit,
    },
};
use parking_lot::Mutex;
use prost::Message as _;
use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::AsyncWriteExt,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, oneshot, watch},
};

/// The longest body of a record, bytes. The audit process takes more, but nothing of ours comes near.
const BODY_BYTES_MAX: usize = 128 << 10;
/// What is recorded instead of a longer one, so that no body can ever stop the log.
const TOO_LONG: &[u8] = br#"{"error":"the record's body was over its limit and is not kept"}"#;
/// Most records in one frame.
const BATCH_RECORDS_MAX: usize = 1024;
/// Most bytes of records in one frame, well under the frame's own limit.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// The log cannot take a record now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log does not take records now")]
pub struct LogDown;

/// How long an answer waits for its record before it is given up. The record itself is kept.
const PATIENCE: Duration = Duration::from_secs(5);

/// A record on its way to be durable.
#[derive(Debug)]
pub struct Position(oneshot::Receiver<u64>);

impl Position {
    /// Its leaf index in its tenant's tree, once it is durable. May be asked again after an error.
    pub async fn durable(&mut self) -> Result<u64, LogDown> {
        match tokio::time::timeout(PATIENCE, &mut self.0).await {
            Ok(Ok(position)) => Ok(position),
            _ => Err(LogDown),
        }
    }
}

struct Pending {
    append: Append,
    done: oneshot::Sender<u64>,
    since: Instant,
}

struct Inner {
    next_number: u64,
    /// Not yet durable, by number, oldest first.
    pending: VecDeque<Pending>,
    /// How many of `pending` the present connection has been sent.
    sent: usize,
    up: bool,
    seal: bool,
}

/// A handle to the log; clones share it.
#[derive(Clone)]
pub struct AuditLog {
    inner: Arc<Mutex<Inner>>,
    wake: Arc<Notify>,
    sealed: Arc<watch::Sender<bool>>,
    /// True once it was open for the first time.
    begun: Arc<watch::Sender<bool>>,
    session: Arc<[u8]>,
    pending_max: usize,
}

impl AuditLog {
    /// A log with no connection yet. `session`: random, one per life of this process.
    pub fn new(session: [u8; 16], pending_max: usize) -> Self {
        AuditLog {
            inner: Arc::new(Mutex::new(Inner {
                next_number: 1,
                pending: VecDeque::new(),
                sent: 0,
                up: false,
                seal: false,
            })),
            wake: Arc::new(Notify::new()),
            sealed: Arc::new(watch::channel(false).0),
            begun: Arc::new(watch::channel(false).0),
            session: Arc::from(session),
            pending_max,
        }
    }

    /// True while records become durable: it is connected, has room, and has not left the oldest one
    /// waiting for longer than any answer waits.
    pub fn up(&self) -> bool {
        self.takes(&self.inner.lock())
    }

    /// Waits until it is open for the first time, for `patience` at most: whoever comes with the server's start is not
    /// told that the log is down.
    pub async fn begun(&self, patience: Duration) {
        let mut begun = self.begun.subscribe();
        // Whether it came is what `up` says.
        let _ = tokio::time::timeout(patience, begun.wait_for(|begun| *begun)).await;
    }

    fn takes(&self, inner: &Inner) -> bool {
        let stuck = inner
            .pending
            .front()
            .is_some_and(|oldest| oldest.since.elapsed() > PATIENCE);
        inner.up && !stuck && inner.pending.len() < self.pending_max
    }

    /// Hands in a record that opens something (a request, an operator's act).
    pub fn append(
        &self,
        tenant: &str,
        kind: RecordKind,
        request_id: &str,
        body: Vec<u8>,
    ) -> Result<Position, LogDown> {
        let mut inner = self.inner.lock();
        if !self.takes(&inner) {
            return Err(LogDown);
        }
        Ok(self.push(&mut inner, tenant, kind, request_id, body))
    }

    /// Records that are not durable yet.
    #[cfg(test)]
    pub fn pending(&self) -> usize {
        self.inner.lock().pending.len()
    }

    /// Hands in a record that ends what an earlier one opened. Always taken.
    pub fn append_end(
        &self,
        tenant: &str,
        kind: RecordKind,
        request_id: &str,
        body: Vec<u8>,
    ) -> Position {
        let mut inner = self.inner.lock();
        self.push(&mut inner, tenant, kind, request_id, body)
    }

    fn push(
        &self,
        inner: &mut Inner,
        tenant: &str,
        kind: RecordKind,
        request_id: &str,
        body: Vec<u8>,
    ) -> Position {
        let (done, position) = oneshot::channel();
        let body = if body.len() > BODY_BYTES_MAX {
            TOO_LONG.to_vec()
        } else {
            body
        };
        let number = inner.next_number;
        inner.next_number += 1;
        let append = Append {
            number,
            tenant: tenant.into(),
            kind: kind.into(),
            request_id: request_id.into(),
            body,
        };
        inner.pending.push_back(Pending {
            append,
            done,
            since: Instant::now(),
        });
        metrics::audit(inner.up, inner.pending.len());
        self.wake.notify_one();
        Position(position)
    }

    /// Waits until all that was handed in is durable, then has the log signed a last time.
    pub async fn seal(&self, patience: Duration) -> bool {
        self.inner.lock().seal = true;
        self.wake.notify_one();
        let mut sealed = self.sealed.subscribe();
        tokio::time::timeout(patience, sealed.wait_for(|done| *done))
            .await
            .is_ok()
    }

    /// The audit process is gone.
    pub fn down(&self) {
        let mut inner = self.inner.lock();
        inner.up = false;
        metrics::audit(false, inner.pending.len());
    }

    /// Speaks with an audit process until it goes away.
    pub async fn serve(&self, connection: OwnedFd) {
        let ended = self.converse(connection).await;
        self.down();
        match ended {
            Ok(()) => tracing::info!("the audit process closed its connection"),
            Err(error) => tracing::warn!(%error, "lost the audit process"),
        }
    }

    async fn converse(&self, connection: OwnedFd) -> Result<(), frame::FrameError> {
        let stream = std::os::unix::net::UnixStream::from(connection);
        stream.set_nonblocking(true)?;
        let (mut read, mut write) = UnixStream::from_std(stream)?.into_split();
        let hello = ToAudit {
            message: Some(to_audit::Message::Hello(Hello {
                session: self.session.to_vec(),
            })),
        };
        write.write_all(&frame::encode(&hello)).await?;
        tokio::select! {
            ended = self.listen(&mut read) => ended,
            ended = self.speak(&mut write) => Ok(ended?),
        }
    }

    async fn listen(&self, read: &mut OwnedReadHalf) -> Result<(), frame::FrameError> {
        while let Some(message) = super::frames::read::<FromAudit>(read).await? {
            match message.message {
                Some(from_audit::Message::Open(open)) => self.opened(open.abandoned),
                Some(from_audit::Message::Durable(batch)) => {
                    for durable in batch.durable {
                        self.durable(durable.number, durable.position);
                    }
                }
                Some(from_audit::Message::Unavailable(why)) => {
                    tracing::warn!(reason = %why.reason, "the audit log takes no records: requests are refused until it does");
                    self.down();
                }
                Some(from_audit::Message::Sealed(_)) => {
                    self.sealed.send_replace(true);
                }
                None => {}
            }
        }
        Ok(())
    }

    fn opened(&self, abandoned: u64) {
        let mut inner = self.inner.lock();
        inner.up = true;
        inner.sent = 0;
        metrics::audit(true, inner.pending.len());
        drop(inner);
        self.begun.send_replace(true);
        self.wake.notify_one();
        tracing::info!(abandoned, "the audit log is open");
    }

    fn durable(&self, number: u64, position: u64) {
        let mut inner = self.inner.lock();
        // Answers come in the order of numbers; anything else was answered before.
        let Some(first) = inner.pending.front().map(|p| p.append.number) else {
            return;
        };
        let Some(index) = number.checked_sub(first).map(|i| i as usize) else {
            return;
        };
        if index != 0 || inner.sent == 0 {
            return;
        }
        let Some(pending) = inner.pending.pop_front() else {
            return;
        };
        inner.sent -= 1;
        metrics::audit(inner.up, inner.pending.len());
        if inner.pending.is_empty() && inner.seal {
            self.wake.notify_one();
        }
        drop(inner);
        metrics::audit_durable(pending.since.elapsed());
        // The receiver may be gone: its client hung up, the record stands all the same.
        let _ = pending.done.send(position);
    }

    async fn speak(&self, write: &mut OwnedWriteHalf) -> io::Result<()> {
        let mut sealing = false;
        loop {
            match self.next_frame(&mut sealing) {
                Some(bytes) => write.write_all(&bytes).await?,
                None => self.wake.notified().await,
            }
        }
    }

    fn next_frame(&self, sealing: &mut bool) -> Option<Vec<u8>> {
        let mut inner = self.inner.lock();
        if !inner.up {
            return None;
        }
        let mut batch = AppendBatch::default();
        let mut bytes = 0;
        for pending in inner
            .pending
            .iter()
            .skip(inner.sent)
            .take(BATCH_RECORDS_MAX)
        {
            let length = pending.append.encoded_len();
            if bytes > 0 && bytes + length > BATCH_BYTES_MAX {
                break;
            }
            bytes += length;
            batch.appends.push(pending.append.clone());
        }
        if !batch.appends.is_empty() {
            inner.sent += batch.appends.len();
            let message = to_audit::Message::Append(batch);
            return Some(frame::encode(&ToAudit {
                message: Some(message),
            }));
        }
        if inner.seal && inner.pending.is_empty() && !*sealing {
            *sealing = true;
            return Some(frame::encode(&ToAudit {
                message: Some(to_audit::Message::Seal(Seal {})),
            }));
        }
        None
    }
}
