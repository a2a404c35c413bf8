//! Promise: a tenant's work is done in its regions and nowhere else, whatever place is free elsewhere, and what one tenant may
//! not have keeps nobody else waiting. That no worker goes on where its tenant may not be is among the invariants that the
//! simulator checks after each event.

mod sim;

use bulkhead_core::*;
use sim::*;

const OTHER: DeviceId = DeviceId(2);

/// Two processors, each in a region of its own, with so many places each.
fn two_regions(here: u32, there: u32) -> Sim {
    let mut sim = Sim::new(limits(), 1, here);
    sim.say(Event::DeviceUp {
        device: OTHER,
        kind: DeviceKind::Processor,
        region: RegionId(1),
        lanes: 1,
        workers_max: there,
    });
    sim
}

/// The region of the simulator's own device is 0.
fn region(number: u8) -> Regions {
    [RegionId(number)].into_iter().collect()
}

fn bind(sim: &mut Sim, tenant: TenantId, regions: Regions) {
    let settings = TenantSettings {
        regions,
        ..settings(1)
    };
    sim.say(Event::TenantSet { tenant, settings });
}

fn bound(sim: &mut Sim, id: u32, regions: Regions) -> TenantId {
    bind(sim, TenantId(id), regions);
    TenantId(id)
}

#[test]
fn who_is_bound_to_a_region_runs_there_however_much_room_another_has() {
    let mut sim = two_regions(2, 9);
    let (here, there, anywhere) = (
        bound(&mut sim, 1, region(0)),
        bound(&mut sim, 2, region(1)),
        bound(&mut sim, 3, Regions::ANY),
    );
    let requests = [here, there, anywhere].map(|tenant| sim.submit(tenant, 100));
    sim.run_until(SECOND);
    assert!(requests.iter().all(|request| sim.is_ok(*request)));
    assert_eq!(sim.place_of(here), DEVICE);
    assert_eq!(sim.place_of(there), OTHER);
    assert_eq!(sim.place_of(anywhere), OTHER, "there is more room");
}

/// Fails where queues that want a worker stand in one order for all places: the first could have none.
#[test]
fn who_waits_for_a_region_keeps_nobody_waiting_for_another() {
    let mut sim = two_regions(1, 1);
    let holder = bound(&mut sim, 1, region(0));
    sim.submit(holder, 900);
    sim.run_until(10 * MS);
    let (first, second) = (bound(&mut sim, 2, region(0)), bound(&mut sim, 3, region(1)));
    let waits = sim.submit(first, 100);
    let request = sim.submit(second, 100);
    sim.run_until(sim.now + 50 * MS);
    assert!(sim.is_ok(request));
    assert_eq!(sim.end_of(waits), None);
    sim.run_until(5 * SECOND);
    assert!(sim.is_ok(waits), "its turn came where it may be");
}

/// Fails where room is made by whoever was idle for longest, wherever that is.
#[test]
fn room_is_made_where_it_is_of_use() {
    let mut sim = two_regions(1, 1);
    let (idle_there, idle_here) = (bound(&mut sim, 1, region(1)), bound(&mut sim, 2, region(0)));
    for tenant in [idle_there, idle_here] {
        sim.submit(tenant, 10);
        sim.run_until(sim.now + 100 * MS);
    }
    let wants = bound(&mut sim, 3, region(0));
    let request = sim.submit(wants, 10);
    sim.run_until(sim.now + SECOND);
    assert!(sim.is_ok(request));
    let workers = sim.core.workers().map(|worker| worker.tenant);
    let workers: Vec<TenantId> = workers.collect();
    assert!(workers.contains(&idle_there) && !workers.contains(&idle_here));
}

