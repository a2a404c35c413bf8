//! Weights that one process laid out and another computes with: the same answers to the last bit, and no way beyond
//! the memory. The memory is this process's own, in the place of a GPU's.

use super::drive::logits;
use super::model::{Case, cases, named};
use bulkhead_kernels::digest::{Key, digests};
use bulkhead_worker::models::LoadError;
use bulkhead_worker::models::decoder::{
    CandleDecoder, Decoder, FromTable, Lender, Mapped, Table, Values, Weight, lay_out,
};
use bulkhead_worker::models::source::Safetensors;
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use std::os::fd::OwnedFd;

/// Memory of pretend.
#[derive(Clone, Default)]
struct Memory(Vec<u8>);

impl Lender for Memory {
    fn take(&mut self, bytes: usize) -> Result<(), LoadError> {
        self.0.resize(bytes, 0xFF);
        Ok(())
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), LoadError> {
        self.0[offset..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn lend(&mut self) -> Result<(u64, OwnedFd), LoadError> {
        unreachable!("it is this process's own")
    }

    fn digests(&mut self, key: &Key) -> Result<Vec<u64>, LoadError> {
        Ok(digests(key, &self.0))
    }
}

impl Mapped for Memory {
    fn tensor(&self, weight: &Weight) -> candle_core::Result<Tensor> {
        let (kind, width) = match weight.kind {
            Values::F32 => (DType::F32, 4),
            Values::Bf16 => (DType::BF16, 2),
        };
        let bytes = &self.0[weight.offset..][..weight.count() * width];
        let tensor = Tensor::from_raw_buffer(bytes, kind, &weight.shape, &Device::Cpu)?;
        // The processor multiplies f32, as in a worker that loads for itself.
        tensor.to_dtype(DType::F32)
    }
}

fn laid_out(case: &Case, dtype: Dtype) -> (Table, Memory) {
    let mut memory = Memory::default();
    let tensors = Safetensors::read(case.single(dtype)).expect("it parses");
    let table = lay_out(&case.config_bytes(), tensors, &mut memory).expect("it fits");
    let told = Table::decode(&table.encode(), memory.0.len() as u64).expect("it fits");
    assert_eq!(told, table);
    (told, memory)
}

fn answered(case: &Case, mut decoder: CandleDecoder) -> Vec<Vec<f32>> {
    assert!(decoder.assign(1 << 20) >= 16);
    logits(&mut decoder, &case.prompts, &[usize::MAX; 3])
}

#[test]
fn every_family_computes_the_same_on_weights_that_another_laid_out() {
    for case in cases() {
        // Of other cases the weights are no numbers of 16 bits.
        let sixteen = [Dtype::F16, Dtype::BF16].into_iter();
        let sixteen = sixteen.filter(|_| case.bits == 7);
        for dtype in sixteen.chain([Dtype::F32]) {
            let own = case.open(case.single(dtype)).expect("its shape is known");
            let own = CandleDecoder::load(own, Device::Cpu).expect("it loads");
            let (table, memory) = laid_out(&case, dtype);
            let shared = FromTable::new(&table, memory);
            let shared = CandleDecoder::on_shared(&case.config_bytes(), shared, Device::Cpu);
            let shared = shared.expect("all is there");
            assert_eq!(
                answered(&case, shared),
                answered(&case, own),
                "{} {dtype:?}",
                case.name
            );
        }
    }
}

#[test]
fn matrices_of_sixteen_bits_take_no_more_on_the_device() {
    let cases = cases();
    let case = cases.iter().find(|case| case.bits == 7).expect("one is");
    let (table, _) = laid_out(case, Dtype::BF16);
    for (name, weight) in table.weights() {
        let is_matrix = weight.shape.len() == 2;
        assert_eq!(weight.kind == Values::Bf16, is_matrix, "{name}");
    }
    let (table, _) = laid_out(case, Dtype::F16);
    assert!(
        table
            .weights()
            .all(|(_, weight)| weight.kind == Values::F32)
    );
}

#[test]
fn a_weight_that_is_missing_or_of_another_shape_is_an_error() {
    let cases = cases();
    let (table, memory) = laid_out(&cases[0], Dtype::F32);
    let on = |table: &Table, config: &[u8]| {
        let shared = FromTable::new(table, memory.clone());
        CandleDecoder::on_shared(config, shared, Device::Cpu).map(|_| ())
    };
    let config = cases[0].config_bytes();
    assert!(on(&table, &config).is_ok());
    let error = on(&Table::default(), &config).expect_err("nothing is there");
    assert!(error.to_string().contains("it has no"), "{error}");
    let mut wider = cases[0].config.clone();
    wider["intermediate_size"] = (cases[0].number("intermediate_size") + 1).into();
    let error = on(&table, wider.to_string().as_bytes()).expect_err("of another shape");
    assert!(error.to_string().contains("is needed"), "{error}");
}

#[test]
fn a_weight_that_is_no_number_is_not_laid_out() {
    let cases = cases();
    let case = cases.iter().find(|case| case.bits == 7).expect("one is");
    for (dtype, bad) in [(Dtype::F32, 0x7F80_0000u32), (Dtype::BF16, 0x7F80_7F80)] {
        let mut bytes = case.single(dtype).remove(0).bytes;
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&bad.to_le_bytes());
        let tensors = Safetensors::read(vec![named("model.safetensors", bytes)]);
        let mut memory = Memory::default();
        let laid = lay_out(
            &case.config_bytes(),
            tensors.expect("it parses"),
            &mut memory,
        );
        let error = laid.expect_err("it is infinite").to_string();
        assert!(error.contains("not a number"), "{error}");
    }
}
