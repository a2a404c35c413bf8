//! What `bulkhead tenant` takes.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  bulkhead tenant create acme --weight 2
  bulkhead tenant create globex --models minilm --quota 268435456
  bulkhead tenant create initech --regions eu-west,eu-central
  bulkhead tenant update acme --tokens-per-minute 100000 --agent-requests-per-minute 60
  bulkhead tenant list --json")]
pub enum Tenant {
    /// Create a tenant
    Create(TenantCreate),
    /// Change a tenant's weight, limits and regions, at once
    Update(TenantUpdate),
    /// List all tenants
    List(TenantList),
}

#[derive(Debug, Args)]
pub struct TenantCreate {
    /// 1 to 63 characters: a-z, 0-9 and '-', starting with a letter
    pub name: String,
    /// Share of device time relative to other tenants, 1 to 1000000
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub weight: u32,
    /// Models that its agents may use [default: all shared ones]
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    pub models: Vec<String>,
    /// Bytes of memory per worker; 0 takes the server's default
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    pub quota: u64,
    /// Regions in which its work may be done, and in no other [default: any]
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    pub regions: Option<Vec<String>>,
    #[command(flatten)]
    pub limits: TenantLimits,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("change").required(true).multiple(true).args([
        "weight",
        "regions",
        "requests_per_minute",
        "tokens_per_minute",
        "agent_requests_per_minute",
        "agent_tokens_per_minute",
    ]),
    after_help = "What is not named stays as it is. Requests that were accepted before are not taken back, and what was had in the \
                  last minute counts. Of a tenant that may not be in this server's region any more, those that wait end, and those \
                  that run go on."
)]
pub struct TenantUpdate {
    /// The tenant
    pub name: String,
    /// Share of device time relative to other tenants, 1 to 1000000
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub weight: Option<u32>,
    /// Regions in which its work may be done, and in no other; any lifts that
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    pub regions: Option<Vec<String>>,
    #[command(flatten)]
    pub limits: TenantLimits,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A minute's worth may come at once.
#[derive(Debug, Args)]
pub struct TenantLimits {
    /// Requests that the tenant may have: a number, none (or 0) for no limit, default for what bulkhead.toml says
    #[arg(long, value_name = "N")]
    pub requests_per_minute: Option<PerMinute>,
    /// Tokens in and out that the tenant may have: a number, none or default
    #[arg(long, value_name = "N")]
    pub tokens_per_minute: Option<PerMinute>,
    /// Requests that each of its agents may have: a number, none or default
    #[arg(long, value_name = "N")]
    pub agent_requests_per_minute: Option<PerMinute>,
    /// Tokens in and out that each of its agents may have: a number, none or default
    #[arg(long, value_name = "N")]
    pub agent_tokens_per_minute: Option<PerMinute>,
}

/// A limit: 0 for none, `None` for what the server's settings say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerMinute(pub Option<u64>);

impl std::str::FromStr for PerMinute {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "default" => Ok(PerMinute(None)),
            "none" => Ok(PerMinute(Some(0))),
            number => number
                .parse()
                .map(|limit| PerMinute(Some(limit)))
                .map_err(|_| "a limit is a number, none or default"),
        }
    }
}

#[derive(Debug, Args)]
pub struct TenantList {
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
}
