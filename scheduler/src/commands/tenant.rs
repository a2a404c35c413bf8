//! `bulkhead tenant`: creating, changing and listing tenants, over the admin socket.

use super::{Outcome, output};
use crate::{
    cli::{Globals, PerMinute, Tenant, TenantLimits},
    client::Admin,
};
use bulkhead_proto::v1;
use serde::Serialize;
use std::process::ExitCode;

/// A tenant in JSON.
#[derive(Serialize)]
struct View {
    name: String,
    weight: u32,
    /// Empty: all shared models.
    models: Vec<String>,
    /// 0: the server's default.
    quota_bytes: u64,
    limits: Limits,
    /// Empty: any.
    regions: Vec<String>,
    /// This server is in none of them.
    refused_here: bool,
    created_unix_s: i64,
}

/// 0: no limit; null: as the server's settings say.
#[derive(Serialize)]
struct Limits {
    requests_per_minute: Option<u64>,
    tokens_per_minute: Option<u64>,
    agent_requests_per_minute: Option<u64>,
    agent_tokens_per_minute: Option<u64>,
}

impl From<v1::Limits> for Limits {
    fn from(limits: v1::Limits) -> Self {
        let own = |limit: Option<v1::Limit>| limit.and_then(|limit| limit.per_minute);
        Limits {
            requests_per_minute: own(limits.requests),
            tokens_per_minute: own(limits.tokens),
            agent_requests_per_minute: own(limits.agent_requests),
            agent_tokens_per_minute: own(limits.agent_tokens),
        }
    }
}

impl Limits {
    /// As people read it.
    fn words(&self) -> String {
        let each = [
            (self.requests_per_minute, "requests"),
            (self.tokens_per_minute, "tokens"),
            (self.agent_requests_per_minute, "requests/agent"),
            (self.agent_tokens_per_minute, "tokens/agent"),
        ];
        let own = each.iter().filter_map(|(limit, what)| match limit {
            None => None,
            Some(0) => Some(format!("any {what}")),
            Some(limit) => Some(format!("{limit} {what}")),
        });
        let mut words: Vec<String> = own.collect();
        if words.len() < each.len() {
            words.push("others as bulkhead.toml says".into());
        }
        words.join(", ")
    }
}

impl From<v1::Tenant> for View {
    fn from(tenant: v1::Tenant) -> Self {
        View {
            name: tenant.name,
            weight: tenant.weight,
            models: tenant.models,
            quota_bytes: tenant.quota_bytes,
            limits: tenant.limits.unwrap_or_default().into(),
            regions: tenant.regions.unwrap_or_default().names,
            refused_here: tenant.refused_here,
            created_unix_s: tenant.created_unix_s,
        }
    }
}

impl View {
    /// Where it may be, as people read it.
    fn where_to(&self) -> String {
        let regions = output::list(&self.regions, "any");
        match self.refused_here {
            true => format!("{regions} (this server is elsewhere, and refuses it)"),
            false => regions,
        }
    }
}

pub fn run(globals: &Globals, args: Tenant) -> Outcome {
    let data = globals.data_dir()?;
    output::block_on(async {
        let admin = Admin::connect(&data).await?;
        match args {
            Tenant::Create(args) => {
                let request = v1::CreateTenantRequest {
                    name: args.name,
                    weight: args.weight,
                    models: args.models,
                    quota_bytes: args.quota,
                    limits: Some(wire(&args.limits)),
                    regions: args.regions.map(regions),
                };
                let tenant = View::from(admin.create_tenant(request).await?);
                match args.json {
                    true => output::json(&tenant)?,
                    false => output::line(&format!(
                        "Tenant {} created, weight {}, regions: {}, limits a minute: {}. Next: bulkhead agent create --tenant {} NAME --out FILE",
                        tenant.name,
                        tenant.weight,
                        tenant.where_to(),
                        tenant.limits.words(),
                        tenant.name
                    ))?,
                }
            }
            Tenant::Update(args) => {
                let request = v1::UpdateTenantRequest {
                    name: args.name,
                    weight: args.weight,
                    limits: Some(wire(&args.limits)),
                    regions: args.regions.map(regions),
                };
                let tenant = View::from(admin.update_tenant(request).await?);
                match args.json {
                    true => output::json(&tenant)?,
                    false => output::line(&format!(
                        "Tenant {}: weight {}, regions: {}, limits a minute: {}",
                        tenant.name,
                        tenant.weight,
                        tenant.where_to(),
                        tenant.limits.words()
                    ))?,
                }
            }
            Tenant::List(args) => {
                let tenants = admin.list_tenants().await?.into_iter().map(View::from);
                match args.json {
                    true => output::json(&tenants.collect::<Vec<_>>())?,
                    false => output::line(&listing(tenants))?,
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    })?
}

fn wire(limits: &TenantLimits) -> v1::Limits {
    let said =
        |limit: Option<PerMinute>| limit.map(|PerMinute(per_minute)| v1::Limit { per_minute });
    v1::Limits {
        requests: said(limits.requests_per_minute),
        tokens: said(limits.tokens_per_minute),
        agent_requests: said(limits.agent_requests_per_minute),
        agent_tokens: said(limits.agent_tokens_per_minute),
    }
}

/// As they were named; `any` stands for none in particular.
fn regions(named: Vec<String>) -> v1::Regions {
    match named.as_slice() {
        [one] if one == "any" => v1::Regions {
            any: true,
            names: Vec::new(),
        },
        _ => v1::Regions {
            any: false,
            names: named,
        },
    }
}

fn listing(tenants: impl Iterator<Item = View>) -> String {
    let rows = tenants.map(|tenant| {
        let regions = tenant.where_to();
        vec![
            tenant.name,
            tenant.weight.to_string(),
            output::list(&tenant.models, "all"),
            match tenant.quota_bytes {
                0 => "default".into(),
                bytes => output::bytes(bytes),
            },
            regions,
            tenant.limits.words(),
            output::ago(tenant.created_unix_s),
        ]
    });
    let headers = [
        "tenant",
        "weight>",
        "models~",
        "quota>",
        "regions~",
        "limits a minute~",
        "created",
    ];
    output::table(&headers, rows)
}
