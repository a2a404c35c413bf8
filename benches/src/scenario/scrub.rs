//! What clean memory costs: the kernels' speed beside plain memset, and their share of the lane's time.
//!
//! Fill, read-back and memset take turns over one buffer, so that a change of clock speed meets all
//! three alike; each figure is a median. The share is an estimate, and says so: bytes that a server
//! reported to have zeroed and read back, at the kernels' speed, over the lane time of the same span.

use crate::{
    Failure, Figure,
    args::{self, ServerArgs},
    device::Device,
    server::Server,
    workload,
};
use bulkhead_kernels::{Pool, fill_zero, pool::CpuPool, verify_zero};
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// Rounds over the buffer: an odd number has a median.
const ROUNDS: usize = 31;
/// Texts in each request of the server's load.
const TEXTS: usize = 32;

/// GB/s of each kernel.
struct Speed {
    fill: f64,
    memset: f64,
    verify: f64,
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
                figures.extend(share(&speed, args.seconds, server).await?);
            }
            Ok(figures)
        }
    }
}

/// Median speeds over a buffer that is written before each round, as a job would have.
fn kernels(bytes: usize) -> Speed {
    let mut buffer = vec![1u8; bytes];
    let (mut fill, mut memset, mut verify) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // In turns, so that neither always finds the caches as the other left them.
        for ours in [round % 2 == 0, round % 2 == 1] {
            buffer.fill(black_box(1));
            match ours {
                true => fill.push(seconds(|| fill_zero(&mut buffer))),
                false => memset.push(seconds(|| black_box(&mut buffer).fill(0))),
            }
        }
        verify.push(seconds(|| {
            black_box(verify_zero(&buffer));
        }));
    }
    let speed = |times: Vec<f64>| bytes as f64 / 1e9 / median(times);
    Speed {
        fill: speed(fill),
        memset: speed(memset),
        verify: speed(verify),
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

/// The share of scrubbing in a server's lane time, from its own counters and the kernels' speed.
async fn share(speed: &Speed, secs: u64, server: &ServerArgs) -> Result<[Figure; 2], Failure> {
    let server = Server::start(server).await?;
    let client = server.tenant("scrub").await?;
    workload::embed(client.clone(), TEXTS).await?;
    let before = server.metrics().await?;
    let started = Instant::now();
    let mut texts = 0;
    while started.elapsed() < Duration::from_secs(secs) {
        texts += workload::embed(client.clone(), TEXTS).await?;
    }
    let after = server.metrics().await?;
    server.stop().await?;
    let grown = |name: &str, label: &str| after.sum(name, label) - before.sum(name, label);
    let zeroed = grown("bulkhead_scrub_bytes_total", "kind=\"zeroed\"");
    let verified = grown("bulkhead_scrub_bytes_total", "kind=\"verified\"");
    let lane_s = grown("bulkhead_lane_microseconds_total", "") / 1e6;
    if zeroed == 0.0 || lane_s == 0.0 || texts == 0 {
        return Err("the server reports no scrub or no lane time".into());
    }
    let scrub_s = zeroed / 1e9 / speed.fill + verified / 1e9 / speed.verify;
    Ok([
        Figure::lower(
            "scrub_share",
            scrub_s / lane_s,
            "ratio",
            format!(
                "estimate: bytes zeroed and read back by the server, at this run's kernel speeds, over {lane_s:.1} s of lane time of embeddings"
            ),
        ),
        Figure::lower(
            "scrub_mb_per_text",
            zeroed / 1e6 / texts as f64,
            "MB/text",
            format!(
                "bytes zeroed; texts of {} tokens, {TEXTS} a request",
                workload::TOKENS_PER_TEXT
            ),
        ),
    ])
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
