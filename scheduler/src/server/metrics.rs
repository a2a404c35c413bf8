//! Every metric's name and what it means, in one place, and the only functions that touch them.
//!
//! Labels are bounded: tenants beyond the first `TENANT_LABELS_MAX` share the label "other", and
//! nothing that a caller wrote (texts, agent names, unknown model names) ever becomes a label.

use bulkhead_core::{Nanos, TenantView};
use bulkhead_proto::internal::Counters;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

mod devices;
pub use devices::{device, device_xid, devices_watched};

/// Tenants that get a label of their own.
const TENANT_LABELS_MAX: usize = 200;
/// More memory than a worker on any machine has, so that no lie wraps a counter.
const SCRUB_BYTES_MAX: u64 = 1 << 40;

const SECONDS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0,
];
const DISPATCH_SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_15, 0.000_2, 0.000_25, 0.000_3, 0.000_4, 0.000_5, 0.000_75, 0.001,
    0.002, 0.005, 0.01, 0.025,
];
/// A worker's counter: its metric's name, where it is, and what it means.
type EngineCounter = (&'static str, fn(&Counters) -> u64, &'static str);

/// The counters of workers, by tenant and model.
const ENGINE_COUNTERS: [EngineCounter; 7] = [
    (
        "bulkhead_engine_sequences_cancelled_total",
        |counters| counters.sequences_cancelled,
        "Sequences that their worker dropped before their end",
    ),
    (
        "bulkhead_engine_blocks_cleaned_total",
        |counters| counters.blocks_cleaned,
        "KV blocks zeroed and read back",
    ),
    (
        "bulkhead_engine_tokens_computed_total",
        |counters| counters.tokens_computed,
        "Tokens that went through the model, those computed again among them",
    ),
    (
        "bulkhead_engine_tokens_recomputed_total",
        |counters| counters.tokens_recomputed,
        "Tokens computed again after a preemption: overhead, never billed to an agent",
    ),
    (
        "bulkhead_engine_preemptions_total",
        |counters| counters.preemptions,
        "Sequences whose KV blocks were taken so that others could go on",
    ),
    (
        "bulkhead_engine_tokens_cached_total",
        |counters| counters.tokens_cached,
        "Tokens of prompts that the tenant's prefix cache had",
    ),
    (
        "bulkhead_engine_steps_over_limit_total",
        |counters| counters.steps_over_limit,
        "Steps that took longer than the step limit",
    ),
];

const DISPATCH: &str = "bulkhead_dispatch_seconds";
const BETWEEN_STEPS: &str = "bulkhead_between_steps_seconds";

/// The most KV that one worker is shown to hold, bytes: its word is data.
const HELD_BYTES_MAX: u64 = 1 << 44;

const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Installs the recorder. Fails only where a recorder is installed already.
pub fn install() -> Result<PrometheusHandle, String> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)
        .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_sequences".into()), SIZES))
        .and_then(|b| b.set_buckets_for_metric(Matcher::Full(DISPATCH.into()), DISPATCH_SECONDS))
        .and_then(|b| {
            b.set_buckets_for_metric(Matcher::Full(BETWEEN_STEPS.into()), DISPATCH_SECONDS)
        })
        .map_err(|e| e.to_string())?
        .install_recorder()
        .map_err(|e| e.to_string())?;
    describe();
    Ok(handle)
}

