//! Promise: admission is bounded everywhere, and nobody below their reserved part is refused
//! because of somebody else.

mod sim;

use bulkhead_core::*;
use proptest::prelude::*;
use sim::*;

fn bounded(queue_bytes_max: u64, tenant_reserved_bytes: u64) -> Sim {
    let mut sim = Sim::new(
        Limits {
            queue_bytes_max,
            tenant_reserved_bytes,
            ..limits()
        },
        1,
        8,
    );
    // Nothing ever leaves the queue: no worker becomes ready.
    sim.start_ns = 1_000_000 * SECOND;
    sim
}

fn refusal(sim: &Sim, request: RequestId) -> Option<Bound> {
    sim.refused.get(&request).map(|refusal| refusal.bound)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Fails where the pool is first come, first served.
    #[test]
    fn a_reserved_part_is_there_whatever_others_do(
        submits in prop::collection::vec((1u32..6, 1u64..400, any::<prop::sample::Index>(), any::<bool>()), 1..150),
    ) {
        let mut sim = bounded(5_000, 1_000);
        for n in 1..6 {
            sim.tenant(n, 1);
        }
        let mut mine: Vec<Vec<(RequestId, u64)>> = vec![Vec::new(); 6];
        for (tenant, bytes, victim, cancel) in submits {
            let held = &mut mine[tenant as usize];
            if cancel && !held.is_empty() {
                let (request, _) = held.swap_remove(victim.index(held.len()));
                sim.say(Event::Cancel { request, why: CancelReason::Client });
                continue;
            }
            let used: u64 = held.iter().map(|item| item.1).sum();
            let mut submission = sim.submission(TenantId(tenant), 10);
            submission.bytes = bytes;
            let request = sim.offer(submission);
            prop_assert!(used + bytes > 1_000 || refusal(&sim, request).is_none(), "refused below its part");
            if refusal(&sim, request).is_none() {
                mine[tenant as usize].push((request, bytes));
            }
            let total: u64 = sim.core.tenants().map(|view| view.queue_bytes).sum();
            prop_assert!(total <= 5_000);
        }
    }
}

#[test]
fn each_refusal_names_its_bound() {
    let mut sim = bounded(10_000, 1_000);
    let tenant = TenantId(1);
    let settings = TenantSettings {
        weight: 1,
        queue_requests_max: 2,
        open_requests_max: 3,
        rate: Rate::default(),
        agent_rate: Rate::default(),
        regions: Regions::ANY,
    };
    sim.say(Event::TenantSet { tenant, settings });
    sim.run_until(SECOND);

    let stranger = sim.submit(TenantId(9), 1);
    assert_eq!(refusal(&sim, stranger), Some(Bound::Unknown));
    let mut late = sim.submission(tenant, 1);
    late.deadline = Some(sim.now);
    let late = sim.offer(late);
    assert_eq!(refusal(&sim, late), Some(Bound::DeadlinePast));
    assert_eq!(sim.refused[&late].retry_after_ns, None);
    let mut huge = sim.submission(tenant, 1);
    huge.bytes = 10_001;
    let huge = sim.offer(huge);
    assert_eq!(refusal(&sim, huge), Some(Bound::TooLarge));

    let (first, _) = (sim.submit(tenant, 1), sim.submit(tenant, 1));
    let third = sim.submit(tenant, 1);
    assert_eq!(refusal(&sim, third), Some(Bound::TenantQueue));
    let retry = sim.refused[&third].retry_after_ns.unwrap();
    assert!((10 * MS..=10 * SECOND).contains(&retry));
    sim.say(Event::Cancel {
        request: first,
        why: CancelReason::Client,
    });
    let again = sim.submit(tenant, 1);
    assert_eq!(refusal(&sim, again), None);

    sim.say(Event::Drain);
    let drained = sim.submit(tenant, 1);
    assert_eq!(refusal(&sim, drained), Some(Bound::Draining));
}

#[test]
fn open_requests_are_bounded_and_a_full_pool_says_so() {
    let mut sim = Sim::new(
        Limits {
            queue_bytes_max: 1_000,
            tenant_reserved_bytes: 0,
            ..limits()
        },
        1,
        8,
    );
    let tenant = TenantId(1);
    let settings = TenantSettings {
        weight: 1,
        queue_requests_max: 50,
        open_requests_max: 3,
        rate: Rate::default(),
        agent_rate: Rate::default(),
        regions: Regions::ANY,
    };
    sim.say(Event::TenantSet { tenant, settings });
    for _ in 0..3 {
        sim.submit(tenant, 500);
    }
    let fourth = sim.submit(tenant, 1);
    assert_eq!(refusal(&sim, fourth), Some(Bound::TenantOpen));
    let other = sim.tenant(2, 1);
    let mut large = sim.submission(other, 5_000);
    large.bytes = 901;
    let large = sim.offer(large);
    assert_eq!(refusal(&sim, large), Some(Bound::GlobalQueue));
}

