//! What clean memory costs a busy server, and what all protections cost together.
//!
//! Zeroing: the engine in this process does the same work with every measure and with none, by turns. Two processes of the
//! very same settings can differ by a tenth, by where their memory happens to lie; one process does not differ from itself.
//!
//! Everything: a server with every protection takes turns over the same work with the same engine behind a front that has
//! none ([`super::open`]), with a server without zeroing, and with the bare engine in this process, unsealed, with no measure
//! and nobody to serve. Since processes differ, there are many such sets, what is compared within a set is the best of its
//! rounds, and the figures are medians of the sets. The share of zeroing is told of the servers too, also in
//! processor time, which the kernel counts for them alone.

use crate::{
    Failure, Figure,
    args::{self, ServerArgs},
    bare::{Bare, Starters},
    process,
    scenario::engine::answer,
    scenario::scrub::open::{self, Open},
    server::Server,
    workload::{self, TEXT},
};
use bulkhead_client::AgentClient;
use bulkhead_kernels::Measure;
use bulkhead_proto::v1::inference_client::InferenceClient;
use std::time::Instant;
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// What switches every measure off in a server.
const OFF: &str = "unsafe.disable=[\"zeroing\"]";

/// Requests that are outstanding, texts of each, and how many there are in a round.
const EMBED: (usize, usize, usize) = (4, 32, 8);
/// Answers that are written side by side, how often, and tokens of each.
const GENERATE: (usize, usize, u32) = (8, 1, 64);
/// A turn of the engine alone is a quarter of a round: the shorter, the less the machine changes between two.
const TURN: (usize, u32) = (EMBED.2 / 4, GENERATE.2 / 4);

