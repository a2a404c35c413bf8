//! The published table of fair scheduling on the arena trace, with our own row beside it, and the same of Azure's
//! conversations; and the price of batches that hold one tenant each.
//!
//! All of it in virtual time, in the simulator: no server, no clock, and no figure of this machine. Each policy runs on
//! the trace as it is, and on it with arrivals moved by up to a second, since a single run says little.

use crate::{Failure, Figure, args};
use bulkhead_sim::{Engine, Fcfs, Ours, Policy, Row, Rpm, Vtc, Workload, run, workload};
use comfy_table::{CellAlignment, Table, presets};

mod pure;

/// A published row: greatest and average difference, tokens a second, served, TTFT p99 of the three heaviest and of
/// the other 24, s. From the raw results of the VTC paper's artefact, by the paper's metric.
type Published = [f64; 6];

/// A policy: its name in figures, how to make it, what was published of it.
type Line = (&'static str, fn() -> Box<dyn Policy>, Option<Published>);

const LINES: [Line; 8] = [
    (
        "fcfs",
        || Box::new(Fcfs::default()),
        Some([759.97, 433.53, 777.0, 1500.0, 136.7, 137.5]),
    ),
    (
        "lcf",
        || Box::new(Vtc::lcf()),
        Some([750.49, 323.82, 778.0, 1500.0, 239.0, 17.3]),
    ),
    (
        "vtc",
        || Box::new(Vtc::plain()),
        Some([368.40, 251.66, 779.0, 1500.0, 216.4, 20.2]),
    ),
    (
        "vtc_predict",
        || Box::new(Vtc::predicting()),
        Some([365.47, 240.33, 773.0, 1500.0, 214.0, 25.7]),
    ),
    (
        "vtc_oracle",
        || Box::new(Vtc::oracle()),
        Some([329.46, 227.51, 781.0, 1500.0, 214.4, 21.0]),
    ),
    (
        "rpm5",
        || Box::new(Rpm::new(5)),
        Some([143.86, 83.58, 340.0, 581.0, 1.3, 0.6]),
    ),
    (
        "rpm20",
        || Box::new(Rpm::new(20)),
        Some([446.76, 195.71, 694.0, 1158.0, 17.7, 18.3]),
    ),
    ("bulkhead", || Box::new(Ours::default()), None),
];

/// Azure's conversations are six times as much as the shared batch can do. Each arriving so many times as late, they are 1.2
/// times as much, which is what the arena trace is.
const AZURE_STRETCH: u64 = 5;
/// A run of them takes longer than so many of the arena trace; less moves its figures.
const AZURE_RUNS_LESS: u64 = 10;
const AZURE_PURE_RUNS: u64 = 2;
const AZURE_LENGTHS: [pure::Length; 4] = [(1_000, 0), (3_000, 0), (10_000, 0), (10_000, 3)];

/// What is told of each policy: name, unit, whether more is better.
const COLUMNS: [(&str, &str, bool); 6] = [
    ("max_diff", "cost/s", false),
    ("avg_diff", "cost/s", false),
    ("tok_s", "tokens/s", true),
    ("served", "requests", true),
    ("ttft_p99_heavy_s", "s", false),
    ("ttft_p99_light_s", "s", false),
];

/// Runs the scenario.
pub fn measure(args: &args::Sim) -> Result<Vec<Figure>, Failure> {
    let unread = |error| format!("the trace does not parse: {error}");
    let arena = workload::arena().map_err(unread)?;
    let azure = workload::azure_conv().map_err(unread)?;
    let azure = azure.stretched(AZURE_STRETCH);
    let mut figures = shared(&arena, args.runs, true);
    let plot = args.plot.as_deref();
    figures.extend(pure::measure(&arena, &pure::LENGTHS, pure::RUNS, plot)?);
    let azure_runs = args.runs.div_ceil(AZURE_RUNS_LESS);
    figures.extend(shared(&azure, azure_runs, false));
    figures.extend(pure::measure(
        &azure,
        &AZURE_LENGTHS,
        AZURE_PURE_RUNS,
        None,
    )?);
    Ok(figures)
}

/// All policies where all share one batch, beside what was published of them for the arena trace.
fn shared(workload: &Workload, runs: u64, is_published: bool) -> Vec<Figure> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        workload.name,
        "max",
        "avg",
        "tok/s",
        "served",
        "heavy, s",
        "light, s",
    ]);
    let mut figures = Vec::new();
    for (name, make, published) in LINES {
        let published = published.filter(|_| is_published);
        let single = values(workload, make());
        let moved = (1..=runs).map(|seed| values(&workload.moved(seed), make()));
        let means = mean(moved.collect());
        let label = make().name();
        table.add_row(row(&label, single));
        table.add_row(row(&format!("  mean of {} moved", runs), means));
        if let Some(published) = published {
            table.add_row(row("  published", published));
        }
        for (at, (what, unit, more)) in COLUMNS.into_iter().enumerate() {
            let figure = if more { Figure::higher } else { Figure::lower };
            let beside = published.map_or("nothing published".to_owned(), |published| {
                format!("published: {}", published[at])
            });
            figures.push(figure(
                &format!("{}/shared/{name}/{what}", workload.name),
                single[at],
                unit,
                format!(
                    "{beside}; mean of {} runs with arrivals moved: {:.2}",
                    runs, means[at]
                ),
            ));
        }
    }
    (1..COLUMNS.len() + 1).for_each(|at| {
        if let Some(column) = table.column_mut(at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    });
    eprintln!("{table}");
    figures
}

/// In the order of the columns; a wait of nobody is 0.
fn values(workload: &Workload, mut policy: Box<dyn Policy>) -> [f64; 6] {
    let outcome = run(&Engine::a10g(), workload, policy.as_mut());
    let row = Row::new(policy.name(), workload, &outcome);
    [
        row.max_diff,
        row.avg_diff,
        row.tok_s,
        row.served as f64,
        row.ttft_p99_heavy_s.unwrap_or(0.0),
        row.ttft_p99_light_s.unwrap_or(0.0),
    ]
}

fn mean(runs: Vec<[f64; 6]>) -> [f64; 6] {
    let count = runs.len() as f64;
    std::array::from_fn(|at| runs.iter().map(|run| run[at]).sum::<f64>() / count)
}

fn row(label: &str, values: [f64; 6]) -> Vec<String> {
    let numbers = values.iter().enumerate().map(|(at, value)| match at {
        2 | 3 => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    });
    std::iter::once(label.to_owned()).chain(numbers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_has_all_its_figures_under_the_promised_names() {
        let figures = shared(&workload::arena().unwrap(), 1, true);
        assert_eq!(figures.len(), LINES.len() * COLUMNS.len());
        let named = |name: &str| figures.iter().find(|figure| figure.name == name).unwrap();
        assert_eq!(named("arena/shared/bulkhead/served").value, 1500.0);
        let ours = named("arena/shared/bulkhead/avg_diff").value;
        assert!(ours < named("arena/shared/vtc_oracle/avg_diff").value);
    }
}
