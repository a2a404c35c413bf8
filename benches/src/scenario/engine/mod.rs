//! How fast the engine is: bare, beside what a user would otherwise run, and through the whole server.
//!
//! Bare engine, peer and server take turns in every round, so that a change of the machine's speed meets
//! them alike; each figure is the median of the rounds, and each ratio one of medians. The server is one
//! client with one request at a time: not the most that the server can do, but every step from the front
//! door to the audit log is in it. Embeddings are measured with a few requests at a time too, as what a
//! request waits for (the disk, hand-overs between processes) is then another's time to be computed.

mod embeddings;
mod generation;
mod prefix;
mod served;
mod stalls;
mod steps;

pub use served::answer;

use crate::{
    Failure, Figure,
    args::{self, ServerArgs},
    bare::{self, Bare, Starters},
    peer::{self, Peer},
    server::Server,
    workload::{self, EMBED_MODEL, GENERATE_MODEL},
};

/// Sequences that decode side by side.
pub const PARALLEL: usize = 8;
/// Requests that a busy client has outstanding.
pub const BUSY: usize = 4;
/// Context that the peer reserves for them, tokens.
const PEER_CONTEXT: u32 = 8192;

/// Everything that takes turns.
pub struct Contest {
    pub minilm: Bare,
    pub smollm2: Bare,
    pub peer: Option<Peer>,
    pub client: bulkhead_client::AgentClient,
    pub rounds: u32,
}

/// Runs the scenario.
pub async fn measure(args: &args::Engine, settings: &ServerArgs) -> Result<Vec<Figure>, Failure> {
    if args.only == Some(args::Part::Prefix) {
        return prefix::measure(args.rounds, settings).await;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let models = bare::models_dir(settings)?;
    let (minilm, smollm2) = (models.join(EMBED_MODEL), models.join(GENERATE_MODEL));
    if args.only == Some(args::Part::Steps) {
        return steps::measure(&smollm2, threads, args.prompt_tokens).await;
    }
    let peer = match peer::python(&args.peers) {
        None => None,
        Some(python) => Some(Peer::start(
            &python,
            threads,
            &minilm,
            &smollm2.join("model.gguf"),
            PARALLEL,
            PEER_CONTEXT,
        )?),
    };
    let server = Server::start(settings).await?;
    let client = server.tenant("engine").await?;
    workload::check_tokens(&client).await?;
    let starters = Starters::open(settings, threads)?;
    let mut contest = Contest {
        minilm: starters.minilm,
        smollm2: starters.smollm2,
        peer,
        client,
        rounds: args.rounds,
    };
    let mut figures = embeddings::measure(&mut contest).await?;
    if args.only == Some(args::Part::Embeddings) {
        server.stop().await?;
        return Ok(figures);
    }
    figures.extend(generation::measure(&mut contest).await?);
    figures.extend(worst_of_the_server(&figures));
    server.stop().await?;
    // Without what would take a processor from it.
    drop(contest);
    figures.extend(steps::measure(&smollm2, threads, args.prompt_tokens).await?);
    figures.extend(prefix::measure(args.rounds, settings).await?);
    Ok(figures)
}

/// The least share of the bare engine's speed that is left through the server.
fn worst_of_the_server(figures: &[Figure]) -> Option<Figure> {
    let shares = figures
        .iter()
        .filter(|figure| figure.name.ends_with("/server_vs_engine"));
    let worst = shares.min_by(|a, b| a.value.total_cmp(&b.value))?;
    Some(Figure::higher(
        "server_vs_engine",
        worst.value,
        "ratio",
        format!("the least of them: {}", worst.name),
    ))
}

/// What the contestants reached in one thing, in each round: units a second.
#[derive(Default)]
pub struct Rates {
    bare: Vec<f64>,
    peer: Vec<f64>,
    server: Vec<f64>,
    busy: Vec<f64>,
}

impl Rates {
    /// The figures: the bare engine's rate, and each ratio that was measured.
    fn figures(self, name: &str, unit: &'static str, peer: (&str, &str), how: &str) -> Vec<Figure> {
        let bare = median(self.bare);
        let speed = match unit {
            "texts/s" => "texts_s",
            _ => "tok_s",
        };
        let mut figures = vec![Figure::higher(&format!("{name}/{speed}"), bare, unit, how)];
        if !self.peer.is_empty() {
            let theirs = median(self.peer);
            figures.push(Figure::higher(
                &format!("{name}/vs_{}", peer.0),
                bare / theirs,
                "ratio",
                format!("{}: {theirs:.1} {unit}", peer.1),
            ));
        }
        if !self.server.is_empty() {
            let served = median(self.server);
            figures.push(Figure::higher(
                &format!("{name}/server_vs_engine"),
                served / bare,
                "ratio",
                format!("through the whole server, one request at a time: {served:.1} {unit}"),
            ));
        }
        if !self.busy.is_empty() {
            let served = median(self.busy);
            figures.push(Figure::higher(
                &format!("{name}/busy_server_vs_engine"),
                served / bare,
                "ratio",
                format!("through the whole server, {BUSY} requests at a time: {served:.1} {unit}"),
            ));
        }
        figures
    }
}

/// The middle of the values; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_share_is_named() {
        let share = |name: &str, value| Figure::higher(name, value, "ratio", "");
        let figures = [
            share("a/server_vs_engine", 0.97),
            share("b/server_vs_engine", 0.91),
            share("b/vs_pytorch", 0.5),
        ];
        let worst = worst_of_the_server(&figures).expect("there are some");
        assert_eq!(worst.value, 0.91);
        assert!(worst.against.contains("b/server_vs_engine"));
        assert_eq!(worst_of_the_server(&[]), None);
    }

    #[test]
    fn ratios_are_of_medians_and_left_out_where_nothing_was_measured() {
        let rates = Rates {
            bare: vec![10.0, 30.0, 20.0],
            peer: vec![40.0],
            ..Rates::default()
        };
        let figures = rates.figures("x", "texts/s", ("y", "Y"), "");
        let found: Vec<_> = figures.iter().map(|f| (f.name.as_str(), f.value)).collect();
        assert_eq!(found, [("x/texts_s", 20.0), ("x/vs_y", 0.5)]);
    }
}
