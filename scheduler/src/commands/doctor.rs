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

/// Characters of one line of a finding, so that the table fits into 100 columns.
const DETAIL_CHARS: usize = 56;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Check {
    /// "machine", "seal", "files" or "network".
    pub group: &'static str,
    pub name: String,
    pub ok: bool,
    /// True where without it the server does not start, or refuses every request.
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
    let mut checks = machine::checks(config);
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
    let rows = report.checks.iter().flat_map(|check| {
        let state = match (check.ok, check.required) {
            (true, _) => "ok",
            (false, true) => "MISSING",
            (false, false) => "without",
        };
        let mut details = wrapped(&check.detail).into_iter();
        let first = [check.group, &check.name, state].map(String::from);
        let first = first.into_iter().chain(details.next()).collect();
        let more = details.map(|detail| {
            let before = std::iter::repeat_n(String::new(), 3);
            before.chain([detail]).collect()
        });
        std::iter::once(first).chain(more).collect::<Vec<_>>()
    });
    output::line(&output::table(&["", "what", "", "found"], rows))?;
    output::line(if report.ok {
        "Everything required is there."
    } else {
        "Something required is missing: `bulkhead serve` would not start, or would refuse requests."
    })
}

/// A text in lines of at most [`DETAIL_CHARS`], broken between words; a longer word stays whole.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= DETAIL_CHARS => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
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
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_verdict_rests_on_what_is_required_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            data: dir.path().into(),
            ..Config::default()
        };
        config.models.dir = dir.path().join("models");
        config.models.null = true;
        config.worker.required_layers = vec!["no such layer".into()];
        let report = look(&config);
        let lacking = |name: &str| {
            let found = report.checks.iter().find(|c| c.name == name);
            found.is_some_and(|c| !c.ok && c.required)
        };
        assert!(!report.ok && lacking("no such layer"));
    }

    #[test]
    fn what_would_keep_the_server_from_starting_or_answering_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            data: dir.path().join("data"),
            ..Config::default()
        };
        config.models.dir = dir.path().join("models");
        let lacking = |config: &Config| -> Vec<String> {
            let checks = files::checks(config).into_iter();
            let missing = checks.filter(|c| !c.ok && c.required && !c.name.ends_with(" program"));
            missing.map(|c| c.name).collect()
        };
        assert_eq!(lacking(&config), ["models"]);
        config.models.null = true;
        assert!(lacking(&config).is_empty());

        super::super::init::ensure(&config).unwrap();
        assert!(lacking(&config).is_empty());
        let paths = config.paths();
        std::fs::write(paths.policy_dir().join("mine.cedar"), "permit").unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(paths.audit_keys(), open).unwrap();
        let others = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&config.data, others).unwrap();
        assert_eq!(lacking(&config), ["data folder", "policies", "audit keys"]);

        config.data = paths.policy_dir().join("mine.cedar");
        assert!(lacking(&config).contains(&"data folder".to_owned()));
    }

    #[test]
    fn a_long_finding_is_broken_between_words() {
        let lines = wrapped(&"word ".repeat(40));
        assert!(lines.len() > 1 && lines.iter().all(|l| l.chars().count() <= DETAIL_CHARS));
        assert_eq!(lines.join(" "), "word ".repeat(40).trim());
    }
}
