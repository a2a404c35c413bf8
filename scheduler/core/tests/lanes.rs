//! Promise: on a device with several lanes a tenant that has all that it can use is owed nothing for it. (That nobody who waits
//! gets less than another by more than a bound is held by the worlds of `faults` that have several lanes.)

mod sim;

use bulkhead_core::*;
use sim::*;

/// Requests of this model are always open.
fn keeps(sim: &mut Sim, tenant: TenantId, model: u32) {
    for _ in 0..10 {
        let submission = Submission {
            model: ModelId(model),
            ..sim.submission(tenant, 100)
        };
        sim.loops
            .insert(submission.request, (submission.clone(), 0));
        sim.offer(submission);
    }
}

/// One of great weight has had one of two lanes for a minute, which is all that one worker can use, and one of small weight the
/// other.
fn a_minute_side_by_side() -> (Sim, TenantId, TenantId) {
    // As servers have them.
    let limits = Limits {
        quantum_ns: 50 * MS,
        burst_ns: 500 * MS,
        release_grace_ns: 2 * SECOND,
        ..limits()
    };
    let mut sim = Sim::new(limits, 2, 9);
    sim.check_every = 64;
    let (heavy, light) = (sim.tenant(1, 8), sim.tenant(2, 1));
    keeps(&mut sim, heavy, 1);
    keeps(&mut sim, light, 1);
    keeps(&mut sim, light, 2);
    sim.run_until(60 * SECOND);
    let (of_heavy, of_light) = (sim.served(heavy), sim.served(light));
    assert!(
        of_heavy.abs_diff(of_light) < SECOND,
        "{of_heavy} {of_light}"
    );
    (sim, heavy, light)
}

/// Fails where a claim grows while a tenant has all that it can use: it would have both lanes for three minutes.
#[test]
fn who_has_all_that_it_can_use_is_owed_nothing() {
    let (mut sim, heavy, light) = a_minute_side_by_side();
    keeps(&mut sim, heavy, 2);
    let before = sim.served(light);
    sim.run_until(sim.now + 10 * SECOND);
    let got = sim.served(light) - before;
    // A ninth of two lanes for ten seconds, less what the other may be ahead.
    assert!(got > SECOND, "{got} ns");
}

/// Fails where a newcomer is lifted to the time of such a tenant: it would have had the lane of the other for a minute.
#[test]
fn who_has_all_that_it_can_use_holds_no_floor_back() {
    let (mut sim, _, light) = a_minute_side_by_side();
    let new = sim.tenant(3, 1);
    keeps(&mut sim, new, 1);
    let before = sim.served(light);
    sim.run_until(sim.now + 10 * SECOND);
    let (of_light, of_new) = (sim.served(light) - before, sim.served(new));
    assert!(
        of_light.abs_diff(of_new) < 2 * SECOND,
        "{of_light} {of_new}"
    );
}