/// Who does a round's work.
enum Who<'a> {
    Server(&'a AgentClient),
    Open(&'a InferenceClient<Channel>),
    Bare(&'a mut Bare),
}

/// What a round took: seconds, and seconds of processors where it was a server's.
#[derive(Clone, Copy, Debug, Default)]
struct Took {
    wall: f64,
    cpu: f64,
}

/// What each took in one round, in this order.
type Round = [Took; 4];
/// The server with every protection.
const ALL: usize = 0;
/// The one without zeroing.
const UNZEROED: usize = 1;
/// The same engine behind a front without any protection.
const OPEN: usize = 2;
/// The same engine with nobody to serve.
const BARE: usize = 3;

/// Who takes turns beside the bare engine.
struct Set {
    all: Side,
    unzeroed: Side,
    open: Open,
}

/// A server and its client.
struct Side {
    server: Server,
    client: AgentClient,
}

impl Side {
    async fn start(settings: &ServerArgs) -> Result<Side, Failure> {
        let server = Server::start(settings).await?;
        let client = server.tenant("price").await?;
        Ok(Side { server, client })
    }
}

/// Measures both starter models.
pub async fn measure(args: &args::Scrub, settings: &ServerArgs) -> Result<Vec<Figure>, Failure> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let Starters {
        mut minilm,
        mut smollm2,
    } = Starters::open(settings, threads)?;
    let mut figures = vec![
        by_turns("minilm", args.turns, || embed_bare(&mut minilm, TURN.0))?,
        by_turns("smollm2", args.turns, || {
            generate_bare(&mut smollm2, TURN.1)
        })?,
    ];
    // From here on the bare engine is what everything off comes to.
    Measure::ALL.into_iter().for_each(Measure::switch_off);
    let mut without = settings.clone();
    without.settings.push(OFF.into());
    let (mut embedded, mut generated) = (Vec::new(), Vec::new());
    for nth in 1..=args.sets {
        eprintln!("set {nth} of {}", args.sets);
        let set = Set {
            all: Side::start(settings).await?,
            unzeroed: Side::start(&without).await?,
            open: Open::start(settings).await?,
        };
        embedded.push(all_rounds(args.rounds as usize, &set, &mut minilm, embed).await?);
        generated.push(all_rounds(args.rounds as usize, &set, &mut smollm2, generate).await?);
        for side in [set.all, set.unzeroed] {
            side.server.stop().await?;
        }
    }
    let texts = (EMBED.1 * EMBED.2) as f64;
    let tokens = (GENERATE.0 * GENERATE.1) as f64 * f64::from(GENERATE.2);
    figures.extend(prices("minilm", texts, "texts/s", &embedded));
    figures.extend(prices("smollm2", tokens, "tokens/s", &generated));
    let whole = ["scrub_share", "protection_price"].map(|name| {
        let of_it = |figure: &&Figure| figure.name.starts_with(&format!("{name}/"));
        let values = figures.iter().filter(of_it).map(|figure| figure.value);
        let worst = values.max_by(f64::total_cmp).unwrap_or_default();
        Figure::lower(name, worst, "ratio", "the greater of the two models'")
    });
    figures.extend(whole);
    Ok(figures)
}

/// The share of its time that zeroing takes the engine in this process: the same work with every measure and with none,
/// by turns.
fn by_turns(
    model: &str,
    turns: u32,
    mut work: impl FnMut() -> Result<(), Failure>,
) -> Result<Figure, Failure> {
    let mut took = |on: bool| {
        let switch = if on {
            Measure::switch_on
        } else {
            Measure::switch_off
        };
        Measure::ALL.into_iter().for_each(switch);
        let started = Instant::now();
        work()?;
        Ok::<_, Failure>(started.elapsed().as_secs_f64())
    };
    let mut shares = Vec::new();
    for turn in 0..=turns {
        // In turns, so that neither always comes after the other.
        let (on, off) = match turn % 2 {
            0 => (took(true)?, took(false)?),
            _ => {
                let off = took(false)?;
                (took(true)?, off)
            }
        };
        // The first warms up.
        if turn > 0 {
            shares.push(1.0 - off / on);
        }
    }
    Ok(Figure::lower(
        &format!("scrub_share/{model}"),
        median(shares.iter().copied()),
        "ratio",
        format!(
            "of the bare engine's time for the same work, in one process; {}",
            spread(shares)
        ),
    ))
}

/// What the rounds took. One round more, that warms up, is left out.
async fn all_rounds(
    count: usize,
    set: &Set,
    bare: &mut Bare,
    work: impl AsyncFn(Who<'_>) -> Result<(), Failure>,
) -> Result<Vec<Round>, Failure> {
    let mut rounds = Vec::new();
    for nth in 0..=count {
        let mut round = [Took::default(); 4];
        // Each begins in its turn, and every other round goes backwards, so that none always comes after the same other.
        for place in 0..round.len() {
            let which = match nth % 2 {
                0 => (place + nth) % round.len(),
                _ => round.len() - 1 - (place + nth) % round.len(),
            };
            let (who, server) = match which {
                ALL => (Who::Server(&set.all.client), Some(&set.all.server)),
                UNZEROED => (
                    Who::Server(&set.unzeroed.client),
                    Some(&set.unzeroed.server),
                ),
                OPEN => (Who::Open(set.open.client()), None),
                _ => (Who::Bare(&mut *bare), None),
            };
            let cpu = || server.map_or(Ok(0.0), cpu_seconds);
            let (before, started) = (cpu()?, Instant::now());
            work(who).await?;
            let wall = started.elapsed().as_secs_f64();
            round[which] = Took {
                wall,
                cpu: cpu()? - before,
            };
        }
        if nth > 0 {
            rounds.push(round);
        }
    }
    Ok(rounds)
}

/// Processor time of a server and all that it started.
fn cpu_seconds(server: &Server) -> Result<f64, Failure> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let launcher = server.pid()?;
    let mut ticks = 0;
    for process in process::children(launcher)?.into_iter().chain([launcher]) {
        ticks += process::cpu_ticks(process).unwrap_or_default();
    }
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

fn prices(model: &str, units: f64, unit: &str, sets: &[Vec<Round>]) -> [Figure; 4] {
    let best = |set: &[Round], which: usize| {
        let walls = set.iter().map(|round| round[which].wall);
        units / walls.fold(f64::MAX, f64::min)
    };
    let each = |value: &dyn Fn(&[Round]) -> f64| -> Vec<f64> {
        sets.iter().map(|set| value(set)).collect()
    };
    let rate = |which: usize| median(each(&|set| best(set, which)).into_iter());
    let less_than = |which: usize| each(&|set| 1.0 - best(set, ALL) / best(set, which));
    let cpu = |set: &[Round], which: usize| median(set.iter().map(|round| round[which].cpu));
    let figure = |name: &str, values: Vec<f64>, of: String| {
        let over = format!("{of}; medians of sets; {}", spread(values.clone()));
        let name = format!("{name}/{model}");
        Figure::lower(&name, median(values.into_iter()), "ratio", over)
    };
    let ours = rate(ALL);
    [
        figure(
            "server_scrub_share",
            less_than(UNZEROED),
            format!(
                "of throughput: {ours:.1} {unit} with every measure, {:.1} with none",
                rate(UNZEROED)
            ),
        ),
        figure(
            "server_scrub_cpu_share",
            each(&|set| 1.0 - cpu(set, UNZEROED) / cpu(set, ALL)),
            "of the servers' processor time for the same work".to_owned(),
        ),
        figure(
            "protection_price",
            less_than(OPEN),
            format!(
                "of throughput: the whole server with every protection, {ours:.1} {unit}, beside the same engine behind \
                 plain gRPC in one process without any, {:.1}",
                rate(OPEN)
            ),
        ),
        figure(
            "price_beside_bare_engine",
            less_than(BARE),
            format!(
                "of throughput: the same beside the bare engine without any and with nobody to serve, {:.1}",
                rate(BARE)
            ),
        ),
    ]
}

/// How many values there are, and between which two of them the median of all that could have been lies with 95 %: as
/// many places from the middle as the binomial distribution allows (its normal approximation). Fewer than six values
/// have no such two, and only their least and greatest are told.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_unstable_by(f64::total_cmp);
    let count = values.len();
    if count < 6 {
        let (least, greatest) = (values[0], values[count - 1]);
        return format!("{count} of them, {least:.3} to {greatest:.3}");
    }
    let off = (0.98 * (count as f64).sqrt()).ceil() as usize;
    let below = (count / 2).saturating_sub(off);
    let above = (count.div_ceil(2) + off).min(count) - 1;
    format!(
        "{count} of them, 95 %: {:.3} to {:.3}",
        values[below], values[above]
    )
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    super::median(values.collect())
}

/// A round of texts.
async fn embed(who: Who<'_>) -> Result<(), Failure> {
    let (outstanding, texts, requests) = EMBED;
    match who {
        Who::Server(client) => {
            let send = |client: AgentClient| async move {
                for _ in 0..requests / outstanding {
                    workload::embed(client.clone(), texts).await?;
                }
                Ok::<_, Failure>(())
            };
            side_by_side(outstanding, client, send).await
        }
        Who::Open(client) => {
            let send = |client: InferenceClient<Channel>| async move {
                for _ in 0..requests / outstanding {
                    open::embed(client.clone(), texts).await?;
                }
                Ok::<_, Failure>(())
            };
            side_by_side(outstanding, client, send).await
        }
        Who::Bare(engine) => embed_bare(engine, requests),
    }
}

fn embed_bare(engine: &mut Bare, requests: usize) -> Result<(), Failure> {
    let texts = vec![TEXT.to_owned(); EMBED.1];
    for _ in 0..requests.div_ceil(EMBED.0) {
        for _ in 0..EMBED.0.min(requests) {
            engine.embed(&texts);
        }
        engine.drain()?;
    }
    Ok(())
}

/// A round of answers.
async fn generate(who: Who<'_>) -> Result<(), Failure> {
    let (outstanding, times, tokens) = GENERATE;
    match who {
        Who::Server(client) => {
            let send = |client: AgentClient| async move {
                for _ in 0..times {
                    answer(&client, TEXT, tokens).await?;
                }
                Ok::<_, Failure>(())
            };
            side_by_side(outstanding, client, send).await
        }
        Who::Open(client) => {
            let send = |client: InferenceClient<Channel>| async move {
                for _ in 0..times {
                    open::answer(client.clone(), tokens).await?;
                }
                Ok::<_, Failure>(())
            };
            side_by_side(outstanding, client, send).await
        }
        Who::Bare(engine) => generate_bare(engine, tokens),
    }
}

fn generate_bare(engine: &mut Bare, tokens: u32) -> Result<(), Failure> {
    let (outstanding, times, _) = GENERATE;
    for _ in 0..times {
        for _ in 0..outstanding {
            engine.generate(TEXT, tokens);
        }
        engine.drain()?;
    }
    Ok(())
}

/// So many senders at once, until all are done.
async fn side_by_side<C, A>(
    senders: usize,
    client: &C,
    send: impl Fn(C) -> A,
) -> Result<(), Failure>
where
    C: Clone,
    A: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let mut sending: JoinSet<_> = (0..senders).map(|_| send(client.clone())).collect();
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_of_the_best_rounds_of_a_set_and_medians_of_the_sets() {
        let round = |walls: [f64; 4]| {
            walls.map(|wall| Took {
                wall,
                cpu: 2.0 * wall,
            })
        };
        let set = |with: f64| vec![round([with, 9.7, 9.2, 9.0]), round([30.0, 20.0, 9.3, 9.9])];
        let sets = [set(10.0), set(9.7), set(14.0)];
        let [share, cpu, price, beside_bare] = prices("m", 970.0, "texts/s", &sets);
        assert_eq!(share.name, "server_scrub_share/m");
        assert!((share.value - 0.03).abs() < 1e-9, "{}", share.value);
        assert!((price.value - 0.08).abs() < 1e-9, "{}", price.value);
        assert!(
            (beside_bare.value - 0.1).abs() < 1e-9,
            "{}",
            beside_bare.value
        );
        // Of two rounds the later one is the middle.
        assert!((cpu.value - 1.0 / 3.0).abs() < 1e-9, "{}", cpu.value);
    }

    #[test]
    fn the_spread_leaves_out_what_one_in_twenty_would() {
        let values = (1..=25).map(f64::from).collect();
        assert_eq!(spread(values), "25 of them, 95 %: 8.000 to 18.000");
        assert_eq!(spread(vec![2.0, 1.0]), "2 of them, 1.000 to 2.000");
    }
}
