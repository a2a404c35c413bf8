//! What the server's own metrics grew by over a span: where a request's time went, seen from inside.

use bulkhead_client::Metrics;

/// Two looks at the same server's metrics.
pub struct Span {
    before: Metrics,
    after: Metrics,
}

impl Span {
    /// From one look to a later one.
    pub fn new(before: Metrics, after: Metrics) -> Span {
        Span { before, after }
    }

    /// A tenant's share of all lane time.
    pub fn lane_share(&self, tenant: &str) -> f64 {
        let lane = |label: &str| self.grown("bulkhead_lane_microseconds_total", label);
        lane(&label(tenant)) / lane("").max(1.0)
    }

    /// Lane time for each request of a tenant, milliseconds.
    pub fn lane_mean_ms(&self, tenant: &str) -> f64 {
        let lane_us = self.grown("bulkhead_lane_microseconds_total", &label(tenant));
        let requests = self.grown("bulkhead_requests_total", &label(tenant));
        lane_us / 1e3 / requests.max(1.0)
    }

    /// From acceptance until the first lane, mean over a tenant's requests, milliseconds.
    pub fn queue_mean_ms(&self, tenant: &str) -> f64 {
        self.mean("bulkhead_queue_seconds", &label(tenant)) * 1e3
    }

    /// Duration of a step, mean over all tenants, milliseconds.
    pub fn step_mean_ms(&self) -> f64 {
        self.mean("bulkhead_step_seconds", "") * 1e3
    }

    /// Mean time until an audit record was durable, milliseconds.
    pub fn audit_mean_ms(&self) -> f64 {
        self.mean("bulkhead_audit_seconds", "") * 1e3
    }

    /// From a step's end to the beginning of the next under one lease, microseconds: as below.
    pub fn between_steps_us(&self, tenant: &str, share: f64) -> f64 {
        self.within("bulkhead_between_steps_seconds", &label(tenant), share) * 1e6
    }

    /// What a lease took to its first step and from its last, microseconds: the bound that this share of a tenant's leases
    /// kept to.
    pub fn dispatch_us(&self, tenant: &str, share: f64) -> f64 {
        self.within("bulkhead_dispatch_seconds", &label(tenant), share) * 1e6
    }

    /// The same of everybody's leases, milliseconds: what one switch from one tenant's worker to another's takes.
    pub fn switch_ms(&self, share: f64) -> f64 {
        self.within("bulkhead_dispatch_seconds", "", share) * 1e3
    }

    /// No step of this model's workers in the span was longer, milliseconds. Where the longest since the server's start
    /// grew meanwhile that is it; else it is below that, and below the bound of its bucket.
    pub fn longest_step_ms(&self, model: &str) -> f64 {
        const LONGEST: &str = "bulkhead_step_seconds_max";
        let since_start = self.after.max(LONGEST).unwrap_or(0.0);
        let bucket = self.within("bulkhead_step_seconds", &format!("model=\"{model}\""), 1.0);
        match self.before.max(LONGEST).unwrap_or(0.0) < since_start {
            true => since_start * 1e3,
            false => since_start.min(bucket) * 1e3,
        }
    }

    /// Tokens that went through the generating model for the first time, whoever sent them and whatever became of them.
    /// Embedding workers count none.
    pub fn tokens_computed(&self) -> f64 {
        self.grown("bulkhead_engine_tokens_computed_total", "")
            - self.grown("bulkhead_engine_tokens_recomputed_total", "")
    }

    /// Requests of everybody that ended so.
    pub fn ended(&self, outcome: &str) -> f64 {
        self.grown("bulkhead_requests_total", &format!("outcome=\"{outcome}\""))
    }

    /// What the server refused for this reason before it was a request.
    pub fn refused(&self, reason: &str) -> f64 {
        self.grown("bulkhead_refused_total", &format!("reason=\"{reason}\""))
    }

    /// Of a histogram: the least bound of a bucket that this share of its values kept to. Beyond the last bound it is that
    /// one, which is less than the truth.
    fn within(&self, name: &str, label: &str, share: f64) -> f64 {
        let before = self.before.buckets(name, label);
        let after = self.after.buckets(name, label);
        let was = |bound: f64| {
            before
                .iter()
                .find(|(known, _)| *known == bound)
                .map_or(0.0, |(_, n)| *n)
        };
        let grown = after.iter().map(|(bound, n)| (*bound, n - was(*bound)));
        let all = grown.clone().map(|(_, n)| n).fold(0.0, f64::max);
        let finite = grown.clone().filter(|(bound, _)| bound.is_finite());
        let last = finite.clone().next_back().map_or(0.0, |(bound, _)| bound);
        let mut reached = finite.filter(|(_, n)| *n >= share * all);
        reached.next().map_or(last, |(bound, _)| bound)
    }

    fn grown(&self, name: &str, label: &str) -> f64 {
        self.after.sum(name, label) - self.before.sum(name, label)
    }

    /// Of a histogram, over all labels that hold `label`.
    pub fn mean(&self, name: &str, label: &str) -> f64 {
        let sum = self.grown(&format!("{name}_sum"), label);
        sum / self.grown(&format!("{name}_count"), label).max(1.0)
    }
}

fn label(tenant: &str) -> String {
    format!("tenant=\"{tenant}\"")
}
