//! `bulkhead models add hf:OWNER/NAME`: a model of the hub is fetched, checked and installed as a folder
//! or a GGUF file of the operator's would be.
//!
//! What can be known early is: whether the name is free before anything is fetched, whether the kind works
//! once config.json is here, whether there is room before the weights come. What arrived waits in a
//! hidden place until all of it is there and reads as a model; a failure leaves it there to go on from,
//! except where it can never work.

use super::{
    add::{AddError, Added, Wish, free_name, name_from, plan},
    install::{self, Plan},
    progress,
};
use crate::{
    commands::output,
    hub::{Address, Choice, Entry, Hub, HubError, Listing, Partial, Told, choose, fetch},
    models::{FILES_MAX, families, parts},
};
use indicatif::ProgressBar;
use std::{collections::BTreeMap, path::Path};

/// Adds a model of the hub to the models in `dir`.
pub fn add(dir: &Path, address: &Address, wish: Wish<'_>) -> Result<Added, AddError> {
    output::block_on(fetched(dir, address, wish)).map_err(AddError::Runtime)?
}

async fn fetched(dir: &Path, address: &Address, wish: Wish<'_>) -> Result<Added, AddError> {
    let hub = Hub::from_env()?;
    let listing = hub.listing(address).await?;
    let choice = choose(&listing, address)?;
    let name = free_name(dir, wish, || name_from(called(&choice, address)))?;
    let partial = Partial::open(dir, &address.folder(&listing.commit))?;
    let mut fetching = Fetching {
        hub: &hub,
        address,
        listing: &listing,
        partial: &partial,
        sha256: BTreeMap::new(),
        bar: progress("fetching", &name, 0),
    };
    let planned = match &choice {
        Choice::Gguf(entry) => fetching.gguf(entry).await,
        Choice::Folder { small, weights } => fetching.folder(small, weights.as_ref()).await,
    };
    fetching.bar.finish_and_clear();
    let installed = planned.and_then(|plan| {
        let source = hub.source(address, &listing.commit);
        install::install(dir, name, wish.owner, Some(source), plan)
    });
    // What never works is not kept to go on from, and what is installed has been moved.
    if matches!(installed, Ok(_) | Err(AddError::Unusable(_))) {
        let _ = partial.remove();
    }
    installed
}

/// What a model is called on the hub: its repository, or its one file without the ending.
fn called<'a>(choice: &'a Choice, address: &'a Address) -> &'a str {
    match choice {
        Choice::Gguf(entry) => {
            let file = entry.name.rsplit('/').next().unwrap_or(&entry.name);
            file.trim_end_matches(".gguf")
        }
        Choice::Folder { .. } => &address.name,
    }
}

/// One model on its way.
struct Fetching<'a> {
    hub: &'a Hub,
    address: &'a Address,
    listing: &'a Listing,
    partial: &'a Partial,
    /// Of each file that is here.
    sha256: BTreeMap<String, String>,
    bar: ProgressBar,
}

impl Fetching<'_> {
    async fn gguf(&mut self, entry: &Entry) -> Result<Plan, AddError> {
        self.all(std::slice::from_ref(entry)).await?;
        let mut plan = plan(&self.partial.folder().join(&entry.name))?;
        let sha256 = self.sha256.remove(&entry.name);
        plan.parts[0].moved = sha256;
        Ok(plan)
    }

    async fn folder(&mut self, small: &[Entry], one: Option<&Entry>) -> Result<Plan, AddError> {
        let folder = self.partial.folder();
        self.all(small).await?;
        let config = folder.join(parts::CONFIG);
        let config = std::fs::read(&config).map_err(|source| HubError::Write {
            path: config,
            source,
        })?;
        families::from_config(&config).map_err(|e| AddError::Unusable(e.to_string()))?;
        match one {
            Some(entry) => self.all(std::slice::from_ref(entry)).await?,
            None => self.all(&self.shards(small.len())?).await?,
        }
        let mut plan = plan(folder)?;
        for part in &mut plan.parts {
            part.moved = self.sha256.remove(&part.to);
        }
        Ok(plan)
    }

    /// The files of weights that the index names, as the listing has them; `others` are there besides.
    fn shards(&self, others: usize) -> Result<Vec<Entry>, AddError> {
        let names = parts::shards(self.partial.folder()).map_err(AddError::Unusable)?;
        if names.len() + others > FILES_MAX {
            return Err(AddError::Unusable(format!(
                "it has {} files, and {FILES_MAX} are possible",
                names.len() + others
            )));
        }
        let entries = names.iter().map(|name| self.listing.entry(name));
        Ok(entries.collect::<Result<_, _>>()?)
    }

    /// Fetches these files, once there is room for all of them.
    async fn all(&mut self, entries: &[Entry]) -> Result<(), AddError> {
        let missing = |e: &Entry| e.bytes.saturating_sub(self.partial.has(&e.name));
        self.partial.room(entries.iter().map(missing).sum())?;
        self.bar
            .inc_length(entries.iter().map(|entry| entry.bytes).sum());
        for entry in entries {
            let path = self.partial.folder().join(&entry.name);
            let (before, bar) = (self.bar.position(), &self.bar);
            let mut tell = |told: Told<'_>| tell(bar, before, told);
            let from = (self.address, self.listing);
            let sha256 = fetch(self.hub, from, entry, &path, &mut tell).await?;
            self.sha256.insert(entry.name.clone(), sha256);
        }
        Ok(())
    }
}

/// A bar on a terminal; elsewhere a line for each file.
fn tell(bar: &ProgressBar, before: u64, told: Told<'_>) {
    let line = match told {
        Told::Have(bytes) => return bar.set_position(before + bytes),
        Told::File(entry) => format!("fetching {} ({})", entry.name, output::bytes(entry.bytes)),
        Told::Again(error) => format!("trying again: {error}"),
    };
    match bar.is_hidden() {
        true => eprintln!("{line}"),
        false => bar.println(line),
    }
}
