//! Where tenants share by virtual time, how each of them stands there, and the share that it is owed.
//!
//! A device's lanes are what is shared. So each device has times, a floor and shares of its own, and what a tenant has of
//! one counts on no other: with one time for all, whoever has a device to itself would be far ahead of those who crowd
//! another, and a newcomer, lifted to where the crowd is, would keep it out until it had had as much.
//!
//! Places for workers are shared as well, among those whose models run on one kind of devices (`kinds`): by the lane time
//! of all devices of that kind. That orders who gets a place, never who gets a lane.

use crate::core::Core;
use crate::fair::FairSet;
use crate::lane::Device;
use crate::vtime::{self, VTime};
use crate::{DeviceId, Nanos, TenantId};

/// A tenant among those that share something.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// Exact up to the core's `now`: lane time of running leases counts as it passes.
    pub time: VTime,
    /// A worker of it runs there, or could run if it had a lane.
    pub competing: bool,
    /// The time at which it stands in the order while it competes.
    ordered_at: VTime,
}

impl Standing {
    /// Brings the order in step with its time.
    pub(crate) fn keep_up(&mut self, fair: &mut FairSet<TenantId>, id: TenantId) {
        if self.ordered_at != self.time {
            fair.shift(id, self.ordered_at, self.time);
            self.ordered_at = self.time;
        }
    }

    /// Whether the order says of it what it should.
    pub(crate) fn is_in(&self, fair: &FairSet<TenantId>, id: TenantId) -> bool {
        let in_step = self.time == self.ordered_at && fair.holds(id, self.time);
        !self.competing || in_step
    }

    /// Brings the order in step with its time, and with whether it competes now.
    fn follow(
        &mut self,
        fair: &mut FairSet<TenantId>,
        id: TenantId,
        competes: bool,
        credit: VTime,
    ) {
        match (self.competing, competes) {
            (false, true) => {
                self.time = fair.join(id, self.time, credit);
                self.ordered_at = self.time;
            }
            (true, true) => self.keep_up(fair, id),
            (true, false) => {
                self.keep_up(fair, id);
                fair.leave(id, self.time);
            }
            (false, false) => {}
        }
        self.competing = competes;
    }

    fn lift(&mut self, fair: &FairSet<TenantId>, credit: VTime) {
        if !self.competing {
            self.time = fair.lifted(self.time, credit);
        }
    }
}

/// What a tenant has of one device.
#[derive(Debug, Default)]
pub(crate) struct Part {
    pub standing: Standing,
    pub owed: Owed,
    /// While it has all lanes that it can use: what it was behind by when it stopped waiting, and so may be.
    pub claim: Option<VTime>,
}

impl Part {
    fn follow(
        &mut self,
        device: &mut Device,
        (id, weight): (TenantId, u32),
        competes: bool,
        credit: VTime,
    ) {
        match (self.standing.competing, competes) {
            (false, true) => device.share.join(&mut self.owed, weight),
            (true, false) => device.share.leave(&mut self.owed, weight),
            (true, true) | (false, false) => {}
        }
        self.standing.follow(&mut device.fair, id, competes, credit);
        self.claim = self.claim.filter(|_| competes);
    }
}

impl Core {
    /// Brings all orders in step with a tenant that competes on these devices, and on no other.
    pub(crate) fn follow_standings(
        &mut self,
        id: TenantId,
        competes_on: impl Fn(DeviceId) -> bool,
    ) {
        let Some(tenant) = self.tenants.get_mut(&id) else {
            return;
        };
        let weight = tenant.weight();
        let credit = vtime::from_lane(self.limits.burst_ns, weight);
        let mut on_kinds = [false; 2];
        for (on, part) in tenant.parts.iter_mut() {
            let Some(device) = self.devices.get_mut(&on) else {
                continue;
            };
            let competes = competes_on(on);
            on_kinds[device.kind as usize] |= competes;
            part.follow(device, (id, weight), competes, credit);
        }
        let places = tenant.places.iter_mut().zip(&mut self.places);
        for ((standing, fair), competes) in places.zip(on_kinds) {
            standing.follow(fair, id, competes, credit);
        }
    }

