//! What it costs that no batch holds two tenants: a trace under the core itself, with turns of several lengths.
//!
//! In virtual time. Beside it, in the same run, the shared batch under VTC, of which throughput and fairness are told.

use crate::{Failure, Figure};
use bulkhead_sim::{Engine, PureOutcome, Row, Turns, Vtc, Workload, run, run_pure};
use comfy_table::{Table, presets};
use std::{fs, path::Path};

mod plot;

/// How long a turn may be, ms, and what of it changing hands may take, percent; 0: each is as long.
pub type Length = (u64, u32);

/// Those of which the arena trace is told.
#[rustfmt::skip]
pub const LENGTHS: [Length; 13] = [
    (250, 0), (500, 0), (1_000, 0), (2_000, 0), (3_000, 0), (5_000, 0), (7_000, 0), (10_000, 0), (20_000, 0),
    (5_000, 1), (5_000, 3), (20_000, 1), (20_000, 3),
];
/// What a tenant may have at once that had nothing to run, ms.
const BURST_MS: u64 = 200;
/// Runs of the arena trace with arrivals moved, beside that of it as it is.
pub const RUNS: u64 = 10;
const MS: u64 = 1_000_000;

/// What is told of each: name, unit, whether more is better.
const COLUMNS: [(&str, &str, bool); 7] = [
    ("tok_s_of_shared", "ratio", true),
    ("max_diff_of_tok_s", "ratio", false),
    ("ttft_p99_light_s", "s", false),
    ("pause_p50_s", "s", false),
    ("pause_p99_s", "s", false),
    ("paging_share", "ratio", false),
    ("host_tokens_max", "tokens", false),
];

/// The turns of one length, or the shared batch.
struct Line {
    name: String,
    /// In the order of the columns: the trace as it is, and the mean of those moved.
    single: [f64; 7],
    mean: [f64; 7],
}

/// Runs turns of all these lengths, on the trace as it is and so many times with arrivals moved, and draws them if asked to.
pub fn measure(
    trace: &Workload,
    lengths: &[Length],
    runs: u64,
    plot: Option<&Path>,
) -> Result<Vec<Figure>, Failure> {
    let moved: Vec<Workload> = (1..=runs).map(|seed| trace.moved(seed)).collect();
    let shared: Vec<Row> = moved.iter().chain([trace]).map(shared).collect();
    let shared_tok_s = shared.iter().map(|row| row.tok_s).sum::<f64>() / shared.len() as f64;
    let mut lines = vec![line(
        "shared batch, VTC".to_owned(),
        trace,
        &moved,
        |workload| of_row(&self::shared(workload), shared_tok_s),
    )];
    for &(quantum_ms, switch_percent) in lengths {
        let seconds = quantum_ms as f64 / 1e3;
        let name = match switch_percent {
            0 => format!("turns of {seconds:.2} s"),
            percent => format!("up to {seconds:.0} s, {percent} % to change"),
        };
        let turns = Turns {
            switch_percent,
            ..Turns::a10g(quantum_ms * MS, BURST_MS * MS)
        };
        lines.push(line(name, trace, &moved, |workload| {
            values(
                workload,
                &run_pure(&Engine::a10g(), turns, workload),
                shared_tok_s,
            )
        }));
    }
    print(trace.name, &lines);
    if let Some(file) = plot {
        fs::write(file, plot::svg(&lines))
            .map_err(|error| format!("{} cannot be written: {error}", file.display()))?;
    }
    let word = |(quantum_ms, percent): &Length| match percent {
        0 => format!("turns_{quantum_ms}_ms"),
        percent => format!("turns_to_{quantum_ms}_ms_{percent}_percent"),
    };
    let names = std::iter::once("shared".to_owned()).chain(lengths.iter().map(word));
    Ok(names
        .zip(&lines)
        .flat_map(|(name, line)| figures(&format!("{}/pure/{name}", trace.name), line, runs))
        .collect())
}

fn shared(workload: &Workload) -> Row {
    let mut policy = Vtc::plain();
    let outcome = run(&Engine::a10g(), workload, &mut policy);
    Row::new("VTC".to_owned(), workload, &outcome)
}

fn line(
    name: String,
    trace: &Workload,
    moved: &[Workload],
    of: impl Fn(&Workload) -> [f64; 7],
) -> Line {
    let runs: Vec<[f64; 7]> = moved.iter().map(&of).collect();
    let count = runs.len() as f64;
    Line {
        name,
        single: of(trace),
        mean: std::array::from_fn(|at| runs.iter().map(|run| run[at]).sum::<f64>() / count),
    }
}

/// Of the shared batch: nothing pauses beyond others' prefills, and nothing is moved.
fn of_row(row: &Row, shared_tok_s: f64) -> [f64; 7] {
    let light_s = row.ttft_p99_light_s.unwrap_or(0.0);
    let ratios = (row.tok_s / shared_tok_s, row.max_diff / row.tok_s);
    [ratios.0, ratios.1, light_s, 0.0, 0.0, 0.0, 0.0]
}

fn values(workload: &Workload, pure: &PureOutcome, shared_tok_s: f64) -> [f64; 7] {
    let row = Row::new("pure".to_owned(), workload, &pure.outcome);
    let mut pauses = pure.pauses_ns.clone();
    pauses.sort_unstable();
    let pause_s = |hundredths: usize| {
        let at = (pauses.len() * hundredths).div_ceil(100).saturating_sub(1);
        pauses.get(at).map_or(0.0, |ns| *ns as f64 / 1e9)
    };
    let end_ns = pure.outcome.served.iter().map(|one| one.finished_ns).max();
    let [share, diff, light_s, ..] = of_row(&row, shared_tok_s);
    [
        share,
        diff,
        light_s,
        pause_s(50),
        pause_s(99),
        pure.paging_ns as f64 / end_ns.unwrap_or(0).max(1) as f64,
        pure.host_tokens_max as f64,
    ]
}

fn figures(name: &str, line: &Line, runs: u64) -> Vec<Figure> {
    let columns = COLUMNS.into_iter().enumerate();
    let figure = |(at, (what, unit, more)): (usize, (&str, &'static str, bool))| {
        let figure = if more { Figure::higher } else { Figure::lower };
        let beside = format!(
            "mean of {runs} runs with arrivals moved: {:.3}",
            line.mean[at]
        );
        figure(&format!("{name}/{what}"), line.single[at], unit, beside)
    };
    columns.map(figure).collect()
}

fn print(trace: &str, lines: &[Line]) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let title = format!("{trace}, no batch of two tenants");
    table.set_header([
        title.as_str(),
        "tok/s, of shared",
        "max diff ÷ tok/s",
        "light, s",
        "pause p50, s",
        "p99",
        "paging",
        "host, tokens",
    ]);
    for line in lines {
        for (name, values) in [
            (line.name.as_str(), line.single),
            ("  mean, moved", line.mean),
        ] {
            let numbers = values.iter().enumerate().map(|(at, value)| match at {
                0 | 1 | 5 => format!("{value:.2}"),
                6 => format!("{value:.0}"),
                _ => format!("{value:.1}"),
            });
            table.add_row(std::iter::once(name.to_owned()).chain(numbers));
        }
    }
    eprintln!("{table}");
}
