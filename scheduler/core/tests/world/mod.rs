//! A world: tenants on one or two devices with one lane each, or on one with several, their clients, and what goes wrong with all of them. It is made from a
//! seed and runs for a number of events, and follows from these two numbers alone. What was promised is looked at after
//! every event; nothing is remembered of what is over, so that a run may be of any length.

mod clients;
mod draw;
pub mod faults;
mod gaps;
mod shares;
mod waits;

use std::collections::BTreeMap;
use std::fmt;

use bulkhead_core::*;

use crate::sim::*;
use clients::{CALLS_FROM, Clients};
use draw::Draw;
use gaps::Gaps;
use shares::Shares;
use waits::Waits;

/// All that a world follows from. Its low 16 bits say what goes wrong (`faults`), the three above how many tenants there
/// are beyond two, those above `SECOND_FROM` what devices there are; all but the faults are drawn from.
#[derive(Clone, Copy)]
pub struct Seed {
    pub seed: u64,
    pub events: u64,
}

impl Seed {
    pub fn of(drawn: u32, tenants: u32, second: Second, faults: u16, events: u64) -> Self {
        let tenants = u64::from(tenants.clamp(2, 8) - 2);
        let drawn = (second as u64) << SECOND_FROM | u64::from(drawn) << 19;
        let seed = drawn | tenants << 16 | u64::from(faults);
        Seed { seed, events }
    }

    fn second(self) -> Second {
        match self.seed >> SECOND_FROM {
            0 => Second::None,
            1 => Second::Processor,
            2 => Second::Accelerator,
            _ => Second::Lanes,
        }
    }
}

const SECOND_FROM: u32 = 51;

/// What there is beside a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    None,
    Processor,
    /// It takes two of the three models.
    Accelerator,
    /// Nothing, but the processor has two or three lanes.
    Lanes,
}

impl Second {
    fn is_there(self) -> bool {
        matches!(self, Second::Processor | Second::Accelerator)
    }
}

const OTHER: DeviceId = DeviceId(2);

/// As the command that runs this world alone.
impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "BULKHEAD_SIM_SEED={} BULKHEAD_SIM_EVENTS={} cargo test --release -p bulkhead-core --test faults long_run",
            self.seed, self.events
        )
    }
}

/// What came of a world.
#[derive(Debug, Default)]
pub struct Report {
    pub events: u64,
    /// Times in which two tenants competed, and the longest of them.
    pub intervals: u64,
    pub longest_ns: Nanos,
    pub grants: u64,
    pub waited: u64,
    /// Greatest difference of two tenants over an interval ÷ its bound, in thousandths.
    pub spread_milli: u128,
    /// Greatest wait ÷ its bound, in thousandths.
    pub wait_milli: u128,
    /// Intervals in which somebody waits for one of several lanes beside another, and the greatest that this one gets more ÷ its
    /// bound, in thousandths.
    pub gaps: u64,
    pub gap_milli: u128,
    pub happened: BTreeMap<&'static str, u64>,
}

impl Report {
    pub fn add(&mut self, other: Report) {
        self.events += other.events;
        self.intervals += other.intervals;
        self.longest_ns = self.longest_ns.max(other.longest_ns);
        self.grants += other.grants;
        self.waited += other.waited;
        self.spread_milli = self.spread_milli.max(other.spread_milli);
        self.wait_milli = self.wait_milli.max(other.wait_milli);
        self.gaps += other.gaps;
        self.gap_milli = self.gap_milli.max(other.gap_milli);
        for (what, times) in other.happened {
            *self.happened.entry(what).or_default() += times;
        }
    }
}

/// In so short a time there are never so many events: where there are, the core asks to be woken again and again.
const MOMENT_NS: Nanos = 1_000;
const MOMENT_EVENTS: u64 = 2_000;

const MEDDLE: usize = 0;
const DEVICE_UP: usize = 1;

struct World {
    sim: Sim,
    limits: Limits,
    draw: Draw,
    faults: u16,
    clients: Clients,
    shares: Shares,
    waits: Waits,
    gaps: Gaps,
    /// Tenants whose workers may go wrong, with how they behave otherwise.
    wicked: Vec<(TenantId, Conduct)>,
    tenants: u32,
    second: Second,
    workers_max: u32,
    pace_ns: Nanos,
    started: u64,
    /// A moment, and the events until then.
    moment: (Nanos, u64),
}

