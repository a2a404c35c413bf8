//! Who takes part: two tenants, their agents, and one agent that is going to be revoked.

use super::{Failure, screen::Screen, server::Endpoints};
use crate::client::{Admin, AgentClient, Credentials};
use bulkhead_proto::v1::{CreateAgentRequest, CreateTenantRequest};
use std::{io, path::Path};

/// The agents' clients, connected.
pub struct People {
    pub acme: AgentClient,
    pub globex: AgentClient,
    pub leaver: AgentClient,
    pub leaver_id: String,
}

impl People {
    /// Creates tenants and agents as an operator would. Credentials go into files of the folder.
    pub async fn create(admin: &Admin, folder: &Path, screen: &Screen) -> Result<People, Failure> {
        for name in ["acme", "globex"] {
            let tenant = CreateTenantRequest {
                name: name.into(),
                weight: 1,
                ..CreateTenantRequest::default()
            };
            admin.create_tenant(tenant).await?;
        }
        let (acme, _) = agent(admin, folder, screen, "acme", "reader").await?;
        let (globex, _) = agent(admin, folder, screen, "globex", "writer").await?;
        let (leaver, leaver_id) = agent(admin, folder, screen, "globex", "leaver").await?;
        Ok(People {
            acme,
            globex,
            leaver,
            leaver_id,
        })
    }
}

async fn agent(
    admin: &Admin,
    folder: &Path,
    screen: &Screen,
    tenant: &str,
    name: &str,
) -> Result<(AgentClient, String), Failure> {
    let request = CreateAgentRequest {
        tenant: tenant.into(),
        name: name.into(),
        scopes: Vec::new(),
    };
    let credentials = Credentials::from(admin.create_agent(request).await?);
    credentials.write(&folder.join(format!("{name}.json")))?;
    let id = credentials.agent.clone();
    screen.say(&format!("{tenant}: agent {name}, {id}"))?;
    Ok((AgentClient::connect(credentials, None).await?, id))
}

/// The layers of the seal that every worker has.
pub async fn seal_of_all_workers(admin: &Admin) -> Result<Vec<String>, Failure> {
    let workers = admin.status().await?.workers;
    let Some((first, others)) = workers.split_first() else {
        return Err("no worker is running after all this work".into());
    };
    let everywhere = |layer: &&String| others.iter().all(|other| other.seal.contains(layer));
    Ok(first.seal.iter().filter(everywhere).cloned().collect())
}

/// Where the server that is left running can be reached.
pub fn tell_how_to_reach(
    screen: &Screen,
    endpoints: &Endpoints,
    folder: &Path,
    pid: u32,
) -> io::Result<()> {
    let folder = folder.display();
    screen.line("")?;
    for line in [
        format!("left running  {}", endpoints.agents),
        format!("authority     {}", endpoints.ca.display()),
        format!("credentials   {folder}/reader.json (acme), {folder}/writer.json (globex)"),
        format!("metrics       {}/metrics", endpoints.operators),
        format!(
            "admin         bulkhead --data {folder} top   ({})",
            endpoints.admin.display()
        ),
        format!("try           bulkhead embed --credentials {folder}/reader.json 'hello there'"),
        format!("stop          kill {pid}; then delete {folder}"),
    ] {
        screen.line(&line)?;
    }
    Ok(())
}
