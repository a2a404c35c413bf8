//! Promise: each device is shared by those that compete for it, whatever they or others have of another. A device that goes
//! bad takes no work with it that could be done elsewhere, and gets none until it is back. That a device that is down gets no worker, batch or lane, and that nothing moves twice, is
//! checked by the simulator at every effect.

mod sim;

use bulkhead_core::*;
use proptest::prelude::*;
use sim::*;

const OTHER: DeviceId = DeviceId(2);

fn up(device: DeviceId) -> Event {
    Event::DeviceUp {
        device,
        kind: DeviceKind::Processor,
        lanes: 1,
        workers_max: 4,
    }
}

fn down(device: DeviceId) -> Event {
    Event::DeviceDown { device }
}

/// A simulation with so many devices that are alike.
fn with_devices(devices: u32) -> Sim {
    let mut sim = Sim::new(limits(), 1, 4);
    (2..=devices).for_each(|n| sim.say(up(DeviceId(n))));
    sim
}

fn place_of(sim: &Sim, tenant: TenantId) -> DeviceId {
    let mut workers = sim.core.workers().filter(|w| w.tenant == tenant);
    let living = workers.find(|worker| worker.state != WorkerState::Dying);
    living.expect("it has a worker").device
}

fn ok(sim: &Sim, request: RequestId) -> bool {
    sim.end_of(request) == Some(End::Worker(Outcome::Ok))
}

#[test]
fn what_was_not_answered_yet_is_done_on_another_device() {
    let mut sim = with_devices(2);
    let tenant = sim.tenant(1, 1);
    let requests: Vec<_> = (0..20).map(|_| sim.submit(tenant, 100)).collect();
    sim.run_until(12 * MS);
    let bad = place_of(&sim, tenant);
    sim.say(down(bad));
    let killed =
        |e: &Effect| matches!(e, Effect::KillWorker { why, .. } if *why == KillReason::DeviceDown);
    assert_eq!(sim.count(killed), 1);
    assert!(!sim.moved.is_empty());
    assert_ne!(
        place_of(&sim, tenant),
        bad,
        "nobody waits for the old one to die"
    );
    sim.run_until(5 * SECOND);
    assert!(requests.iter().all(|r| ok(&sim, *r)));
    assert_eq!(sim.count(|e| matches!(e, Effect::BackoffBegan { .. })), 0);
}

#[test]
fn an_answer_that_had_begun_ends_and_says_why() {
    let mut sim = with_devices(2);
    let tenant = sim.tenant(1, 1);
    let (begun, not) = (sim.submit(tenant, 400), sim.submit(tenant, 400));
    sim.run_until(7 * MS);
    let worker = WorkerId(1);
    sim.say(Event::Answering {
        worker,
        request: begun,
    });
    // Nobody can speak of what it does not hold.
    let stranger = WorkerId(9);
    sim.say(Event::Answering {
        worker: stranger,
        request: not,
    });
    sim.say(down(DEVICE));
    assert_eq!(sim.end_of(begun), Some(End::DeviceLost));
    sim.run_until(SECOND);
    assert!(ok(&sim, not));
}

#[test]
fn a_request_that_saw_two_devices_go_bad_is_not_given_a_third() {
    let mut sim = with_devices(3);
    let tenant = sim.tenant(1, 1);
    let request = sim.submit(tenant, 900);
    for _ in 0..2 {
        assert_eq!(sim.end_of(request), None);
        sim.run_until(sim.now + 10 * MS);
        let bad = place_of(&sim, tenant);
        sim.say(down(bad));
    }
    assert_eq!(sim.end_of(request), Some(End::DeviceLost));
    let next = sim.submit(tenant, 900);
    sim.run_until(sim.now + SECOND);
    assert!(ok(&sim, next), "the third device is still of use");
}

