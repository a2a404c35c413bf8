//! The invariants, spelt out. For tests: it walks everything and takes as long as that takes.

use std::collections::BTreeSet;

use crate::core::Core;
use crate::kinds::Group;
use crate::map::IdMap;
use crate::tenant::Tenant;
use crate::worker::Class;
use crate::{DeviceKind, TenantId};

impl Core {
    /// Checks every invariant of the state and says which one is broken, if any.
    ///
    /// # Errors
    /// A sentence on the first broken invariant. That is a bug of the core, never of its input.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.memory.check()?;
        self.check_workers()?;
        self.check_devices()?;
        self.check_requests()?;
        self.check_tenants()?;
        self.check_orders()
    }

    /// Nobody stands in an order who does not compete there.
    fn check_orders(&self) -> Result<(), String> {
        for (kind, fair) in self.places.iter().enumerate() {
            let places = self.tenants.values().map(|tenant| &tenant.places[kind]);
            let competing = places.filter(|standing| standing.competing).count();
            need(fair.len() == competing, || {
                format!(
                    "{} in an order of places, and {competing} compete",
                    fair.len()
                )
            })?;
        }
        for (id, device) in self.devices.iter() {
            let parts = self
                .tenants
                .values()
                .filter_map(|tenant| tenant.parts.get(&id));
            let competing = parts.filter(|part| part.standing.competing).count();
            need(device.fair.len() == competing, || {
                format!(
                    "{} in the order of {id:?}, and {competing} compete",
                    device.fair.len()
                )
            })?;
        }
        Ok(())
    }

    fn check_workers(&self) -> Result<(), String> {
        for (id, worker) in &self.workers {
            let dropped = worker.dropped.values().map(|dropped| &dropped.held);
            let held = worker.assigned.values().chain(dropped);
            let (tokens, cost_ns) =
                held.fold((0, 0), |(t, c), one| (t + one.tokens, c + one.cost_ns));
            let booked = (worker.tokens(), worker.expected_ns());
            need((tokens, cost_ns) == booked, || {
                format!("{id:?}: {booked:?} but holds {tokens} and {cost_ns}")
            })?;
            for request in worker.assigned.keys() {
                let held = self.requests.get(request);
                let own = held.is_some_and(|r| {
                    r.worker == Some(*id) && r.tenant == worker.tenant && r.model == worker.model
                });
                need(own, || {
                    format!("{id:?} holds {request:?}, which is not its own")
                })?;
            }
            let listed = self
                .flow(worker.tenant, worker.model)
                .is_some_and(|flow| flow.worker == Some(*id) && flow.device == Some(worker.device));
            need(listed != worker.abandoned, || {
                format!("{id:?} serves no queue, or serves one from a device that went down")
            })?;
            let may_be_there = self.is_resident(worker) || worker.is_leaving() || worker.retiring;
            need(may_be_there, || {
                format!("{id:?} is where its tenant may not be, and goes on")
            })?;
            let has_all = self.keeping(*id).is_none() || self.next_fitting(*id).is_none();
            need(has_all, || {
                format!("{id:?} keeps its lane, and more of its queue would fit")
            })?;
            let bare = !worker.holds_work() && worker.lease.is_none() && worker.is_leaving();
            need(!worker.abandoned || bare, || {
                format!("{id:?} was abandoned with something in its hands")
            })?;
            need(
                worker.lease.is_some() == self.leased.contains_key(id),
                || format!("{id:?}: lease not booked"),
            )?;
        }
        Ok(())
    }

    fn check_devices(&self) -> Result<(), String> {
        for (id, device) in self.devices.iter() {
            need(device.running.len() <= device.lanes, || {
                format!("{id:?}: more leases than lanes")
            })?;
            need(device.workers.len() <= device.workers_max, || {
                format!("{id:?}: too many workers")
            })?;
            let unused = device.running.is_empty() && device.waiting.is_empty();
            need(device.up || unused && device.idle.is_empty(), || {
                format!("{id:?} is down and in use")
            })?;
            need(device.next_yield == self.next_yield(id), || {
                format!("{id:?}: a lane is asked back at another time than foreseen")
            })?;
            need(self.claims_are_dropped(id), || {
                format!("{id:?}: somebody is owed what it could not have used")
            })?;
            let free = device.running.len() < device.lanes;
            need(!free || device.waiting.is_empty(), || {
                format!("{id:?}: a lane is free while a worker waits")
            })?;
            for worker in device
                .workers
                .iter()
                .filter_map(|worker| self.workers.get(worker))
            {
                need(device.up || worker.abandoned, || {
                    format!("{:?} lives on a device that is down", worker.id)
                })?;
                let taken = device.kind == DeviceKind::Processor || self.accelerates(worker.model);
                need(taken, || {
                    format!(
                        "{:?} is on a device that its model does not run on",
                        worker.id
                    )
                })?;
                let queued = self
                    .flow(worker.tenant, worker.model)
                    .is_some_and(|flow| !flow.queue.is_empty());
                let class = worker.class(queued);
                let effective = self.effective_time(worker.tenant, id);
                let in_order = worker
                    .wait
                    .is_none_or(|key| key.0 == effective && device.waiting.contains(&key));
                need(
                    worker.wait.is_some() == (class == Class::Waiting) && in_order,
                    || format!("{:?}: wait index", worker.id),
                )?;
                let idle = worker.idle.is_none_or(|key| device.idle.contains(&key));
                need(
                    worker.idle.is_some() == (class == Class::Idle) && idle,
                    || format!("{:?}: idle index", worker.id),
                )?;
            }
            let abandoned =
                |w: &&crate::WorkerId| self.workers.get(w).is_some_and(|w| w.device_lost);
            let abandoned = device.workers.iter().filter(abandoned).count();
            need(abandoned == device.abandoned, || {
                format!("{id:?}: {abandoned} abandoned, booked {}", device.abandoned)
            })?;
            let leaving = device
                .workers
                .iter()
                .filter(|w| self.workers.get(w).is_some_and(|w| w.is_leaving()))
                .count();
            need(leaving == device.leaving, || {
                format!("{id:?}: {leaving} leaving, booked {}", device.leaving)
            })?;
        }
        Ok(())
    }

    fn check_requests(&self) -> Result<(), String> {
        let mut with_deadline = 0;
        for (id, request) in &self.requests {
            with_deadline += usize::from(request.deadline.is_some());
            let held = request.worker.is_none_or(|w| {
                self.workers
                    .get(&w)
                    .is_some_and(|w| w.assigned.contains_key(id))
            });
            need(held, || {
                format!("{id:?} is held by a worker that does not hold it")
            })?;
        }
        need(self.deadlines.len() == with_deadline, || {
            "a deadline outlived its request".into()
        })?;
        let open = self.tenants.iter();
        let open = open.flat_map(|(id, tenant)| tenant.agents.keys().map(|agent| (*agent, *id)));
        need(open.collect::<BTreeSet<_>>() == self.agents, || {
            "an agent without open requests, or one that is not listed".into()
        })
    }

    fn check_standings(&self, id: TenantId, tenant: &Tenant) -> Result<(), String> {
        let (seats, mut on_kinds) = (self.seats(id), [false; 2]);
        for (on, device) in self.devices.iter() {
            let competes = seats.iter().any(|seat| seat.device == on && seat.competes);
            on_kinds[device.kind as usize] |= competes;
            let part = tenant.parts.get(&on).map(|part| &part.standing);
            let in_order = part.is_none_or(|standing| standing.is_in(&device.fair, id));
            let booked = part.is_some_and(|standing| standing.competing);
            need(in_order && booked == competes, || {
                format!("{id:?}: not in the fair order of {on:?} as it should be")
            })?;
        }
        for ((standing, fair), competes) in tenant.places.iter().zip(&self.places).zip(on_kinds) {
            let in_order = standing.is_in(fair, id);
            need(in_order && standing.competing == competes, || {
                format!("{id:?}: not in the order of places as it should be")
            })?;
        }
        Ok(())
    }

    fn check_tenants(&self) -> Result<(), String> {
        for (id, tenant) in &self.tenants {
            let mine = || {
                self.requests
                    .values()
                    .filter(|request| request.tenant == *id)
            };
            let waiting = || mine().filter(|request| request.worker.is_none());
            let queued: usize = tenant.flows.values().map(|flow| flow.queue.len()).sum();
            need(
                queued == waiting().count() && queued == tenant.queued as usize,
                || format!("{id:?}: queue length"),
            )?;
            need(mine().count() == tenant.open as usize, || {
                format!("{id:?}: open requests")
            })?;
            let mut agents = IdMap::default();
            mine().for_each(|request| *agents.entry(request.agent).or_default() += 1);
            let counted = tenant.agent_places.agents as usize;
            need(agents == tenant.agents && counted == agents.len(), || {
                format!("{id:?}: agents with open requests")
            })?;
            let bytes: u64 = waiting().map(|request| request.bytes).sum();
            need(bytes == self.memory.used(*id), || {
                format!("{id:?}: queue bytes")
            })?;
            let cost: u128 = waiting().map(|request| u128::from(request.cost_ns)).sum();
            need(cost == tenant.queued_cost_ns, || {
                format!("{id:?}: queued cost")
            })?;
            self.check_standings(*id, tenant)?;
            for (model, flow) in tenant.flows.iter() {
                flow.queue.check()?;
                let wants = flow.wants_worker(self.now);
                let group = Group {
                    accelerates: self.accelerates(model),
                    regions: tenant.settings.regions,
                };
                let indexed = flow.want.is_some_and(|key| self.wanted.holds(group, &key));
                need(wants == indexed, || format!("{id:?} {model:?}: want index"))?;
                let waits = self.backoffs.contains(&(flow.not_before, *id, model));
                need(waits == (flow.not_before > self.now), || {
                    format!("{id:?} {model:?}: backoff index")
                })?;
                need(!waits || flow.worker.is_none(), || {
                    format!("{id:?} {model:?}: a worker in backoff")
                })?;
            }
        }
        Ok(())
    }
}

fn need(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