fn describe() {
    for (name, _, meaning) in ENGINE_COUNTERS {
        describe_counter!(name, meaning);
    }
    describe_gauge!(
        "bulkhead_engine_kv_bytes",
        "KV bytes that sequences hold, or held and that are not clean yet"
    );
    describe_gauge!(
        "bulkhead_engine_cached_bytes",
        "KV bytes that a prefix cache holds beside live sequences"
    );
    describe_counter!(
        "bulkhead_requests_total",
        "Requests that ended, by tenant, model and outcome"
    );
    describe_counter!(
        "bulkhead_refused_total",
        "Requests refused before they were accepted, by reason"
    );
    describe_histogram!(
        "bulkhead_queue_seconds",
        "Time from acceptance to the first lane"
    );
    describe_counter!(
        "bulkhead_lane_microseconds_total",
        "Lane time received, from grant to release"
    );
    describe_counter!(
        "bulkhead_tokens_total",
        "Tokens read (in) and generated (out)"
    );
    describe_histogram!(
        DISPATCH,
        "Of a lease, the way to its first step and from its last: hand-overs, by tenant"
    );
    describe_histogram!(
        BETWEEN_STEPS,
        "Beside its steps, from one that a worker told of to the next under one lease, by tenant"
    );
    describe_histogram!(
        "bulkhead_batch_sequences",
        "Sequences in a step, all of one tenant"
    );
    describe_histogram!(
        "bulkhead_step_seconds",
        "Duration of a step, as its worker measured it"
    );
    describe_gauge!(
        "bulkhead_step_seconds_max",
        "The longest step since the start"
    );
    describe_gauge!(
        "bulkhead_share_received_seconds",
        "Lane time that a tenant received since the start"
    );
    describe_gauge!(
        "bulkhead_share_owed_seconds",
        "Lane time that a tenant was owed while it had work"
    );
    describe_gauge!(
        "bulkhead_share_lead_seconds",
        "Lane time divided by weight by which a tenant is ahead of the one that is furthest behind, of those that have work"
    );
    describe_gauge!(
        "bulkhead_share_lead_bound_seconds",
        "What that may be at most among tenants that always have work, on a device with one lane"
    );
    describe_gauge!("bulkhead_queued_requests", "Requests that wait, by tenant");
    describe_gauge!(
        "bulkhead_cost_error_ratio",
        "How far predictions of lane time were off of late, of what it was, by model; orders a tenant's own agents alone"
    );
    describe_counter!(
        "bulkhead_scrub_bytes_total",
        "Bytes that scrubs zeroed and read back"
    );
    describe_counter!(
        "bulkhead_scrub_residue_bytes_total",
        "Bytes found not zero after a scrub; must stay 0"
    );
    describe_counter!("bulkhead_worker_starts_total", "Workers that became ready");
    describe_counter!(
        "bulkhead_worker_deaths_total",
        "Workers that ended, by tenant, how and why"
    );
    describe_counter!(
        "bulkhead_worker_backoffs_total",
        "Restarts of workers that were put off, by tenant, model and what failed: a start, a worker that died or was killed, or the process that holds the model"
    );
    describe_gauge!(
        "bulkhead_worker_backoff_seconds",
        "How long the restart is put off that waits now, by tenant and model; 0 when none does"
    );
    describe_gauge!(
        "bulkhead_share_restarts_seconds",
        "Time of restarts that a tenant was charged beside lane time since the start"
    );
    describe_counter!(
        "bulkhead_model_faults_total",
        "Workers refused because a file of their model is not what was installed, by model"
    );
    describe_counter!(
        "bulkhead_weights_changed_total",
        "Times that weights which workers share on a GPU were found changed, by model; must stay 0"
    );
    describe_gauge!(
        "bulkhead_model_weights_bytes",
        "What a model's weights take, measured by a worker and estimated when it was added"
    );
    describe_gauge!(
        "bulkhead_audit_pending",
        "Audit records sent and not yet durable"
    );
    describe_histogram!(
        "bulkhead_audit_seconds",
        "Time until an audit record is durable"
    );
    describe_gauge!("bulkhead_audit_up", "1 while the audit log takes records");
    describe_gauge!("bulkhead_connections", "Open connections of agents");
    devices::describe();
}

/// A tenant's label, with the bound on how many there are.
#[derive(Clone, Default)]
pub struct TenantLabels(Arc<Mutex<BTreeSet<Arc<str>>>>);

impl TenantLabels {
    /// The tenant's name, or "other" once there are too many.
    pub fn of(&self, tenant: &Arc<str>) -> Arc<str> {
        self.own(tenant).unwrap_or_else(|| Arc::from("other"))
    }

    /// The tenant's name, or nothing once there are too many: of what cannot be told for several together.
    pub fn own(&self, tenant: &Arc<str>) -> Option<Arc<str>> {
        let mut known = self.0.lock();
        let has = known.contains(tenant)
            || known.len() < TENANT_LABELS_MAX && known.insert(tenant.clone());
        has.then(|| tenant.clone())
    }
}

