//! Promise: every accepted request ends exactly once, whatever happens to it: deaths, cancels,
//! deadlines, workers that cannot start, and workers that talk nonsense. That none ends twice, that
//! no batch mixes tenants and that the bill is what was measured is checked by the simulator itself.

mod sim;

use std::collections::BTreeSet;

use bulkhead_core::*;
use proptest::prelude::*;
use sim::*;

/// One thing that goes on, or goes wrong.
#[derive(Clone, Debug)]
enum Trouble {
    Submit {
        tenant: u32,
        agent: u32,
        model: u32,
        tokens: u32,
        deadline_ms: Option<u64>,
    },
    Cancel {
        request: u64,
    },
    CancelAgent {
        agent: u32,
    },
    Crash {
        worker: u64,
    },
    Device {
        device: u32,
        up: bool,
    },
    Bind {
        tenant: u32,
        regions: Regions,
    },
    Say {
        event: Event,
    },
    Wait {
        us: u64,
    },
}

/// What a worker, or a confused launcher, might say.
fn nonsense() -> impl Strategy<Value = Event> {
    let worker = (1u64..12).prop_map(WorkerId);
    let lease = (1u64..40).prop_map(LeaseId);
    prop_oneof![
        worker
            .clone()
            .prop_map(|worker| Event::WorkerReady { worker }),
        (worker.clone(), failure())
            .prop_map(|(worker, failure)| Event::WorkerFailed { worker, failure }),
        (worker.clone(), lease.clone(), any::<u32>(), any::<u64>()).prop_map(
            |(worker, lease, tokens, kv_bytes)| Event::Stepped {
                worker,
                lease,
                step_ns: kv_bytes,
                tokens,
                kv_bytes,
                answers: vec![(RequestId(u64::from(tokens % 60)), tokens)],
            }
        ),
        (worker.clone(), 1u64..60, any::<u32>()).prop_map(|(worker, request, tokens)| {
            let (request, outcome) = (RequestId(request), Outcome::Ok);
            Event::Finished {
                worker,
                request,
                tokens_in: tokens,
                tokens_out: tokens,
                outcome,
            }
        }),
        (worker, lease, any::<bool>()).prop_map(|(worker, lease, dry)| Event::Released {
            worker,
            lease,
            dry
        }),
        Just(Event::Tick),
    ]
}

fn failure() -> impl Strategy<Value = StartFailure> {
    prop_oneof![
        Just(StartFailure::Refused),
        any::<u64>().prop_map(|for_ns| StartFailure::Waiting { for_ns }),
        any::<bool>().prop_map(|permanent| StartFailure::Tried { permanent }),
    ]
}

fn trouble() -> impl Strategy<Value = Trouble> {
    let submit = (
        1u32..5,
        0u32..3,
        1u32..3,
        1u32..1_500,
        prop::option::of(0u64..400),
    );
    prop_oneof![
        8 => submit.prop_map(|(tenant, agent, model, tokens, deadline_ms)| {
            Trouble::Submit { tenant, agent, model, tokens, deadline_ms }
        }),
        2 => (1u64..60).prop_map(|request| Trouble::Cancel { request }),
        1 => (0u32..12).prop_map(|agent| Trouble::CancelAgent { agent }),
        1 => (1u64..12).prop_map(|worker| Trouble::Crash { worker }),
        1 => (1u32..3, any::<bool>()).prop_map(|(device, up)| Trouble::Device { device, up }),
        1 => (1u32..4, regions()).prop_map(|(tenant, regions)| Trouble::Bind { tenant, regions }),
        2 => nonsense().prop_map(|event| Trouble::Say { event }),
        4 => (1u64..60_000).prop_map(|us| Trouble::Wait { us }),
    ]
}

/// Of the two in which there are devices.
fn regions() -> impl Strategy<Value = Regions> {
    let each = |(one, other): (bool, bool)| {
        let regions = one.then_some(RegionId(0)).into_iter();
        regions.chain(other.then_some(RegionId(1))).collect()
    };
    prop_oneof![Just(Regions::ANY), any::<(bool, bool)>().prop_map(each)]
}

