//! `bulkhead doctor`: what this machine gives, and what is lost where it gives less.
//!
//! Looks and asks, changes nothing: no file is made, no port stays taken. A layer counts as there
//! only where a child process was really sealed with it.

use super::{Outcome, output};
use crate::{
    cli::{Doctor, Globals},
    config::Config,
};
use serde::Serialize;
use std::process::ExitCode;

mod files;
mod machine;
mod seal;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Check {
    /// "machine", "seal", "files" or "network".
    pub group: &'static str,
    pub name: String,
    pub ok: bool,
    /// True where the server does not serve without it.
    pub required: bool,
    /// What was found; and where it is not ok, what is lost or what to do.
    pub detail: String,
}

/// The whole finding.
#[derive(Debug, Serialize)]
struct Report {
    /// True where everything required is there.
    ok: bool,
    version: &'static str,
    checks: Vec<Check>,
}

pub fn run(globals: &Globals, args: Doctor) -> Outcome {
    let config = globals.load()?;
    let report = look(&config);
    if args.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn look(config: &Config) -> Report {
    let mut checks = machine::checks();
    checks.extend(seal::checks(&config.worker.required_layers));
    checks.extend(files::checks(config));
    checks.extend(machine::ports(config));
    Report {
        ok: checks.iter().all(|c| c.ok || !c.required),
        version: env!("CARGO_PKG_VERSION"),
        checks,
    }
}

fn print(report: &Report) -> std::io::Result<()> {
    let rows = report.checks.iter().map(|check| {
        let state = match (check.ok, check.required) {
            (true, _) => "ok",
            (false, true) => "MISSING",
            (false, false) => "without",
        };
        vec![
            check.group.into(),
            check.name.clone(),
            state.into(),
            check.detail.clone(),
        ]
    });
    output::line(&output::table(&["", "what", "", "found"], rows))?;
    output::line(if report.ok {
        "Everything required is there."
    } else {
        "Something required is missing: the server would refuse to serve."
    })
}

impl Check {
    fn found(group: &'static str, name: impl Into<String>, detail: impl Into<String>) -> Check {
        Check {
            group,
            name: name.into(),
            ok: true,
            required: false,
            detail: detail.into(),
        }
    }

    fn required(mut self) -> Check {
        self.required = true;
        self
    }

    fn lacking(mut self) -> Check {
        self.ok = false;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_rests_on_what_is_required_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            data: dir.path().into(),
            ..Config::default()
        };
        config.models.dir = dir.path().join("models");
        config.worker.required_layers = vec!["no such layer".into()];
        let report = look(&config);
        let lacking = |name: &str| {
            let found = report.checks.iter().find(|c| c.name == name);
            found.is_some_and(|c| !c.ok && c.required)
        };
        assert!(!report.ok && lacking("no such layer"));
    }
}