/// Runs a world to its end, or to the first promise that is not kept.
pub fn run(seed: Seed, check_every: u64) -> Result<Report, String> {
    let mut world = World::new(seed);
    world.sim.check_every = check_every;
    while world.sim.events < seed.events {
        world.step()?;
    }
    Ok(world.report())
}

impl World {
    fn new(seed: Seed) -> Self {
        let mut draw = Draw::new(seed.seed >> 16);
        let faults = seed.seed as u16;
        let limits = Limits {
            quantum_ns: draw.between(5, 40) * MS,
            switch_percent: draw.small(0, 2) * 10,
            burst_ns: draw.between(0, 3) * 50 * MS,
            release_grace_ns: draw.between(10, 60) * MS,
            unload_after_ns: draw.between(0, 1) * 2 * SECOND,
            restarts: Pace {
                first_ns: draw.between(10, 100) * MS,
                longest_ns: draw.between(1, 3) * SECOND,
                good_life_ns: SECOND,
            },
            seed: draw.between(0, u64::MAX - 1),
            ..limits()
        };
        let tenants = 2 + (seed.seed >> 16 & 7) as u32 % 7;
        let workers_max = draw.small(2, 3 * tenants);
        let lanes = match seed.second() {
            Second::Lanes => draw.small(2, 3),
            _ => 1,
        };
        let mut sim = Sim::new(limits.clone(), lanes, workers_max);
        sim.history = false;
        sim.latency_ns = draw.between(1, 500) * 1_000;
        sim.start_ns = draw.between(0, 200) * MS;
        sim.kill_ns = draw.between(0, 4) * 25 * MS;
        let mut world = World {
            sim,
            limits,
            faults,
            clients: Clients::default(),
            shares: Shares::default(),
            waits: Waits::default(),
            gaps: Gaps::new(lanes),
            wicked: Vec::new(),
            tenants,
            second: seed.second(),
            workers_max,
            pace_ns: draw.between(2, 60) * MS,
            started: 0,
            moment: (0, 0),
            draw,
        };
        world.clients.hurried = faults & faults::DEADLINE > 0;
        if world.second == Second::Accelerator {
            for model in [ModelId(2), ModelId(3)] {
                world.sim.say(Event::ModelAccelerates { model });
            }
        }
        world.device_up(OTHER);
        for id in 1..=tenants {
            world.add_tenant(TenantId(id));
        }
        world.sim.at(0, Act::Call(MEDDLE));
        world
    }

    fn add_tenant(&mut self, id: TenantId) {
        let draw = &mut self.draw;
        let honest = Conduct {
            step_ns: draw.between(1, 8) * MS,
            ns_per_token: draw.between(20, 200) * 1_000,
            ..Conduct::default()
        };
        let (weight, wicked, greedy) = (draw.small(1, 8), draw.one_in(2), !draw.one_in(3));
        if wicked {
            self.wicked.push((id, honest.clone()));
        }
        self.sim.conduct.insert(id, honest);
        self.set_tenant(id, weight);
        self.clients.add(id, greedy, &mut self.draw, &mut self.sim);
    }

    /// Where there is a second device it is in a region of its own, to which some are bound, or are not to go.
    fn set_tenant(&mut self, tenant: TenantId, weight: u32) {
        let regions = match self.second.is_there() && self.draw.one_in(4) {
            true => {
                self.sim.note("bound to a region");
                let region = RegionId(self.draw.one_of(&[0, 1]).unwrap_or(0));
                [region].into_iter().collect()
            }
            false => Regions::ANY,
        };
        let settings = TenantSettings {
            weight,
            queue_requests_max: 200,
            open_requests_max: 300,
            rate: Rate::default(),
            agent_rate: Rate::default(),
            regions,
        };
        self.sim.say(Event::TenantSet { tenant, settings });
    }

    fn step(&mut self) -> Result<(), String> {
        if self.faults & faults::BACK > 0 && self.draw.one_in(300) {
            let back_ns = self.draw.between(0, SECOND);
            self.sim.step_back(back_ns);
        } else {
            self.sim.step();
        }
        self.look()?;
        for whom in std::mem::take(&mut self.sim.calls) {
            match whom {
                MEDDLE => self.meddle(),
                DEVICE_UP => {
                    let down = self.sim.down.clone();
                    down.into_iter().for_each(|device| self.device_up(device));
                }
                _ => (self.clients).call(whom - CALLS_FROM, &mut self.draw, &mut self.sim),
            }
            self.look()?;
        }
        Ok(())
    }

