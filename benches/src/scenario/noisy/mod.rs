//! The noisy neighbour: what a victim's latency becomes beside aggressors of several kinds, under ours and under first
//! come, first served.
//!
//! Two victims, each below its share, each beside each aggressor. For every such pair two servers are started, one for
//! each order; the victim is measured alone, then beside the aggressor under ours, then beside it in the order of arrival,
//! within a minute and on connections of its own. Workers are warm before anything is measured. A fresh server for each
//! order means that its longest step is one of this pair.
//!
//! Nothing is measured of two servers at once: the one that waits its turn has nothing to do.

mod aggressors;
mod figures;
mod identities;
mod plot;
mod table;
mod victim;

pub use aggressors::Aggressor;
pub use victim::Victim;

use crate::span::Span;
use crate::{
    Failure, Figure,
    args::{self, ServerArgs},
    workload::EMBED_MODEL,
};
use aggressors::Deeds;
use bulkhead_client::load::{OpenLoop, open_loop};
use identities::{Order, Stand};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use victim::Fate;

/// An aggressor is under way this long before anything beside it is measured: a flood's first requests all come at once.
const RISES_FOR: Duration = Duration::from_secs(2);

/// One victim beside one aggressor.
struct Pair {
    victim: Victim,
    aggressor: Aggressor,
    alone: Seen,
    ours: Beside,
    arrival: Beside,
}

/// The victim over one span.
struct Seen {
    victim: OpenLoop,
    fate: Fate,
    /// Tokens of its requests that were answered while it sent.
    answered_tokens: u64,
    /// The server's own view, while the victim sent.
    span: Span,
    seconds: f64,
}

/// The same with an aggressor, and what that one did.
struct Beside {
    seen: Seen,
    deeds: Deeds,
    /// Tokens of the aggressor's requests that were answered while the victim sent.
    aggressor_tokens: u64,
}

impl Pair {
    fn ratio(&self, beside: &Beside) -> f64 {
        let alone = self.alone.victim.latency.p99_ms;
        beside.seen.victim.latency.p99_ms / alone.max(f64::MIN_POSITIVE)
    }

    fn foreign_step_ms(&self) -> f64 {
        let model = self.aggressor.model(self.victim);
        self.ours.seen.span.longest_step_ms(model)
    }

    fn switch_ms(&self) -> f64 {
        self.ours.seen.span.switch_ms(0.99)
    }

    /// What the victim's p99 beside the aggressor should be at most.
    fn bound_ms(&self) -> f64 {
        self.alone.victim.latency.p99_ms + self.foreign_step_ms() + self.switch_ms()
    }

    fn throughput_ratio(&self) -> f64 {
        self.tokens_s(&self.ours) / self.tokens_s(&self.arrival).max(f64::MIN_POSITIVE)
    }

    /// Of all, in and out, while the victim sent: of what was answered. Where answers are so long that they end once in a
    /// window or never, it is what the generating model computed, by its workers' counts, which grow with each step; not
    /// where senders hang up, since what nobody waits for is no throughput.
    fn tokens_s(&self, beside: &Beside) -> f64 {
        let seen = &beside.seen;
        let whole = self.aggressor.wastes() || self.aggressor.model(self.victim) == EMBED_MODEL;
        let tokens = match (whole, self.victim) {
            (true, _) => (seen.answered_tokens + beside.aggressor_tokens) as f64,
            (false, Victim::Text) => seen.answered_tokens as f64 + seen.span.tokens_computed(),
            (false, Victim::Answer) => seen.span.tokens_computed(),
        };
        tokens / seen.seconds
    }
}

/// Runs the scenario.
pub async fn measure(args: &args::Noisy, server: &ServerArgs) -> Result<Vec<Figure>, Failure> {
    let aggressors = or_all(&args.aggressors, &Aggressor::ALL);
    let victims = or_all(&args.victims, &Victim::ALL);
    let mut pairs = Vec::new();
    for victim in victims {
        for aggressor in aggressors {
            pairs.push(pair(*victim, *aggressor, args, server).await?);
        }
    }
    eprintln!("{}", table::of(args, &pairs));
    if let Some(file) = &args.plot {
        std::fs::write(file, plot::svg(&pairs))
            .map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(pairs
        .iter()
        .flat_map(|pair| figures::of(args, pair))
        .collect())
}

fn or_all<'a, T>(some: &'a [T], all: &'a [T]) -> &'a [T] {
    match some.is_empty() {
        true => all,
        false => some,
    }
}

async fn pair(
    victim: Victim,
    aggressor: Aggressor,
    args: &args::Noisy,
    server: &ServerArgs,
) -> Result<Pair, Failure> {
    eprintln!(
        "{}, alone and beside {}, {} s each",
        victim.title(),
        aggressor.word(),
        args.seconds
    );
    let ours = Stand::start(Order::Ours, aggressor, server).await?;
    let arrival = Stand::start(Order::Arrival, aggressor, server).await?;
    victim.warm_up(&ours.victim).await?;
    victim.warm_up(&arrival.victim).await?;
    let pair = Pair {
        victim,
        aggressor,
        alone: watch(&ours, victim, args).await?,
        ours: beside(&ours, victim, aggressor, args).await?,
        arrival: beside(&arrival, victim, aggressor, args).await?,
    };
    ours.server.stop().await?;
    arrival.server.stop().await?;
    Ok(pair)
}

async fn beside(
    stand: &Stand,
    victim: Victim,
    aggressor: Aggressor,
    args: &args::Noisy,
) -> Result<Beside, Failure> {
    let pressure = aggressor.begin(stand, victim, args).await?;
    tokio::time::sleep(RISES_FOR).await;
    let before = pressure.deeds();
    let sends = async {
        tokio::time::sleep(Duration::from_secs(args.seconds)).await;
        pressure.deeds()
    };
    let (seen, after) = tokio::join!(watch(stand, victim, args), sends);
    let beside = Beside {
        seen: seen?,
        aggressor_tokens: after.tokens - before.tokens,
        deeds: pressure.deeds(),
    };
    eprintln!("  {}: {}", stand.order.word(), beside.deeds.line());
    Ok(beside)
}

/// Sends the victim's requests, and looks at the server when the first leaves and when none leaves any more.
async fn watch(stand: &Stand, victim: Victim, args: &args::Noisy) -> Result<Seen, Failure> {
    let schedule = victim.schedule(args);
    let before = stand.server.metrics().await?;
    let started = Instant::now();
    let answered = Arc::new(AtomicU64::new(0));
    let looks = async {
        tokio::time::sleep(schedule.lasts).await;
        let answered = answered.load(Ordering::Relaxed);
        (stand.server.metrics().await, answered, started.elapsed())
    };
    let sends = open_loop(schedule, || {
        let (asked, answered) = (victim.ask(stand.victim.clone()), Arc::clone(&answered));
        async move {
            answered.fetch_add(asked.await?, Ordering::Relaxed);
            Ok(())
        }
    });
    let (seen, (after, answered, lasted)) = tokio::join!(sends, looks);
    Ok(Seen {
        fate: Fate::of(&seen),
        victim: seen,
        answered_tokens: answered,
        span: Span::new(before, after?),
        seconds: lasted.as_secs_f64(),
    })
}
