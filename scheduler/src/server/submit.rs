//! The one way in: every API's requests meet in `submit`, whatever protocol they came by.
//!
//! `submit` consumes a `Permit`, which only policy makes out of a `Principal`, which only identity makes
//! out of a verified token: so the tenant of a submission cannot come from anywhere else. Each request
//! then has a keeper, a task that outlives its client: it writes the *admitted* record, holds the first
//! byte back until that is durable, writes the *completed* record, and holds the last byte back until
//! that is. A client that hangs up cancels its request; the records are written all the same.

use super::{
    audit_log::{AuditLog, Position},
    auth,
    buffers::Buffers,
    clock::Clock,
    driver::{self, Job, Message, NewRequest, Text, Update, Usage},
    errors::Refused,
    records,
};
use bulkhead_core::{
    AgentId, CancelReason, End, ModelId, Priority, RequestId, Submission, TenantId,
};
use bulkhead_identity::{Agent, Identity};
use bulkhead_policy::Permit;
use bulkhead_proto::{
    internal::{RecordKind, Vector},
    v1::{Context, Receipt, Scrub},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::mpsc;

/// Answers that may wait for a slow reader before its request's keeper waits too.
const ANSWERS_MAX: usize = 64;
/// Bytes of text that count as one token, before a tokenizer has seen it. Low, so that the estimate
/// is rather too high than too low.
const BYTES_PER_TOKEN: usize = 3;

/// Queue memory that a request takes besides its texts, and each text besides its bytes.
const REQUEST_BYTES: usize = 1024;
const ITEM_BYTES: usize = 64;
/// Queue memory of a token id with its bias.
const ID_BYTES: usize = 16;

/// What an API hands over.
pub struct Work {
    pub job: Job,
    pub model: ModelId,
    /// Most tokens that its model reads of each text or prompt, where it has to read them: 0 where that is not known yet, or
    /// parts of prompts may be kept from before.
    pub read_tokens_max: u32,
    pub context: Option<Context>,
    /// When the caller gives up, on the server's clock.
    pub deadline_ns: Option<u64>,
    pub priority: Priority,
}

/// What an API gets back, in this order: pieces, then one `Done` or one `Refused`.
#[derive(Debug)]
pub enum Answer {
    /// The request was admitted and its record is durable.
    Admitted,
    Piece(Text),
    Done(Box<Done>),
    Refused(Box<Refused>),
}

/// A request that ended well.
#[derive(Debug)]
pub struct Done {
    pub vectors: Vec<Vector>,
    pub finish_reason: String,
    /// The stop string or stop token that ended it, if one did.
    pub stop_sequence: String,
    pub stop_token: Option<u32>,
    pub usage: Usage,
    pub receipt: Receipt,
}

/// The door to the core.
#[derive(Clone)]
pub struct Submitter {
    pub identity: Identity,
    pub buffers: Buffers,
    pub driver: mpsc::Sender<Message>,
    pub audit: AuditLog,
    pub clock: Clock,
    pub region: Arc<str>,
    pub next_request: Arc<AtomicU64>,
    pub refusals: Arc<records::Aggregate>,
    pub refusal_budget: Arc<records::RefusalBudget>,
}

impl Submitter {
    /// Submits authorised work. The answers end when the request has.
    pub fn submit(&self, permit: Permit, work: Work) -> mpsc::Receiver<Answer> {
        let (answers, receiver) = mpsc::channel(ANSWERS_MAX);
        let keeper = Keeper {
            to: self.clone(),
            id: RequestId(self.next_request.fetch_add(1, Ordering::Relaxed)),
            request_id: format!("req_{}", uuid::Uuid::now_v7().simple()),
            permit,
            answers,
        };
        tokio::spawn(keeper.keep(work));
        receiver
    }
}

impl Submitter {
    /// Records the refusal of a known agent, up to its number of such records a period; beyond it, and
    /// while the log is down, it is counted into the next aggregate. `request_id` is empty where the request came to none.
    pub fn record_refusal(&self, agent: &Agent, reason: &'static str, request_id: &str) {
        let body = records::refused_agent(&agent.id, reason);
        let recorded = self.refusal_budget.take(agent.number)
            && self
                .audit
                .append(&agent.tenant, RecordKind::Refused, request_id, body)
                .is_ok();
        if !recorded {
            self.refusals.count(reason);
        }
    }
}

struct Keeper {
    to: Submitter,
    id: RequestId,
    request_id: String,
    permit: Permit,
    answers: mpsc::Sender<Answer>,
}

impl Keeper {
    async fn keep(self, work: Work) {
        if !self.to.audit.up() {
            self.to.refusals.count("AUDIT_UNAVAILABLE");
            return self.refuse(Refused::audit_down()).await;
        }
        let admitted = records::admitted(&self.permit, &work, &self.to.region);
        let (updates, mut said) = mpsc::unbounded_channel();
        // The one place where a submission is made, out of the permit that is consumed here.
        let new = NewRequest {
            submission: self.submission(&work),
            job: work.job,
            updates,
        };
        if self
            .to
            .driver
            .send(Message::Submit(Box::new(new)))
            .await
            .is_err()
        {
            return self.refuse(Refused::stopping()).await;
        }
        match said.recv().await {
            Some(Update::Accepted) => self.admitted(admitted, said).await,
            Some(Update::Refused(refusal)) => self.refused(Refused::from_core(refusal)).await,
            _ => self.refuse(Refused::stopping()).await,
        }
    }

    fn submission(&self, work: &Work) -> Submission {
        let (bytes, items, ids, tokens_out_max) = match &work.job {
            Job::Embed(job) => (text_bytes(&job.texts), job.texts.len(), 0, 0),
            Job::Generate(job) => {
                let turns: usize = job.messages.iter().map(|t| t.content.len()).sum();
                let bytes = turns + job.prompt.len() + text_bytes(&job.stop);
                let items = job.messages.len() + job.stop.len() + 1;
                let ids = job.logit_bias.len() + job.stop_token_ids.len();
                (bytes, items, ids, job.max_tokens)
            }
        };
        let read = |bytes: usize| (bytes / BYTES_PER_TOKEN).min(work.read_tokens_max as usize);
        let tokens_read_min: usize = match &work.job {
            Job::Embed(job) => job.texts.iter().map(|text| read(text.len())).sum(),
            Job::Generate(_) => read(bytes),
        };
        Submission {
            request: self.id,
            tenant: TenantId(self.permit.principal().tenant_number()),
            agent: AgentId(self.permit.principal().agent_number()),
            model: work.model,
            // Ids count too: each is looked at for each token of the answer.
            tokens_in: u32::try_from(bytes / BYTES_PER_TOKEN + 2 * items + ids).unwrap_or(u32::MAX),
            tokens_read_min: u32::try_from(tokens_read_min).unwrap_or(u32::MAX),
            tokens_out_max,
            bytes: (bytes + items * ITEM_BYTES + ids * ID_BYTES + REQUEST_BYTES) as u64,
            deadline: work.deadline_ns,
            priority: work.priority,
        }
    }

    async fn refused(&self, refused: Refused) {
        if let Some(agent) = self.to.identity.agent(self.permit.principal().agent_id()) {
            self.to
                .record_refusal(&agent, refused.reason, &self.request_id);
        }
        self.refuse(refused).await;
    }

    async fn admitted(&self, body: Vec<u8>, said: mpsc::UnboundedReceiver<Update>) {
        // The log may have gone down since it was asked: the record is then kept until it is back,
        // because the core has accepted and so there is an end to record.
        let kind = RecordKind::Admitted;
        let position = self
            .to
            .audit
            .append_end(self.tenant(), kind, &self.request_id, body);
        // The agent may have been revoked between its authentication and the core's acceptance, too
        // early for the revocation to find this request: so it is asked again now.
        if self.to.identity.recheck(self.permit.principal()).is_err() {
            self.cancel(CancelReason::Revoked).await;
        }
        self.relay(Gate::Closed(position), said).await;
    }

    /// Hands on what the request says, as fast as its client reads. Text that a slow client has not
    /// taken yet is kept as one piece; the request's end and its record wait for no client.
    async fn relay(&self, mut gate: Gate, mut said: mpsc::UnboundedReceiver<Update>) {
        let mut unsent = Text::default();
        loop {
            tokio::select! {
                biased;
                () = self.answers.closed() => {
                    self.cancel(CancelReason::Client).await;
                    return self.finish_alone(said).await;
                }
                update = said.recv() => match update {
                    Some(Update::Piece(text)) => {
                        unsent.add(text);
                        if !self.open(&mut gate).await {
                            self.cancel(CancelReason::Audit).await;
                            self.refuse(Refused::audit_down()).await;
                            return self.finish_alone(said).await;
                        }
                    }
                    Some(Update::Ended(ended)) => return self.ended(gate, unsent, *ended).await,
                    Some(Update::Accepted | Update::Refused(_)) => {}
                    None => return self.lost().await,
                },
                room = self.answers.reserve(), if !unsent.is_empty() => {
                    if let Ok(room) = room {
                        room.send(Answer::Piece(std::mem::take(&mut unsent)));
                    }
                }
            }
        }
    }

    /// Waits until the admitted record is durable: nothing of an answer leaves before.
    async fn open(&self, gate: &mut Gate) -> bool {
        if let Gate::Closed(position) = gate {
            let Ok(position) = position.durable().await else {
                return false;
            };
            *gate = Gate::Open(position);
            // Nothing was sent before this, so there is room.
            let _ = self.answers.send(Answer::Admitted).await;
        }
        true
    }

    /// Nobody listens any more: the request still gets its end, and its record.
    async fn finish_alone(&self, mut said: mpsc::UnboundedReceiver<Update>) {
        while let Some(update) = said.recv().await {
            if let Update::Ended(ended) = update {
                self.complete(records::completed(&ended));
                return;
            }
        }
        self.complete(records::lost());
    }

    async fn ended(&self, mut gate: Gate, unsent: Text, mut ended: driver::Ended) {
        let mut completed = self.complete(records::completed(&ended));
        if !self.open(&mut gate).await {
            return self.refuse(Refused::audit_down()).await;
        }
        let Gate::Open(admitted_position) = gate else {
            return;
        };
        if !unsent.is_empty() {
            // A client that has gone away shows here as an error, and the record stands.
            let _ = self.answers.send(Answer::Piece(unsent)).await;
        }
        let Ok(completed_position) = completed.durable().await else {
            return self.refuse(Refused::audit_down()).await;
        };
        if let Some(refused) = self.why_not(&ended) {
            return self.refuse(refused).await;
        }
        let scrub = ended.scrub.take().unwrap_or_default();
        let receipt = Receipt {
            request_id: self.request_id.clone(),
            admitted_position,
            completed_position,
            scrub: Some(Scrub {
                bytes_zeroed: scrub.bytes_zeroed,
                bytes_verified: scrub.bytes_verified,
                residue_bytes: scrub.residue_bytes,
                retained_bytes: scrub.retained_bytes,
            }),
        };
        let done = Done {
            vectors: ended.vectors,
            finish_reason: ended.finish_reason,
            stop_sequence: ended.stop_sequence,
            stop_token: ended.stop_token,
            usage: ended.usage,
            receipt,
        };
        let _ = self.answers.send(Answer::Done(Box::new(done))).await;
    }

    fn why_not(&self, ended: &driver::Ended) -> Option<Refused> {
        // The agent's standing now says it best: suspended is not revoked.
        if ended.end == End::Cancelled(CancelReason::Revoked)
            && let Err(why) = self.to.identity.recheck(self.permit.principal())
        {
            return Some(auth::refused(why));
        }
        Refused::from_end(ended.end, &ended.detail)
    }

    fn complete(&self, body: Vec<u8>) -> Position {
        self.to
            .audit
            .append_end(self.tenant(), RecordKind::Completed, &self.request_id, body)
    }

    /// The driver is gone; that ends the process, but not without this record.
    async fn lost(&self) {
        self.complete(records::lost());
        self.refuse(Refused::stopping()).await;
    }

    async fn cancel(&self, why: CancelReason) {
        let _ = self
            .to
            .driver
            .send(Message::Cancel {
                request: self.id,
                why,
            })
            .await;
    }

    async fn refuse(&self, mut refused: Refused) {
        refused.request_id = Some(self.request_id.clone());
        let _ = self.answers.send(Answer::Refused(Box::new(refused))).await;
    }

    fn tenant(&self) -> &str {
        self.permit.principal().tenant()
    }
}

/// Whether the admitted record is durable.
enum Gate {
    Closed(Position),
    Open(u64),
}

fn text_bytes(texts: &[String]) -> usize {
    texts.iter().map(String::len).sum()
}
