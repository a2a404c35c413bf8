//! What a user would otherwise run (PyTorch, llama.cpp), as a child process that measures itself.
//!
//! `benches/peers/setup` installs it. Where it is not installed nothing is compared, and the figures say
//! so; no figure of another day or machine ever takes its place.

use crate::{Failure, args::PeersArgs};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// The child.
pub struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// What embeds, with its version.
    pub embeddings: String,
    /// What generates, with its version.
    pub generation: String,
}

#[derive(Serialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Ask<'a> {
    OpenEmbeddings {
        folder: &'a Path,
    },
    OpenGeneration {
        file: &'a Path,
        sequences: usize,
        context: u32,
    },
    Embed {
        texts: &'a [String],
        batch: usize,
    },
    Generate {
        prompts: &'a [String],
        answer: u32,
    },
}

#[derive(Deserialize)]
struct Opened {
    name: String,
}

#[derive(Deserialize)]
struct Embedded {
    seconds: f64,
}

/// Prompts read and answers written, apart.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Generated {
    pub prompt_tokens: u32,
    pub prefill_seconds: f64,
    pub decoded_tokens: u32,
    pub decode_seconds: f64,
}

/// The interpreter to compare with, if there is one; if not, that is said.
pub fn python(args: &PeersArgs) -> Option<PathBuf> {
    if args.no_peers {
        return None;
    }
    let found = args.peers.clone().or_else(installed);
    if found.is_none() {
        eprintln!("note: nothing to compare with; benches/peers/setup installs it");
    }
    found
}

/// Where `benches/peers/setup` puts it, seen from this program in `target/PROFILE`.
fn installed() -> Option<PathBuf> {
    let me = std::env::current_exe().ok()?;
    let python = me.parent()?.parent()?.join("peers/venv/bin/python");
    python.is_file().then_some(python)
}

impl Peer {
    /// Starts it with as many threads as the engine has, and opens the two starter models.
    pub fn start(
        python: &Path,
        threads: usize,
        minilm: &Path,
        smollm2: &Path,
        sequences: usize,
        context: u32,
    ) -> Result<Peer, Failure> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/peer.py");
        let mut child = Command::new(python)
            .arg(script)
            .arg(threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}", python.display()))?;
        let input = child.stdin.take().ok_or("no pipe to the peer")?;
        let output = BufReader::new(child.stdout.take().ok_or("no pipe from the peer")?);
        let mut peer = Peer {
            child,
            input,
            output,
            embeddings: String::new(),
            generation: String::new(),
        };
        let opened: Opened = peer.ask(&Ask::OpenEmbeddings { folder: minilm })?;
        peer.embeddings = opened.name;
        let opened: Opened = peer.ask(&Ask::OpenGeneration {
            file: smollm2,
            sequences,
            context,
        })?;
        peer.generation = opened.name;
        Ok(peer)
    }

    /// Seconds that all of `texts` took, in batches of `batch`.
    pub fn embed(&mut self, texts: &[String], batch: usize) -> Result<f64, Failure> {
        let done: Embedded = self.ask(&Ask::Embed { texts, batch })?;
        Ok(done.seconds)
    }

    /// Generates `answer` tokens after each of `prompts`, all sequences in step.
    pub fn generate(&mut self, prompts: &[String], answer: u32) -> Result<Generated, Failure> {
        self.ask(&Ask::Generate { prompts, answer })
    }

    /// One request. The child is stopped whenever it has none: threads of OpenMP go on spinning after their
    /// work is done, on the processors of whoever is measured next.
    fn ask<T: DeserializeOwned>(&mut self, ask: &Ask<'_>) -> Result<T, Failure> {
        self.signal(Signal::SIGCONT)?;
        let answer = self.exchange(ask);
        self.signal(Signal::SIGSTOP)?;
        answer
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let child = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(child, signal).map_err(|error| format!("the peer: {error}").into())
    }

    fn exchange<T: DeserializeOwned>(&mut self, ask: &Ask<'_>) -> Result<T, Failure> {
        let mut line = serde_json::to_string(ask)?;
        line.push('\n');
        self.input.write_all(line.as_bytes())?;
        let mut answer = String::new();
        if self.output.read_line(&mut answer)? == 0 {
            return Err(
                "the peer ended: run benches/peers/setup again, and benches/peers/peer.py by hand \
                 to see why"
                    .into(),
            );
        }
        Ok(serde_json::from_str(&answer)?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It holds nothing that would need an orderly end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
