//! Workers: started on demand, evicted least recently used, given up on when they cannot start or
//! keep dying, killed when they speak of what is not theirs.

mod sim;

use bulkhead_core::*;
use sim::*;

fn starts(sim: &Sim, tenant: TenantId) -> usize {
    sim.count(|e| matches!(e, Effect::StartWorker { tenant: t, .. } if *t == tenant))
}

fn kills(sim: &Sim) -> usize {
    sim.count(|e| {
        matches!(
            e,
            Effect::KillWorker {
                why: KillReason::Protocol,
                ..
            }
        )
    })
}

#[test]
fn the_least_recently_used_idle_worker_makes_room() {
    let mut sim = Sim::new(limits(), 1, 2);
    let tenants: Vec<_> = (1..=3).map(|n| sim.tenant(n, 1)).collect();
    for tenant in [0, 1, 0, 2] {
        sim.submit(tenants[tenant], 10);
        sim.run_until(sim.now + 50 * MS);
    }
    let stopped: Vec<_> = sim
        .log
        .iter()
        .filter(|(_, e)| matches!(e, Effect::StopWorker { .. }))
        .collect();
    assert_eq!(stopped.len(), 1);
    assert_eq!(
        stopped[0].1,
        Effect::StopWorker {
            worker: WorkerId(2)
        }
    );
    assert_eq!(sim.open(), 0);
}

/// An operator's word ends a model's workers: one without work at once, one with work when that is
/// done. What comes later gets another.
#[test]
fn workers_of_a_retired_model_finish_what_they_hold_and_end() {
    let mut sim = Sim::new(limits(), 1, 4);
    let (busy, idle) = (sim.tenant(1, 1), sim.tenant(2, 1));
    sim.submit(idle, 10);
    sim.run_until(sim.now + 50 * MS);
    let held = sim.submit(busy, 900);
    sim.run_until(sim.now + MS);
    let runs = |w: WorkerView| w.tenant == busy && w.state == WorkerState::Leased;
    assert!(sim.core.workers().any(runs));
    let stopped = |sim: &Sim| sim.count(|e| matches!(e, Effect::StopWorker { .. }));
    let retire = |sim: &mut Sim, model| {
        sim.at(sim.now, Act::Say(Event::RetireModel { model }));
        sim.run_until(sim.now);
    };
    retire(&mut sim, ModelId(7));
    assert_eq!(stopped(&sim), 0, "nobody's");
    retire(&mut sim, MODEL);
    assert_eq!((stopped(&sim), sim.open()), (1, 1));
    let later = sim.submit(busy, 10);
    sim.run_until(sim.now + 5_000 * MS);
    assert_eq!(stopped(&sim), 2);
    assert_eq!(starts(&sim, busy), 2);
    for request in [held, later] {
        assert_eq!(sim.end_of(request), Some(End::Worker(Outcome::Ok)));
    }
}

/// An idle worker is ended when its time has come, not before, and never while it has work; the next
/// request starts another.
#[test]
fn a_worker_without_work_is_unloaded_and_loaded_again() {
    let unload_after_ns = 300 * MS;
    let mut sim = Sim::new(
        Limits {
            unload_after_ns,
            ..limits()
        },
        1,
        4,
    );
    let (busy, idle) = (sim.tenant(1, 1), sim.tenant(2, 1));
    let stopped = |sim: &Sim| sim.count(|e| matches!(e, Effect::StopWorker { .. }));
    sim.submit(idle, 10);
    // Longer than the idle time, all of it with work in hand or queued.
    let many: Vec<_> = (0..100).map(|_| sim.submit(busy, 900)).collect();
    sim.run_until(250 * MS);
    assert_eq!(stopped(&sim), 0);
    while many.iter().any(|request| !sim.ended.contains_key(request)) {
        let of_busy = |worker: &WorkerView| worker.tenant == busy;
        assert!(sim.core.workers().any(|w| of_busy(&w)), "it had work");
        sim.run_until(sim.now + 10 * MS);
    }
    sim.run_until(sim.now + unload_after_ns + 50 * MS);
    assert_eq!(stopped(&sim), 2);
    assert_eq!(starts(&sim, idle), 1);
    let again = sim.submit(idle, 10);
    sim.run_until(sim.now + 100 * MS);
    assert_eq!(starts(&sim, idle), 2);
    assert_eq!(sim.end_of(again), Some(End::Worker(Outcome::Ok)));
}

