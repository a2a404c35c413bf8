//! What `bulkhead models load`, `unload` and `reload` take.

use clap::Args;

#[derive(Debug, Args)]
#[command(
    after_help = "A model that is not loaded is loaded by its first request. One that was loaded ahead stays until
`models unload`, until its files change, or until the server ends."
)]
pub struct ModelsLoad {
    /// The model
    pub name: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Requests go on being served: the next one loads the model again.")]
pub struct ModelsUnload {
    /// The model
    pub name: String,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Models that are new are served from then on, and those that are gone are refused. Where files have
changed, running requests finish on what they began with, and new ones go to new workers. Files that
are new or changed are hashed first."
)]
pub struct ModelsReload {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ModelsList {
    /// Only what this tenant may use, and no other tenant's name
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
}
