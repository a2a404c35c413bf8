//! `bulkhead agent`: an agent's whole life, over the admin socket.
//!
//! A private key is shown once, to whoever created the agent. It is written to a file of mode 0600,
//! or to standard output where no file was named, and to nothing else.

use super::{Outcome, output};
use crate::{
    cli::{Agent, AgentCreate, AgentList, Globals},
    client::{Admin, Credentials, Reserved},
};
use bulkhead_proto::v1;
use serde::Serialize;
use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};
use zeroize::Zeroizing;

/// An agent in JSON.
#[derive(Serialize)]
struct View {
    id: String,
    tenant: String,
    name: String,
    scopes: Vec<String>,
    status: String,
    created_unix_s: i64,
}

impl From<v1::Agent> for View {
    fn from(agent: v1::Agent) -> Self {
        View {
            id: agent.id,
            tenant: agent.tenant,
            name: agent.name,
            scopes: agent.scopes,
            status: agent.status,
            created_unix_s: agent.created_unix_s,
        }
    }
}

pub fn run(globals: &Globals, args: Agent) -> Outcome {
    let data = globals.data_dir()?;
    output::block_on(async {
        match args {
            Agent::Create(args) => create(&data, args).await,
            Agent::List(args) => list(&data, args).await,
            Agent::Suspend(agent) => set(&data, &agent.id, "suspended").await,
            Agent::Resume(agent) => set(&data, &agent.id, "active").await,
            Agent::Revoke(agent) => set(&data, &agent.id, "revoked").await,
            Agent::Delete(agent) => set(&data, &agent.id, "deleted").await,
        }
    })?
}

async fn create(data: &Path, args: AgentCreate) -> Outcome {
    let admin = Admin::connect(data).await?;
    // Before the agent exists: a key that cannot be written is lost.
    let out = args.out.map(reserve).transpose()?;
    let request = v1::CreateAgentRequest {
        tenant: args.tenant,
        name: args.name,
        scopes: args.scopes,
    };
    let created = admin.create_agent(request).await?;
    let view = created.agent.clone().map(View::from);
    let credentials = Credentials::from(created);
    let Some((path, file)) = out else {
        eprintln!(
            "This private key is shown once and stored nowhere. Keep it from others' eyes; `--out FILE` writes it to a private file."
        );
        output::line(&Zeroizing::new(credentials.to_json()?))?;
        return Ok(ExitCode::SUCCESS);
    };
    if let Err(error) = file.fill(&credentials) {
        // Nobody holds its key, so it must not stay.
        admin
            .set_agent_status(&credentials.agent, "deleted")
            .await?;
        return Err(format!(
            "cannot write {}: {error}; agent {} was deleted again",
            path.display(),
            credentials.agent
        )
        .into());
    }
    match args.json {
        true => output::json(&view)?,
        false => output::line(&format!(
            "Agent {} of {} created; its credentials are in {}",
            credentials.agent,
            credentials.tenant,
            path.display()
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn reserve(path: PathBuf) -> Result<(PathBuf, Reserved), String> {
    match Reserved::file(&path) {
        Ok(file) => Ok((path, file)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            Err(format!("{} exists; name another file", path.display()))
        }
        Err(e) => Err(format!(
            "cannot write {}: {e}; no agent was created",
            path.display()
        )),
    }
}

async fn list(data: &Path, args: AgentList) -> Outcome {
    let admin = Admin::connect(data).await?;
    let tenant = args.tenant.unwrap_or_default();
    let agents = admin.list_agents(tenant.clone()).await?;
    if agents.is_empty() && !tenant.is_empty() {
        let known = admin.list_tenants().await?;
        if known.iter().all(|one| one.name != tenant) {
            return Err(format!(
                "there is no tenant {tenant:?}; `bulkhead tenant list` shows them all"
            )
            .into());
        }
    }
    let agents = agents.into_iter().map(View::from);
    match args.json {
        true => output::json(&agents.collect::<Vec<_>>())?,
        false => output::line(&listing(agents))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn set(data: &Path, id: &str, status: &str) -> Outcome {
    let agent = Admin::connect(data)
        .await?
        .set_agent_status(id, status)
        .await?;
    output::line(&format!("Agent {} is {}", agent.id, agent.status))?;
    Ok(ExitCode::SUCCESS)
}

fn listing(agents: impl Iterator<Item = View>) -> String {
    let rows = agents.map(|agent| {
        vec![
            agent.id,
            agent.tenant,
            agent.name,
            agent.scopes.join(", "),
            agent.status,
            output::ago(agent.created_unix_s),
        ]
    });
    output::table(
        &["agent", "tenant", "name~", "scopes~", "status", "created"],
        rows,
    )
}
