//! Promise: a device that goes bad takes no work with it that could be done elsewhere, and gets none until it is back. That a
//! device that is down gets no worker, batch or lane, and that nothing moves twice, is checked by the simulator at every
//! effect.

mod sim;

use bulkhead_core::*;
use proptest::prelude::*;
use sim::*;

const OTHER: DeviceId = DeviceId(2);

fn up(device: DeviceId) -> Event {
    Event::DeviceUp {
        device,
        kind: DeviceKind::Processor,
        region: RegionId(0),
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

#[test]
fn what_was_not_answered_yet_is_done_on_another_device() {
    let mut sim = with_devices(2);
    let tenant = sim.tenant(1, 1);
    let requests: Vec<_> = (0..20).map(|_| sim.submit(tenant, 100)).collect();
    sim.run_until(12 * MS);
    let bad = sim.place_of(tenant);
    sim.say(down(bad));
    let killed =
        |e: &Effect| matches!(e, Effect::KillWorker { why, .. } if *why == KillReason::DeviceDown);
    assert_eq!(sim.count(killed), 1);
    assert!(!sim.moved.is_empty());
    assert_ne!(
        sim.place_of(tenant),
        bad,
        "nobody waits for the old one to die"
    );
    sim.run_until(5 * SECOND);
    assert!(requests.iter().all(|r| sim.is_ok(*r)));
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
    assert!(sim.is_ok(not));
}

#[test]
fn a_request_that_saw_two_devices_go_bad_is_not_given_a_third() {
    let mut sim = with_devices(3);
    let tenant = sim.tenant(1, 1);
    let request = sim.submit(tenant, 900);
    for _ in 0..2 {
        assert_eq!(sim.end_of(request), None);
        sim.run_until(sim.now + 10 * MS);
        let bad = sim.place_of(tenant);
        sim.say(down(bad));
    }
    assert_eq!(sim.end_of(request), Some(End::DeviceLost));
    let next = sim.submit(tenant, 900);
    sim.run_until(sim.now + SECOND);
    assert!(sim.is_ok(next), "the third device is still of use");
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
    assert!(sim.is_ok(request));
}

#[test]
fn a_process_that_does_not_die_keeps_nobody_waiting_but_its_place() {
    let mut sim = Sim::new(limits(), 1, 1);
    sim.say(Event::DeviceUp {
        device: OTHER,
        kind: DeviceKind::Processor,
        region: RegionId(0),
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
    assert!(sim.is_ok(request));
    let request = sim.submit(two, 400);
    assert_eq!(sim.core.workers().filter(|w| w.device == DEVICE).count(), 1);
    sim.run_until(sim.now + SECOND);
    assert!(
        sim.is_ok(request),
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
        sim.is_ok(request),
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
    assert_ne!(sim.place_of(a), sim.place_of(b));
    let bad = sim.place_of(a);
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
