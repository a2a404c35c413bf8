//! What a scenario prints: one JSON object for trends, or a table for people.

use crate::machine::{self, Machine};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::io::{self, Write as _};

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    pub scenario: &'static str,
    pub machine: Machine,
    pub commit: String,
    pub results: Vec<Figure>,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Stays the same over commits, so that trends can be kept.
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    pub better: Better,
    /// What it is compared with, and how it was measured.
    pub against: String,
}

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Lower,
    Higher,
}

impl Figure {
    /// A figure that is good when it is small.
    pub fn lower(name: &str, value: f64, unit: &'static str, against: impl Into<String>) -> Figure {
        Figure::new(name, value, unit, Better::Lower, against.into())
    }

    /// A figure that is good when it is large.
    pub fn higher(
        name: &str,
        value: f64,
        unit: &'static str,
        against: impl Into<String>,
    ) -> Figure {
        Figure::new(name, value, unit, Better::Higher, against.into())
    }

    fn new(name: &str, value: f64, unit: &'static str, better: Better, against: String) -> Figure {
        Figure {
            name: name.to_owned(),
            value,
            unit,
            better,
            against,
        }
    }
}

impl Report {
    /// The figures of a scenario, on the machine as it was before.
    pub fn of(scenario: &'static str, machine: Machine, results: Vec<Figure>) -> Report {
        Report {
            scenario,
            machine,
            commit: machine::commit(),
            results,
        }
    }

    /// Prints it: with `json` the object goes to standard output and the table to standard error.
    pub fn print(&self, json: bool) -> io::Result<()> {
        if !json {
            return writeln!(io::stdout().lock(), "{}", self.table());
        }
        writeln!(io::stderr().lock(), "{}", self.table())?;
        writeln!(io::stdout().lock(), "{}", serde_json::to_string(self)?)
    }

    fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["figure", "value", "unit", "better", "against"]);
        for figure in &self.results {
            let better = match figure.better {
                Better::Lower => "lower",
                Better::Higher => "higher",
            };
            table.add_row([
                &figure.name,
                &number(figure.value),
                figure.unit,
                better,
                &figure.against,
            ]);
        }
        if let Some(values) = table.column_mut(1) {
            values.set_cell_alignment(CellAlignment::Right);
        }
        format!(
            "{} on {}, commit {}\n{}",
            self.scenario,
            self.machine.line(),
            self.commit,
            table.trim_fmt()
        )
    }
}

/// With as many decimals as tell something.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.6}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_the_names_that_trends_are_kept_by() {
        let figure = Figure::lower("victim_p99_ratio/flood", 1.5, "ratio", "alone");
        let json =
            serde_json::to_value(Report::of("noisy", Machine::this(), vec![figure])).unwrap();
        for key in ["commit", "machine", "results", "scenario"] {
            assert!(json.get(key).is_some(), "{key}");
        }
        let result = &json["results"][0];
        assert_eq!(result["name"], "victim_p99_ratio/flood");
        assert_eq!(result["better"], "lower");
        assert_eq!(result["value"], 1.5);
        assert!(json["machine"]["cores"].as_u64().unwrap() > 0);
    }

    #[test]
    fn numbers_keep_what_tells_something() {
        assert_eq!(number(12345.678), "12346");
        assert_eq!(number(12.345), "12.3");
        assert_eq!(number(0.12345), "0.123");
        assert_eq!(number(0.00012), "0.000120");
    }
}