#[test]
fn without_any_device_what_waits_ends_and_what_comes_is_refused_until_one_is_back() {
    let mut sim = Sim::new(limits(), 1, 4);
    let tenant = sim.tenant(1, 1);
    let held = sim.submit(tenant, 900);
    let waits = sim.submit(tenant, 900);
    sim.run_until(10 * MS);
    sim.say(down(DEVICE));
    assert_eq!(sim.end_of(held), Some(End::NoDevice));
    assert_eq!(sim.end_of(waits), Some(End::NoDevice));
    let late = sim.submit(tenant, 1);
    let refusal = sim.refused[&late];
    assert_eq!(refusal.bound, Bound::NoDevice);
    assert!(refusal.retry_after_ns.is_some());
    sim.say(up(DEVICE));
    let request = sim.submit(tenant, 900);
    sim.run_until(SECOND);
    assert!(ok(&sim, request));
}

#[test]
fn a_process_that_does_not_die_keeps_nobody_waiting_but_its_place() {
    let mut sim = Sim::new(limits(), 1, 1);
    sim.say(Event::DeviceUp {
        device: OTHER,
        kind: DeviceKind::Processor,
        lanes: 1,
        workers_max: 1,
    });
    let (one, two) = (sim.tenant(1, 1), sim.tenant(2, 1));
    let request = sim.submit(one, 400);
    sim.run_until(7 * MS);
    sim.latency_ns = 3_600 * SECOND;
    sim.say(down(DEVICE));
    sim.say(up(DEVICE));
    sim.latency_ns = 0;
    sim.run_until(sim.now + SECOND);
    assert!(ok(&sim, request));
    let request = sim.submit(two, 400);
    assert_eq!(sim.core.workers().filter(|w| w.device == DEVICE).count(), 1);
    sim.run_until(sim.now + SECOND);
    assert!(
        ok(&sim, request),
        "it took the place of the idle worker on the other device"
    );
}

#[test]
fn where_there_is_less_memory_fewer_workers_are_started_and_none_is_ended() {
    let mut sim = Sim::new(limits(), 2, 4);
    let tenants = [sim.tenant(1, 1), sim.tenant(2, 1), sim.tenant(3, 1)];
    sim.closed_loop(tenants[0], 100, 0);
    sim.closed_loop(tenants[1], 100, 0);
    sim.run_until(10 * MS);
    sim.say(Event::DeviceRoom {
        device: DEVICE,
        workers: 0,
    });
    sim.run_until(20 * MS);
    assert_eq!(sim.core.workers().count(), 2);
    let refused = sim.submit(tenants[2], 100);
    assert_eq!(sim.refused[&refused].bound, Bound::NoDevice);
    sim.say(Event::DeviceRoom {
        device: DEVICE,
        workers: 1,
    });
    let request = sim.submit(tenants[2], 100);
    sim.loops.clear();
    sim.run_until(SECOND);
    assert!(
        ok(&sim, request),
        "idle workers gave way until there was room for one"
    );
    assert_eq!(sim.core.workers().count(), 1);
}

/// A process that hangs in the driver of its device serves nobody meanwhile. Fails where its end, when it comes, has its
/// queue forgiven for what has failed since.
#[test]
fn who_dies_late_of_its_device_forgives_nothing_that_failed_since() {
    let mut sim = Sim::new(limits(), 1, 4);
    let tenant = sim.tenant(1, 1);
    sim.closed_loop(tenant, 100, MS);
    sim.run_until(11 * SECOND);
    (sim.start_ns, sim.kill_ns) = (10 * MS, 40 * MS);
    let failure = StartFailure::Tried { permanent: false };
    sim.unstartable.insert(tenant, failure);
    sim.say(down(DEVICE));
    sim.say(up(DEVICE));
    sim.run_until(sim.now + 20 * MS);
    sim.unstartable.clear();
    sim.run_until(sim.now + SECOND);
    let restarts = sim.core.tenants().map(|tenant| tenant.restart_ns);
    assert_eq!(
        restarts.sum::<Nanos>(),
        10 * MS,
        "one start after a failure"
    );
}