    fn look(&mut self) -> Result<(), String> {
        self.clients.collect(&mut self.draw, &mut self.sim);
        if self.sim.started != self.started {
            self.started = self.sim.started;
            self.cast();
        }
        self.time_passes()?;
        if self.second == Second::Lanes {
            return self.gaps.look(&self.sim, &self.limits);
        }
        self.shares.look(&self.sim, &self.limits)?;
        self.waits.look(&self.sim, &self.limits)
    }

    /// Or whoever is owed something would not be seen to wait.
    fn time_passes(&mut self) -> Result<(), String> {
        if self.sim.now > self.moment.0 + MOMENT_NS {
            self.moment = (self.sim.now, self.sim.events);
        }
        match self.sim.events - self.moment.1 <= MOMENT_EVENTS {
            true => Ok(()),
            false => Err(format!("time stands still at {} ns", self.sim.now)),
        }
    }

    /// A worker was started: the next ones are others.
    fn cast(&mut self) {
        for (tenant, honest) in &self.wicked {
            let conduct = faults::conduct(self.faults, honest, &mut self.draw);
            self.sim.conduct.insert(*tenant, conduct);
            match faults::failure(self.faults, &mut self.draw) {
                Some(failure) => drop(self.sim.unstartable.insert(*tenant, failure)),
                None => drop(self.sim.unstartable.remove(tenant)),
            }
        }
    }

    /// Something goes wrong, where it may.
    fn meddle(&mut self) {
        let pause_ns = self.draw.between(self.pace_ns / 8, self.pace_ns * 2);
        self.sim.at(self.sim.now + pause_ns, Act::Call(MEDDLE));
        let fault = match self.draw.small(0, 63) {
            0..16 => faults::CANCEL,
            16..18 => faults::REVOKE,
            18..20 => faults::JUMP,
            20..24 => faults::WEIGHT,
            24 => faults::DEVICE,
            25..33 => faults::REST,
            _ => return,
        };
        if self.faults & fault == 0 {
            return;
        }
        match fault {
            faults::CANCEL => self.cancel(),
            faults::REVOKE => {
                let agent = self.clients.any_agent(&mut self.draw);
                let why = CancelReason::Revoked;
                self.sim.note("revoked");
                self.sim.say(Event::CancelAgent { agent, why });
            }
            faults::JUMP => {
                let most = self.draw.one_of(&[MS, 10 * MS, 100 * MS, SECOND]);
                let ns = self.draw.between(1, most.unwrap_or(MS));
                self.sim.jump(ns);
            }
            faults::WEIGHT => {
                let tenant = TenantId(self.draw.small(1, self.tenants));
                let weight = self.draw.small(1, 8);
                self.sim.note("settings changed");
                self.set_tenant(tenant, weight);
            }
            faults::DEVICE => self.device_down(),
            _ => {
                self.sim.note("rested");
                self.clients.turn_one(&mut self.draw, &mut self.sim);
            }
        }
    }

    fn cancel(&mut self) {
        if let Some(request) = self.clients.any_open(&mut self.draw) {
            let why = CancelReason::Client;
            self.sim.note("cancelled");
            self.sim.say(Event::Cancel { request, why });
        }
    }

    fn device_down(&mut self) {
        if self.sim.down.is_empty() {
            let device = match self.second {
                Second::None | Second::Lanes => DEVICE,
                _ => self.draw.one_of(&[DEVICE, OTHER]).unwrap_or(DEVICE),
            };
            self.sim.note("a device went down");
            self.sim.say(Event::DeviceDown { device });
            let back_ns = self.draw.between(1, 300) * MS;
            self.sim.at(self.sim.now + back_ns, Act::Call(DEVICE_UP));
        }
    }

    fn device_up(&mut self, device: DeviceId) {
        let kind = match (device, self.second) {
            (OTHER, Second::None | Second::Lanes) => return,
            (OTHER, Second::Accelerator) => DeviceKind::Accelerator,
            _ => DeviceKind::Processor,
        };
        self.sim.say(Event::DeviceUp {
            device,
            kind,
            region: RegionId(u8::from(device == OTHER)),
            lanes: 1,
            workers_max: self.workers_max,
        });
    }

    fn report(self) -> Report {
        Report {
            events: self.sim.events,
            intervals: self.shares.intervals,
            longest_ns: self.shares.longest_ns,
            grants: self.waits.grants,
            waited: self.waits.waited,
            spread_milli: self.shares.worst_milli,
            wait_milli: self.waits.worst_milli,
            gaps: self.gaps.intervals,
            gap_milli: self.gaps.worst_milli,
            happened: self.sim.happened,
        }
    }
}
