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

    /// What a lease took beside its steps, microseconds: the bound that this share of a tenant's leases kept to.
    pub fn dispatch_us(&self, tenant: &str, share: f64) -> f64 {
        const NAME: &str = "bulkhead_dispatch_seconds";
        let before = self.before.buckets(NAME, &label(tenant));
        let after = self.after.buckets(NAME, &label(tenant));
        let was = |bound: f64| {
            before
                .iter()
                .find(|(known, _)| *known == bound)
                .map_or(0.0, |(_, n)| *n)
        };
        let grown = after.iter().map(|(bound, n)| (*bound, n - was(*bound)));
        let all = grown.clone().map(|(_, n)| n).fold(0.0, f64::max);
        let mut reached = grown.filter(|(_, n)| *n >= share * all);
        reached.next().map_or(0.0, |(bound, _)| bound * 1e6)
    }

    fn grown(&self, name: &str, label: &str) -> f64 {
        self.after.sum(name, label) - self.before.sum(name, label)
    }

    /// Of a histogram.
    fn mean(&self, name: &str, label: &str) -> f64 {
        let sum = self.grown(&format!("{name}_sum"), label);
        sum / self.grown(&format!("{name}_count"), label).max(1.0)
    }
}

fn label(tenant: &str) -> String {
    format!("tenant=\"{tenant}\"")
}
