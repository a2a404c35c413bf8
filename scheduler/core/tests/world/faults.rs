//! What may go wrong in a world: one bit each, so that a failure can be shrunk to the faults that it takes. What a
//! worker does wrong is drawn anew for each worker.

use bulkhead_core::*;

use super::draw::Draw;
use crate::sim::{Conduct, MS};

pub const DIE: u16 = 1;
pub const FAIL_START: u16 = 1 << 1;
pub const DEAF: u16 = 1 << 2;
pub const OVERRUN: u16 = 1 << 3;
pub const BOAST: u16 = 1 << 4;
pub const UNDERSTATE: u16 = 1 << 5;
pub const REFUSE: u16 = 1 << 6;
pub const IDLE: u16 = 1 << 7;
pub const CANCEL: u16 = 1 << 8;
pub const DEADLINE: u16 = 1 << 9;
pub const REVOKE: u16 = 1 << 10;
pub const JUMP: u16 = 1 << 11;
pub const BACK: u16 = 1 << 12;
pub const WEIGHT: u16 = 1 << 13;
pub const DEVICE: u16 = 1 << 14;
pub const REST: u16 = 1 << 15;

/// All that a long run has to have seen, by the names under which the simulator counts them.
pub const NAMES: [&str; 18] = [
    "died",
    "failed to start",
    "held its lane",
    "overran",
    "boasted",
    "understated",
    "refused",
    "idled",
    "cancelled",
    "a deadline passed",
    "revoked",
    "the clock jumped",
    "the clock went back",
    "settings changed",
    "bound to a region",
    "a device went down",
    "lost its device",
    "rested",
];

const OF_WORKERS: [u16; 7] = [DIE, DEAF, OVERRUN, BOAST, UNDERSTATE, REFUSE, IDLE];

/// How the next worker of a tenant behaves, of those that are not all honest.
pub fn conduct(faults: u16, honest: &Conduct, draw: &mut Draw) -> Conduct {
    let mut conduct = honest.clone();
    let possible: Vec<u16> = OF_WORKERS.into_iter().filter(|f| faults & f > 0).collect();
    if draw.one_in(3) {
        return conduct;
    }
    match draw.one_of(&possible) {
        Some(DIE) => conduct.dies_after_steps = Some(draw.small(1, 60)),
        Some(DEAF) => conduct.deaf = true,
        Some(OVERRUN) => {
            conduct.overruns = Some((draw.small(2, 9), draw.between(10, 80) * MS));
        }
        Some(BOAST) => conduct.boasts = draw.small(2, 50),
        Some(UNDERSTATE) => conduct.understates = 10,
        Some(REFUSE) => conduct.refuses_from = Some(draw.between(1, 600)),
        Some(IDLE) => conduct.idles_every = draw.small(1, 5),
        _ => {}
    }
    conduct
}

/// Whether the next worker of a tenant fails to start, and how.
pub fn failure(faults: u16, draw: &mut Draw) -> Option<StartFailure> {
    if faults & FAIL_START == 0 || !draw.one_in(4) {
        return None;
    }
    let for_ns = draw.between(0, 300) * MS;
    Some(match draw.small(0, 9) {
        0 => StartFailure::Refused,
        1 => StartFailure::Tried { permanent: true },
        2..4 => StartFailure::Waiting { for_ns },
        _ => StartFailure::Tried { permanent: false },
    })
}
