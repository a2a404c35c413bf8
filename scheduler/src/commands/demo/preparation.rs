//! What has to be there before the server starts: models, and a seal that this machine grants.

use super::{Failure, screen::Screen};
use crate::{
    commands::models::pull::{starters, starters_bytes},
    config::{self, Config},
    launcher::{
        probe::{self, Layer},
        programs,
    },
};
use std::path::{Path, PathBuf};

/// The layers of the seal that the server would demand by default, by what this machine says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seal {
    pub granted: Vec<String>,
    pub missing: Vec<String>,
}

/// The folder of the models; fetches what is missing. To be called where no runtime is: it blocks for
/// as long as a download takes.
pub fn models(given: Option<&Path>, screen: &Screen) -> Result<PathBuf, Failure> {
    let dir = match given {
        Some(dir) => std::path::absolute(dir)?,
        None => config::default_models_dir()
            .ok_or("no home folder is known; say where the models are with --models DIR")?,
    };
    if complete(&dir) {
        return Ok(dir);
    }
    if given.is_some() {
        return Err(format!(
            "{} does not hold {} and {}; `bulkhead models pull` fetches them",
            dir.display(),
            super::EMBED_MODEL,
            super::GENERATE_MODEL
        )
        .into());
    }
    screen.say(&format!(
        "fetching {} MB of starter models…",
        starters_bytes() / 1_000_000
    ))?;
    starters(&dir, None)?;
    Ok(dir)
}

/// Whether both models are there.
fn complete(dir: &Path) -> bool {
    [super::EMBED_MODEL, super::GENERATE_MODEL]
        .iter()
        .all(|name| crate::models::load(&dir.join(name)).is_ok())
}

/// Asks the worker which layers this machine grants.
pub async fn seal() -> Result<Seal, Failure> {
    let worker = programs::find("bulkhead-worker", "BULKHEAD_WORKER")?;
    let layers = tokio::task::spawn_blocking(move || probe::layers(&worker)).await??;
    Ok(split(&Config::default().worker.required_layers, &layers))
}

fn split(required: &[String], layers: &[Layer]) -> Seal {
    let available = |name: &String| {
        layers
            .iter()
            .any(|layer| layer.name == *name && layer.available)
    };
    let (granted, missing) = required.iter().cloned().partition(available);
    Seal { granted, missing }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_is_refused_or_not_named_is_missing() {
        let said = |name: &str, available| Layer {
            name: name.to_owned(),
            available,
            detail: String::new(),
        };
        let layers = [said("seccomp", true), said("landlock", false)];
        let required = ["seccomp", "landlock", "rlimits"].map(String::from);
        let seal = split(&required, &layers);
        assert_eq!(seal.granted, ["seccomp"]);
        assert_eq!(seal.missing, ["landlock", "rlimits"]);
    }
}
