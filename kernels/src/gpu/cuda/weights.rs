//! A model's weights, in a pool apart from every job's: it is never scrubbed, and no job's memory is ever in it.

use super::Gpu;
use super::own::OwnPool;
use crate::PoolError;

/// The pool of a model's weights. It is the device's current one from its making on, until a job's is.
#[derive(Debug)]
pub struct WeightPool(OwnPool);

impl WeightPool {
    /// Makes it and puts it in place. What is allocated next is in it.
    pub fn install(gpu: &Gpu) -> Result<Self, PoolError> {
        let pool = OwnPool::new(gpu, 0)?;
        pool.put_in_place()?;
        Ok(WeightPool(pool))
    }

    /// Bytes of weights in it.
    pub fn used_bytes(&self) -> Result<u64, PoolError> {
        self.0.used_bytes()
    }
}
