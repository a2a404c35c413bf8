//! Promise: whatever fails, any two tenants that compete for a device stay within a bound of each other over any interval, by
//! weight, and whoever is behind gets its lane within a bound; whatever either has of another device. The bounds are formulas of the core (`bounds`). Also checked all
//! along: every bill is what was measured, every request ends once, and all that the core keeps is in order.
//!
//! A world is a seed and a number of events. Nothing here depends on anything else: no clock, no thread, no files.

mod sim;
mod world;

use proptest::prelude::*;
use world::{Report, Second, Seed, faults, run};

/// A long run is made of worlds of so many events.
const WORLD_EVENTS: u64 = 200_000;
/// Without `BULKHEAD_SIM_EVENTS`.
const EVENTS: u64 = 100_000;

const SECONDS: [Second; 4] = [
    Second::None,
    Second::Processor,
    Second::Accelerator,
    Second::Lanes,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Fails where the lane goes out by tenant, where nothing is asked back, where who was away is not lifted, where some
    /// lane time is not charged, and where what a tenant has of one device counts on another.
    #[test]
    fn with_any_faults(seed in seeds()) {
        if let Err(broken) = run(seed, 16) {
            prop_assert!(false, "{}", broken);
        }
    }
}

/// Shrinks to fewer events, tenants, devices and faults.
fn seeds() -> impl Strategy<Value = Seed> {
    let faults = prop::bits::u16::ANY;
    (any::<u32>(), 2u32..9, 0usize..4, faults, 100u64..3_000).prop_map(
        |(drawn, tenants, second, faults, events)| {
            Seed::of(drawn, tenants, SECONDS[second], faults, events)
        },
    )
}

/// Ten million events: `BULKHEAD_SIM_EVENTS=10000000 cargo test --release -p bulkhead-core --test faults long_run --
/// --nocapture`. With `BULKHEAD_SIM_SEED`, one world of so many.
#[test]
fn long_run() {
    let events = number("BULKHEAD_SIM_EVENTS").unwrap_or(EVENTS);
    let mut all = Report::default();
    if let Some(seed) = number("BULKHEAD_SIM_SEED") {
        all = one(Seed { seed, events });
    } else {
        let mut nth = 0;
        while all.events < events {
            let left = WORLD_EVENTS.min(events / 8).min(events - all.events);
            let second = SECONDS[(nth + nth / 8) as usize % 4];
            all.add(one(Seed::of(
                nth,
                2 + nth % 7,
                second,
                faults_of(nth),
                left,
            )));
            nth += 1;
        }
        for what in faults::NAMES {
            assert!(all.happened.contains_key(what), "it never happened: {what}");
        }
    }
    eprintln!("{all:#?}");
}

/// Of every eight worlds one has no faults at all, some have a steady clock or device, the others have but a few.
fn faults_of(nth: u32) -> u16 {
    let clock = faults::JUMP | faults::BACK;
    match nth % 8 {
        0 => !clock,
        1 => u16::MAX,
        2 => faults::REST,
        3 => faults::DEAF | faults::OVERRUN | faults::REST,
        4 => !clock & !faults::DEVICE,
        5 => faults::BOAST | faults::UNDERSTATE | faults::CANCEL | faults::WEIGHT,
        6 => faults::DIE | faults::FAIL_START | faults::IDLE | faults::REFUSE,
        _ => !faults::DEVICE,
    }
}

fn one(seed: Seed) -> Report {
    let named = Named(seed);
    match run(named.0, 256) {
        Ok(report) => report,
        Err(broken) => panic!("{broken}"),
    }
}

/// Says how to see it again, whatever it was that failed.
struct Named(Seed);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?}", self.0);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
