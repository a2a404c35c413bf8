//! A hub of models on this machine, as the wire shows it: its description of a repository, its redirects,
//! a second server (another port, so another origin) that holds large files, and the ways in which a hub
//! fails or lies.
//!
//! It is written by hand over plain sockets, so that it can also say what no library would. It stands for
//! the outside; what is under test is the real program. `huggingface_hub` reads from it too.

mod wire;

use aws_lc_rs::digest;
use rustls::{ServerConfig, crypto::aws_lc_rs as provider};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};
use wire::{Answers, Reply, Request, Server, reply};

/// The one repository that every hub here holds.
pub const REPOSITORY: &str = "tiny/Random-Llama";
/// Its only commit.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A way to fail. Each belongs to a file of the repository, or to its description.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection ends where this byte of the file would come, this many times.
    Cut { at: usize, times: usize },
    /// One bit of each answer is another, this many times.
    Flip { times: usize },
    /// Questions for a part are answered with all of it.
    NoParts,
    /// A part is asked for, and another one is sent.
    OtherPart,
    /// More is sent than was stated.
    Longer,
    /// The link to a large file says another hash.
    OtherHash,
    /// No answer but this status, with this code of the hub's.
    Status(u16, &'static str),
    /// Sends whoever asks to this link.
    Redirect(String),
    /// The answer is this text.
    Text(String),
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Whether it came to the server of large files.
    pub store: bool,
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
}

/// A file of the repository.
#[derive(Clone, Debug)]
struct File {
    bytes: Vec<u8>,
    /// What the description says instead of its length and hash.
    stated: Value,
}

struct State {
    files: BTreeMap<String, File>,
    faults: BTreeMap<String, Fault>,
    seen: Vec<Seen>,
    /// What opens the repository, if it is gated.
    token: Option<String>,
    store: String,
}

/// A running hub.
pub struct Hub {
    url: String,
    state: Arc<Mutex<State>>,
    /// The hub itself, and its store of large files.
    _servers: [Server; 2],
}

/// The name under which the description's own faults are kept.
pub const DESCRIPTION: &str = "";

impl Hub {
    /// One that holds these files, over plain HTTP.
    pub fn start(files: Vec<(String, Vec<u8>)>) -> Hub {
        Hub::with(files, None)
    }

    /// The same over TLS, with the certificate and key in this folder of a server's.
    pub fn start_tls(files: Vec<(String, Vec<u8>)>, folder: &Path) -> Hub {
        let chain = CertificateDer::pem_file_iter(folder.join("server.pem")).expect("a file");
        let chain: Vec<_> = chain.map(|one| one.expect("a certificate")).collect();
        let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("they fit");
        Hub::with(files, Some(Arc::new(config)))
    }

    fn with(files: Vec<(String, Vec<u8>)>, tls: Option<Arc<ServerConfig>>) -> Hub {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = Arc::new(Mutex::new(State {
            files: files.into_iter().map(|(n, b)| (n, file(b))).collect(),
            faults: BTreeMap::new(),
            seen: Vec::new(),
            token: None,
            store: String::new(),
        }));
        let servers = [false, true].map(|store| Server::start(tls.clone(), answers(&state, store)));
        let [hub, store] = [0, 1].map(|at: usize| format!("{scheme}://{}", servers[at].address()));
        locked(&state).store = store;
        Hub {
            url: hub,
            state,
            _servers: servers,
        }
    }

    /// What `HF_ENDPOINT` is set to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes it fail in this way at this file, or at `DESCRIPTION`.
    pub fn fail(&self, name: &str, fault: Fault) {
        self.lock().faults.insert(name.into(), fault);
    }

    /// Lets all be well again.
    pub fn mend(&self) {
        self.lock().faults.clear();
    }

    /// Opens to this token alone.
    pub fn gate(&self, token: &str) {
        self.lock().token = Some(token.into());
    }

    /// Has the description say something else of a file.
    pub fn state(&self, name: &str, stated: Value) {
        let mut state = self.lock();
        state.files.get_mut(name).expect("it is there").stated = stated;
    }

    /// Requests for files since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.lock().seen)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no test failed inside")
}

fn answers(state: &Arc<Mutex<State>>, store: bool) -> Answers {
    let state = state.clone();
    Arc::new(move |request| {
        let mut state = locked(&state);
        state.seen.push(Seen {
            store,
            path: request.path.clone(),
            range: request.headers.get("range").cloned(),
            token: request.headers.get("authorization").cloned(),
        });
        match store {
            true => state.stored(request),
            false => state.hub(request),
        }
    })
}

fn refused(status: u16, code: &str) -> Reply {
    reply(status, "refused").with("x-error-code", code)
}

fn file(bytes: Vec<u8>) -> File {
    let stated = json!({});
    File { bytes, stated }
}

