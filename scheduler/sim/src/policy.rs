//! Who is admitted next into a shared batch: the interface of all policies.
//!
//! A policy keeps the queues and may refuse an arrival. It never sees the engine's time or the pool:
//! whether a request fits is asked of the loop, and a head that does not fit ends the admission.

mod fcfs;
mod forecast;
mod ours;
mod rpm;
mod vtc;

pub use fcfs::Fcfs;
pub use ours::Ours;
pub use rpm::Rpm;
pub use vtc::Vtc;

use crate::workload::Arrival;

/// An arrival and its place in the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Index into the arrivals of the workload.
    pub index: usize,
    /// What arrived.
    pub arrival: Arrival,
}

/// What became of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It waits until it is admitted.
    Waits,
    /// It is refused and never comes back.
    Rejected,
}

/// Chooses the next request to admit, and is told of each token so that it can charge for it.
pub trait Policy {
    /// How tables call it.
    fn name(&self) -> String;

    /// Takes in an arrival. Arrivals come in the order of their time.
    fn arrive(&mut self, request: Request) -> Verdict;

    /// Hands out the first in order if it `fits`. Never a later one in its place.
    fn admit(&mut self, fits: &dyn Fn(&Arrival) -> bool) -> Option<Request>;

    /// One more token of output of an admitted request: its `nth`, counted from 1.
    fn produced(&mut self, _request: &Request, _nth: u32) {}

    /// The last token of a request has been produced.
    fn finished(&mut self, _request: &Request) {}
}