/// The same of workers that are never idle: who is ahead retires where there is somebody to make room for.
#[test]
fn who_is_ahead_retires_where_that_is_of_use() {
    let mut sim = two_regions(1, 1);
    sim.check_every = 16;
    let (there, here) = (bound(&mut sim, 1, region(1)), bound(&mut sim, 2, region(0)));
    for tenant in [there, here] {
        (0..20).for_each(|_| sim.closed_loop(tenant, 100, 0));
    }
    sim.run_until(5 * SECOND);
    let starts = |sim: &Sim, of: TenantId| {
        sim.count(|e| matches!(e, Effect::StartWorker { tenant, .. } if *tenant == of))
    };
    let wants = bound(&mut sim, 3, region(0));
    let request = sim.submit(wants, 10);
    sim.run_until(15 * SECOND);
    assert!(sim.is_ok(request));
    assert_eq!(starts(&sim, there), 1, "it was left alone");
    assert!(sim.served(there) > 14 * SECOND);
}

#[test]
fn where_there_is_no_device_for_a_tenant_it_is_refused_and_told_so() {
    let mut sim = Sim::new(limits(), 1, 4);
    let nowhere = bound(&mut sim, 1, region(7));
    let request = sim.submit(nowhere, 10);
    let refusal = sim.refused[&request];
    assert_eq!(refusal.bound, Bound::Residency);
    assert_eq!(refusal.retry_after_ns, None, "asking again does not help");
    // One that is there and out of service may be back.
    let here = bound(&mut sim, 2, region(0));
    sim.say(Event::DeviceDown { device: DEVICE });
    let request = sim.submit(here, 10);
    assert_eq!(sim.refused[&request].bound, Bound::NoDevice);
}

/// What runs was accepted while it was allowed, and ends; what waits is begun nowhere.
#[test]
fn who_may_be_here_no_more_begins_nothing_here() {
    let mut sim = Sim::new(limits(), 1, 4);
    let tenant = bound(&mut sim, 1, region(0));
    let runs = sim.submit(tenant, 900);
    sim.run_until(10 * MS);
    let other = Submission {
        model: ModelId(7),
        ..sim.submission(tenant, 10)
    };
    // Its worker is only starting.
    let starts = sim.offer(other);
    bind(&mut sim, tenant, region(1));
    assert_eq!(sim.end_of(starts), Some(End::Residency));
    let refused = sim.submit(tenant, 10);
    assert_eq!(sim.refused[&refused].bound, Bound::Residency);
    sim.run_until(5 * SECOND);
    assert!(sim.is_ok(runs));
    assert_eq!(sim.core.workers().count(), 0, "idle or not");
    bind(&mut sim, tenant, region(0));
    let again = sim.submit(tenant, 10);
    sim.run_until(6 * SECOND);
    assert!(sim.is_ok(again), "no backoff followed");
}

#[test]
fn who_is_bound_to_another_region_goes_on_there() {
    let mut sim = two_regions(4, 4);
    let tenant = bound(&mut sim, 1, region(0));
    let runs = sim.submit(tenant, 900);
    sim.run_until(10 * MS);
    bind(&mut sim, tenant, region(1));
    let next = sim.submit(tenant, 100);
    sim.run_until(sim.now + SECOND);
    assert!(sim.is_ok(runs) && sim.is_ok(next));
    assert_eq!(sim.place_of(tenant), OTHER);
    // And at once where its worker was only starting.
    sim.start_ns = 10 * SECOND;
    let late = bound(&mut sim, 2, region(0));
    let request = sim.submit(late, 100);
    sim.run_until(sim.now + SECOND);
    sim.start_ns = MS;
    bind(&mut sim, late, region(1));
    sim.run_until(sim.now + SECOND);
    assert!(sim.is_ok(request));
    assert_eq!(sim.place_of(late), OTHER);
}