/// A request ended. `outcome` is one of our own fixed words.
pub fn ended(tenant: &Arc<str>, model: &Arc<str>, outcome: &'static str) {
    counter!("bulkhead_requests_total", "tenant" => tenant.clone(), "model" => model.clone(), "outcome" => outcome)
        .increment(1);
}

/// A request was refused. `reason` is one of our own fixed words.
pub fn refused(reason: &'static str) {
    counter!("bulkhead_refused_total", "reason" => reason).increment(1);
}

/// Tokens of a request that ended.
pub fn tokens(tenant: &Arc<str>, model: &Arc<str>, input: u32, output: u32) {
    for (direction, n) in [("in", input), ("out", output)] {
        counter!("bulkhead_tokens_total", "tenant" => tenant.clone(), "model" => model.clone(), "direction" => direction)
            .increment(u64::from(n));
    }
}

/// A request's wait in the queue.
pub fn queued(tenant: &Arc<str>, wait_ns: u64) {
    histogram!("bulkhead_queue_seconds", "tenant" => tenant.clone()).record(seconds(wait_ns));
}

/// A lease was settled.
pub fn lane(tenant: &Arc<str>, model: &Arc<str>, lane_ns: u64) {
    // Microseconds as counts: a Prometheus counter here takes whole numbers only.
    counter!("bulkhead_lane_microseconds_total", "tenant" => tenant.clone(), "model" => model.clone())
        .increment(lane_ns / 1000);
}

/// Steps that a worker told of at once: one, and those before it that had nothing to say.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    pub sequences: u32,
    pub silent: u32,
    pub all_ns: u64,
    /// No more than all of them.
    pub longest_ns: u64,
}

/// Steps that a worker told of. The longest is seen as it was, the others as long as their mean.
pub fn steps(model: &Arc<str>, steps: Steps, longest_ever_ns: u64) {
    let silent = steps.silent as usize;
    histogram!("bulkhead_batch_sequences", "model" => model.clone())
        .record_many(f64::from(steps.sequences), 1 + silent);
    let took = histogram!("bulkhead_step_seconds", "model" => model.clone());
    took.record(seconds(steps.longest_ns));
    if let Some(mean_ns) = (steps.all_ns - steps.longest_ns).checked_div(u64::from(steps.silent)) {
        took.record_many(seconds(mean_ns), silent);
    }
    gauge!("bulkhead_step_seconds_max").set(seconds(longest_ever_ns));
}

/// What a worker says that it has done since it said so last. It counts upwards; one that does not
/// adds nothing.
pub fn engine(tenant: &Arc<str>, model: &Arc<str>, before: &Counters, now: &Counters) {
    let more = |name: &'static str, before: u64, now: u64| {
        if let Some(more @ 1..) = now.checked_sub(before) {
            counter!(name, "tenant" => tenant.clone(), "model" => model.clone()).increment(more);
        }
    };
    for (name, of, _) in ENGINE_COUNTERS {
        more(name, of(before), of(now));
    }
}

/// KV of a worker, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// What sequences hold, or held and is not clean yet.
    pub live: u64,
    /// What only its prefix cache holds.
    pub cached: u64,
}

/// A worker holds `now` and no more `before`: gauges are sums, since workers can share their labels.
pub fn held(tenant: &Arc<str>, model: &Arc<str>, before: Held, now: Held) {
    let change = |name: &'static str, before: u64, now: u64| {
        let bytes = |n: u64| n.min(HELD_BYTES_MAX) as f64;
        gauge!(name, "tenant" => tenant.clone(), "model" => model.clone())
            .increment(bytes(now) - bytes(before));
    };
    change("bulkhead_engine_kv_bytes", before.live, now.live);
    change("bulkhead_engine_cached_bytes", before.cached, now.cached);
}

/// What passed beside its steps from one that a worker told of to the next: telling the first, and hearing what has come.
pub fn between_steps(tenant: &Arc<str>, between_ns: u64) {
    histogram!(BETWEEN_STEPS, "tenant" => tenant.clone()).record(seconds(between_ns));
}

/// What a lease took on the way to its first step and from its last.
pub fn dispatch(tenant: &Arc<str>, dispatch_ns: u64) {
    histogram!(DISPATCH, "tenant" => tenant.clone()).record(seconds(dispatch_ns));
}

