//! What a server's memory holds of a job once its client has gone: the real server, and beside it llama.cpp's with the
//! same model, both read from outside through `/proc/PID/mem` by one and the same search.
//!
//! Each job has a fresh server and a random canary in its prompt. The search looks while the answer is being read, and
//! the run fails unless it finds the prompt there: what finds nothing then would find nothing later either. It looks
//! again once the client has hung up, and once more after further requests that have nothing to do with the job. What
//! lies in a second server too, one that answered those and never saw the job, is left out. Only the machine's memory
//! is searched, not its disks and not a GPU.

mod found;
mod llamacpp;
mod ours;

use crate::{
    Failure, Figure,
    args::{self, ServerArgs},
    peer, process,
};
use bulkhead_search::{Found, Secrets, Traces, canary};
use found::Tally;
use llamacpp::Llamacpp;
use ours::Ours;
use std::time::{Duration, Instant};

/// What follows the canary in each prompt, and its token ids in SmolLM2's vocabulary, as transformers has them.
const QUESTION: &str = "Explain what a scheduler does, briefly.";
const QUESTION_IDS: [u32; 8] = [36971, 732, 253, 43574, 1072, 28, 13099, 30];
/// What the prompt's text is called among what is found.
const PROMPT: &str = "prompt";
/// Tokens of each answer.
const TOKENS: u32 = 256;
/// What other clients ask after it: shorter than the job, as short requests follow long ones.
const UNRELATED: [&str; 5] = [
    "Name the capital of France.",
    "At what temperature does water boil?",
    "How many sides has a triangle?",
    "Which fruit is yellow?",
    "Say good morning.",
];
/// Tokens of each answer to those.
const UNRELATED_TOKENS: u32 = 16;
/// Of what is left, so many pieces are told in full.
const TOLD_MAX: usize = 4;
/// From the moment at which the client hangs up: a server has so long to notice it and to clean up.
const SETTLE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(250);

/// A piece of an answer.
#[derive(Default)]
struct Piece {
    text: String,
    /// Empty where the server does not tell them.
    ids: Vec<u32>,
}

impl Piece {
    fn add(&mut self, next: Piece) {
        self.text += &next.text;
        self.ids.extend(next.ids);
    }
}

/// An answer that is being streamed. Its connection ends with it.
trait Answer {
    async fn next(&mut self) -> Result<Option<Piece>, Failure>;
}

/// A server that is searched.
trait Searched {
    /// Sends a user's message on a connection of its own.
    async fn ask(&self, prompt: &str, tokens: u32) -> Result<impl Answer, Failure>;
    /// The token ids of an answer's text, where the server did not tell them.
    async fn ids(&self, text: &str) -> Result<Vec<u32>, Failure>;
    /// The process that started all others of it.
    fn pid(&self) -> Result<i32, Failure>;
}

/// Runs the scenario.
pub async fn measure(args: &args::Canary, settings: &ServerArgs) -> Result<Vec<Figure>, Failure> {
    let python = peer::python(&args.peers);
    // Before our half takes its minute: it may not be installed.
    let name = match &python {
        Some(python) => llamacpp::name(python).await?,
        None => String::new(),
    };
    let ours = all_jobs("ours", args.jobs, async || Ours::start(settings).await).await?;
    let mut figures = ours.figures("ours", "our server");
    if let Some(python) = python {
        let start = async || Llamacpp::start(&python, settings).await;
        let theirs = all_jobs("llamacpp", args.jobs, start).await?;
        figures.extend(theirs.figures("llamacpp", &name));
    }
    Ok(figures)
}

async fn all_jobs<S: Searched>(
    word: &str,
    jobs: u32,
    start: impl AsyncFn() -> Result<S, Failure>,
) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    for job in 1..=jobs {
        let (server, stranger) = (start().await?, start().await?);
        let one = one_job(&server, &stranger).await?;
        eprintln!("{word}, job {job} of {jobs}: {one}");
        tally.add(one);
    }
    Ok(tally)
}

