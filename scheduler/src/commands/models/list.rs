//! `bulkhead models list`: the models in the folder and, where a server runs, how each stands in it.
//!
//! What a model takes is reckoned from its files and, once a worker has loaded it, measured: both are
//! shown. Where no server runs the files are all that there is to say, and the list says so.

use super::{Outcome, exit_code, output};
use crate::{
    cli::{Globals, ModelsList},
    client::Admin,
    models::{self, Manifest, cost::Cost, inspect::inspect},
};
use bulkhead_proto::v1::ModelState;
use serde::Serialize;
use std::collections::BTreeMap;

/// One model in the list.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    task: models::Task,
    /// None for the null model.
    family: Option<&'static str>,
    format: models::Format,
    /// The tenant that owns it, if one does.
    owner: Option<String>,
    /// On disk.
    bytes: u64,
    /// Once loaded, as its files say; none where they do not.
    #[serde(flatten)]
    cost: Option<Cost>,
    /// Where it came from, if the manifest says.
    source: Option<String>,
    /// What is wrong, where something is.
    problem: Option<String>,
    /// In the running server; none where no server runs, or it does not offer the model.
    live: Option<Live>,
}

/// How a model stands in the running server.
#[derive(Debug, Serialize)]
struct Live {
    /// "not loaded", "loading", "ready", "failed", "in backoff" or "refused".
    state: String,
    /// Why, where it failed or is refused.
    reason: Option<String>,
    /// While it is loading: "starting", "reading" or "packing", and how far that has come.
    phase: Option<String>,
    phase_percent: Option<u64>,
    /// Workers by tenant, as far as they may be named.
    workers: BTreeMap<String, u32>,
    other_workers: u32,
    /// The weights, as a worker measured them.
    weights_measured_bytes: Option<u64>,
    /// What the process that holds the model for its workers has in memory.
    resident_bytes: Option<u64>,
    /// False where the files have changed since the server read them.
    current: bool,
}

/// What is said where no server runs.
const NOT_RUNNING: &str = "server not running: this is what the files say";

pub fn run(globals: &Globals, args: &ModelsList) -> Outcome {
    let config = globals.load()?;
    let tenant = args.tenant.as_deref().unwrap_or("");
    let live = states(globals, tenant)?;
    let manifests = models::load_all(&config)?;
    let seen = |manifest: &&Manifest| tenant.is_empty() || manifest.is_for(tenant);
    let rows = manifests.iter().filter(seen);
    let rows: Vec<_> = rows.map(|m| row(m, live.as_deref())).collect();
    if args.json {
        output::json(&rows)?;
    } else if rows.is_empty() {
        let dir = models::dir(&config)?;
        let dir = dir.display();
        output::line(&format!(
            "no models in {dir}; run `bulkhead models pull` or `bulkhead models add`"
        ))?;
    } else {
        output::line(&table(&rows, live.is_some()))?;
    }
    if live.is_none() {
        eprintln!("{NOT_RUNNING}");
    }
    Ok(exit_code(rows.iter().all(|row| row.problem.is_none())))
}

/// What a running server says; none where none runs.
fn states(
    globals: &Globals,
    tenant: &str,
) -> Result<Option<Vec<ModelState>>, Box<dyn std::error::Error + Send + Sync>> {
    let data = globals.data_dir()?;
    Ok(output::block_on(async {
        match Admin::running(&data).await? {
            Some(admin) => admin.model_states(tenant).await.map(Some),
            None => Ok(None),
        }
    })??)
}

fn row(manifest: &Manifest, live: Option<&[ModelState]>) -> Row {
    let (found, problem) = match inspect(manifest) {
        Ok(found) => (found, None),
        Err(what) => (None, Some(what)),
    };
    let state = live.and_then(|all| all.iter().find(|state| state.name == manifest.name));
    Row {
        name: manifest.name.clone(),
        task: manifest.task,
        family: found.map(|(family, _)| family.name()),
        format: manifest.format,
        owner: manifest.owner.clone(),
        bytes: manifest.bytes(),
        cost: found.map(|(_, cost)| cost),
        source: manifest.source.clone(),
        problem,
        live: state.map(|state| Live::of(state, &manifest.digest())),
    }
}

