//! What the scheduler may ask about models, and what it is told of them: which there are, read again
//! when it says so, and which of them are in memory.
//!
//! Reading the folder again means hashing what is new or changed. That goes on a piece at a time
//! between everything else, so that no signal, spawn or death waits for it. The old catalogue is in
//! force until then, and stays if the folder cannot be read.

use super::Life;
use crate::{
    launcher::{
        catalog::{CatalogError, Reload},
        worker::{self, Kind, SpawnError},
    },
    models,
};
use bulkhead_proto::internal::{
    LoadModel, ModelDropped, ModelLoading, ModelNews, Models, ReloadFailed,
    from_launcher::Message as Tell, model_news::State as Stage,
};
use std::{ops::ControlFlow, time::Instant};

/// Bytes that are hashed before anything else gets its turn again: some milliseconds.
const HASHED_PER_TURN_BYTES: u64 = 4 << 20;

impl Life<'_> {
    /// Says which models there are, and what is wrong with them. `Models` of as many as are possible
    /// fit into a packet, and a new scheduler's socket holds all of this.
    pub(super) fn tell_models(&mut self) {
        let models = self.setup.catalog.borrow().offered();
        self.tell(Tell::Models(Models { models }), None);
        let catalog = &self.setup.catalog;
        let faults: Vec<_> = (catalog.borrow().faults())
            .take(super::FAULTS_TOLD_MAX)
            .map(Into::into)
            .collect();
        for fault in faults {
            self.tell(Tell::ModelFault(fault), None);
        }
    }

    /// Begins to read the models' folder again.
    pub(super) fn reload(&mut self) {
        if self.reload.is_some() {
            return self.reload_failed("the models are being read already; wait for that".into());
        }
        match models::load_all(&self.setup.config) {
            Ok(manifests) => {
                let reload = Reload::new(manifests, &self.setup.catalog.borrow());
                self.reload = Some(reload);
            }
            Err(why) => self.reload_failed(why.to_string()),
        }
    }

    fn reload_failed(&mut self, reason: String) {
        tracing::warn!("the models stay as they were: {reason}");
        self.tell(Tell::ReloadFailed(ReloadFailed { reason }), None);
    }

    /// Goes on with reading the folder, if that is going on.
    pub(super) fn go_on_reloading(&mut self, now: Instant) {
        let Some(reload) = self.reload.take() else {
            return;
        };
        match reload.advance(HASHED_PER_TURN_BYTES) {
            ControlFlow::Break(catalog) => {
                for model in self.templates.models() {
                    if catalog.digest(&model.0) != Some(&model.1) {
                        self.templates
                            .retire(&model.0, "its model was replaced or removed", now);
                    }
                }
                self.keepers
                    .retire(|model, digest| catalog.digest(model) == Some(digest));
                self.templates.forgive();
                self.keepers.forgive();
                self.setup.catalog.replace(catalog);
                self.tell_models();
            }
            ControlFlow::Continue(mut reload) => {
                if let Some((model, done_bytes, total_bytes)) = reload.news() {
                    let state = Stage::Loading(ModelLoading {
                        phase: "hashing".into(),
                        done_bytes,
                        total_bytes,
                    });
                    self.tell_news(model, state);
                }
                self.reload = Some(reload);
            }
        }
    }

    /// Has a model loaded ahead of its workers.
    pub(super) fn load_model(&mut self, ask: &LoadModel, now: Instant) {
        let dropped = match self.try_load(ask, now) {
            Ok(()) => return self.tell_stage_of(&ask.model),
            Err(error) => error,
        };
        if let Some(fault) = dropped.fault() {
            self.templates
                .retire(&ask.model, "its model cannot be served any more", now);
            self.tell(Tell::ModelFault(fault), None);
        }
        let state = Stage::Dropped(ModelDropped {
            reason: dropped.to_string(),
            permanent: dropped.permanent(),
        });
        self.tell_news(ask.model.clone(), state);
    }

    fn try_load(&mut self, ask: &LoadModel, now: Instant) -> Result<(), SpawnError> {
        if worker::kind(&ask.device)? == Kind::Gpu {
            return Err(SpawnError::NotAhead);
        }
        let catalog = self.setup.catalog.borrow();
        let opened = catalog.open_for_nobody(&ask.model)?;
        if !self.setup.config.worker.share_weights {
            return Err(CatalogError::NotShared.into());
        }
        let how = self.setup.how(&self.setup.programs.worker);
        Ok(self.templates.keep(&ask.device, &opened, how, now)?)
    }

    fn tell_stage_of(&mut self, model: &str) {
        let stage = self.templates.stages().find(|(name, _)| *name == model);
        if let Some((_, stage)) = stage {
            self.told.insert(model.into(), stage.clone());
            self.tell_news(model.to_owned(), stage);
        }
    }

    /// Tells what has become of models since it was told last.
    pub(super) fn tell_stages(&mut self) {
        let new = |(model, stage): (&str, Stage)| {
            (self.told.get(model) != Some(&stage)).then(|| (model.to_owned(), stage))
        };
        let news: Vec<_> = self.templates.stages().filter_map(new).collect();
        for (model, stage) in news {
            self.told.insert(model.clone(), stage.clone());
            self.tell_news(model, stage);
        }
    }

    /// A model is not in memory any more, unless the next template of it lives already.
    pub(super) fn dropped(&mut self, model: String, reason: String, permanent: bool) {
        if self.templates.stages().all(|(name, _)| name != model) {
            self.told.remove(&model);
            let state = Stage::Dropped(ModelDropped { reason, permanent });
            self.tell_news(model, state);
        }
    }

    fn tell_news(&mut self, model: String, state: Stage) {
        let state = Some(state);
        self.tell(Tell::ModelNews(ModelNews { model, state }), None);
    }
}
