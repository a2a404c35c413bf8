//! The simulator's driver: carries out what the core asks for, and checks each of its words.

use std::collections::BTreeSet;

use bulkhead_core::*;

use super::{Act, ModelWorker, Sim, worker};

impl Sim {
    /// Tells the core one event and carries out what it wants.
    pub fn say(&mut self, event: Event) {
        let mut effects = Vec::new();
        match event {
            Event::DeviceUp { device, .. } => drop(self.down.remove(&device)),
            Event::DeviceDown { device } => drop(self.down.insert(device)),
            _ => {}
        }
        let is_submit = matches!(event, Event::Submit(_));
        self.core.handle(self.now, event, &mut effects);
        self.check();
        for effect in effects {
            self.log.push((self.now, effect.clone()));
            self.carry_out(effect);
        }
        if is_submit {
            self.look_again();
        }
        for tenant in self.core.tenants() {
            let measured = self.lane_ns.get(&tenant.tenant).copied().unwrap_or(0);
            assert_eq!(
                tenant.lane_ns, measured,
                "{:?}: the bill is not what was measured",
                tenant.tenant
            );
        }
    }

    /// Everything that a request makes due is done when it comes. What was foreseen for later may have moved.
    fn look_again(&mut self) {
        let mut missed = Vec::new();
        self.core.handle(self.now, Event::Tick, &mut missed);
        for effect in missed {
            assert!(
                matches!(effect, Effect::WakeAt { .. }),
                "not done when the request came: {effect:?}"
            );
            self.carry_out(effect);
        }
    }

    /// All invariants at each event while the core is small, at some of them while it is large.
    fn check(&mut self) {
        self.events += 1;
        if self.core.requests_open() > 200 && !self.events.is_multiple_of(256) {
            return;
        }
        if let Err(broken) = self.core.check_invariants() {
            panic!("at {} ns: {broken}", self.now);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let later = self.now + self.latency_ns;
        match effect {
            Effect::Accepted { request } => self.on_accepted(request),
            Effect::Refused { request, refusal } => {
                assert!(
                    self.refused.insert(request, refusal).is_none(),
                    "{request:?} refused twice"
                );
                self.send_again(request);
            }
            Effect::Ended { request, end } => self.on_ended(request, end),
            Effect::StartWorker {
                worker,
                tenant,
                device,
                ..
            } => {
                self.owners.insert(worker, tenant);
                self.places.insert(worker, device);
                self.assert_up(worker);
                self.on_start(worker, tenant);
            }
            Effect::StopWorker { worker } | Effect::KillWorker { worker, .. } => {
                self.at(later, Act::Crash(worker))
            }
            Effect::Requeued { request } => {
                assert!(
                    !self.ended.contains_key(&request) && self.moved.insert(request),
                    "{request:?} moved twice, or after its end"
                );
            }
            Effect::Assign { worker, requests } => {
                self.assert_up(worker);
                let tenants: BTreeSet<TenantId> =
                    requests.iter().map(|r| self.accepted[r].0).collect();
                assert_eq!(
                    tenants.into_iter().collect::<Vec<_>>(),
                    [self.owners[&worker]],
                    "a batch of two tenants"
                );
                let work = requests.iter().map(|r| (*r, self.tokens[r])).collect();
                self.at(later, Act::Frame(worker, worker::Frame::Work(work)));
            }
            Effect::Grant { worker, lease } => {
                self.assert_up(worker);
                assert!(
                    self.leases.insert(worker, (lease, self.now)).is_none(),
                    "{worker:?} got a second lane"
                );
                self.at(later, Act::Frame(worker, worker::Frame::Grant(lease)));
            }
            Effect::Yield { worker, lease } => {
                self.at(later, Act::Frame(worker, worker::Frame::Yield(lease)))
            }
            Effect::CancelRunning { worker, request } => {
                self.at(later, Act::Frame(worker, worker::Frame::Cancel(request)));
            }
            Effect::Settled {
                worker,
                lease,
                lane_ns,
                ..
            } => {
                let (held, since) = self
                    .leases
                    .remove(&worker)
                    .unwrap_or_else(|| panic!("{worker:?} held no lease"));
                assert_eq!(
                    (held, self.now - since),
                    (lease, lane_ns),
                    "{worker:?}: settled wrongly"
                );
            }
            Effect::BackoffBegan { tenant, model, .. } => {
                assert!(
                    self.backoffs.insert((tenant, model), self.now).is_none(),
                    "{tenant:?} {model:?}: a backoff in a backoff"
                );
            }
            Effect::BackoffOver { tenant, model } => {
                assert!(
                    self.backoffs.remove(&(tenant, model)).is_some(),
                    "{tenant:?} {model:?}: no backoff to end"
                );
            }
            Effect::WakeAt { at } => {
                if let Some(old) = self.wake.take() {
                    self.agenda.remove(&old);
                }
                self.at(at, Act::Say(Event::Tick));
                self.wake = Some((at.max(self.now), self.serial));
            }
        }
    }

    fn assert_up(&self, worker: WorkerId) {
        let device = self.places[&worker];
        assert!(!self.down.contains(&device), "{device:?} is down and used");
    }

    fn on_accepted(&mut self, request: RequestId) {
        let tenant = self.submitters[&request];
        assert!(
            self.accepted.insert(request, (tenant, self.now)).is_none(),
            "{request:?} accepted twice"
        );
    }

    fn on_ended(&mut self, request: RequestId, end: End) {
        assert!(
            self.accepted.contains_key(&request),
            "{request:?} ended and was never accepted"
        );
        assert!(
            self.ended.insert(request, (end, self.now)).is_none(),
            "{request:?} ended twice"
        );
        self.send_again(request);
    }

    /// The next request of a closed loop, whatever became of the last.
    fn send_again(&mut self, request: RequestId) {
        if let Some((mut submission, pause_ns)) = self.loops.remove(&request) {
            submission.request = RequestId(self.next_request);
            self.next_request += 1;
            self.tokens
                .insert(submission.request, self.tokens[&request]);
            self.submitters
                .insert(submission.request, submission.tenant);
            self.loops
                .insert(submission.request, (submission.clone(), pause_ns));
            self.at(self.now + pause_ns, Act::Say(Event::Submit(submission)));
        }
    }

    fn on_start(&mut self, id: WorkerId, tenant: TenantId) {
        if let Some(&failure) = self.unstartable.get(&tenant) {
            return self.at(
                self.now + self.start_ns,
                Act::Say(Event::WorkerFailed {
                    worker: id,
                    failure,
                }),
            );
        }
        let conduct = self.conduct.get(&tenant).cloned().unwrap_or_default();
        self.workers.insert(id, ModelWorker::new(id, conduct));
        self.at(
            self.now + self.start_ns,
            Act::Say(Event::WorkerReady { worker: id }),
        );
    }
}
