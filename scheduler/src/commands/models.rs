//! `bulkhead models`: fetch the starter models, list what the server would offer.

use super::{Outcome, output};
use crate::{
    cli::{Globals, Models, ModelsList, ModelsPull},
    models::{self, Manifest},
};
use indicatif::ProgressBar;
use serde::Serialize;
use std::{fs::File, process::ExitCode, time::Duration};

pub mod pull;
mod starters;

/// One model in the list.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    task: models::Task,
    format: models::Format,
    bytes: u64,
    /// The tenant that owns it, if one does.
    owner: Option<String>,
    /// True where every file hashes to what the manifest says.
    sha256_ok: bool,
    /// What is wrong, where something is.
    problem: Option<String>,
}

pub fn run(globals: &Globals, args: Models) -> Outcome {
    match args {
        Models::Pull(args) => pull(globals, &args),
        Models::List(args) => list(globals, &args),
    }
}

fn pull(globals: &Globals, args: &ModelsPull) -> Outcome {
    let dir = models::dir(&globals.load()?)?;
    let pulled = pull::starters(&dir, args.from.as_deref())?;
    if args.json {
        output::json(&pulled)?;
        return Ok(ExitCode::SUCCESS);
    }
    for model in &pulled {
        let how = if model.fetched {
            "installed"
        } else {
            "there already, and whole"
        };
        output::line(&format!("{}: {how} ({})", model.name, model.dir.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(globals: &Globals, args: &ModelsList) -> Outcome {
    let config = globals.load()?;
    let rows: Vec<_> = models::load_all(&config)?.iter().map(row).collect();
    if args.json {
        output::json(&rows)?;
    } else if rows.is_empty() {
        let dir = models::dir(&config)?;
        let dir = dir.display();
        output::line(&format!("no models in {dir}; run `bulkhead models pull`"))?;
    } else {
        let cells = rows.iter().map(|row| {
            vec![
                row.name.clone(),
                row.task.to_string(),
                row.format.to_string(),
                output::bytes(row.bytes),
                row.owner.clone().unwrap_or_else(|| "shared".into()),
                row.problem.clone().unwrap_or_else(|| "ok".into()),
            ]
        });
        let headers = ["model", "task", "format", "size>", "for", "sha256"];
        output::line(&output::table(&headers, cells))?;
    }
    let all_ok = rows.iter().all(|row| row.sha256_ok);
    Ok(if all_ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn row(manifest: &Manifest) -> Row {
    let bar = progress("checking", &manifest.name, manifest.bytes());
    let problem = verify(manifest, &bar).err();
    bar.finish_and_clear();
    Row {
        name: manifest.name.clone(),
        task: manifest.task,
        format: manifest.format,
        bytes: manifest.bytes(),
        owner: manifest.owner.clone(),
        sha256_ok: problem.is_none(),
        problem,
    }
}

/// Hashes every file of a model; or says what is wrong with one.
pub(super) fn verify(manifest: &Manifest, bar: &ProgressBar) -> Result<(), String> {
    for file in &manifest.files {
        let path = manifest.dir.join(&file.name);
        let say = |e: std::io::Error| format!("{}: {e}", file.name);
        let mut open = File::open(&path).map_err(say)?;
        let found = models::sha256(&mut open, |bytes| bar.inc(bytes)).map_err(say)?;
        if found != file.sha256 {
            return Err(format!("{}: its SHA-256 is not the manifest's", file.name));
        }
    }
    Ok(())
}

/// A bar on standard error; hidden where that is no terminal.
pub(super) fn progress(verb: &'static str, what: &str, bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let style = "{msg:24} {bar:30} {bytes}/{total_bytes}";
    if let Ok(style) = indicatif::ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_message(format!("{verb} {what}"));
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}
