//! The data folder and the models.

use super::{Check, output};
use crate::{commands::audit, config::Config, launcher::programs, models, tls};
use std::path::Path;

const GROUP: &str = "files";

/// What is there, and what `init`, `serve` or `models pull` would make.
pub fn checks(config: &Config) -> Vec<Check> {
    let mut checks = vec![data(&config.data), certificates(config), audit_log(config)];
    checks.push(audit_program());
    checks.extend(offered(config));
    checks
}

fn data(folder: &Path) -> Check {
    let check = Check::found(GROUP, "data folder", folder.display().to_string());
    if folder.is_dir() {
        return check;
    }
    Check {
        detail: format!("{} will be made by `bulkhead init`", folder.display()),
        ..check.lacking()
    }
}

fn certificates(config: &Config) -> Check {
    let path = config.paths().server_cert();
    let check = Check::found(GROUP, "certificate", path.display().to_string());
    if !path.exists() {
        return Check {
            detail: "will be made by `bulkhead init` or `bulkhead serve`".into(),
            ..check.lacking()
        };
    }
    match tls::state(config) {
        Ok(detail) => Check { detail, ..check },
        Err(e) => Check {
            detail: e.to_string(),
            ..check.required().lacking()
        },
    }
}

fn audit_log(config: &Config) -> Check {
    let folder = config.paths().audit_log();
    let check = Check::found(GROUP, "audit log", folder.display().to_string());
    if !folder.exists() {
        return Check {
            detail: "starts with the server".into(),
            ..check
        };
    }
    match audit::check(&folder, None, None) {
        Ok(report) => Check {
            detail: format!(
                "{} records, {} checkpoints, verified with its own key",
                report.records, report.checkpoints
            ),
            ..check
        },
        Err(e) => Check {
            detail: e.to_string(),
            ..check.required().lacking()
        },
    }
}

fn audit_program() -> Check {
    match programs::find("bulkhead-audit", "BULKHEAD_AUDIT") {
        Ok(path) => Check::found(GROUP, "audit program", path.display().to_string()).required(),
        Err(e) => Check::found(GROUP, "audit program", e.to_string())
            .required()
            .lacking(),
    }
}

/// Sizes are looked at and hashes are not: `bulkhead models list` does that.
fn offered(config: &Config) -> Vec<Check> {
    match models::load_all(config) {
        Err(e) => vec![
            Check::found(GROUP, "models", e.to_string())
                .required()
                .lacking(),
        ],
        Ok(models) if models.is_empty() => {
            let none = "none; `bulkhead models pull` fetches the starters";
            vec![Check::found(GROUP, "models", none).lacking()]
        }
        Ok(models) => (models.iter())
            .map(|m| {
                let detail = format!("{}, {}", m.task, output::bytes(m.bytes()));
                Check::found(GROUP, format!("model {}", m.name), detail)
            })
            .collect(),
    }
}
