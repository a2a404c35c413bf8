//! The data folder and the models.

use super::{Check, output};
use crate::{commands::audit, config::Config, launcher::programs, models, tls};
use bulkhead_policy::PolicyEngine;
use nix::unistd::{AccessFlags, access};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

const GROUP: &str = "files";

/// What is there, and what `init`, `serve` or `models pull` would make.
pub fn checks(config: &Config) -> Vec<Check> {
    let mut checks = vec![data(&config.data), certificates(config), policies(config)];
    checks.extend([audit_keys(config), audit_log(config)]);
    checks.push(program("audit program", "bulkhead-audit", "BULKHEAD_AUDIT"));
    checks.push(program("gpu program", "bulkhead-gpus", "BULKHEAD_GPUS"));
    checks.extend(offered(config));
    checks
}

fn data(folder: &Path) -> Check {
    let here = folder.display();
    let check = Check::found(GROUP, "data folder", here.to_string());
    let refused = |detail| Check {
        detail,
        ..Check::found(GROUP, "data folder", "").required().lacking()
    };
    let Ok(found) = fs::metadata(folder) else {
        return match making(folder) {
            Ok(()) => Check {
                detail: format!("{here} will be made by `bulkhead init` or `bulkhead serve`"),
                ..check.lacking()
            },
            Err(why) => refused(format!(
                "{here} cannot be made: {why}; choose another --data"
            )),
        };
    };
    match usable(folder) {
        _ if !found.is_dir() => refused(format!("{here} is no folder; choose another --data")),
        Err(why) => refused(format!("{here} cannot be written: {why}")),
        Ok(()) if found.permissions().mode() & 0o022 != 0 => refused(format!(
            "{here} can be written by others; run `chmod go-w {here}`"
        )),
        Ok(()) => check,
    }
}

/// Whether this user could make the folder: in the nearest one above it that is there.
fn making(folder: &Path) -> nix::Result<()> {
    let above = folder.ancestors().skip(1).find(|above| above.exists());
    match above {
        Some(above) => usable(above),
        // A relative path of one part.
        None => usable(Path::new(".")),
    }
}

/// Whether this user may enter the folder and make files in it.
fn usable(folder: &Path) -> nix::Result<()> {
    access(folder, AccessFlags::W_OK | AccessFlags::X_OK)
}

/// Loads them as the server does at its start.
fn policies(config: &Config) -> Check {
    let folder = config.paths().policy_dir();
    let check = Check::found(GROUP, "policies", "").required();
    match PolicyEngine::new(folder.exists().then_some(folder.as_path())) {
        Ok(engine) => Check {
            detail: format!("{}, those built in included", engine.policies()),
            ..check
        },
        Err(e) => Check {
            detail: format!("{e}; repair it in {}", folder.display()),
            ..check.lacking()
        },
    }
}

fn audit_keys(config: &Config) -> Check {
    let folder = config.paths().audit_keys();
    let check = Check::found(GROUP, "audit keys", folder.display().to_string());
    // What cannot be listed is not empty: loading then says why.
    let empty = match fs::read_dir(&folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    };
    if empty {
        return Check {
            detail: "will be made by `bulkhead init` or `bulkhead serve`".into(),
            ..check.lacking()
        };
    }
    match bulkhead_audit::keys::load(&folder) {
        Ok(_) => check.required(),
        Err(e) => Check {
            detail: e.to_string(),
            ..check.required().lacking()
        },
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

fn program(what: &str, name: &'static str, variable: &'static str) -> Check {
    match programs::find(name, variable) {
        Ok(path) => Check::found(GROUP, what, path.display().to_string()).required(),
        Err(e) => Check::found(GROUP, what, e.to_string())
            .required()
            .lacking(),
    }
}

/// Sizes are looked at and hashes are not: `bulkhead models verify` does that.
fn offered(config: &Config) -> Vec<Check> {
    let offered = models::load_all(config)
        .and_then(|models| models::check_cached(config, &models).map(|()| models));
    match offered {
        Err(e) => vec![
            Check::found(GROUP, "models", e.to_string())
                .required()
                .lacking(),
        ],
        Ok(models) if models.is_empty() => {
            let none = "none, so that every request is refused; run `bulkhead models pull`";
            vec![Check::found(GROUP, "models", none).required().lacking()]
        }
        Ok(models) => (models.iter())
            .map(|m| {
                let detail = format!("{}, {}", m.task, output::bytes(m.bytes()));
                Check::found(GROUP, format!("model {}", m.name), detail)
            })
            .collect(),
    }
}
