//! Promise: a device that goes bad is known to be within one look, for the reason that it has, and nothing
//! that an application can do takes a device from the others. On GPUs of pretend, to whom it really happens.

use bulkhead_gpus::{
    health::{
        Health, Judge, Trouble, Verdict,
        xid::{self, Class, LISTED},
    },
    wire,
};
use bulkhead_kernels::device::{
    Snapshot, Source as _,
    fake::{FakeNvml, MEMORY_BYTES},
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const OURS: u32 = 4711;

struct Case {
    machine: FakeNvml,
    judge: Judge,
}

impl Case {
    fn new(gpus: u32) -> Case {
        let (machine, judge) = (FakeNvml::new(gpus), Judge::default());
        let mut case = Case { machine, judge };
        assert!(case.look().iter().all(|v| v.health == Health::Healthy));
        case
    }

    /// One look, through the wire as in life.
    fn look(&mut self) -> Vec<Verdict> {
        let snapshot = self.machine.look().expect("it is not broken");
        let seen = wire::snapshot(wire::seen(&snapshot));
        let bare = |snapshot: &Snapshot| {
            let mut all = snapshot.clone();
            for device in &mut all.devices {
                // The largest first, on the wire.
                device.reading.processes.sort_by_key(|one| one.pid);
            }
            all
        };
        assert_eq!(bare(&seen), bare(&snapshot), "nothing is lost on the wire");
        self.judge.judge(&seen, &BTreeSet::from([OURS]))
    }

    fn after(&mut self, happening: &str) -> Vec<Verdict> {
        self.machine.happen(happening).expect("it can happen");
        self.look()
    }

    /// The health of a device after something happened.
    fn health(&mut self, id: &str, happening: &str) -> Health {
        let verdicts = self.after(happening);
        let mut of_it = verdicts.iter().filter(|verdict| verdict.device.id == id);
        of_it.next_back().expect("it is told").health
    }
}

#[test]
fn one_that_is_unplugged_is_gone_and_well_when_it_is_back() {
    let mut case = Case::new(2);
    assert_eq!(
        case.health("cuda:0", "unplug cuda:0"),
        Health::Bad(Trouble::Gone)
    );
    assert_eq!(case.health("cuda:0", "look"), Health::Bad(Trouble::Gone));
    assert_eq!(case.health("cuda:1", "look"), Health::Healthy);
    let back = case.after("plug cuda:0");
    let back = back
        .iter()
        .find(|v| v.device.id == "cuda:0")
        .expect("there");
    assert_eq!((back.health, back.is_news()), (Health::Healthy, true));
}

#[test]
fn a_fault_lasts_until_the_device_has_been_gone() {
    for (code, class) in LISTED {
        let mut case = Case::new(2);
        let health = case.health("cuda:0", &format!("xid cuda:0 {code}"));
        let lasting = Trouble::Xid(*code);
        let expected = match class {
            Class::Fault => Health::Bad(lasting),
            Class::Wear => Health::Degraded(lasting),
            Class::Application | Class::Unlisted => Health::Healthy,
        };
        assert_eq!(health, expected, "{code}");
        assert_eq!(case.health("cuda:0", "look"), expected, "{code}");
        assert_eq!(case.health("cuda:1", "look"), Health::Healthy);
        case.after("unplug cuda:0");
        assert_eq!(case.health("cuda:0", "plug cuda:0"), Health::Healthy);
    }
}

#[test]
fn the_numbers_of_the_issue_mean_what_it_says() {
    for code in [79, 48, 64, 74, 95, 119, 120] {
        assert_eq!(xid::class(code), Class::Fault, "{code}");
    }
    for code in [13, 31, 43] {
        assert_eq!(xid::class(code), Class::Application, "{code}");
    }
    assert_eq!(xid::class(63), Class::Wear);
    assert_eq!(xid::class(999), Class::Unlisted);
}

#[test]
fn one_that_falls_off_the_bus_and_is_gone_in_one_look_says_what_it_was() {
    let mut case = Case::new(1);
    case.machine.happen("xid cuda:0 79").unwrap();
    let health = case.health("cuda:0", "unplug cuda:0");
    assert_eq!(health, Health::Bad(Trouble::Xid(79)));
}

#[test]
fn errors_that_grow_are_a_fault_and_old_ones_are_not() {
    let mut case = Case::new(1);
    let bad = Health::Bad(Trouble::EccUncorrected);
    assert_eq!(case.health("cuda:0", "ecc cuda:0 1"), bad);
    assert_eq!(
        case.health("cuda:0", "ecc cuda:0 0"),
        bad,
        "a reset count is no repair"
    );
    let mut machine = FakeNvml::new(1);
    machine.happen("ecc cuda:0 7").unwrap();
    let seen = machine.look().unwrap();
    let first = Judge::default().judge(&seen, &BTreeSet::new());
    assert_eq!(
        first[0].health,
        Health::Healthy,
        "it had them when it was first seen"
    );
}

#[test]
fn instances_are_devices_and_a_new_division_ends_the_old_ones() {
    let mut case = Case::new(1);
    let split = case.after("split cuda:0 2");
    let bad = Health::Bad(Trouble::MigReconfigured);
    assert_eq!(split[0].health, bad, "the whole GPU is no device any more");
    assert!(!split[0].is_whole());
    assert_eq!(split.len(), 3);
    assert!(
        split[1..]
            .iter()
            .all(|v| v.health == Health::Healthy && v.is_whole())
    );

    let other = case.after("split cuda:0 1");
    let (gone, new) = (&other[..2], &other[3]);
    assert!(gone.iter().all(|v| v.health == bad && v.is_news()));
    assert_eq!((new.health, new.before), (Health::Healthy, None));
    assert_eq!(case.look().len(), 2, "those are told once");
    // What its GPU reports is an instance's trouble too.
    let health = case.health("cuda:0/mig:0", "xid cuda:0 79");
    assert_eq!(health, Health::Bad(Trouble::Xid(79)));

    let mut case = Case::new(1);
    case.after("split cuda:0 2");
    assert_eq!(case.health("cuda:0", "split cuda:0 0"), Health::Healthy);
}

#[test]
fn memory_of_strangers_is_counted_off_and_ours_is_not() {
    let mut case = Case::new(1);
    let ours = case.after(&format!("process cuda:0 {OURS} 1000"));
    assert_eq!(
        (ours[0].health, ours[0].usable_bytes),
        (Health::Healthy, MEMORY_BYTES)
    );
    let theirs = case.after("process cuda:0 99 5000");
    assert_eq!(theirs[0].health, Health::Degraded(Trouble::Strangers));
    assert_eq!(theirs[0].strangers_bytes, 5000);
    assert_eq!(theirs[0].usable_bytes, MEMORY_BYTES - 5000);
    let all = case.after(&format!("process cuda:0 99 {}", u64::MAX));
    assert_eq!(all[0].usable_bytes, 0, "whatever it says that it has");
    assert_eq!(
        case.health("cuda:0", "process cuda:0 99 0"),
        Health::Healthy
    );
}

#[test]
fn heat_and_silence_are_told_and_take_nothing_away() {
    let mut case = Case::new(1);
    assert_eq!(
        case.health("cuda:0", "hot cuda:0"),
        Health::Degraded(Trouble::Hot)
    );
    assert_eq!(case.health("cuda:0", "cool cuda:0"), Health::Healthy);
    assert_eq!(
        case.health("cuda:0", "mute cuda:0"),
        Health::Degraded(Trouble::Mute)
    );
    assert_eq!(case.health("cuda:0", "hear cuda:0"), Health::Healthy);
    case.after("mute cuda:0");
    let health = case.health("cuda:0", "xid cuda:0 79");
    assert_eq!(
        health,
        Health::Bad(Trouble::Xid(79)),
        "its driver's word counts"
    );
}

fn happening() -> impl Strategy<Value = String> {
    let id = (0u32..3).prop_map(|n| format!("cuda:{n}"));
    let code = prop_oneof![
        Just(79u64),
        Just(48),
        Just(63),
        Just(94),
        Just(31),
        Just(43),
        any::<u64>()
    ];
    prop_oneof![
        1 => id.clone().prop_map(|id| format!("unplug {id}")),
        2 => id.clone().prop_map(|id| format!("plug {id}")),
        2 => (id.clone(), code).prop_map(|(id, code)| format!("xid {id} {code}")),
        1 => (id.clone(), any::<u64>()).prop_map(|(id, n)| format!("ecc {id} {n}")),
        1 => (id.clone(), 0u32..8).prop_map(|(id, n)| format!("split {id} {n}")),
        1 => (id.clone(), any::<u32>(), any::<u64>()).prop_map(|(id, pid, n)| format!("process {id} {pid} {n}")),
        1 => id.clone().prop_map(|id| format!("hot {id}")),
        1 => id.clone().prop_map(|id| format!("mute {id}")),
        1 => id.prop_map(|id| format!("hear {id}")),
    ]
}

proptest! {
    /// Whatever happens: memory is never more than there is, a device that is told as gone is bad, one that
    /// is bad becomes good only by having been gone or made whole, and every change is told as news.
    #[test]
    fn whatever_happens(happenings in prop::collection::vec(happening(), 1..60)) {
        let mut case = Case::new(3);
        let first = case.machine.clone().look().unwrap().devices;
        let first = first.into_iter().map(|one| (one.uuid, Health::Healthy));
        let mut thought: BTreeMap<String, Health> = first.collect();
        let mut gone: BTreeSet<String> = BTreeSet::new();
        for happening in happenings {
            // What cannot happen (to one that is unplugged) does not.
            let _ = case.machine.happen(&happening);
            let here: BTreeSet<String> = (case.machine.clone().look().unwrap().devices.iter())
                .map(|one| one.uuid.clone())
                .collect();
            for verdict in case.look() {
                let uuid = verdict.device.uuid.clone();
                prop_assert!(verdict.usable_bytes + verdict.strangers_bytes <= verdict.device.memory_bytes);
                let before = thought.insert(uuid.clone(), verdict.health);
                if verdict.before.is_some() {
                    prop_assert_eq!(verdict.before, before, "{}", happening);
                }
                let is_here = here.contains(&uuid);
                prop_assert!(is_here || verdict.health.is_bad());
                if before.is_some_and(Health::is_bad) && !verdict.health.is_bad() {
                    let whole = before == Some(Health::Bad(Trouble::MigReconfigured));
                    prop_assert!(gone.contains(&uuid) || whole, "{} healed {}", happening, uuid);
                }
                match is_here {
                    true => drop(gone.remove(&uuid)),
                    false => drop(gone.insert(uuid)),
                }
            }
        }
    }
}