impl State {
    /// The hub itself.
    fn hub(&mut self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap_or_default();
        let open = match &self.token {
            None => true,
            Some(token) => request.headers.get("authorization") == Some(&format!("Bearer {token}")),
        };
        if let Some(rest) = path.strip_prefix("/api/models/") {
            return match rest.split_once("/revision/") {
                // Renamed, as repositories are.
                Some(("old/Name", revision)) => {
                    let to = format!("/api/models/{REPOSITORY}/revision/{revision}?blobs=true");
                    reply(307, "").with("location", to)
                }
                Some((REPOSITORY, revision)) => match revision {
                    "main" | COMMIT | "refs%2Fpr%2F1" => self.description(),
                    _ => refused(404, "RevisionNotFound"),
                },
                _ => refused(401, "RepoNotFound"),
            };
        }
        if let Some(name) = path.strip_prefix(&format!("/cached/{COMMIT}/")) {
            return self.content(name, request);
        }
        let resolve = |repository| path.strip_prefix(&format!("/{repository}/resolve/"));
        let Some((revision, name)) = resolve(REPOSITORY)
            .or_else(|| resolve("old/Name"))
            .and_then(|rest: &str| rest.split_once('/'))
        else {
            return refused(404, "RepoNotFound");
        };
        if !open {
            return refused(401, "GatedRepo");
        }
        if ![COMMIT, "main"].contains(&revision) {
            return refused(404, "RevisionNotFound");
        }
        self.link(name)
    }

    /// The repository's description, as `?blobs=true` has it.
    fn description(&self) -> Reply {
        if let Some(fault) = self.faults.get(DESCRIPTION) {
            match fault {
                Fault::Status(status, code) => return refused(*status, code),
                Fault::Redirect(to) => return reply(302, "").with("location", to.as_str()),
                Fault::Text(text) => return reply(200, text.as_str()),
                other => panic!("{other:?} is no fault of a description"),
            }
        }
        let siblings: Vec<Value> = self
            .files
            .iter()
            .map(|(name, f)| sibling(name, f))
            .collect();
        let description = json!({"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT,
            "private": false, "gated": false, "tags": [], "siblings": siblings});
        reply(200, description.to_string()).with("content-type", "application/json")
    }

    /// Where a file's content is: small ones elsewhere on the hub, large ones on the other server.
    fn link(&self, name: &str) -> Reply {
        let Some(file) = self.files.get(name) else {
            return refused(404, "EntryNotFound");
        };
        let commit = ("x-repo-commit", COMMIT.to_owned());
        let fault = self.faults.get(name);
        match fault {
            Some(Fault::Status(status, code)) => return refused(*status, code),
            Some(Fault::Redirect(to)) => return reply(302, "").with("location", to.as_str()),
            _ => {}
        }
        if !is_large(name) {
            return reply(307, "")
                .with("location", format!("/cached/{COMMIT}/{name}"))
                .with(commit.0, commit.1);
        }
        let hash = match fault {
            Some(Fault::OtherHash) => "f".repeat(64),
            _ => sha256(&file.bytes),
        };
        reply(302, "")
            .with(
                "location",
                format!("{}/{name}?Signature=secret", self.store),
            )
            .with("x-linked-etag", format!("\"{hash}\""))
            .with("x-linked-size", file.bytes.len().to_string())
            .with(commit.0, commit.1)
    }

    /// The other server. It refuses whoever shows a token, as stores of signed links do.
    fn stored(&mut self, request: &Request) -> Reply {
        if request.headers.contains_key("authorization") {
            return reply(400, "only one way to authenticate");
        }
        let (name, query) = request.path.split_once('?').unwrap_or_default();
        match query {
            "Signature=secret" => self.content(&name[1..], request),
            _ => reply(403, "no signature"),
        }
    }

    /// A file's content, or the part that is asked for.
    fn content(&mut self, name: &str, request: &Request) -> Reply {
        let Some(file) = self.files.get(name) else {
            return refused(404, "EntryNotFound");
        };
        let mut fault = self.faults.get_mut(name);
        let (whole, all) = (file.bytes.clone(), file.bytes.len());
        let from = (request.headers.get("range"))
            .and_then(|range| {
                range
                    .strip_prefix("bytes=")?
                    .strip_suffix('-')?
                    .parse()
                    .ok()
            })
            .filter(|_| !matches!(fault, Some(Fault::NoParts)));
        let mut sent = match from {
            Some(from) if from >= all => return reply(416, ""),
            Some(from) => {
                let told = match fault {
                    Some(Fault::OtherPart) => 0,
                    _ => from,
                };
                let range = format!("bytes {told}-{}/{all}", all - 1);
                reply(206, &whole[from..]).with("content-range", range)
            }
            None => reply(200, whole),
        };
        sent.headers
            .push(("etag", format!("\"{}\"", git_blob(&file.bytes))));
        sent.headers.push(("x-repo-commit", COMMIT.into()));
        match &mut fault {
            Some(Fault::Cut { at, times }) if *times > 0 => {
                *times -= 1;
                sent.cut = Some(at.saturating_sub(from.unwrap_or(0)));
            }
            Some(Fault::Flip { times }) if *times > 0 => {
                *times -= 1;
                let last = sent.body.last_mut().expect("no file is empty");
                *last ^= 1;
            }
            Some(Fault::Longer) => sent.body.push(0),
            _ => {}
        }
        sent
    }
}

/// One file, as the description has it.
fn sibling(name: &str, file: &File) -> Value {
    let mut sibling = json!({"rfilename": name, "size": file.bytes.len(),
        "blobId": git_blob(&file.bytes)});
    if is_large(name) {
        sibling["lfs"] = json!({"sha256": sha256(&file.bytes), "size": file.bytes.len(),
            "pointerSize": 134});
    }
    for (key, value) in file.stated.as_object().expect("an object") {
        sibling[key] = value.clone();
    }
    sibling
}

fn is_large(name: &str) -> bool {
    [".safetensors", ".gguf", ".bin"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// SHA-256, hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn git_blob(bytes: &[u8]) -> String {
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
