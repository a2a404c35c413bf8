//! `bulkhead tenant`: creating and listing tenants, over the admin socket.

use super::{Outcome, output};
use crate::{
    cli::{Globals, Tenant},
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
    created_unix_s: i64,
}

impl From<v1::Tenant> for View {
    fn from(tenant: v1::Tenant) -> Self {
        View {
            name: tenant.name,
            weight: tenant.weight,
            models: tenant.models,
            quota_bytes: tenant.quota_bytes,
            created_unix_s: tenant.created_unix_s,
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
                };
                let tenant = View::from(admin.create_tenant(request).await?);
                match args.json {
                    true => output::json(&tenant)?,
                    false => output::line(&format!(
                        "Tenant {} created, weight {}. Next: bulkhead agent create --tenant {} NAME --out FILE",
                        tenant.name, tenant.weight, tenant.name
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

fn listing(tenants: impl Iterator<Item = View>) -> String {
    let rows = tenants.map(|tenant| {
        vec![
            tenant.name,
            tenant.weight.to_string(),
            output::list(&tenant.models, "all"),
            match tenant.quota_bytes {
                0 => "default".into(),
                bytes => output::bytes(bytes),
            },
            output::ago(tenant.created_unix_s),
        ]
    });
    output::table(&["tenant", "weight>", "models~", "quota>", "created"], rows)
}
