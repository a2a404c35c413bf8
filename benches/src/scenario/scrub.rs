//! What clean memory costs: the kernels' speed beside plain memset and memchr, and the price that a busy server pays.
//!
//! Fill, read-back, memset and memchr take turns over one buffer, so that a change of clock speed meets them alike;
//! each figure is a median.

pub mod open;
mod price;

use crate::{
    Failure, Figure,
    args::{self, ServerArgs},
    device::Device,
};
use bulkhead_kernels::{Pool, fill_zero, pool::CpuPool, verify_zero};
use std::{hint::black_box, time::Instant};

/// Rounds over the buffer: an odd number has a median.
const ROUNDS: usize = 31;

/// GB/s of each kernel.
struct Speed {
    fill: f64,
    memset: f64,
    verify: f64,
    memchr: f64,
}

/// Runs the scenario.
pub async fn measure(
    device: &Device,
    args: &args::Scrub,
    server: &ServerArgs,
) -> Result<Vec<Figure>, Failure> {
    let bytes = (args.mib as usize) << 20;
    match device {
        Device::Cuda(ordinal) => cuda(*ordinal, bytes),
        Device::Cpu => {
            let speed = kernels(bytes);
            let mut pool = CpuPool::new(bytes)?;
            let mut figures = cpu_figures(&speed, args.mib);
            figures.extend(pool_figures("cpu", &mut pool, bytes)?);
            if !args.kernels_only {
                figures.extend(price::measure(args, server).await?);
            }
            Ok(figures)
        }
    }
}

/// Median speeds over a buffer that is written before each round, as a job would have.
fn kernels(bytes: usize) -> Speed {
    let mut buffer = vec![1u8; bytes];
    let (mut fill, mut memset) = (Vec::new(), Vec::new());
    let (mut verify, mut memchr) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // In turns, so that neither always finds the caches as the other left them.
        for ours in [round % 2 == 0, round % 2 == 1] {
            buffer.fill(black_box(1));
            match ours {
                true => fill.push(seconds(|| fill_zero(&mut buffer))),
                false => memset.push(seconds(|| black_box(&mut buffer).fill(0))),
            }
        }
        for ours in [round % 2 == 0, round % 2 == 1] {
            match ours {
                true => verify.push(seconds(|| {
                    black_box(verify_zero(&buffer));
                })),
                // All of it is read, since none of it is this.
                false => memchr.push(seconds(|| {
                    black_box(memchr::memchr(1, &buffer));
                })),
            }
        }
    }
    let speed = |times: Vec<f64>| bytes as f64 / 1e9 / median(times);
    Speed {
        fill: speed(fill),
        memset: speed(memset),
        verify: speed(verify),
        memchr: speed(memchr),
    }
}

fn cpu_figures(speed: &Speed, mib: u32) -> Vec<Figure> {
    let over = format!("{mib} MiB, one thread, median of {ROUNDS}");
    vec![
        Figure::higher(
            "cpu/fill_vs_memset",
            speed.fill / speed.memset,
            "ratio",
            "plain memset of the same buffer, same run",
        ),
        Figure::higher(
            "cpu/verify_vs_memchr",
            speed.verify / speed.memchr,
            "ratio",
            "memchr for a byte that is not there, same buffer and run",
        ),
        Figure::higher("cpu/memchr_gb_s", speed.memchr, "GB/s", over.clone()),
        Figure::higher("cpu/memset_gb_s", speed.memset, "GB/s", over.clone()),
        Figure::higher("cpu/fill_gb_s", speed.fill, "GB/s", over.clone()),
        Figure::higher("cpu/verify_gb_s", speed.verify, "GB/s", over),
        Figure::higher(
            "cpu/fill_and_verify_vs_memset",
            1.0 / (1.0 / speed.fill + 1.0 / speed.verify) / speed.memset,
            "ratio",
            "what a scrub does, beside plain memset",
        ),
    ]
}

/// A pool's own zero and read-back, on whatever device it lies.
fn pool_figures(name: &str, pool: &mut dyn Pool, bytes: usize) -> Result<[Figure; 2], Failure> {
    let (mut zero, mut verify) = (Vec::new(), Vec::new());
    let dirt = vec![1u8; bytes];
    for _ in 0..ROUNDS {
        // What was never written is not there yet, and zeroing it would cost nothing.
        pool.write(0, &dirt)?;
        let started = Instant::now();
        pool.zero(0..bytes)?;
        zero.push(started.elapsed().as_secs_f64());
        let started = Instant::now();
        let residue = pool.verify(0..bytes)?;
        verify.push(started.elapsed().as_secs_f64());
        if !residue.is_clean() {
            return Err(format!("{} bytes were not zero after a fill", residue.count).into());
        }
    }
    let figure = |what: &str, times: Vec<f64>| {
        let speed = bytes as f64 / 1e9 / median(times);
        let over = format!("a pool of {} MiB, median of {ROUNDS}", bytes >> 20);
        Figure::higher(&format!("{name}/pool_{what}_gb_s"), speed, "GB/s", over)
    };
    Ok([figure("zero", zero), figure("verify", verify)])
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize, bytes: usize) -> Result<Vec<Figure>, Failure> {
    let mut pool = bulkhead_kernels::pool::CudaPool::new(ordinal, bytes)?;
    Ok(pool_figures("cuda", &mut pool, bytes)?.into())
}

#[cfg(not(feature = "cuda"))]
fn cuda(ordinal: usize, _bytes: usize) -> Result<Vec<Figure>, Failure> {
    Err(format!(
        "cuda:{ordinal}: this build has no CUDA; build with `--features bulkhead-benches/cuda`"
    )
    .into())
}

fn seconds(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_pool_gives_both_figures() {
        let mut pool = CpuPool::new(1 << 16).unwrap();
        let figures = pool_figures("cpu", &mut pool, 1 << 16).unwrap();
        assert_eq!(figures[0].name, "cpu/pool_zero_gb_s");
        assert!(figures.iter().all(|figure| figure.value > 0.0));
    }
}