#[test]
fn without_a_limit_idle_workers_stay() {
    let mut sim = Sim::new(limits(), 1, 4);
    let tenant = sim.tenant(1, 1);
    sim.submit(tenant, 10);
    sim.run_until(100 * SECOND);
    assert_eq!(sim.count(|e| matches!(e, Effect::StopWorker { .. })), 0);
}

#[test]
fn a_worker_that_cannot_start_is_given_up_on() {
    for (permanent, attempts) in [(true, 1), (false, 3)] {
        let failure = StartFailure::Tried { permanent };
        let mut sim = Sim::new(limits(), 1, 2);
        let (broken, fine) = (sim.tenant(1, 1), sim.tenant(2, 1));
        sim.unstartable.insert(broken, failure);
        let (lost, kept) = (sim.submit(broken, 10), sim.submit(fine, 10));
        sim.run_until(SECOND);
        let Some(End::NoWorker { retry_after_ns }) = sim.end_of(lost) else {
            panic!("{:?}", sim.end_of(lost));
        };
        assert_eq!(retry_after_ns.is_none(), permanent);
        assert_eq!(sim.end_of(kept), Some(End::Worker(Outcome::Ok)));
        assert_eq!(starts(&sim, broken), attempts);
    }
}

/// Requests that kill their worker cannot keep a queue busy for ever.
#[test]
fn a_queue_whose_workers_keep_dying_is_given_up_on() {
    let mut sim = Sim::new(limits(), 1, 2);
    let tenant = sim.tenant(1, 1);
    sim.conduct.insert(
        tenant,
        Conduct {
            dies_after_steps: Some(1),
            ..Conduct::default()
        },
    );
    let requests: Vec<_> = (0..100).map(|_| sim.submit(tenant, 500)).collect();
    sim.run_until(SECOND);
    assert_eq!(starts(&sim, tenant), 3);
    let given_up = requests.iter().filter(|r| {
        matches!(
            sim.end_of(**r),
            Some(End::NoWorker {
                retry_after_ns: Some(_)
            })
        )
    });
    assert_eq!(given_up.count(), 94);
    assert_eq!(sim.open(), 0);
}

/// One tenant's many models do not keep another's worker from starting.
#[test]
fn start_slots_go_round() {
    let mut sim = Sim::new(limits(), 1, 3);
    sim.start_ns = 10 * MS;
    let (wide, narrow) = (sim.tenant(1, 1), sim.tenant(2, 1));
    for model in 0..20 {
        let mut submission = sim.submission(wide, 100);
        submission.model = ModelId(model);
        sim.offer(submission);
    }
    let request = sim.submit(narrow, 10);
    sim.run_until(100 * MS);
    assert!(
        sim.ended.contains_key(&request),
        "still waiting for a place"
    );
    sim.run_until(10 * SECOND);
    assert_eq!(sim.open(), 0);
}

/// The models of one tenant take turns as well.
#[test]
fn models_of_a_tenant_take_turns() {
    let mut sim = Sim::new(limits(), 1, 3);
    let tenant = sim.tenant(1, 1);
    for _ in 0..100 {
        sim.submit(tenant, 100);
    }
    let mut second = sim.submission(tenant, 10);
    second.model = ModelId(2);
    let second = sim.offer(second);
    sim.run_until(100 * MS);
    assert!(sim.ended[&second].1 <= limits().quantum_ns + 7 * MS);
}

fn finished(request: RequestId) -> Event {
    Event::Finished {
        worker: WorkerId(1),
        request,
        tokens_in: 1,
        tokens_out: 0,
        outcome: Outcome::Ok,
    }
}

/// A worker that speaks of a request that it never had is killed; one that says a thing twice is not.
#[test]
fn a_request_that_a_worker_never_had_kills_it() {
    let mut sim = Sim::new(limits(), 1, 8);
    let tenant = sim.tenant(1, 1);
    let done = sim.submit(tenant, 10);
    sim.run_until(50 * MS);
    sim.submit(tenant, 1_000);
    sim.run_until(60 * MS);
    sim.say(finished(done));
    assert_eq!(kills(&sim), 0);
    sim.say(finished(RequestId(999)));
    assert_eq!(kills(&sim), 1);
}

