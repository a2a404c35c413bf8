//! Promise 3, the part that is the scheduler's: a tenant whose workers keep failing costs the others a
//! bounded number of starts, whatever it sends, and what it is told makes sense.

mod sim;

use bulkhead_core::*;
use proptest::prelude::*;
use sim::*;

const HEALTHY: TenantId = TenantId(1);
const SPAN: Nanos = 30 * SECOND;

/// How a tenant's workers fail, always.
#[derive(Clone, Copy, Debug)]
enum Failing {
    Unstartable(StartFailure),
    /// Ready, and dead after so many steps: before or after a request was finished.
    DiesAfter(u32),
}

fn failing() -> impl Strategy<Value = Failing> {
    prop_oneof![
        any::<bool>().prop_map(|permanent| Failing::Unstartable(StartFailure::Tried { permanent })),
        (1u32..40).prop_map(Failing::DiesAfter),
    ]
}

/// A healthy tenant that always has work, beside tenants that fail and never stop asking.
fn beside(failing: &[Failing], seed: u64, start_ns: Nanos) -> Sim {
    let limits = Limits { seed, ..limits() };
    let mut sim = Sim::new(limits, 1, 8);
    sim.starts_cost = true;
    sim.start_ns = start_ns;
    sim.tenant(HEALTHY.0, 1);
    for (n, failing) in (2..).zip(failing) {
        let tenant = sim.tenant(n, 1);
        match *failing {
            Failing::Unstartable(failure) => drop(sim.unstartable.insert(tenant, failure)),
            Failing::DiesAfter(steps) => {
                let dies_after_steps = Some(steps);
                let conduct = Conduct {
                    dies_after_steps,
                    ..Conduct::default()
                };
                sim.conduct.insert(tenant, conduct);
            }
        }
        for _ in 0..3 {
            sim.closed_loop(tenant, 60, 20 * MS);
        }
    }
    for _ in 0..4 {
        sim.closed_loop(HEALTHY, 200, 0);
    }
    sim.run_until(SPAN);
    sim
}

fn starts(sim: &Sim, tenant: TenantId) -> usize {
    sim.count(|e| matches!(e, Effect::StartWorker { tenant: t, .. } if *t == tenant))
}

/// Of this tenant's requests, how many ended well, and how many otherwise.
fn answers(sim: &Sim, tenant: TenantId) -> (usize, usize) {
    let its = |request| sim.accepted[request].0 == tenant;
    let ends = sim.ended.iter().filter(|(request, _)| its(request));
    let well = ends.filter(|(_, (end, _))| *end == End::Worker(Outcome::Ok));
    let well = well.count();
    let all = sim.ended.keys().filter(|request| its(request)).count();
    (well, all - well)
}

/// The most starts that fit into the span: each wait is at least half of its step.
fn starts_max(pace: &Pace) -> usize {
    let steps = (0..).map(|n| (pace.first_ns << n.min(30)).min(pace.longest_ns) / 2);
    let until = steps.scan(0, |at, step| {
        *at += step;
        Some(*at)
    });
    1 + until.take_while(|at| *at < SPAN).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Fails where a failed worker is started again at once.
    #[test]
    fn failing_tenants_cost_the_healthy_one_a_bounded_number_of_starts(
        failing in prop::collection::vec(failing(), 1..5),
        seed in any::<u64>(),
        start_ms in 1u64..150,
    ) {
        let (alone, sim) = (beside(&[], seed, MS), beside(&failing, seed, start_ms * MS));
        let most = starts_max(&limits().restarts);
        for (n, failing) in (2..).zip(&failing) {
            let starts = starts(&sim, TenantId(n));
            prop_assert!(starts > 3 && starts <= most, "{failing:?}: {starts} starts, at most {most}");
        }
        let (served, lost) = answers(&sim, HEALTHY);
        let (whole, _) = answers(&alone, HEALTHY);
        prop_assert_eq!((lost, starts(&sim, HEALTHY)), (0, 1));
        let lane_ns: Nanos = (2..6).map(|n| sim.served(TenantId(n))).sum();
        let share = (SPAN - lane_ns) as f64 / SPAN as f64;
        prop_assert!(
            served as f64 >= 0.85 * share * whole as f64,
            "{served} answers beside {failing:?}, {whole} alone, of which {share} are left"
        );
    }
}

/// Short waits are sat out; in a long one everything fails at once, and is told when it ends.
#[test]
fn requests_wait_out_a_short_backoff_and_fail_at_once_in_a_long_one() {
    let mut sim = Sim::new(limits(), 1, 2);
    let tenant = sim.tenant(1, 1);
    let failure = StartFailure::Tried { permanent: false };
    sim.unstartable.insert(tenant, failure);
    let first = sim.submit(tenant, 10);
    sim.run_until(MS);
    assert_eq!(sim.end_of(first), None, "the first wait is short");
    let mut hurried = sim.submission(tenant, 10);
    hurried.deadline = Some(sim.now + 10 * MS);
    let hurried = sim.offer(hurried);
    assert_eq!(sim.refused[&hurried].bound, Bound::Backoff);

    for _ in 0..20 {
        sim.submit(tenant, 10);
        sim.run_until(sim.now + SECOND);
    }
    let late = sim.submit(tenant, 10);
    let refusal = sim.refused[&late];
    let again = sim.now + refusal.retry_after_ns.expect("it ends");
    assert_eq!(refusal.bound, Bound::Backoff);
    sim.unstartable.clear();
    sim.run_until(again);
    let served = sim.submit(tenant, 10);
    sim.run_until(again + SECOND);
    assert_eq!(sim.end_of(served), Some(End::Worker(Outcome::Ok)));
}

