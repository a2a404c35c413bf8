//! The simulator's driver: carries out what the core asks for, and checks each of its words.

use std::collections::BTreeSet;

use bulkhead_core::*;

use super::{Act, Item, ModelWorker, Sim, Start, worker};

impl Sim {
    /// Tells the core one event and carries out what it wants.
    pub fn say(&mut self, event: Event) {
        let mut effects = Vec::new();
        let mut ends = None;
        match event {
            Event::DeviceUp { device, .. } => drop(self.down.remove(&device)),
            Event::DeviceDown { device } => drop(self.down.insert(device)),
            Event::WorkerReady { worker }
            | Event::WorkerFailed { worker, .. }
            | Event::WorkerDied { worker } => ends = Some(worker),
            _ => {}
        }
        let is_submit = matches!(event, Event::Submit(_));
        let is_end = !matches!(event, Event::WorkerReady { .. });
        let told = self.now.saturating_sub(self.back_ns);
        self.heard = self.heard.max(told);
        self.core.handle(told, event, &mut effects);
        self.check();
        let came = ends.and_then(|worker| self.starts.remove(&worker));
        self.check_bill(came);
        for effect in effects {
            if self.history {
                self.log.push((self.now, effect.clone()));
            }
            self.carry_out(effect);
        }
        if let Some(worker) = ends.filter(|_| is_end && !self.history) {
            self.owners.remove(&worker);
            self.places.remove(&worker);
        }
        if is_submit {
            self.look_again();
        }
    }

    /// What a tenant was charged is what was measured here. `came`: a start that has just come to something.
    fn check_bill(&mut self, came: Option<Start>) {
        for tenant in self.core.tenants() {
            let id = tenant.tenant;
            let measured = self.lane_ns.get(&id).copied().unwrap_or(0);
            assert_eq!(
                tenant.lane_ns, measured,
                "{id:?}: the bill is not what was measured"
            );
            let before = self.restart_ns.entry(id).or_default();
            let charged = tenant.restart_ns - *before;
            *before = tenant.restart_ns;
            let (took, must) = match came {
                Some(start) if start.tenant == id => (self.now - start.since, start.must),
                _ => (0, false),
            };
            assert!(
                charged == took || charged == 0 && !must,
                "{id:?}: a start of {took} ns was charged with {charged}"
            );
            if let Some(start) = came.filter(|_| charged > 0) {
                *self.restart_on_ns.entry((start.device, id)).or_default() += charged;
            }
        }
    }

    /// Everything that a request makes due is done when it comes. What was foreseen for later may have moved.
    fn look_again(&mut self) {
        let mut missed = Vec::new();
        let told = self.now.saturating_sub(self.back_ns);
        self.core.handle(told, Event::Tick, &mut missed);
        for effect in missed {
            assert!(
                matches!(effect, Effect::WakeAt { .. }),
                "not done when the request came: {effect:?}"
            );
            self.carry_out(effect);
        }
    }