/// Nothing is computed without a lease: a worker that has given its own back and tells of a step, of a request that it
/// still holds, or of that lease, is killed, and nothing of it counts.
#[test]
fn a_worker_that_speaks_without_its_lease_is_killed() {
    let stale = LeaseId(1);
    let step = |lease| Event::Stepped {
        worker: WorkerId(1),
        lease,
        step_ns: 0,
        tokens: 1,
        kv_bytes: 0,
        answers: Vec::new(),
    };
    let release = Event::Released {
        worker: WorkerId(1),
        lease: stale,
        dry: true,
    };
    for word in 0..4 {
        let mut sim = Sim::new(limits(), 1, 8);
        let (tenant, other) = (sim.tenant(1, 1), sim.tenant(2, 1));
        let held = sim.submit(tenant, 1_000);
        let beside = sim.submit(other, 1_000);
        // By now the first has given way to the second.
        sim.run_until(30 * MS);
        let word = match word {
            0 => step(stale),
            1 => step(LeaseId(77)),
            2 => release.clone(),
            _ => finished(held),
        };
        sim.say(word.clone());
        assert_eq!(kills(&sim), 1, "{word:?}");
        sim.run_until(SECOND);
        assert_eq!(sim.end_of(held), Some(End::WorkerLost), "{word:?}");
        assert_eq!(sim.end_of(beside), Some(End::Worker(Outcome::Ok)));
    }
}

/// A worker that keeps giving its lane back with work in hand would be granted it for ever.
#[test]
fn a_worker_that_never_runs_what_it_holds_is_killed() {
    let mut core = Core::new(limits());
    let mut effects = Vec::new();
    let tenant = TenantId(1);
    core.handle(
        0,
        Event::DeviceUp {
            device: DEVICE,
            kind: DeviceKind::Processor,
            region: RegionId(0),
            lanes: 1,
            workers_max: 1,
        },
        &mut effects,
    );
    core.handle(
        0,
        Event::TenantSet {
            tenant,
            settings: settings(1),
        },
        &mut effects,
    );
    let submission = Submission {
        request: RequestId(1),
        tenant,
        agent: AgentId(1),
        model: MODEL,
        tokens_in: 1,
        tokens_read_min: 1,
        tokens_out_max: 0,
        bytes: 1,
        deadline: None,
        priority: Priority::default(),
    };
    core.handle(0, Event::Submit(submission), &mut effects);
    let worker = WorkerId(1);
    core.handle(0, Event::WorkerReady { worker }, &mut effects);
    for lease in 1..=4 {
        core.handle(
            0,
            Event::Released {
                worker,
                lease: LeaseId(lease),
                dry: true,
            },
            &mut effects,
        );
    }
    assert!(effects.contains(&Effect::KillWorker {
        worker,
        why: KillReason::Protocol
    }));
    core.handle(0, Event::WorkerDied { worker }, &mut effects);
    assert!(effects.contains(&Effect::Ended {
        request: RequestId(1),
        end: End::WorkerLost
    }));
}

/// Inside a tenant the agents share as tenants do among each other.
#[test]
fn a_busy_agent_does_not_hold_up_another_of_its_tenant() {
    let mut sim = Sim::new(limits(), 1, 8);
    let tenant = sim.tenant(1, 1);
    for _ in 0..500 {
        sim.submit(tenant, 100);
    }
    sim.run_until(SECOND);
    let mut submission = sim.submission(tenant, 100);
    submission.agent = AgentId(77);
    let request = sim.offer(submission);
    sim.run_until(sim.now + 200 * MS);
    assert!(
        sim.ended.contains_key(&request),
        "behind the whole queue of another agent"
    );
}

/// Whatever a launcher said before, a failed worker is gone and its queue gets another.
#[test]
fn a_worker_that_was_called_ready_and_then_failed_is_gone() {
    let mut sim = Sim::new(limits(), 1, 1);
    sim.start_ns = 5 * MS;
    let tenant = sim.tenant(1, 1);
    let failure = StartFailure::Tried { permanent: false };
    sim.unstartable.insert(tenant, failure);
    let request = sim.submit(tenant, 10);
    sim.say(Event::WorkerReady {
        worker: WorkerId(1),
    });
    sim.run_until(SECOND);
    assert_eq!(sim.end_of(request), Some(End::WorkerLost));
    assert_eq!(sim.core.workers().count(), 0);
}
