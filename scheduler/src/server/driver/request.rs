//! A request in the driver's hands: what it carries and what its submitter is told.

use super::{
    Driver,
    output::{Output, Text},
};
use bulkhead_core::{
    AgentId, End, Event, ModelId, Nanos, Refusal, RequestId, Submission, TenantId, WorkerId,
};
use bulkhead_proto::internal::{
    EmbedJob, Finished, GenerateJob, ScrubReport, Vector, WorkItem, work_item,
};
use std::sync::Arc;
use tokio::sync::mpsc;

/// The share of an agent among its tenant's: all are alike, as in the core.
const AGENT_WEIGHT: u32 = 1;

/// What a worker has to do.
#[derive(Clone, Debug)]
pub enum Job {
    Embed(EmbedJob),
    Generate(GenerateJob),
}

/// A request that was authorised. Made in `submit` alone, out of a `Permit`.
pub struct NewRequest {
    pub submission: Submission,
    pub job: Job,
    /// Unbounded, and bounded all the same: the driver takes no more text from a worker than the
    /// request's output tokens can be.
    pub updates: mpsc::UnboundedSender<Update>,
}

/// What a submitter is told, in this order: accepted or refused; pieces; one end.
#[derive(Debug)]
pub enum Update {
    Accepted,
    Refused(Refusal),
    Piece(Text),
    Ended(Box<Ended>),
}

/// How a request ended, with all that its record and its answer need.
#[derive(Debug)]
pub struct Ended {
    pub end: End,
    /// For the user; never a prompt's text.
    pub detail: String,
    pub usage: Usage,
    pub vectors: Vec<Vector>,
    pub finish_reason: String,
    /// The stop string or stop token that ended it, if one did.
    pub stop_sequence: String,
    pub stop_token: Option<u32>,
    pub scrub: Option<ScrubReport>,
    /// From acceptance to the first grant of a lane.
    pub queue_ns: Nanos,
    pub total_ns: Nanos,
    pub worker: Option<WorkerId>,
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub input_tokens: u32,
    pub output_tokens: u32,
    /// Of the input tokens, those that the tenant's prefix cache had.
    pub cached_tokens: u32,
}

pub(super) struct Request {
    pub tenant: TenantId,
    pub agent: AgentId,
    pub model: ModelId,
    /// Gone once it is with the worker, unless the worker's device may go bad under it.
    pub job: Option<Job>,
    pub updates: mpsc::UnboundedSender<Update>,
    pub submitted_ns: Nanos,
    pub assigned_ns: Option<Nanos>,
    pub worker: Option<WorkerId>,
    pub finished: Option<Finished>,
    pub output_tokens: u32,
    /// A piece of its answer has gone out, and the core knows.
    pub answering: bool,
    /// Most tokens that it could be: of text each is at least a byte.
    pub tokens_in_max: u32,
    pub tokens_out_max: u32,
}

impl Driver {
    pub(super) fn submit(&mut self, new: NewRequest) {
        let id = new.submission.request;
        if self.requests.contains_key(&id) {
            tracing::error!(
                request = id.0,
                "a request number was used twice; the second is dropped"
            );
            return;
        }
        let bytes = u32::try_from(new.submission.bytes).unwrap_or(u32::MAX);
        let request = Request {
            tenant: new.submission.tenant,
            agent: new.submission.agent,
            model: new.submission.model,
            job: Some(new.job),
            updates: new.updates,
            submitted_ns: self.setup.clock.now_ns(),
            assigned_ns: None,
            worker: None,
            finished: None,
            output_tokens: 0,
            answering: false,
            tokens_in_max: bytes.max(new.submission.tokens_in),
            tokens_out_max: new.submission.tokens_out_max,
        };
        self.requests.insert(id, request);
        let model = new.submission.model;
        if self.setup.known.accelerates(model) {
            self.tell(Event::ModelAccelerates { model });
        }
        self.tell(Event::Submit(new.submission));
    }