/// What no other start would change is said at once and again, and tried as rarely.
#[test]
fn a_model_that_is_refused_for_good_is_refused_until_it_is_tried_again() {
    let mut sim = Sim::new(limits(), 1, 2);
    let tenant = sim.tenant(1, 1);
    let failure = StartFailure::Tried { permanent: true };
    sim.unstartable.insert(tenant, failure);
    let first = sim.submit(tenant, 10);
    sim.run_until(MS);
    let retry_after_ns = None;
    assert_eq!(sim.end_of(first), Some(End::NoWorker { retry_after_ns }));
    let again = sim.submit(tenant, 10);
    assert_eq!(sim.refused[&again].bound, Bound::ModelRefused);
    assert_eq!(starts(&sim, tenant), 1);
    sim.unstartable.clear();
    sim.run_until(SECOND);
    let mended = sim.submit(tenant, 10);
    sim.run_until(2 * SECOND);
    assert_eq!(sim.end_of(mended), Some(End::Worker(Outcome::Ok)));
    let worker = sim.core.workers().next().expect("it serves").worker;
    sim.at(sim.now, Act::Crash(worker));
    sim.run_until(2 * SECOND);
    let crashed = sim.submit(tenant, 10);
    assert!(sim.accepted.contains_key(&crashed), "that is over");
}

/// What starts the model's workers says how long it will not: nobody asks before, and nobody waits
/// for that.
#[test]
fn a_models_own_backoff_is_heeded() {
    let mut sim = Sim::new(limits(), 1, 2);
    let tenant = sim.tenant(1, 1);
    let for_ns = 20 * SECOND;
    let failure = StartFailure::Waiting { for_ns };
    sim.unstartable.insert(tenant, failure);
    let request = sim.submit(tenant, 10);
    sim.run_until(MS);
    let retry_after_ns = Some(for_ns);
    let told = End::NoWorker { retry_after_ns };
    assert_eq!(sim.end_of(request), Some(told));
    sim.closed_loop(tenant, 10, MS);
    sim.run_until(19 * SECOND);
    assert_eq!(starts(&sim, tenant), 1);
    sim.run_until(21 * SECOND);
    assert_eq!(starts(&sim, tenant), 2);
}

/// A worker that lived and served for a while has shown that it can: what went before is forgotten.
#[test]
fn a_good_life_makes_the_next_wait_short_again() {
    let mut sim = Sim::new(limits(), 1, 2);
    let tenant = sim.tenant(1, 1);
    let waits = |sim: &Sim| -> Vec<Nanos> {
        let began = |(_, effect): &(Nanos, Effect)| match effect {
            Effect::BackoffBegan { for_ns, .. } => Some(*for_ns),
            _ => None,
        };
        sim.log.iter().filter_map(began).collect()
    };
    let crash = |sim: &mut Sim, after: Nanos| {
        sim.submit(tenant, 10);
        sim.run_until(sim.now + after);
        let worker = sim.core.workers().next().expect("it serves").worker;
        sim.at(sim.now, Act::Crash(worker));
        sim.run_until(sim.now + MS);
    };
    for _ in 0..4 {
        crash(&mut sim, SECOND);
    }
    crash(&mut sim, 12 * SECOND);
    let waits = waits(&sim);
    assert!(
        waits[3] >= 4 * waits[0] && waits[4] <= 100 * MS,
        "{waits:?}"
    );
}

/// The start that replaces a worker that died is its tenant's to pay; the first one is nobody's.
#[test]
fn a_restart_is_charged_and_a_first_start_is_not() {
    let mut sim = Sim::new(limits(), 1, 2);
    sim.start_ns = 70 * MS;
    let (crashing, steady) = (sim.tenant(1, 1), sim.tenant(2, 1));
    let view = |sim: &Sim, tenant| sim.core.tenants().find(|view| view.tenant == tenant);
    for tenant in [crashing, steady] {
        sim.submit(tenant, 10);
    }
    sim.run_until(SECOND);
    sim.at(sim.now, Act::Crash(WorkerId(1)));
    sim.run_until(SECOND);
    sim.submit(crashing, 10);
    sim.run_until(2 * SECOND);
    let (crashing, steady) = (view(&sim, crashing), view(&sim, steady));
    let (crashing, steady) = (crashing.expect("one"), steady.expect("one"));
    assert_eq!((crashing.restart_ns, steady.restart_ns), (70 * MS, 0));
    assert!(crashing.vtime_ns >= steady.vtime_ns + 70 * MS);
}

/// Fails where what a tenant has of a device begins at nothing and not at the floor: then the start that follows its first
/// failure is lost in the lift, once it can run.
#[test]
fn a_newcomers_restart_is_paid_on_top_of_what_others_have_had() {
    let mut sim = Sim::new(limits(), 1, 16);
    for n in 2..10 {
        let steady = sim.tenant(n, 1);
        (0..20).for_each(|_| sim.closed_loop(steady, 100, 0));
    }
    sim.run_until(20 * SECOND);
    sim.start_ns = 400 * MS;
    let new = sim.tenant(1, 1);
    let failure = StartFailure::Tried { permanent: false };
    sim.unstartable.insert(new, failure);
    sim.closed_loop(new, 100, 0);
    sim.run_until(sim.now + 100 * MS);
    sim.unstartable.remove(&new);
    let lead = |sim: &Sim| {
        let mut standings = sim.core.standings();
        let competes = |view: &StandingView| view.tenant == new && view.competing;
        standings.find(competes).map(|view| view.lead_ns)
    };
    while lead(&sim).is_none() {
        sim.step();
    }
    // The others have advanced by an eighth of the second that it took.
    assert!(lead(&sim) >= Some(200 * MS), "{:?}", lead(&sim));
}
