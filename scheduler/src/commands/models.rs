//! `bulkhead models`: fetch, add, remove, list and verify models, and have a running server take them.

use super::{Outcome, output};
use crate::{
    cli::{Globals, Models, ModelsAdd, ModelsPull, ModelsVerify},
    models::{self, Manifest, names},
};
use indicatif::ProgressBar;
use serde::Serialize;
use std::{fs::File, process::ExitCode, time::Duration};

mod add;
mod hub;
mod install;
mod list;
mod live;
pub mod pull;
mod starters;

/// What hashing a model's files showed.
#[derive(Debug, Serialize)]
struct Verified {
    name: String,
    /// True where every file hashes to what the manifest says.
    sha256_ok: bool,
    problem: Option<String>,
}

pub fn run(globals: &Globals, args: Models) -> Outcome {
    match args {
        Models::Pull(args) => pull(globals, &args),
        Models::Add(args) => add(globals, &args),
        Models::Remove(args) => remove(globals, &args.name),
        Models::List(args) => list::run(globals, &args),
        Models::Load(args) => live::load(globals, &args.name),
        Models::Unload(args) => live::unload(globals, &args.name),
        Models::Reload(args) => live::reload(globals, &args),
        Models::Verify(args) => verify_all(globals, &args),
    }
}

fn add(globals: &Globals, args: &ModelsAdd) -> Outcome {
    let dir = models::dir(&globals.load()?)?;
    let wish = add::Wish {
        name: args.name.as_deref(),
        owner: args.tenant.as_deref(),
    };
    let added = add::add(&dir, &args.source, wish)?;
    let digest = models::load(&added.dir)?.digest();
    let follows = live::tell(globals)?.of_added(&added.name, &digest);
    if args.json {
        output::json(&added)?;
        eprintln!("{}: {follows}", added.name);
    } else {
        let (name, family, task) = (&added.name, added.family, added.task);
        let weights = output::bytes(added.cost.weights_bytes);
        output::line(&format!(
            "{name}: added ({family}, {task}, {weights} once loaded); {follows}"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(globals: &Globals, name: &str) -> Outcome {
    let dir = models::dir(&globals.load()?)?;
    // Only what is a model is deleted: an allowed name, and a manifest in the folder of that name.
    if !names::is_model(name) || !dir.join(name).join(models::MANIFEST).is_file() {
        return Err(format!("no model {name:?} in {}", dir.display()).into());
    }
    // Out of the way with one rename, so that nobody finds half of it.
    let gone = dir.join(format!(".{name}.{}.removed", std::process::id()));
    std::fs::rename(dir.join(name), &gone)?;
    std::fs::remove_dir_all(&gone)?;
    let follows = live::tell(globals)?.of_removed();
    output::line(&format!("{name}: removed; {follows}"))?;
    Ok(ExitCode::SUCCESS)
}

fn pull(globals: &Globals, args: &ModelsPull) -> Outcome {
    let dir = models::dir(&globals.load()?)?;
    let pulled = pull::starters(&dir, args.from.as_deref())?;
    if pulled.iter().any(|model| model.fetched)
        && let live::Told::Failed(error) = live::tell(globals)?
    {
        eprintln!("the running server could not be told: {error}");
    }
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

fn verify_all(globals: &Globals, args: &ModelsVerify) -> Outcome {
    let config = globals.load()?;
    let mut manifests = models::load_all(&config)?;
    if let Some(name) = &args.name {
        manifests.retain(|manifest| manifest.name == *name);
        if manifests.is_empty() {
            return Err(
                format!("no model {name:?}; `bulkhead models list` says which there are").into(),
            );
        }
    }
    let verified: Vec<Verified> = manifests.iter().map(verified).collect();
    if args.json {
        output::json(&verified)?;
    } else {
        for model in &verified {
            let what = model
                .problem
                .as_deref()
                .unwrap_or("every file is what was installed");
            output::line(&format!("{}: {what}", model.name))?;
        }
    }
    Ok(exit_code(verified.iter().all(|model| model.sha256_ok)))
}

fn verified(manifest: &Manifest) -> Verified {
    let bar = progress("checking", &manifest.name, manifest.bytes());
    let problem = verify(manifest, &bar).err();
    bar.finish_and_clear();
    Verified {
        name: manifest.name.clone(),
        sha256_ok: problem.is_none(),
        problem,
    }
}

fn exit_code(all_ok: bool) -> ExitCode {
    if all_ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
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
pub(super) fn progress(verb: &str, what: &str, bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let style = "{msg:24} {bar:30} {bytes}/{total_bytes}";
    if let Ok(style) = indicatif::ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_message(format!("{verb} {what}"));
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}
