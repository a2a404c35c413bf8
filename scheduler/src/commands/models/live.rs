//! `bulkhead models load`, `unload` and `reload`: what a running server does with its models.
//!
//! Whatever changes the models' folder tells the running server too, so that nobody has to think of it;
//! where none runs there is nobody to tell.

use super::{Outcome, output};
use crate::{
    cli::{Globals, ModelsReload},
    client::{Admin, ClientError},
};
use bulkhead_proto::v1::{ModelProgress, ModelsReloaded};
use indicatif::ProgressBar;
use serde::Serialize;
use std::process::ExitCode;

/// Lines of progress where standard error is no terminal: one for each of so many parts of a phase.
const LINES_PER_PHASE: u64 = 4;

/// What a reload changed, in JSON.
#[derive(Serialize)]
struct View {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
    /// Models of which a file is not what was installed.
    refused: Vec<String>,
}

pub fn load(globals: &Globals, name: &str) -> Outcome {
    let data = globals.data_dir()?;
    let mut shown = Shown::default();
    let loaded = output::block_on(async {
        let admin = Admin::connect(&data).await?;
        admin.load_model(name, |now| shown.show(&now)).await
    })?;
    shown.done();
    loaded?;
    output::line(&format!("{name}: loaded"))?;
    Ok(ExitCode::SUCCESS)
}

pub fn unload(globals: &Globals, name: &str) -> Outcome {
    let data = globals.data_dir()?;
    let workers = output::block_on(async {
        let admin = Admin::connect(&data).await?;
        admin.unload_model(name).await
    })??;
    output::line(&match workers {
        0 => format!("{name}: unloaded; it had no workers"),
        1 => format!("{name}: unloaded; its one worker ends when it has finished what it has"),
        n => {
            format!("{name}: unloaded; its {n} workers end when they have finished what they have")
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

pub fn reload(globals: &Globals, args: &ModelsReload) -> Outcome {
    let data = globals.data_dir()?;
    let mut shown = Shown::default();
    let reloaded = output::block_on(async {
        let admin = Admin::connect(&data).await?;
        admin.reload_models(|now| shown.show(&now)).await
    })?;
    shown.done();
    let reloaded = reloaded?;
    let all_good = reloaded.refused.is_empty();
    match args.json {
        true => output::json(&View::from(reloaded))?,
        false => output::line(&summary(&reloaded))?,
    }
    Ok(super::exit_code(all_good))
}

impl From<ModelsReloaded> for View {
    fn from(reloaded: ModelsReloaded) -> View {
        View {
            added: reloaded.added,
            changed: reloaded.changed,
            removed: reloaded.removed,
            refused: reloaded.refused,
        }
    }
}

fn summary(reloaded: &ModelsReloaded) -> String {
    let named = [
        ("new", &reloaded.added),
        ("changed", &reloaded.changed),
        ("gone", &reloaded.removed),
        ("refused, see `bulkhead models verify`", &reloaded.refused),
    ];
    let parts: Vec<_> = (named.iter())
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {}", names.join(", ")))
        .collect();
    match parts.is_empty() {
        true => "Nothing has changed".into(),
        false => parts.join("; "),
    }
}

/// What became of telling a running server of a change.
pub enum Told {
    /// None runs with this data folder.
    Nobody,
    /// It has read its models again.
    Reloaded(ModelsReloaded),
    /// It runs, and could not.
    Failed(ClientError),
}

/// Tells the running server, if there is one, that the models' folder has changed.
pub fn tell(globals: &Globals) -> Result<Told, Box<dyn std::error::Error + Send + Sync>> {
    let data = globals.data_dir()?;
    let mut shown = Shown::default();
    let told = output::block_on(async {
        match Admin::running(&data).await {
            Ok(None) => Told::Nobody,
            Ok(Some(admin)) => match admin.reload_models(|now| shown.show(&now)).await {
                Ok(reloaded) => Told::Reloaded(reloaded),
                Err(error) => Told::Failed(error),
            },
            Err(error) => Told::Failed(error),
        }
    })?;
    shown.done();
    Ok(told)
}

impl Told {
    /// What follows for a model whose files hash to `digest`.
    pub fn of_added(&self, name: &str, digest: &str) -> String {
        match self {
            Told::Nobody => "`bulkhead serve` offers it".into(),
            Told::Reloaded(now) if now.refused.iter().any(|refused| refused == name) => {
                "the running server refuses it: see `bulkhead models verify`".into()
            }
            Told::Reloaded(now) if now.offered.get(name).is_some_and(|one| one == digest) => {
                "the running server offers it now".into()
            }
            Told::Reloaded(_) => {
                "the running server looks for its models in another folder: see models.dir".into()
            }
            Told::Failed(error) => not_told(error),
        }
    }

    /// What follows for a model that was removed.
    pub fn of_removed(&self) -> String {
        match self {
            Told::Nobody => "no server runs that would have offered it".into(),
            Told::Reloaded(_) => "the running server does not offer it any more".into(),
            Told::Failed(error) => not_told(error),
        }
    }
}

fn not_told(error: &ClientError) -> String {
    format!("the running server could not be told ({error}); `bulkhead models reload` tries again")
}

/// How far something has come, on standard error: a bar on a terminal, a few lines elsewhere.
#[derive(Default)]
struct Shown {
    bar: Option<ProgressBar>,
    /// Model, phase, and the part of it that was told last.
    last: Option<(String, String, u64)>,
}

impl Shown {
    fn show(&mut self, now: &ModelProgress) {
        let same =
            |(model, phase, _): &(String, String, u64)| *model == now.model && *phase == now.phase;
        if !self.last.as_ref().is_some_and(same) {
            self.done();
            self.bar = Some(super::progress(&now.phase, &now.model, now.total_bytes));
        }
        let part = (now.done_bytes.saturating_mul(LINES_PER_PHASE))
            .checked_div(now.total_bytes)
            .unwrap_or(0);
        let told = (now.model.clone(), now.phase.clone(), part);
        match &self.bar {
            Some(bar) if !bar.is_hidden() => {
                bar.set_length(now.total_bytes);
                bar.set_position(now.done_bytes);
            }
            _ if self.last.as_ref() != Some(&told) => {
                let (done, total) = (
                    output::bytes(now.done_bytes),
                    output::bytes(now.total_bytes),
                );
                match now.total_bytes {
                    0 => eprintln!("{}: {}", now.model, now.phase),
                    _ => eprintln!("{}: {} {done} of {total}", now.model, now.phase),
                }
            }
            _ => {}
        }
        self.last = Some(told);
    }

    fn done(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reloaded() -> ModelsReloaded {
        ModelsReloaded {
            added: vec!["a".into()],
            refused: vec!["b".into()],
            offered: [("a".into(), "1".into()), ("b".into(), "2".into())].into(),
            ..ModelsReloaded::default()
        }
    }

    #[test]
    fn a_reload_is_told_in_one_line() {
        assert_eq!(
            summary(&reloaded()),
            "new: a; refused, see `bulkhead models verify`: b"
        );
        assert_eq!(summary(&ModelsReloaded::default()), "Nothing has changed");
    }

    #[test]
    fn an_added_model_is_said_to_be_offered_only_where_it_is() {
        let told = Told::Reloaded(reloaded());
        assert!(told.of_added("a", "1").contains("offers it now"));
        assert!(told.of_added("a", "9").contains("another folder"));
        assert!(told.of_added("b", "2").contains("refuses it"));
        assert!(told.of_added("c", "1").contains("another folder"));
        assert!(Told::Nobody.of_added("a", "1").contains("bulkhead serve"));
    }
}