fn make(sim: &mut Sim, trouble: Trouble) {
    match trouble {
        Trouble::Submit {
            tenant,
            agent,
            model,
            tokens,
            deadline_ms,
        } => {
            let mut submission = sim.submission(TenantId(tenant), tokens);
            submission.agent = AgentId(tenant * 3 + agent);
            submission.model = ModelId(model);
            submission.deadline = deadline_ms.map(|ms| sim.now + ms * MS);
            sim.offer(submission);
        }
        Trouble::Cancel { request } => {
            sim.say(Event::Cancel {
                request: RequestId(request),
                why: CancelReason::Client,
            });
        }
        Trouble::CancelAgent { agent } => {
            sim.say(Event::CancelAgent {
                agent: AgentId(agent),
                why: CancelReason::Revoked,
            });
        }
        Trouble::Crash { worker } => sim.at(sim.now, Act::Crash(WorkerId(worker))),
        Trouble::Device { device, up } => sim.say(turn(DeviceId(device), up)),
        Trouble::Bind { tenant, regions } => {
            let settings = TenantSettings {
                regions,
                ..settings(tenant)
            };
            let tenant = TenantId(tenant);
            sim.say(Event::TenantSet { tenant, settings });
        }
        Trouble::Say { event } => sim.say(event),
        Trouble::Wait { us } => sim.run_until(sim.now + us * 1_000),
    }
}

/// In words that make no sense the first device is a processor, and the other is not.
fn kind(device: u32) -> DeviceKind {
    match device {
        1 => DeviceKind::Processor,
        _ => DeviceKind::Accelerator,
    }
}