/// An accelerator of a region to which a tenant is not bound is none to it.
#[test]
fn an_accelerator_elsewhere_is_waited_for_by_nobody() {
    let mut sim = Sim::new(limits(), 1, 4);
    sim.say(Event::ModelAccelerates { model: MODEL });
    sim.say(Event::DeviceUp {
        device: OTHER,
        kind: DeviceKind::Accelerator,
        region: RegionId(1),
        lanes: 1,
        workers_max: 4,
    });
    let (here, anywhere) = (
        bound(&mut sim, 1, region(0)),
        bound(&mut sim, 2, Regions::ANY),
    );
    let requests = [here, anywhere].map(|tenant| sim.submit(tenant, 100));
    sim.run_until(SECOND);
    assert!(requests.iter().all(|request| sim.is_ok(*request)));
    assert_eq!(
        (sim.place_of(here), sim.place_of(anywhere)),
        (DEVICE, OTHER)
    );
}

/// Fails where a queue that may be anywhere makes room for those that may not be there, too.
#[test]
fn no_more_room_is_made_than_is_of_use() {
    let mut sim = two_regions(1, 3);
    let holder = bound(&mut sim, 1, region(0));
    (0..20).for_each(|_| sim.closed_loop(holder, 100, 0));
    for idle in 2..=4 {
        let tenant = bound(&mut sim, idle, region(1));
        sim.submit(tenant, 10);
        sim.run_until(sim.now + 100 * MS);
    }
    for wants in [5, 6] {
        let tenant = bound(&mut sim, wants, region(0));
        sim.submit(tenant, 10);
    }
    let anywhere = bound(&mut sim, 7, Regions::ANY);
    let request = sim.submit(anywhere, 10);
    sim.run_until(sim.now + 100 * MS);
    assert!(sim.is_ok(request));
    let idle = (sim.core.workers()).filter(|worker| (2..=4).contains(&worker.tenant.0));
    assert_eq!(idle.count(), 2, "those that are in nobody's way stay");
}

/// Fails where only others that wait for its lane have a worker asked for it: one that hangs would stay.
#[test]
fn a_worker_that_is_to_leave_and_does_not_is_killed() {
    let mut sim = Sim::new(limits(), 1, 4);
    let tenant = bound(&mut sim, 1, region(0));
    let deaf = Conduct {
        deaf: true,
        ..Conduct::default()
    };
    sim.conduct.insert(tenant, deaf);
    sim.submit(tenant, 100_000);
    sim.run_until(100 * MS);
    bind(&mut sim, tenant, region(1));
    sim.run_until(sim.now + SECOND);
    let held =
        |e: &Effect| matches!(e, Effect::KillWorker { why, .. } if *why == KillReason::HeldLane);
    assert_eq!(sim.count(held), 1);
    assert_eq!(sim.core.workers().count(), 0);
}

/// Fails where the place of a worker that was killed while it started counts as lost.
#[test]
fn the_place_of_one_that_was_only_starting_is_free_in_a_moment() {
    let mut sim = Sim::new(limits(), 1, 2);
    let idle = bound(&mut sim, 1, region(0));
    sim.submit(idle, 10);
    sim.run_until(100 * MS);
    (sim.start_ns, sim.latency_ns) = (SECOND, MS);
    let moved = bound(&mut sim, 2, region(0));
    sim.submit(moved, 10);
    sim.run_until(sim.now + 10 * MS);
    bind(&mut sim, moved, region(1));
    let wants = bound(&mut sim, 3, region(0));
    let request = sim.submit(wants, 10);
    sim.run_until(sim.now + 3 * SECOND);
    assert!(sim.is_ok(request));
    assert_eq!(sim.count(|e| matches!(e, Effect::StopWorker { .. })), 0);
}

#[test]
fn who_is_bound_back_in_time_keeps_its_worker() {
    let mut sim = Sim::new(limits(), 1, 4);
    let tenant = bound(&mut sim, 1, region(0));
    let runs = sim.submit(tenant, 900);
    sim.run_until(10 * MS);
    bind(&mut sim, tenant, region(1));
    bind(&mut sim, tenant, region(0));
    let next = sim.submit(tenant, 100);
    sim.run_until(SECOND);
    assert!(sim.is_ok(runs) && sim.is_ok(next));
    assert_eq!(sim.count(|e| matches!(e, Effect::StartWorker { .. })), 1);
}
