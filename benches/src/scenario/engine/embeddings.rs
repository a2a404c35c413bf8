//! Texts a second, by how many come at once and how long they are.

use super::{BUSY, Contest, Rates};
use crate::{
    Failure, Figure,
    workload::{self, TEXT, TOKENS_PER_TEXT},
};
use bulkhead_client::{AgentClient, ClientError};
use std::time::Instant;
use tokio::task::JoinSet;

/// Texts of one request.
const BATCHES: [usize; 3] = [1, 8, 32];
/// Texts of the request whose texts differ in length.
const MIXED: usize = 32;
/// Words of the shortest of those, and of how many more the others at most.
const WORDS: (usize, usize) = (4, 160);

/// Measures all sizes.
pub async fn measure(contest: &mut Contest) -> Result<Vec<Figure>, Failure> {
    let mut figures = Vec::new();
    for batch in BATCHES {
        let texts = vec![TEXT.to_owned(); batch];
        let how = format!("bare engine, texts of {TOKENS_PER_TEXT} tokens");
        figures.extend(one(contest, &format!("minilm/b{batch}"), &texts, &how).await?);
    }
    let how = "bare engine, 32 texts of 4 to 164 words";
    figures.extend(one(contest, "minilm/mixed", &mixed(), how).await?);
    Ok(figures)
}

async fn one(
    contest: &mut Contest,
    name: &str,
    texts: &[String],
    how: &str,
) -> Result<Vec<Figure>, Failure> {
    eprintln!("{name}");
    // One text takes milliseconds: so many of them that a round is worth timing.
    let repeats = (32 / texts.len()).clamp(1, 8);
    let count = (texts.len() * repeats) as f64;
    let mut rates = Rates::default();
    // The first round warms up, and does not count.
    for round in 0..=contest.rounds {
        let mut seconds = 0.0;
        for _ in 0..repeats {
            contest.minilm.embed(texts);
            seconds += contest.minilm.drain()?.seconds;
        }
        let mut theirs = 0.0;
        if let Some(peer) = &mut contest.peer {
            for _ in 0..repeats {
                theirs += peer.embed(texts, texts.len())?;
            }
        }
        let started = Instant::now();
        for _ in 0..repeats {
            workload::embed_texts(&contest.client, texts.to_vec()).await?;
        }
        let served = started.elapsed().as_secs_f64();
        let busy = busy(&contest.client, texts, repeats).await?;
        if round > 0 {
            rates.bare.push(count / seconds);
            rates.server.push(count / served);
            rates.busy.push(count * BUSY as f64 / busy);
            if theirs > 0.0 {
                rates.peer.push(count / theirs);
            }
        }
    }
    let peer = contest.peer.as_ref().map_or("", |peer| &peer.embeddings);
    Ok(rates.figures(name, "texts/s", ("pytorch", peer), how))
}

/// Seconds that [`BUSY`] clients take, each with one request at a time, `repeats` times.
async fn busy(client: &AgentClient, texts: &[String], repeats: usize) -> Result<f64, Failure> {
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..BUSY {
        let (client, texts) = (client.clone(), texts.to_vec());
        clients.spawn(async move {
            for _ in 0..repeats {
                workload::embed_texts(&client, texts.clone()).await?;
            }
            Ok::<_, ClientError>(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(started.elapsed().as_secs_f64())
}

/// Texts of many lengths in no order.
fn mixed() -> Vec<String> {
    let words: Vec<&str> = TEXT.split(' ').cycle().take(WORDS.0 + WORDS.1).collect();
    (0..MIXED)
        .map(|nth| words[..WORDS.0 + nth * 67 % (WORDS.1 + 1)].join(" "))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixed_texts_differ_in_length_and_stay_within_the_model() {
        let lengths: Vec<usize> = mixed().iter().map(|text| text.split(' ').count()).collect();
        let mut distinct = lengths.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() > 24, "{lengths:?}");
        assert!(lengths.iter().all(|words| (4..=164).contains(words)));
    }
}