fn turn(device: DeviceId, up: bool) -> Event {
    match up {
        // What it came with is kept.
        true => Event::DeviceUp {
            device,
            kind: DeviceKind::Processor,
            region: RegionId(0),
            lanes: 9,
            workers_max: 9,
        },
        false => Event::DeviceDown { device },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn under_any_trouble(
        troubles in prop::collection::vec(trouble(), 1..120),
        workers_max in 1u32..5,
        lanes in 1u32..3,
        latency_us in 0u64..3_000,
        faulty in 0u32..4,
        accelerates in any::<bool>(),
    ) {
        let mut sim = Sim::new(limits(), lanes, workers_max);
        let kind = match accelerates {
            true => DeviceKind::Accelerator,
            false => DeviceKind::Processor,
        };
        sim.say(Event::ModelAccelerates { model: MODEL });
        sim.say(Event::DeviceUp { device: DeviceId(2), kind, region: RegionId(1), lanes: 1, workers_max: 1 });
        sim.latency_ns = latency_us * 1_000;
        sim.start_ns = 7 * MS;
        for n in 1..4 {
            sim.tenant(n, n);
        }
        match faulty {
            1 => drop(sim.conduct.insert(TenantId(1), Conduct { deaf: true, ..Conduct::default() })),
            2 => drop(sim.conduct.insert(TenantId(1), Conduct { dies_after_steps: Some(2), ..Conduct::default() })),
            3 => drop(sim.unstartable.insert(TenantId(1), StartFailure::Tried { permanent: false })),
            _ => {}
        }
        for trouble in troubles {
            make(&mut sim, trouble);
        }
        sim.say(turn(DEVICE, true));
        sim.run_until(sim.now + 60 * SECOND);
        prop_assert_eq!(sim.open(), 0, "accepted and never ended");
        prop_assert_eq!(sim.core.requests_open(), 0);
        let accepted: BTreeSet<_> = sim.accepted.keys().collect();
        prop_assert!(sim.refused.keys().all(|id| !accepted.contains(id)), "both accepted and refused");
    }

    /// Events out of thin air, with nobody behind them who keeps any promise: never a panic, never a
    /// broken invariant, never two ends.
    #[test]
    fn events_out_of_thin_air(
        events in prop::collection::vec((thin_air(), 0u64..30 * MS), 1..200),
    ) {
        let mut core = Core::new(limits());
        let (mut now, mut open, mut effects) = (0, BTreeSet::new(), Vec::new());
        for (event, passed) in events {
            now += passed;
            core.handle(now, event, &mut effects);
            if let Err(broken) = core.check_invariants() {
                prop_assert!(false, "{}", broken);
            }
            for effect in effects.drain(..) {
                match effect {
                    Effect::Accepted { request } => prop_assert!(open.insert(request)),
                    Effect::Ended { request, .. } => prop_assert!(open.remove(&request)),
                    _ => {}
                }
            }
        }
        prop_assert_eq!(core.requests_open(), open.len());
    }
}

fn thin_air() -> impl Strategy<Value = Event> {
    let settings = |(weight, regions)| TenantSettings {
        weight,
        queue_requests_max: 5,
        open_requests_max: 9,
        rate: Rate::default(),
        agent_rate: Rate::default(),
        regions,
    };
    prop_oneof![
        6 => nonsense(),
        3 => (1u64..12).prop_map(|worker| Event::WorkerReady { worker: WorkerId(worker) }),
        1 => (1u64..12).prop_map(|worker| Event::WorkerDied { worker: WorkerId(worker) }),
        1 => (1u32..3, 0u32..3, 0u32..4)
            .prop_map(|(d, lanes, workers_max)| Event::DeviceUp { device: DeviceId(d), kind: kind(d), region: RegionId(d as u8 - 1), lanes, workers_max: workers_max + 8 }),
        1 => (1u32..3).prop_map(|model| Event::ModelAccelerates { model: ModelId(model) }),
        1 => (1u32..3).prop_map(|d| Event::DeviceDown { device: DeviceId(d) }),
        1 => (1u32..3, 0u32..12)
            .prop_map(|(d, workers)| Event::DeviceRoom { device: DeviceId(d), workers }),
        1 => (1u64..12, 1u64..60).prop_map(|(worker, request)| Event::Answering {
            worker: WorkerId(worker),
            request: RequestId(request),
        }),
        1 => (1u32..4, (0u32..4, regions()))
            .prop_map(move |(tenant, of)| Event::TenantSet { tenant: TenantId(tenant), settings: settings(of) }),
        6 => (1u64..60, 1u32..4, 1u32..3, any::<u32>(), prop::option::of(0u64..SECOND)).prop_map(
            |(request, tenant, model, tokens, deadline)| Event::Submit(Submission {
                request: RequestId(request),
                tenant: TenantId(tenant),
                agent: AgentId(request as u32 % 3),
                model: ModelId(model),
                tokens_in: tokens,
                tokens_read_min: tokens,
                tokens_out_max: tokens,
                bytes: u64::from(tokens) % 5_000,
                deadline,
                priority: Priority::default(),
            })
        ),
        1 => (1u64..60).prop_map(|r| Event::Cancel { request: RequestId(r), why: CancelReason::Client }),
    ]
}

/// The requests that a dead worker held are lost; those that wait, and other tenants', are not.
#[test]
fn a_death_costs_what_the_worker_held_and_nothing_else() {
    let mut sim = Sim::new(limits(), 1, 8);
    let (unlucky, other) = (sim.tenant(1, 1), sim.tenant(2, 1));
    let mine: Vec<_> = (0..20).map(|_| sim.submit(unlucky, 100)).collect();
    let theirs: Vec<_> = (0..20).map(|_| sim.submit(other, 100)).collect();
    sim.run_until(7 * MS);
    sim.at(7 * MS, Act::Crash(WorkerId(1)));
    sim.run_until(5 * SECOND);
    let lost = mine
        .iter()
        .filter(|r| sim.end_of(**r) == Some(End::WorkerLost))
        .count();
    assert_eq!(lost, 10, "what one batch holds");
    assert_eq!(sim.open(), 0);
    assert!(
        theirs
            .iter()
            .all(|r| sim.end_of(*r) == Some(End::Worker(Outcome::Ok)))
    );
    assert_eq!(
        sim.count(|e| matches!(e, Effect::StartWorker { tenant, .. } if *tenant == other)),
        1
    );
}

/// Cancelled while running: over for the caller at once, over for the worker at its next step.
#[test]
fn a_cancelled_request_ends_once_and_its_worker_lives() {
    let mut sim = Sim::new(limits(), 1, 8);
    let tenant = sim.tenant(1, 1);
    let (first, second) = (sim.submit(tenant, 400), sim.submit(tenant, 400));
    sim.run_until(7 * MS);
    sim.say(Event::Cancel {
        request: first,
        why: CancelReason::Client,
    });
    assert_eq!(
        sim.end_of(first),
        Some(End::Cancelled(CancelReason::Client))
    );
    sim.say(Event::Cancel {
        request: first,
        why: CancelReason::Client,
    });
    sim.run_until(SECOND);
    assert_eq!(sim.end_of(second), Some(End::Worker(Outcome::Ok)));
    assert_eq!(sim.count(|e| matches!(e, Effect::CancelRunning { .. })), 1);
    assert_eq!(sim.count(|e| matches!(e, Effect::KillWorker { .. })), 0);
}

#[test]
fn deadlines_end_what_waits_and_what_runs() {
    let mut sim = Sim::new(limits(), 1, 8);
    let tenant = sim.tenant(1, 1);
    let mut running = sim.submission(tenant, 900);
    running.deadline = Some(12 * MS);
    let mut waiting = sim.submission(tenant, 900);
    waiting.deadline = Some(13 * MS);
    let (running, waiting) = (sim.offer(running), sim.offer(waiting));
    sim.run_until(SECOND);
    assert_eq!(sim.ended[&running], (End::Deadline, 12 * MS));
    assert_eq!(sim.ended[&waiting], (End::Deadline, 13 * MS));
    assert_eq!(sim.count(|e| matches!(e, Effect::CancelRunning { .. })), 1);
}
