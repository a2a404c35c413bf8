//! llama.cpp's server of llama-cpp-python, started as its manual says and asked over its own HTTP.
//!
//! Nothing of it is configured but the model and where it listens. It is asked in HTTP/1.0, so that a stream is its
//! body, up to the end of the connection, without any framing.

use super::{Answer, Piece, Searched};
use crate::{Failure, args::ServerArgs, bare::models_dir, workload::GENERATE_MODEL};
use serde::Deserialize;
use serde_json::json;
use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

/// From the start until requests are served.
const READY_MAX: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
/// Prints the ids of a text in the vocabulary of a model's file.
const IDS: &str = "import sys, json, llama_cpp
model = llama_cpp.Llama(sys.argv[1], vocab_only=True, verbose=False)
print(json.dumps(model.tokenize(sys.stdin.buffer.read(), add_bos=False)))";
const VERSION: &str = "import llama_cpp.server.app; print(llama_cpp.__version__)";

/// A running server.
pub struct Llamacpp {
    child: Child,
    port: u16,
    python: PathBuf,
    file: PathBuf,
    log: NamedTempFile,
}

/// What compares, with its version.
pub async fn name(python: &Path) -> Result<String, Failure> {
    let version = run(python, VERSION, Path::new(""), "").await?;
    Ok(format!("llama_cpp.server {}", version.trim()))
}

/// What a short program prints.
async fn run(
    python: &Path,
    program: &str,
    argument: &Path,
    input: &str,
) -> Result<String, Failure> {
    let mut child = Command::new(python)
        .args(["-c", program])
        .arg(argument)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{}: {error}", python.display()))?;
    let mut stdin = child.stdin.take().ok_or("no pipe to Python")?;
    stdin.write_all(input.as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout)?),
        false => Err(cannot(&String::from_utf8_lossy(&output.stderr))),
    }
}

fn cannot(said: &str) -> Failure {
    let last = said
        .trim_end()
        .lines()
        .next_back()
        .unwrap_or("it said nothing");
    format!("llama_cpp.server does not run: {last}; benches/peers/setup installs it").into()
}

impl Llamacpp {
    /// Starts one and waits until it is ready.
    pub async fn start(python: &Path, settings: &ServerArgs) -> Result<Llamacpp, Failure> {
        let file = models_dir(settings)?
            .join(GENERATE_MODEL)
            .join("model.gguf");
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let log = NamedTempFile::new()?;
        let child = Command::new(python)
            .args(["-m", "llama_cpp.server", "--host", "127.0.0.1", "--port"])
            .arg(port.to_string())
            .arg("--model")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.reopen()?)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", python.display()))?;
        let mut server = Llamacpp {
            child,
            port,
            python: python.to_owned(),
            file,
            log,
        };
        server.ready().await?;
        Ok(server)
    }

    async fn ready(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        while started.elapsed() < READY_MAX {
            if self.child.try_wait()?.is_some() {
                return Err(cannot(&fs::read_to_string(self.log.path())?));
            }
            if self.send("GET /v1/models", "").await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        Err(format!(
            "llama_cpp.server was not ready within {} s",
            READY_MAX.as_secs()
        )
        .into())
    }

    /// Sends a request and reads the head of what is answered.
    async fn send(&self, what: &str, body: &str) -> Result<Ongoing, Failure> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        let head = format!(
            "{what} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut lines = BufReader::new(stream).lines();
        let status = lines.next_line().await?.unwrap_or_default();
        if status.split(' ').nth(1) != Some("200") {
            return Err(format!("llama_cpp.server answered {status:?} to {what}").into());
        }
        while lines
            .next_line()
            .await?
            .is_some_and(|line| !line.is_empty())
        {}
        Ok(Ongoing { lines })
    }
}

impl Searched for Llamacpp {
    async fn ask(&self, prompt: &str, tokens: u32) -> Result<impl Answer, Failure> {
        let body = json!({
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens, "temperature": 0.0, "stream": true,
        });
        self.send("POST /v1/chat/completions", &body.to_string())
            .await
    }

    /// In a process of its own: asked itself, the server would be given the answer once more.
    async fn ids(&self, text: &str) -> Result<Vec<u32>, Failure> {
        let printed = run(&self.python, IDS, &self.file, text).await?;
        Ok(serde_json::from_str(&printed)?)
    }

    fn pid(&self) -> Result<i32, Failure> {
        let pid = self.child.id().ok_or("llama_cpp.server has ended")?;
        Ok(i32::try_from(pid)?)
    }
}

/// The lines of an answer. The connection ends with it.
struct Ongoing {
    lines: tokio::io::Lines<BufReader<TcpStream>>,
}

#[derive(Deserialize)]
struct Event {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Delta,
}

/// The first one tells a role, and the last one nothing.
#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    content: String,
}

impl Answer for Ongoing {
    async fn next(&mut self) -> Result<Option<Piece>, Failure> {
        while let Some(line) = self.lines.next_line().await? {
            if let Some(piece) = piece(&line)? {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }
}

/// What a line of a stream tells of the answer, if anything.
fn piece(line: &str) -> Result<Option<Piece>, Failure> {
    match line.strip_prefix("data: ").map(str::trim_end) {
        None | Some("[DONE]") => Ok(None),
        Some(data) => {
            let event: Event =
                serde_json::from_str(data).map_err(|error| format!("{error}: {data}"))?;
            let text = event
                .choices
                .into_iter()
                .map(|choice| choice.delta.content)
                .collect();
            let ids = Vec::new();
            Ok(Some(Piece { text, ids }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_pieces_and_anything_else_is_not() {
        let told = piece(r#"data: {"id": "x", "choices": [{"delta": {"content": " dry."}}]}"#);
        assert_eq!(told.unwrap().unwrap().text, " dry.");
        for line in ["", ": ping", "data: [DONE]"] {
            assert!(piece(line).unwrap().is_none(), "{line}");
        }
        let told = piece(r#"data: {"choices": [{"delta": {"role": "assistant"}}]}"#);
        assert_eq!(told.unwrap().unwrap().text, "");
        assert!(piece("data: {\"error\": 1}").is_err());
    }
}
