//! The virtual token counter (VTC, OSDI 2024), its variants, and LCF.
//!
//! A counter of charged service for each tenant; the first of the tenant whose counter is least is
//! admitted. The lift on arrival to an empty queue keeps a tenant from hoarding what it did not use
//! while idle; LCF, least counter first, is the same without it. Where a forecast is charged at
//! admission, what was produced beyond it is charged as it comes, and what was not is refunded.

use std::collections::{BTreeMap, VecDeque};

use super::forecast::Forecast;
use super::{Policy, Request, Verdict};
use crate::cost::{OUTPUT_PRICE, cost};
use crate::workload::Arrival;

/// Least counter first, in the variants that the paper compares.
#[derive(Debug)]
pub struct Vtc {
    name: &'static str,
    lifts: bool,
    forecast: Forecast,
    tenants: BTreeMap<u32, Tenant>,
    /// Whose queue ran empty last.
    last_left: Option<u32>,
    /// Tokens that each running request was charged for in advance, by its index.
    charged: BTreeMap<usize, u32>,
}

#[derive(Debug, Default)]
struct Tenant {
    counter: u64,
    queue: VecDeque<Request>,
}

impl Vtc {
    /// As published: output is charged token by token.
    pub fn plain() -> Self {
        Vtc::new("VTC", true, Forecast::Zero)
    }

    /// Charges the mean of the tenant's last five outputs at admission.
    pub fn predicting() -> Self {
        Vtc::new("VTC (predict)", true, Forecast::Mean(BTreeMap::new()))
    }

    /// Charges the true output at admission.
    pub fn oracle() -> Self {
        Vtc::new("VTC (oracle)", true, Forecast::Oracle)
    }

    /// Least counter first: VTC without the lift.
    pub fn lcf() -> Self {
        Vtc::new("LCF", false, Forecast::Zero)
    }

    fn new(name: &'static str, lifts: bool, forecast: Forecast) -> Self {
        Vtc {
            name,
            lifts,
            forecast,
            tenants: BTreeMap::new(),
            last_left: None,
            charged: BTreeMap::new(),
        }
    }

    /// What a newcomer is lifted to: the least counter among those who wait, or else that of the
    /// last who did.
    fn floor(&self) -> u64 {
        let waiting = self.tenants.values().filter(|t| !t.queue.is_empty());
        let least = waiting.map(|t| t.counter).min();
        let last = self.last_left.and_then(|id| self.tenants.get(&id));
        least.or(last.map(|t| t.counter)).unwrap_or(0)
    }

    /// The waiting tenant of the least counter; of several, that of the least id.
    fn least(&mut self) -> Option<(u32, &mut Tenant)> {
        let waiting = self.tenants.iter_mut().filter(|(_, t)| !t.queue.is_empty());
        waiting
            .map(|(id, tenant)| (*id, tenant))
            .min_by_key(|(id, tenant)| (tenant.counter, *id))
    }
}

impl Policy for Vtc {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn arrive(&mut self, request: Request) -> Verdict {
        let floor = if self.lifts { self.floor() } else { 0 };
        let tenant = self.tenants.entry(request.arrival.tenant).or_default();
        if tenant.queue.is_empty() {
            tenant.counter = tenant.counter.max(floor);
        }
        tenant.queue.push_back(request);
        Verdict::Waits
    }

    fn admit(&mut self, fits: &dyn Fn(&Arrival) -> bool) -> Option<Request> {
        let (id, tenant) = self.least()?;
        let request = tenant.queue.pop_front_if(|head| fits(&head.arrival))?;
        let left = tenant.queue.is_empty();
        let expected = self.forecast.tokens(&request.arrival);
        self.charged.insert(request.index, expected);
        if let Some(tenant) = self.tenants.get_mut(&id) {
            tenant.counter += cost(request.arrival.input, expected);
        }
        if left {
            self.last_left = Some(id);
        }
        Some(request)
    }

    fn produced(&mut self, request: &Request, nth: u32) {
        let charged = self.charged.get(&request.index).copied().unwrap_or(0);
        if let Some(tenant) = self.tenants.get_mut(&request.arrival.tenant)
            && nth > charged
        {
            tenant.counter += OUTPUT_PRICE;
        }
    }

    fn finished(&mut self, request: &Request) {
        let charged = self.charged.remove(&request.index).unwrap_or(0);
        let unused = charged.saturating_sub(request.arrival.output);
        if let Some(tenant) = self.tenants.get_mut(&request.arrival.tenant) {
            tenant.counter = tenant.counter.saturating_sub(cost(0, unused));
        }
        self.forecast.learn(&request.arrival);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(policy: &mut Vtc, index: usize, output: u32) -> u64 {
        let arrival = Arrival {
            at_ns: 0,
            tenant: 0,
            input: 10,
            output,
        };
        let request = Request { index, arrival };
        policy.arrive(request);
        assert_eq!(policy.admit(&|_| true), Some(request));
        let at_admission = policy.tenants[&0].counter;
        for nth in 1..=output {
            policy.produced(&request, nth);
        }
        policy.finished(&request);
        at_admission
    }

    #[test]
    fn a_forecast_is_charged_at_admission_and_made_good_at_the_end() {
        let mut policy = Vtc::predicting();
        let mut total = 0;
        // Nothing known; too low; too high; and the mean of the last five, without the first.
        let steps = [
            (20, 0),
            (40, 20),
            (3, 30),
            (21, 21),
            (21, 21),
            (21, 21),
            (8, 21),
        ];
        for (index, (output, forecast)) in steps.into_iter().enumerate() {
            let at_admission = serve(&mut policy, index, output);
            assert_eq!(at_admission, total + cost(10, forecast), "request {index}");
            total += cost(10, output);
            assert_eq!(policy.tenants[&0].counter, total, "request {index}");
        }
    }

    #[test]
    fn a_newcomer_is_lifted_and_a_head_that_does_not_fit_stops_all() {
        let mut policy = Vtc::plain();
        let request = |index: usize, tenant: u32, input: u32| Request {
            index,
            arrival: Arrival {
                at_ns: 0,
                tenant,
                input,
                output: 1,
            },
        };
        policy.arrive(request(0, 1, 70));
        policy.admit(&|_| true);
        policy.arrive(request(1, 2, 5));
        assert_eq!(policy.tenants[&2].counter, 70, "to who left last");
        policy.arrive(request(2, 1, 1));
        policy.admit(&|_| true);
        assert_eq!(policy.tenants[&1].counter, 71, "of equals, the least id");
        policy.arrive(request(3, 3, 1));
        assert_eq!(policy.tenants[&3].counter, 70, "to the least who waits");
        assert_eq!(policy.admit(&|head| head.input < 5), None);
        assert_eq!(policy.admit(&|_| true), Some(request(1, 2, 5)));
    }
}
