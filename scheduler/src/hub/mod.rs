//! Models from the Hugging Face hub, or from a mirror that speaks its protocol.
//!
//! A revision is resolved to a commit once, and everything after is asked of that commit. The hub says of
//! each file how long it is and what it hashes to; a file that differs is not used. What the hub, a mirror
//! or a cache between sends is a stranger's input: sizes and counts are bounded, names are checked before
//! they are joined to a folder, and redirects cannot carry the token elsewhere.
//!
//! `address` is what an operator types, `url` and `web` are the wire, `listing` is what the hub says of a
//! repository, `choose` which of its files make a model, `download` and `sink` bring them here, and
//! `partial` is where they wait until all are there. Nothing here knows what a model is once it is here.
//!
//! It is written over hyper and rustls, which this program has anyway. The crate `hf-hub` would bring a
//! second crypto library (ring), a licence that `deny.toml` does not have (MPL-2.0, through `dirs`), and
//! does not compare hashes.
//!
//! Published source: the hub's API as `huggingface_hub` speaks it (`model_info`, `hf_hub_download`).

mod address;
mod choose;
mod download;
mod error;
mod listing;
mod partial;
mod sink;
mod url;
mod web;

pub use address::Address;
pub use choose::{Choice, choose};
pub use download::{Told, fetch};
pub use error::HubError;
pub use listing::{Entry, Listing};
pub use partial::Partial;

use crate::models::SOURCE_BYTES_MAX;
use url::Url;
use web::{Limits, Web};

/// The hub that is asked where `HF_ENDPOINT` names no other.
const ENDPOINT: &str = "https://huggingface.co";
/// The longest description of a repository, bytes; a thousand files take some 300 KB.
const LISTING_BYTES_MAX: usize = 16 << 20;

/// One hub, and who asks it.
pub struct Hub {
    endpoint: Url,
    web: Web,
    /// False where an operator named another than the usual one.
    usual: bool,
}

impl Hub {
    /// The hub of `HF_ENDPOINT`, asked with the token in `HF_TOKEN` where there is one.
    pub fn from_env() -> Result<Hub, HubError> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Hub::new(set("HF_ENDPOINT").as_deref(), set("HF_TOKEN").as_deref())
    }

    fn new(endpoint: Option<&str>, token: Option<&str>) -> Result<Hub, HubError> {
        let text = endpoint.unwrap_or(ENDPOINT).trim_end_matches('/');
        let endpoint = Url::parse(text).map_err(|what| HubError::Setting {
            name: "HF_ENDPOINT",
            what,
        })?;
        Ok(Hub {
            web: Web::new(&endpoint, token, Limits::default())?,
            usual: text == ENDPOINT,
            endpoint,
        })
    }

    /// What the repository holds at the revision: the commit, and its files.
    pub async fn listing(&self, address: &Address) -> Result<Listing, HubError> {
        let revision = address.revision.as_deref().unwrap_or("main");
        let path = format!(
            "/api/models/{}/revision/{}?blobs=true",
            address.repository(),
            url::segment(revision)
        );
        let answer = self.web.get(&self.endpoint.below(&path), 0).await?;
        if !answer.head.status.is_success() {
            return Err(self.refusal(&answer, address));
        }
        let host = answer.url.authority();
        let json = answer.all(LISTING_BYTES_MAX).await?;
        let listing = Listing::parse(&json).map_err(|what| HubError::Odd { host, what })?;
        match listing.is(revision) {
            true => Ok(listing),
            false => Err(HubError::Odd {
                host: self.endpoint.authority(),
                what: format!("asked for commit {revision}, it answers with another"),
            }),
        }
    }

    /// What a manifest says of where a model came from.
    pub fn source(&self, address: &Address, commit: &str) -> String {
        let file = (address.file.as_ref()).map_or(String::new(), |file| format!(":{file}"));
        let hub = match self.usual {
            true => String::new(),
            false => format!(" (from {})", self.endpoint),
        };
        // All of it is ASCII, so that it can be cut anywhere.
        let mut source = format!("hf:{}@{commit}{file}{hub}", address.repository());
        source.truncate(SOURCE_BYTES_MAX);
        source
    }

    fn file(&self, address: &Address, commit: &str, name: &str) -> Url {
        let path = format!(
            "/{}/resolve/{commit}/{}",
            address.repository(),
            url::path(name)
        );
        self.endpoint.below(&path)
    }

    /// What an answer that is no success means.
    fn refusal(&self, answer: &web::Answer, address: &Address) -> HubError {
        let code = answer.head.headers.get("x-error-code");
        let code = code.and_then(|code| code.to_str().ok()).unwrap_or("");
        let host = answer.url.authority();
        let (repository, page) = (
            address.repository(),
            self.endpoint
                .below(&format!("/{}", address.repository()))
                .to_string(),
        );
        if !answer.url.same_origin(&self.endpoint) {
            return HubError::Status {
                host,
                status: answer.head.status,
                elsewhere: true,
            };
        }
        match (answer.head.status.as_u16(), code) {
            (401 | 403, "GatedRepo") | (403, _) => match self.web.has_token() {
                true => HubError::NoAccess { repository, page },
                false => HubError::Gated { repository, page },
            },
            (404, "RevisionNotFound") => HubError::NoRevision {
                repository,
                revision: address.revision.clone().unwrap_or("main".into()),
            },
            (401 | 404, _) => HubError::NoRepository { repository, host },
            _ => HubError::Status {
                host,
                status: answer.head.status,
                elsewhere: false,
            },
        }
    }
}