/// No panic, and no second answer that could be taken for the first.
#[test]
fn a_second_submission_of_an_open_request_is_ignored() {
    let mut sim = bounded(10_000, 1_000);
    let tenant = sim.tenant(1, 1);
    let submission = sim.submission(tenant, 1);
    sim.offer(submission.clone());
    sim.offer(submission);
    assert_eq!(
        sim.count(|e| matches!(e, Effect::Accepted { .. } | Effect::Refused { .. })),
        1
    );
    assert_eq!(sim.core.requests_open(), 1);
}

#[test]
fn draining_lets_accepted_requests_finish() {
    let mut sim = Sim::new(limits(), 1, 8);
    let tenant = sim.tenant(1, 1);
    let requests: Vec<_> = (0..30).map(|_| sim.submit(tenant, 100)).collect();
    sim.say(Event::Drain);
    sim.run_until(SECOND);
    assert!(
        requests
            .iter()
            .all(|r| sim.end_of(*r) == Some(End::Worker(Outcome::Ok)))
    );
}

/// What may be had a minute is taken in advance, so that requests which run together cannot slip past, and given back
/// as far as it was not used. Fails where nothing is reserved, and where nothing is settled.
#[test]
fn what_may_be_had_a_minute_is_reserved_and_settled() {
    let mut sim = Sim::new(limits(), 1, 8);
    let tenant = TenantId(1);
    let settings = TenantSettings {
        agent_rate: Rate {
            requests: 0,
            tokens: 1_000,
        },
        ..settings(1)
    };
    sim.say(Event::TenantSet { tenant, settings });
    let send = |sim: &mut Sim, answer| {
        let mut submission = sim.submission(tenant, 100);
        submission.tokens_out_max = 300;
        sim.answers.insert(submission.request, answer);
        sim.offer(submission)
    };
    let first = send(&mut sim, 5);
    send(&mut sim, 5);
    let third = send(&mut sim, 5);
    let refusal = sim.refused[&third];
    assert_eq!(refusal.bound, Bound::AgentRate);
    // 1,200 of 1,000: 200 have to leak, at 1,000 a minute.
    assert_eq!(refusal.retry_after_ns, Some(12 * SECOND));
    sim.run_until(SECOND);
    assert!(sim.end_of(first).is_some());
    // The two came to 105 each.
    let beside = [send(&mut sim, 300), send(&mut sim, 300)];
    let last = send(&mut sim, 300);
    assert!(beside.iter().all(|one| !sim.refused.contains_key(one)));
    assert_eq!(sim.refused[&last].bound, Bound::AgentRate);
    // One that never runs gives all of it back.
    sim.say(Event::Cancel {
        request: beside[1],
        why: CancelReason::Client,
    });
    sim.run_until(2 * SECOND);
    let again = send(&mut sim, 300);
    assert!(!sim.refused.contains_key(&again));
}

/// Refused is only what its own work alone would make late, and not before that is known well.
#[test]
fn a_deadline_that_cannot_be_met_is_refused_at_once() {
    let mut sim = Sim::new(limits(), 1, 8);
    let (tenant, other) = (sim.tenant(1, 1), sim.tenant(2, 1));
    let hurried = |sim: &mut Sim, tokens, within_ns| {
        let mut submission = sim.submission(tenant, tokens);
        submission.deadline = Some(sim.now + within_ns);
        sim.offer(submission)
    };
    let unknown = hurried(&mut sim, 1_000, 10 * MS);
    assert!(!sim.refused.contains_key(&unknown), "nothing is known yet");
    for n in 0..100 {
        sim.submit(tenant, 100);
        sim.run_until(SECOND + n * 20 * MS);
    }
    // A tenth of a millisecond for each token; somebody else has much to do.
    for _ in 0..100 {
        sim.submit(other, 1_000);
    }
    let hopeless = hurried(&mut sim, 1_000, 10 * MS);
    assert_eq!(sim.refused[&hopeless].bound, Bound::DeadlineTooSoon);
    let tight = hurried(&mut sim, 1_000, 110 * MS);
    assert!(!sim.refused.contains_key(&tight), "alone it could be met");
}
