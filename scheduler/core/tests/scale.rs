//! Ten thousand tenants on one core: every decision stays a matter of the tenant at hand.

use std::collections::BTreeMap;

use bulkhead_core::*;

const TENANTS: u32 = 10_000;
const STEP_NS: Nanos = 1_000_000;

/// Each tenant sends three requests and all are served, in turns, through eight places for workers.
/// The world here is the plainest one: whoever gets a lane ends what it holds 1 ms later.
#[test]
fn ten_thousand_tenants_are_all_served() {
    let mut core = Core::new(Limits {
        queue_bytes_max: 1 << 30,
        tenant_reserved_bytes: 1 << 16,
        batch_tokens_max: 1_000,
        quantum_ns: 20 * STEP_NS,
        switch_percent: 0,
        burst_ns: 0,
        release_grace_ns: 50 * STEP_NS,
        start_attempts_max: 3,
        unload_after_ns: 0,
        restarts: Pace {
            first_ns: STEP_NS,
            longest_ns: STEP_NS,
            good_life_ns: STEP_NS,
        },
        backoff_patience_ns: STEP_NS,
        seed: 1,
    });
    let mut effects = Vec::new();
    core.handle(
        0,
        Event::DeviceUp {
            device: DeviceId(1),
            kind: DeviceKind::Processor,
            region: RegionId(0),
            lanes: 1,
            workers_max: 8,
        },
        &mut effects,
    );
    let settings = TenantSettings {
        weight: 1,
        queue_requests_max: 10,
        open_requests_max: 10,
        rate: Rate::default(),
        agent_rate: Rate::default(),
        regions: Regions::ANY,
    };
    for n in 0..TENANTS {
        let settings = settings.clone();
        core.handle(
            0,
            Event::TenantSet {
                tenant: TenantId(n),
                settings,
            },
            &mut effects,
        );
    }
    for n in 0..TENANTS * 3 {
        core.handle(0, Event::Submit(submission(n)), &mut effects);
    }
    let (mut now, mut ended, mut held) = (0, 0, BTreeMap::<WorkerId, Vec<RequestId>>::new());
    let mut answers = Vec::new();
    while !effects.is_empty() {
        now += STEP_NS;
        for effect in effects.drain(..) {
            match effect {
                Effect::StartWorker { worker, .. } => answers.push(Event::WorkerReady { worker }),
                Effect::StopWorker { worker } => answers.push(Event::WorkerDied { worker }),
                Effect::Assign { worker, requests } => {
                    held.entry(worker).or_default().extend(requests)
                }
                Effect::Grant { worker, lease } => {
                    for request in held.remove(&worker).unwrap_or_default() {
                        let outcome = Outcome::Ok;
                        answers.push(Event::Finished {
                            worker,
                            request,
                            tokens_in: 1,
                            tokens_out: 0,
                            outcome,
                        });
                    }
                    answers.push(Event::Released {
                        worker,
                        lease,
                        dry: true,
                    });
                }
                Effect::Ended { .. } => ended += 1,
                Effect::Refused { request, refusal } => panic!("{request:?} refused: {refusal:?}"),
                _ => {}
            }
        }
        for event in answers.drain(..) {
            core.handle(now, event, &mut effects);
        }
    }
    assert_eq!(ended, TENANTS * 3);
    assert_eq!(core.check_invariants(), Ok(()));
}

fn submission(n: u32) -> Submission {
    Submission {
        request: RequestId(u64::from(n)),
        tenant: TenantId(n % TENANTS),
        agent: AgentId(n % TENANTS),
        model: ModelId(1),
        tokens_in: 10,
        tokens_read_min: 10,
        tokens_out_max: 0,
        bytes: 100,
        deadline: None,
        priority: Priority::default(),
    }
}