/// One job from its beginning until other requests came after it.
async fn one_job(server: &impl Searched, stranger: &impl Searched) -> Result<Tally, Failure> {
    let prompt = format!("{}\n{QUESTION}", canary()?);
    let of_prompt = || {
        let text = Secrets::default().bytes(PROMPT, prompt.as_str());
        text.ids("prompt's tokens", &QUESTION_IDS)
    };
    unrelated(stranger).await?;

    let mut answer = server.ask(&prompt, TOKENS).await?;
    let mut whole = Piece::default();
    while whole.text.is_empty() {
        whole.add(answer.next().await?.ok_or("there was no answer")?);
    }
    let traces = of_prompt().traces();
    let running = &search(server, &traces)? - &search(stranger, &traces)?;
    if !traces.tell(&running).contains_key(PROMPT) {
        return Err(
            "the search did not find a prompt that was just being answered: it is blind, and what it does not find \
             later says nothing"
                .into(),
        );
    }
    let mut tally = Tally::running(&traces, &running);
    while let Some(piece) = answer.next().await? {
        whole.add(piece);
    }
    drop(answer);

    if whole.ids.is_empty() {
        whole.ids = server.ids(&whole.text).await?;
    }
    let secrets = of_prompt().bytes("answer", whole.text.as_str());
    let traces = secrets.ids("answer's tokens", &whole.ids).traces();
    let everywhere = search(stranger, &traces)?;
    let after_1 = left(server, &traces, &everywhere).await?;
    unrelated(server).await?;
    let after_6 = left(server, &traces, &everywhere).await?;
    tally.after(&traces, &everywhere, [&after_1, &after_6]);
    Ok(tally)
}

/// The requests that have nothing to do with the job, each from a client that goes.
async fn unrelated(server: &impl Searched) -> Result<(), Failure> {
    for prompt in UNRELATED {
        let mut answer = server.ask(prompt, UNRELATED_TOKENS).await?;
        while answer.next().await?.is_some() {}
    }
    Ok(())
}

/// What is found in a server's processes after it had time to clean up, and does not lie everywhere.
async fn left(
    server: &impl Searched,
    traces: &Traces,
    everywhere: &Found,
) -> Result<Found, Failure> {
    let gone = Instant::now();
    loop {
        let found = &search(server, traces)? - everywhere;
        if found.is_empty() {
            return Ok(found);
        }
        if gone.elapsed() > SETTLE {
            for piece in found.iter().take(TOLD_MAX) {
                let (what, bytes) = traces.around(*piece);
                eprintln!("  left, with its neighbours: {what} {bytes:x?}");
            }
            return Ok(found);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What all processes of a server hold now.
fn search(server: &impl Searched, traces: &Traces) -> Result<Found, Failure> {
    let mut found = Found::new();
    for pid in process::family(server.pid()?) {
        match traces.found_in(pid) {
            Ok(of_it) => found.extend(of_it),
            // One that ended since it was listed holds nothing any more.
            Err(_) if process::cpu_ticks(pid).is_none() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// Answers, but from a process that never hears of it.
    struct Elsewhere(Child);

    struct Words(std::vec::IntoIter<&'static str>);

    impl Answer for Words {
        async fn next(&mut self) -> Result<Option<Piece>, Failure> {
            let piece = |text: &str| Piece {
                text: text.into(),
                ids: Vec::new(),
            };
            Ok(self.0.next().map(piece))
        }
    }

    impl Searched for Elsewhere {
        async fn ask(&self, _: &str, _: u32) -> Result<impl Answer, Failure> {
            Ok(Words(vec!["", "well,", " then"].into_iter()))
        }

        async fn ids(&self, _: &str) -> Result<Vec<u32>, Failure> {
            Ok(Vec::new())
        }

        fn pid(&self) -> Result<i32, Failure> {
            Ok(i32::try_from(self.0.id())?)
        }
    }

    impl Drop for Elsewhere {
        fn drop(&mut self) {
            self.0.kill().and_then(|()| self.0.wait()).unwrap();
        }
    }

    #[tokio::test]
    async fn a_search_that_does_not_see_the_running_job_is_no_result() {
        let start = || Elsewhere(Command::new("sleep").arg("60").spawn().unwrap());
        let told = one_job(&start(), &start())
            .await
            .map(|tally| tally.to_string());
        assert!(told.unwrap_err().to_string().contains("blind"));
    }
}
