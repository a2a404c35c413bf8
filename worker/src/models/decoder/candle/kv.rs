//! Keys and values in tensors: of each layer one of keys and one of values, a row for every place of every
//! block.

use crate::engine::Scrubbed;
use crate::models::decoder::Layout;
use bulkhead_kernels::compute::paged::BLOCK_TOKENS;
use bulkhead_kernels::{Residue, verify_zero};
use candle_core::{DType, Device, Result, Tensor};
use pulp::bytemuck::cast_slice;
use std::ops::Range;

/// Blocks of one pool at most: what the book-keeping is bounded by.
const BLOCKS_MAX: u64 = 1 << 20;
/// Blocks that are zeroed and read back at a time.
const CLEANED_TOGETHER: u32 = 64;

/// The pool.
pub(super) struct CandleKv {
    layout: Layout,
    /// Keys and values of each layer.
    layers: Vec<[Tensor; 2]>,
    blocks: u32,
}

impl CandleKv {
    /// Without memory: no sequence fits.
    pub(super) fn empty(layout: Layout) -> Self {
        CandleKv {
            layout,
            layers: Vec::new(),
            blocks: 0,
        }
    }

    /// As many whole blocks as `quota_bytes` has room for, all zero.
    pub(super) fn new(layout: Layout, quota_bytes: u64, device: &Device) -> Result<Self> {
        let blocks = (quota_bytes / layout.block_bytes() as u64).min(BLOCKS_MAX);
        if blocks == 0 {
            return Ok(CandleKv::empty(layout));
        }
        let shape = (blocks as usize * BLOCK_TOKENS, layout.heads * layout.width);
        let zeros = || Tensor::zeros(shape, DType::F32, device);
        let layers = (0..layout.layers).map(|_| Ok([zeros()?, zeros()?]));
        Ok(CandleKv {
            layout,
            layers: layers.collect::<Result<_>>()?,
            blocks: blocks as u32,
        })
    }

    /// Blocks that there are.
    pub(super) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Keys and values of a layer; an error while there is no pool.
    pub(super) fn layer(&self, layer: usize) -> Result<&[Tensor; 2]> {
        match self.layers.get(layer) {
            Some(layer) => Ok(layer),
            None => candle_core::bail!("there is no memory for keys and values"),
        }
    }

    /// Zeroes blocks and reads them back.
    pub(super) fn clean(&mut self, blocks: Range<u32>) -> Scrubbed {
        let bytes = blocks.len() as u64 * self.layout.block_bytes() as u64;
        match self.cleaned(blocks) {
            Ok(found) => Scrubbed::read_back(bytes, found),
            Err(_) => Scrubbed::unknown(bytes),
        }
    }

    fn cleaned(&self, blocks: Range<u32>) -> Result<Residue> {
        if blocks.end > self.blocks {
            candle_core::bail!("there are {} blocks", self.blocks);
        }
        let mut found = Residue::default();
        for start in blocks.clone().step_by(CLEANED_TOGETHER as usize) {
            let count = (blocks.end - start).min(CLEANED_TOGETHER) as usize * BLOCK_TOKENS;
            let first = start as usize * BLOCK_TOKENS;
            for tensor in self.layers.iter().flatten() {
                let zeros = tensor.narrow(0, first, count)?.zeros_like()?;
                tensor.slice_set(&zeros, 0, first)?;
                let read = tensor.narrow(0, first, count)?.flatten_all()?;
                let read: Vec<f32> = read.to_vec1()?;
                found.add_later(verify_zero(cast_slice(&read)), 0);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_touches_the_blocks_that_were_named_and_no_other() {
        let layout = Layout {
            layers: 2,
            heads: 3,
            width: 8,
        };
        let quota = 200 * layout.block_bytes() as u64 + 5;
        let mut kv = CandleKv::new(layout, quota, &Device::Cpu).expect("small");
        assert_eq!(kv.blocks(), 200);
        for tensor in kv.layers.iter().flatten() {
            let ones = tensor.ones_like().expect("small");
            tensor.slice_set(&ones, 0, 0).expect("of one shape");
        }
        let scrubbed = kv.clean(3..150);
        let bytes = 147 * layout.block_bytes() as u64;
        let got = (scrubbed.zeroed, scrubbed.verified, scrubbed.residue);
        assert_eq!(got, (bytes, bytes, 0));
        for tensor in kv.layers.iter().flatten() {
            let rows: Vec<Vec<f32>> = tensor.to_vec2().expect("a matrix");
            for (row, values) in rows.iter().enumerate() {
                let clean = (3..150).contains(&(row / BLOCK_TOKENS));
                assert!(values.iter().all(|x| (*x == 0.0) == clean), "row {row}");
            }
        }
        assert_eq!(kv.clean(199..201).residue, 2 * layout.block_bytes() as u64);
    }
}