/// The evidence of a scrub: its worker's word, and so no more of it than there could be.
pub fn scrub(zeroed: u64, verified: u64, residue: u64) {
    let count = |bytes: u64| bytes.min(SCRUB_BYTES_MAX);
    counter!("bulkhead_scrub_bytes_total", "kind" => "zeroed").increment(count(zeroed));
    counter!("bulkhead_scrub_bytes_total", "kind" => "verified").increment(count(verified));
    counter!("bulkhead_scrub_residue_bytes_total").increment(count(residue));
}

/// How far predictions of lane time were off of late, in thousandths of what it was.
pub fn cost_error(model: &Arc<str>, milli: u64) {
    gauge!("bulkhead_cost_error_ratio", "model" => model.clone()).set(milli as f64 / 1000.0);
}

/// A worker became ready.
pub fn worker_started() {
    counter!("bulkhead_worker_starts_total").increment(1);
}

/// A worker ended. `how` and `why` are of our own fixed words.
pub fn worker_ended(tenant: &Arc<str>, how: &'static str, why: &'static str) {
    counter!("bulkhead_worker_deaths_total", "tenant" => tenant.clone(), "how" => how, "why" => why)
        .increment(1);
}

/// A restart is put off. `cause` is one of our own fixed words.
pub fn backoff_began(tenant: &Arc<str>, model: &Arc<str>, cause: &'static str, for_ns: u64) {
    counter!("bulkhead_worker_backoffs_total", "tenant" => tenant.clone(), "model" => model.clone(), "cause" => cause)
        .increment(1);
    backoff(tenant, model, for_ns);
}

/// A restart is due.
pub fn backoff_over(tenant: &Arc<str>, model: &Arc<str>) {
    backoff(tenant, model, 0);
}

fn backoff(tenant: &Arc<str>, model: &Arc<str>, for_ns: u64) {
    gauge!("bulkhead_worker_backoff_seconds", "tenant" => tenant.clone(), "model" => model.clone())
        .set(seconds(for_ns));
}

/// A worker was refused because of a file of this model, which is one of ours.
pub fn model_fault(model: &str) {
    counter!("bulkhead_model_faults_total", "model" => model.to_owned()).increment(1);
}

/// Weights of this model, which is one of ours, were changed on a GPU.
pub fn weights_changed(model: &str) {
    counter!("bulkhead_weights_changed_total", "model" => model.to_owned()).increment(1);
}

/// What a model's weights take, as its first worker measured it and as it was reckoned when the model was
/// added (0: nobody did).
pub fn weights(model: &str, measured: u64, estimated: u64) {
    for (kind, bytes) in [("measured", measured), ("estimated", estimated)] {
        gauge!("bulkhead_model_weights_bytes", "model" => model.to_owned(), "kind" => kind)
            .set(bytes as f64);
    }
}

/// A tenant's share, from the core's own books.
pub fn share(tenant: &Arc<str>, view: &TenantView) {
    for (name, ns) in [
        ("bulkhead_share_received_seconds", view.lane_ns),
        ("bulkhead_share_restarts_seconds", view.restart_ns),
        ("bulkhead_share_owed_seconds", view.owed_ns),
        ("bulkhead_share_lead_seconds", view.lead_ns),
    ] {
        gauge!(name, "tenant" => tenant.clone()).set(seconds(ns));
    }
    gauge!("bulkhead_queued_requests", "tenant" => tenant.clone()).set(f64::from(view.queued));
}

/// How far a tenant may be ahead of another.
pub fn lead_bound(bound_ns: Nanos) {
    gauge!("bulkhead_share_lead_bound_seconds").set(seconds(bound_ns));
}

/// Whether the audit log takes records, and how many wait for it.
pub fn audit(up: bool, pending: usize) {
    gauge!("bulkhead_audit_up").set(if up { 1.0 } else { 0.0 });
    gauge!("bulkhead_audit_pending").set(pending as f64);
}

/// How long a record took to be durable.
pub fn audit_durable(took: Duration) {
    histogram!("bulkhead_audit_seconds").record(took.as_secs_f64());
}

/// An agent's connection was opened.
pub fn connection_opened() {
    gauge!("bulkhead_connections").increment(1);
}

/// An agent's connection was closed.
pub fn connection_closed() {
    gauge!("bulkhead_connections").decrement(1);
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