/// What happens to devices and tenants.
#[derive(Clone, Debug)]
enum Turn {
    Up(u32),
    Down(u32),
    Room(u32, u32),
    Submit { tenant: u32, tokens: u32 },
    Begin { nth: usize },
    Wait { us: u64 },
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        2 => (1u32..4).prop_map(Turn::Up),
        1 => (1u32..4).prop_map(Turn::Down),
        1 => (1u32..4, 0u32..5).prop_map(|(device, workers)| Turn::Room(device, workers)),
        6 => (1u32..4, 1u32..900).prop_map(|(tenant, tokens)| Turn::Submit { tenant, tokens }),
        1 => (0usize..40).prop_map(|nth| Turn::Begin { nth }),
        5 => (1u64..30_000).prop_map(|us| Turn::Wait { us }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Devices go and come at random, and one always stays: every request is served, but for those whose
    /// answer had begun and those that met a second device as it went down.
    #[test]
    fn nothing_is_lost_that_could_be_done_elsewhere(
        turns in prop::collection::vec(turn(), 1..150),
        latency_us in 0u64..3_000,
    ) {
        let mut sim = with_devices(4);
        sim.latency_ns = latency_us * 1_000;
        sim.start_ns = 3 * MS;
        for n in 1..4 {
            sim.tenant(n, n);
        }
        let mut begun = std::collections::BTreeSet::new();
        let mut sent = Vec::new();
        for turn in turns {
            match turn {
                Turn::Up(n) => sim.say(up(DeviceId(n))),
                Turn::Down(n) => sim.say(down(DeviceId(n))),
                Turn::Room(n, workers) => sim.say(Event::DeviceRoom { device: DeviceId(n), workers }),
                Turn::Submit { tenant, tokens } => sent.push(sim.submit(TenantId(tenant), tokens)),
                Turn::Begin { nth } => {
                    if let Some(request) = sent.get(nth) {
                        begun.insert(*request);
                        for worker in 1..60 {
                            let worker = WorkerId(worker);
                            sim.say(Event::Answering { worker, request: *request });
                        }
                    }
                }
                Turn::Wait { us } => sim.run_until(sim.now + us * 1_000),
            }
        }
        sim.run_until(sim.now + 60 * SECOND);
        prop_assert!(sim.refused.is_empty());
        for request in sent {
            let end = sim.end_of(request);
            let excused = begun.contains(&request) || sim.moved.contains(&request);
            let lost = end == Some(End::DeviceLost) && excused;
            prop_assert!(lost || end == Some(End::Worker(Outcome::Ok)), "{:?}: {:?}", request, end);
        }
    }
}

/// Of two tenants that share the device that stays, neither gets less of it because another's went bad and
/// its work came over.
#[test]
fn those_on_the_other_device_share_it_by_weight_with_whom_comes_over() {
    let mut sim = with_devices(2);
    let (a, b) = (sim.tenant(1, 1), sim.tenant(2, 3));
    for tenant in [a, b] {
        (0..4).for_each(|_| sim.closed_loop(tenant, 100, 0));
    }
    sim.run_until(SECOND);
    assert_ne!(place_of(&sim, a), place_of(&sim, b));
    let bad = place_of(&sim, a);
    sim.say(down(bad));
    // What each had of a device to itself counts for nothing here: they share from the first moment on.
    sim.run_until(sim.now + 100 * MS);
    let (a_before, b_before) = (sim.served(a), sim.served(b));
    sim.run_until(sim.now + 3 * SECOND);
    let (a, b) = (sim.served(a) - a_before, sim.served(b) - b_before);
    let share = a as f64 / (a + b) as f64;
    assert!((0.23..0.27).contains(&share), "{share}");
    assert!(sim.core.workers().all(|worker| worker.device != bad));
}

/// A processor with many places, an accelerator with two, and a model for it.
fn with_accelerator() -> Sim {
    let mut sim = Sim::new(limits(), 1, 4);
    sim.say(Event::ModelAccelerates { model: MODEL });
    sim.say(accelerator());
    sim
}

fn accelerator() -> Event {
    Event::DeviceUp {
        device: OTHER,
        kind: DeviceKind::Accelerator,
        lanes: 1,
        workers_max: 2,
    }
}

/// Of a model that does not accelerate.
fn submit_plain(sim: &mut Sim, tenant: TenantId) -> RequestId {
    let submission = Submission {
        model: ModelId(7),
        ..sim.submission(tenant, 100)
    };
    sim.offer(submission)
}

#[test]
fn what_accelerates_runs_on_an_accelerator_and_nothing_else_does() {
    let mut sim = with_accelerator();
    let (one, two) = (sim.tenant(1, 1), sim.tenant(2, 1));
    let requests = [sim.submit(one, 100), submit_plain(&mut sim, two)];
    sim.run_until(SECOND);
    assert!(requests.iter().all(|request| ok(&sim, *request)));
    assert_eq!(place_of(&sim, one), OTHER, "the other has more places");
    assert_eq!(place_of(&sim, two), DEVICE);
}

#[test]
fn who_waits_for_a_place_of_one_kind_waits_for_no_other_and_keeps_nobody_waiting_there() {
    let mut sim = with_accelerator();
    for n in 1..=6 {
        let tenant = sim.tenant(n, 1);
        sim.submit(tenant, 400);
    }
    let last = sim.tenant(7, 1);
    let plain = submit_plain(&mut sim, last);
    sim.run_until(20 * MS);
    let on = |sim: &Sim, device| sim.core.workers().filter(|w| w.device == device).count();
    assert_eq!((on(&sim, OTHER), on(&sim, DEVICE)), (2, 1));
    sim.run_until(5 * SECOND);
    assert!(ok(&sim, plain));
    assert!((1..=6).all(|n| ok(&sim, RequestId(n))), "each had its turn");
    let started = |e: &Effect| matches!(e, Effect::StartWorker { device, .. } if *device == DEVICE);
    assert_eq!(sim.count(started), 1, "the plain one's alone");
}

#[test]
fn without_an_accelerator_what_accelerates_runs_on_a_processor() {
    let mut sim = with_accelerator();
    let tenant = sim.tenant(1, 1);
    let request = sim.submit(tenant, 900);
    sim.run_until(10 * MS);
    assert_eq!(place_of(&sim, tenant), OTHER);
    sim.say(down(OTHER));
    sim.run_until(sim.now + SECOND);
    assert!(ok(&sim, request));
    assert_eq!(place_of(&sim, tenant), DEVICE);
    // One that is there and has room for nobody is none either.
    sim.say(accelerator());
    sim.say(Event::DeviceRoom {
        device: OTHER,
        workers: 0,
    });
    let other = sim.tenant(2, 1);
    let request = sim.submit(other, 100);
    sim.run_until(sim.now + SECOND);
    assert!(ok(&sim, request));
    assert_eq!(place_of(&sim, other), DEVICE);
}

#[test]
fn an_accelerator_alone_serves_nobody_whose_model_it_does_not_run() {
    let mut sim = with_accelerator();
    sim.say(down(DEVICE));
    let tenant = sim.tenant(1, 1);
    let plain = submit_plain(&mut sim, tenant);
    assert_eq!(sim.refused[&plain].bound, Bound::NoDevice);
    let request = sim.submit(tenant, 100);
    sim.run_until(SECOND);
    assert!(ok(&sim, request));
}

/// So many requests of a model that does not accelerate are always open.
fn keeps_plain(sim: &mut Sim, tenant: TenantId) {
    for _ in 0..20 {
        let submission = Submission {
            model: ModelId(7),
            ..sim.submission(tenant, 100)
        };
        sim.loops
            .insert(submission.request, (submission.clone(), 0));
        sim.offer(submission);
    }
}

/// Nine tenants share an accelerator, and another has had a processor with so many places to itself for 10 s.
fn with_a_crowd_elsewhere(places: u32) -> (Sim, TenantId) {
    let mut sim = Sim::new(limits(), 1, places);
    sim.check_every = 16;
    sim.say(Event::ModelAccelerates { model: MODEL });
    sim.say(Event::DeviceUp {
        device: OTHER,
        kind: DeviceKind::Accelerator,
        lanes: 1,
        workers_max: 9,
    });
    let alone = sim.tenant(1, 1);
    keeps_plain(&mut sim, alone);
    for n in 2..=10 {
        let tenant = sim.tenant(n, 1);
        (0..20).for_each(|_| sim.closed_loop(tenant, 100, 0));
    }
    sim.run_until(10 * SECOND);
    assert_eq!(sim.served(alone), 10 * SECOND);
    (sim, alone)
}

/// By how much the lane time of two tenants on a device differs at most until `end`, from now on.
fn spread_on(sim: &mut Sim, device: DeviceId, one: TenantId, other: TenantId, end: Nanos) -> Nanos {
    let ahead = |sim: &Sim| sim.served_on(device, one) as i64 - sim.served_on(device, other) as i64;
    let (mut least, mut most) = (ahead(sim), ahead(sim));
    sim.run_watched(end, |sim| {
        (least, most) = (least.min(ahead(sim)), most.max(ahead(sim)));
    });
    most.abs_diff(least)
}

/// Fails where a newcomer is lifted to the time of those who crowd another device: it then has this one to itself until it
/// has had as much as who was there.
#[test]
fn a_crowd_on_one_device_holds_no_floor_back_on_another() {
    let (mut sim, alone) = with_a_crowd_elsewhere(4);
    let new = sim.tenant(11, 1);
    keeps_plain(&mut sim, new);
    let spread = spread_on(&mut sim, DEVICE, alone, new, 15 * SECOND);
    let bound = limits().interval_bound_ns((1, 0), (1, 0));
    assert!(spread <= bound, "spread {spread} ns, bound {bound} ns");
    assert!(sim.served(new) >= 2 * SECOND);
}

/// The same of places for workers. Fails where there is one order of places for both kinds of devices.
#[test]
fn a_crowd_on_one_kind_of_devices_holds_no_places_of_another() {
    let (mut sim, alone) = with_a_crowd_elsewhere(1);
    let (new, before) = (sim.tenant(11, 1), sim.served(alone));
    keeps_plain(&mut sim, new);
    sim.run_until(18 * SECOND);
    let (alone, new) = (sim.served(alone) - before, sim.served(new));
    assert!(alone.abs_diff(new) <= SECOND, "{alone} ns and {new} ns");
    assert!(alone + new >= 7 * SECOND);
}

/// Fails where lane time of one device counts on another, or is owed to those who share another.
#[test]
fn what_a_tenant_has_of_one_device_costs_it_nothing_on_another() {
    let mut sim = with_accelerator();
    sim.check_every = 16;
    let (both, one) = (sim.tenant(1, 1), sim.tenant(2, 1));
    (0..20).for_each(|_| sim.closed_loop(both, 100, 0));
    sim.run_until(SECOND);
    keeps_plain(&mut sim, both);
    keeps_plain(&mut sim, one);
    let spread = spread_on(&mut sim, DEVICE, both, one, 5 * SECOND);
    let bound = limits().interval_bound_ns((1, 0), (1, 0));
    assert!(spread <= bound, "spread {spread} ns, bound {bound} ns");
    assert_eq!(sim.served_on(OTHER, both), 5 * SECOND);
    for view in sim.core.tenants() {
        assert!(view.owed_ns.abs_diff(view.lane_ns) <= bound, "{view:?}");
        assert!(view.lead_ns <= bound, "{view:?}");
    }
}

/// Fails where queues that waited for a place on an accelerator keep their place in its order once it has gone.
#[test]
fn who_waited_for_an_accelerator_that_has_gone_takes_turns_at_a_processor() {
    let mut sim = Sim::new(limits(), 1, 1);
    sim.say(Event::ModelAccelerates { model: MODEL });
    sim.say(Event::DeviceUp {
        device: OTHER,
        kind: DeviceKind::Accelerator,
        lanes: 1,
        workers_max: 1,
    });
    let accelerated = [1, 2, 3].map(|n| sim.tenant(n, 1));
    for tenant in accelerated {
        (0..20).for_each(|_| sim.closed_loop(tenant, 100, 0));
    }
    sim.run_until(15 * SECOND);
    let plain = sim.tenant(4, 1);
    keeps_plain(&mut sim, plain);
    sim.run_until(sim.now + 100 * MS);
    sim.say(down(OTHER));
    sim.run_until(sim.now + 4 * SECOND);
    for tenant in [accelerated.as_slice(), &[plain]].concat() {
        let served = sim.served_on(DEVICE, tenant);
        assert!(served >= SECOND / 2, "{tenant:?} got {served} ns");
    }
}