    /// All invariants at each event (or as many as was asked for) while the core is small, at some of them while it is
    /// large.
    fn check(&mut self) {
        self.events += 1;
        let seldom = match self.core.requests_open() > 200 {
            true => self.check_every.max(256),
            false => self.check_every,
        };
        if !self.events.is_multiple_of(seldom) {
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
                self.on_refused(request, refusal);
            }
            Effect::Ended { request, end } => self.on_ended(request, end),
            Effect::StartWorker {
                worker,
                tenant,
                device,
                model,
            } => {
                let must = self.failed.contains(&(tenant, model));
                self.starts.insert(
                    worker,
                    Start {
                        tenant,
                        device,
                        since: self.now,
                        must,
                    },
                );
                self.owners.insert(worker, tenant);
                self.places.insert(worker, device);
                self.assert_up(worker);
                self.on_start(worker, tenant);
            }
            Effect::StopWorker { worker } => {
                self.forgive(worker);
                self.at(later, Act::Crash(worker));
            }
            Effect::KillWorker { worker, why } => {
                match why {
                    KillReason::HeldLane => self.note("held its lane"),
                    KillReason::HeldRequest => self.note("held a request"),
                    KillReason::DeviceDown | KillReason::Residency => self.forgive(worker),
                    KillReason::Protocol => {}
                }
                // Of one that was starting nothing is charged.
                self.starts.remove(&worker);
                self.at(later + self.kill_ns, Act::Crash(worker));
            }
            Effect::Requeued { request } => {
                let open =
                    self.accepted.contains_key(&request) && !self.ended.contains_key(&request);
                assert!(
                    open && self.moved.insert(request),
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
                let work = requests.iter().map(|r| self.item(*r)).collect();
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
            Effect::BackoffBegan {
                tenant,
                model,
                failures,
                ..
            } => {
                if failures > 0 {
                    self.failed.insert((tenant, model));
                }
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

    /// It ends through no fault of its own. Whether it had served for long enough for its queue's failures to be forgotten
    /// is the core's to know.
    fn forgive(&mut self, worker: WorkerId) {
        if let Some(view) = self.core.workers().find(|view| view.worker == worker) {
            self.failed.remove(&(view.tenant, view.model));
        }
    }

    fn item(&self, request: RequestId) -> Item {
        let tokens = self.tokens[&request];
        let answer = self.answers.get(&request).copied().unwrap_or(0);
        Item {
            request,
            tokens,
            answer: u64::from(answer),
            left: tokens,
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
        if !self.history {
            self.ended.remove(&request);
            self.accepted.remove(&request);
            self.forget(request, false);
        }
        match end {
            End::Deadline => self.note("a deadline passed"),
            End::DeviceLost | End::NoDevice => self.note("lost its device"),
            _ => {}
        }
        self.send_again(request);
    }

    fn on_refused(&mut self, request: RequestId, refusal: Refusal) {
        assert!(
            self.refused.insert(request, refusal).is_none(),
            "{request:?} refused twice"
        );
        if !self.history {
            self.refused.remove(&request);
            self.forget(request, true);
        }
        self.send_again(request);
    }

    /// It is over and nobody will ask: what was known of it goes.
    fn forget(&mut self, request: RequestId, refused: bool) {
        self.tokens.remove(&request);
        self.answers.remove(&request);
        self.submitters.remove(&request);
        self.agents_of.remove(&request);
        self.moved.remove(&request);
        self.over.push((request, refused));
    }

    /// The next request of a closed loop, whatever became of the last.
    fn send_again(&mut self, request: RequestId) {
        if let Some((mut submission, pause_ns)) = self.loops.remove(&request) {
            submission.request = RequestId(self.next_request);
            self.next_request += 1;
            self.tokens
                .insert(submission.request, self.tokens[&request]);
            if let Some(answer) = self.answers.get(&request) {
                self.answers.insert(submission.request, *answer);
            }
            self.submitters
                .insert(submission.request, submission.tenant);
            self.agents_of.insert(submission.request, submission.agent);
            self.loops
                .insert(submission.request, (submission.clone(), pause_ns));
            self.at(self.now + pause_ns, Act::Say(Event::Submit(submission)));
        }
    }

    fn on_start(&mut self, id: WorkerId, tenant: TenantId) {
        self.started += 1;
        if let Some(&failure) = self.unstartable.get(&tenant) {
            self.note("failed to start");
            return self.at(
                self.now + self.start_ns,
                Act::Say(Event::WorkerFailed {
                    worker: id,
                    failure,
                }),
            );
        }
        let conduct = self.conduct.get(&tenant).cloned().unwrap_or_default();
        if conduct.boasts > 1 {
            self.note("boasted");
        }
        if conduct.understates > 1 {
            self.note("understated");
        }
        self.workers.insert(id, ModelWorker::new(id, conduct));
        self.at(
            self.now + self.start_ns,
            Act::Say(Event::WorkerReady { worker: id }),
        );
    }
}