    /// A tenant that had nothing open comes back: at the floor, wherever it does not compete, even for its place among
    /// those that want a worker started. It is lifted again once it can run.
    pub(crate) fn lift_idle(&mut self, id: TenantId) {
        let Some(tenant) = self.tenants.get_mut(&id).filter(|tenant| tenant.open == 0) else {
            return;
        };
        let credit = vtime::from_lane(self.limits.burst_ns, tenant.weight());
        for (on, part) in tenant.parts.iter_mut() {
            if let Some(device) = self.devices.get(&on) {
                part.standing.lift(&device.fair, credit);
            }
        }
        for (standing, fair) in tenant.places.iter_mut().zip(&self.places) {
            standing.lift(fair, credit);
        }
    }

    /// A worker of this tenant is started on a device. Its first there begins at the floor.
    pub(crate) fn take_part(&mut self, id: TenantId, on: DeviceId) {
        let both = self.tenants.get_mut(&id).zip(self.devices.get(&on));
        let Some((tenant, device)) = both else {
            return;
        };
        let credit = vtime::from_lane(self.limits.burst_ns, tenant.weight());
        tenant.parts.get_or_insert_with(on, || {
            let mut part = Part::default();
            part.standing.lift(&device.fair, credit);
            part
        });
    }

    /// Sum of the weights of those who compete, each once for every device on which it does.
    pub(crate) fn competing_weights(&self) -> u128 {
        let devices = self.devices.values();
        devices.map(|device| device.share.weights).sum()
    }
}

/// A tenant's account of the share that it was owed of a device.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    settled_ns: u128,
    joined_at: u128,
}

/// Divides the lane time that passes by weight among those who compete for it, in constant time:
/// one sum of lane time ÷ total weight runs for all, and each reads the difference off it.
#[derive(Debug, Default)]
pub(crate) struct ShareClock {
    per_weight: u128,
    weights: u128,
}

impl ShareClock {
    /// So much lane time has passed on one of the lanes.
    pub(crate) fn advance(&mut self, lane_ns: Nanos) {
        let per_weight = (u128::from(lane_ns) << 32).checked_div(self.weights);
        self.per_weight += per_weight.unwrap_or(0);
    }

    fn join(&mut self, owed: &mut Owed, weight: u32) {
        self.weights += u128::from(weight);
        owed.joined_at = self.per_weight;
    }

    fn leave(&mut self, owed: &mut Owed, weight: u32) {
        owed.settled_ns = self.owed_ns(owed, weight, true);
        self.weights -= u128::from(weight);
    }

    /// Who competes has another weight from now on.
    pub(crate) fn reweigh(&mut self, owed: &mut Owed, before: u32, weight: u32) {
        self.leave(owed, before);
        self.join(owed, weight);
    }

    /// The share owed so far, in nanoseconds of lane time.
    pub(crate) fn owed_ns(&self, owed: &Owed, weight: u32, competing: bool) -> u128 {
        if !competing {
            return owed.settled_ns;
        }
        let span = self.per_weight - owed.joined_at;
        owed.settled_ns + (span.saturating_mul(u128::from(weight)) >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_owed_by_weight_and_only_while_competing() {
        let (mut clock, mut a, mut b) = (ShareClock::default(), Owed::default(), Owed::default());
        clock.join(&mut a, 1);
        clock.advance(100);
        clock.join(&mut b, 3);
        clock.advance(400);
        clock.leave(&mut b, 3);
        clock.advance(50);
        assert_eq!(clock.owed_ns(&a, 1, true), 250);
        assert_eq!(clock.owed_ns(&b, 3, false), 300);
    }
}