impl Live {
    fn of(state: &ModelState, digest: &str) -> Live {
        let some = |bytes: u64| Some(bytes).filter(|bytes| *bytes > 0);
        let progress = state.progress.as_ref();
        Live {
            state: state.state.clone(),
            reason: Some(state.reason.clone()).filter(|reason| !reason.is_empty()),
            phase: progress.map(|now| now.phase.clone()),
            phase_percent: progress.and_then(|now| {
                now.done_bytes
                    .saturating_mul(100)
                    .checked_div(now.total_bytes)
            }),
            workers: (state.workers.iter())
                .map(|of| (of.tenant.clone(), of.workers))
                .collect(),
            other_workers: state.other_workers,
            weights_measured_bytes: some(state.weights_bytes),
            resident_bytes: some(state.resident_bytes),
            current: state.sha256 == digest,
        }
    }

    /// In one cell.
    fn word(&self) -> String {
        match (&self.phase, self.phase_percent) {
            _ if !self.current => "changed since".into(),
            (Some(phase), Some(percent)) => format!("{phase} {percent} %"),
            (Some(phase), None) => phase.clone(),
            (None, _) => self.state.clone(),
        }
    }

    fn workers(&self) -> String {
        let named = self.workers.iter();
        let mut parts: Vec<_> = named.map(|(tenant, n)| format!("{tenant} {n}")).collect();
        if self.other_workers > 0 {
            parts.push(format!("others {}", self.other_workers));
        }
        match parts.is_empty() {
            true => "-".into(),
            false => parts.join(", "),
        }
    }
}

fn table(rows: &[Row], running: bool) -> String {
    let cells = rows.iter().map(|row| {
        let cost = |bytes: fn(&Cost) -> u64| match &row.cost {
            Some(cost) => output::bytes(bytes(cost)),
            None => "-".into(),
        };
        let mut cells = vec![
            row.name.clone(),
            row.task.to_string(),
            row.family.unwrap_or("-").into(),
            row.format.to_string(),
            row.owner.clone().unwrap_or_else(|| "all".into()),
            output::bytes(row.bytes),
            cost(|cost| cost.weights_bytes),
            cost(|cost| cost.kv_bytes_per_token),
        ];
        if running {
            cells.extend(live_cells(row.live.as_ref()));
        }
        let reason = row.live.as_ref().and_then(|live| live.reason.clone());
        cells.push(row.problem.clone().or(reason).unwrap_or_else(|| "-".into()));
        cells
    });
    let mut headers = vec![
        "model",
        "task",
        "family",
        "format",
        "for",
        "disk>",
        "loaded>",
        "KV/token>",
    ];
    if running {
        headers.extend(["measured>", "state", "workers~"]);
    }
    headers.push("problem~");
    output::table(&headers, cells)
}

fn live_cells(live: Option<&Live>) -> [String; 3] {
    match live {
        None => ["-".into(), "not offered".into(), "-".into()],
        Some(live) => {
            let measured = live.weights_measured_bytes;
            [
                measured.map_or_else(|| "-".into(), output::bytes),
                live.word(),
                live.workers(),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_proto::v1::{ModelProgress, ModelWorkers};

    fn state() -> ModelState {
        ModelState {
            name: models::NULL.into(),
            state: "loading".into(),
            progress: Some(ModelProgress {
                phase: "reading".into(),
                done_bytes: 3,
                total_bytes: 4,
                ..ModelProgress::default()
            }),
            workers: vec![ModelWorkers {
                tenant: "acme".into(),
                workers: 1,
            }],
            other_workers: 2,
            sha256: models::null().digest(),
            ..ModelState::default()
        }
    }

    #[test]
    fn a_row_shows_how_far_a_model_has_come_and_for_whom_it_works() {
        let live = row(&models::null(), Some(&[state()])).live.unwrap();
        assert_eq!(
            (live.word().as_str(), live.workers().as_str()),
            ("reading 75 %", "acme 1, others 2")
        );
        assert_eq!(live.weights_measured_bytes, None);
        let changed = ModelState {
            sha256: "another".into(),
            ..state()
        };
        let live = row(&models::null(), Some(&[changed])).live.unwrap();
        assert_eq!(live.word(), "changed since");
    }

    #[test]
    fn without_a_server_there_is_no_state() {
        let rows = [row(&models::null(), None)];
        assert!(rows[0].live.is_none());
        assert!(!table(&rows, false).contains("state"));
        assert!(table(&rows, true).contains("not offered"));
    }
}