    /// The items of a batch, taken out of their requests. `None`: a request of another tenant was
    /// among them, which no batch may ever hold.
    pub(super) fn take_jobs(
        &mut self,
        tenant: TenantId,
        worker: WorkerId,
        ids: &[RequestId],
        now: Nanos,
    ) -> Option<Vec<WorkItem>> {
        let keeps = self.may_lose_device(worker);
        let given = &mut self.workers.get_mut(&worker)?.given;
        let mut items = Vec::with_capacity(ids.len());
        for id in ids {
            let request = self.requests.get_mut(id)?;
            if request.tenant != tenant {
                return None;
            }
            request.worker = Some(worker);
            request.assigned_ns.get_or_insert(now);
            let job = match keeps {
                true => request.job.clone(),
                false => request.job.take(),
            };
            let job = job?;
            let output = Output::of(request.tokens_out_max, &job);
            let job = match job {
                Job::Embed(job) => work_item::Job::Embed(job),
                Job::Generate(job) => work_item::Job::Generate(job),
            };
            items.push(WorkItem {
                request: given.request(*id, output),
                job: Some(job),
                agent: given.agent(request.agent),
                agent_weight: AGENT_WEIGHT,
            });
        }
        Some(items)
    }

    /// It waits again, and belongs to no worker.
    pub(super) fn requeued(&mut self, id: RequestId) {
        if let Some(request) = self.requests.get_mut(&id) {
            request.worker = None;
            // Another begins anew. Nothing of it has gone out, or it would not be done again.
            request.output_tokens = 0;
            request.finished = None;
        }
    }

    /// Tells submitters what this turn has brought.
    pub(super) fn tell_submitters(&mut self) {
        for (submitter, update) in self.updates.drain(..) {
            // One that is gone has asked for cancellation already.
            let _ = submitter.send(update);
        }
    }

    pub(super) fn end_request(&mut self, request: Request, end: End, now: Nanos) {
        let mut finished = request.finished.unwrap_or_default();
        let retry_after_ns = None;
        if end == (End::NoWorker { retry_after_ns })
            && let Some(model) = self.model_name(request.model)
        {
            finished.detail = self.setup.faults.told(&model).into();
        }
        // A worker's word, within what the request could be.
        let input_tokens = finished.input_tokens.min(request.tokens_in_max);
        let usage = Usage {
            input_tokens,
            output_tokens: finished
                .output_tokens
                .min(request.tokens_out_max)
                .max(request.output_tokens),
            cached_tokens: finished.cached_tokens.min(input_tokens),
        };
        let queue_ns = request
            .assigned_ns
            .unwrap_or(now)
            .saturating_sub(request.submitted_ns);
        let (tenant, model) = (
            self.label(request.tenant),
            self.model_name(request.model)
                .unwrap_or_else(|| Arc::from("")),
        );
        super::super::metrics::ended(&tenant, &model, super::effects::outcome_word(end));
        super::super::metrics::tokens(&tenant, &model, usage.input_tokens, usage.output_tokens);
        super::super::metrics::queued(&tenant, queue_ns);
        *self.completed.entry(request.tenant).or_default() += 1;
        let ended = Ended {
            end,
            detail: finished.detail,
            usage,
            vectors: finished.vectors,
            finish_reason: finished.finish_reason,
            stop_sequence: finished.stop_sequence,
            stop_token: finished.stop_token,
            scrub: finished.scrub,
            queue_ns,
            total_ns: now.saturating_sub(request.submitted_ns),
            worker: request.worker,
        };
        let ended = Update::Ended(Box::new(ended));
        self.updates.push((request.updates, ended));
    }

    /// The tenant's label in metrics.
    pub(super) fn label(&self, tenant: TenantId) -> Arc<str> {
        match self.tenants.get(&tenant) {
            Some(facts) => self.setup.labels.of(&facts.name),
            None => Arc::from("unknown"),
        }
    }
}
