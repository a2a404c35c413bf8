//! Cleaning blocks on the device, timed, with the evidence of it.

use crate::engine::Scrubbed;
use crate::models::decoder::Decoder;
use crate::models::scratch::sum;
use bulkhead_kernels::Measure;
use bulkhead_worker_core::{Dirty, StepModel};

/// The device's side of cleaning.
pub struct Cleaning<'a> {
    /// Where the blocks are.
    pub decoder: &'a mut dyn Decoder,
    /// What was zeroed and read back since the last report.
    pub evidence: &'a mut Scrubbed,
    /// Learns how long a block takes.
    pub model: &'a mut StepModel,
    /// The loop's clock, nanoseconds.
    pub now_ns: &'a dyn Fn() -> u64,
}

impl Cleaning<'_> {
    /// Zeroes a block and reads it back. Returns how many of its bytes are not zero even so.
    pub fn block(&mut self, block: &Dirty) -> u64 {
        let began = (self.now_ns)();
        let scrubbed = match Measure::Blocks.is_on() {
            true => self.decoder.clean(block.index()..block.index() + 1),
            false => Scrubbed::default(),
        };
        *self.evidence = sum(*self.evidence, scrubbed);
        let took = (self.now_ns)().saturating_sub(began);
        self.model.block(took);
        scrubbed.residue
    }
}
