//! Promise: what accelerates runs on an accelerator where there is one, and each device is shared by those that compete for
//! it, whatever they or others have of another of another kind. Nobody waits for a kind of device that his work does not need.

mod sim;

use bulkhead_core::*;
use sim::*;

const OTHER: DeviceId = DeviceId(2);

/// A processor with many places, an accelerator with two, and a model for it.
fn with_accelerator() -> Sim {
    with_places(4, 2)
}

/// A processor and an accelerator with so many places each, and a model for the latter.
fn with_places(processor: u32, accelerated: u32) -> Sim {
    let mut sim = Sim::new(limits(), 1, processor);
    sim.say(Event::ModelAccelerates { model: MODEL });
    sim.say(accelerator(accelerated));
    sim
}

fn accelerator(workers_max: u32) -> Event {
    Event::DeviceUp {
        device: OTHER,
        kind: DeviceKind::Accelerator,
        region: RegionId(0),
        lanes: 1,
        workers_max,
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
    assert!(requests.iter().all(|request| sim.is_ok(*request)));
    assert_eq!(sim.place_of(one), OTHER, "the other has more places");
    assert_eq!(sim.place_of(two), DEVICE);
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
    assert!(sim.is_ok(plain));
    assert!(
        (1..=6).all(|n| sim.is_ok(RequestId(n))),
        "each had its turn"
    );
    let started = |e: &Effect| matches!(e, Effect::StartWorker { device, .. } if *device == DEVICE);
    assert_eq!(sim.count(started), 1, "the plain one's alone");
}

#[test]
fn without_an_accelerator_what_accelerates_runs_on_a_processor() {
    let mut sim = with_accelerator();
    let tenant = sim.tenant(1, 1);
    let request = sim.submit(tenant, 900);
    sim.run_until(10 * MS);
    assert_eq!(sim.place_of(tenant), OTHER);
    sim.say(Event::DeviceDown { device: OTHER });
    sim.run_until(sim.now + SECOND);
    assert!(sim.is_ok(request));
    assert_eq!(sim.place_of(tenant), DEVICE);
    // One that is there and has room for nobody is none either.
    sim.say(accelerator(2));
    sim.say(Event::DeviceRoom {
        device: OTHER,
        workers: 0,
    });
    let other = sim.tenant(2, 1);
    let request = sim.submit(other, 100);
    sim.run_until(sim.now + SECOND);
    assert!(sim.is_ok(request));
    assert_eq!(sim.place_of(other), DEVICE);
}

#[test]
fn an_accelerator_alone_serves_nobody_whose_model_it_does_not_run() {
    let mut sim = with_accelerator();
    sim.say(Event::DeviceDown { device: DEVICE });
    let tenant = sim.tenant(1, 1);
    let plain = submit_plain(&mut sim, tenant);
    assert_eq!(sim.refused[&plain].bound, Bound::NoDevice);
    let request = sim.submit(tenant, 100);
    sim.run_until(SECOND);
    assert!(sim.is_ok(request));
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
    let mut sim = with_places(places, 9);
    sim.check_every = 16;
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
    let mut sim = with_places(1, 1);
    let accelerated = [1, 2, 3].map(|n| sim.tenant(n, 1));
    for tenant in accelerated {
        (0..20).for_each(|_| sim.closed_loop(tenant, 100, 0));
    }
    sim.run_until(15 * SECOND);
    let plain = sim.tenant(4, 1);
    keeps_plain(&mut sim, plain);
    sim.run_until(sim.now + 100 * MS);
    sim.say(Event::DeviceDown { device: OTHER });
    sim.run_until(sim.now + 4 * SECOND);
    for tenant in [accelerated.as_slice(), &[plain]].concat() {
        let served = sim.served_on(DEVICE, tenant);
        assert!(served >= SECOND / 2, "{tenant:?} got {served} ns");
    }
}
