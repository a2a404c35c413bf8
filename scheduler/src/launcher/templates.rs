//! All templates: one for each model and device that workers are asked for.
//!
//! A template lives while its model has workers, and a little longer. It ends when a file of its model
//! is not the one that it read, so that no later worker serves what was replaced; workers that run
//! already keep what they have. All end with the scheduler that asked for them: the next one begins
//! with nothing of the last. Where one failed the next waits, and longer each time.

use super::{
    catalog::Opened,
    outcome::{End, Outcome, Why},
    pauses::{Identity, Key, Pauses},
    sys,
    template::Template,
    users::Blocks,
    worker::How,
};
use bulkhead_proto::internal::model_news::State as Stage;
use nix::unistd::Pid;
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io,
    os::fd::{BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// Why a template was not asked for a worker.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Those before it failed.
    #[error("the process that holds this model failed, and the next one starts in {0:?}")]
    Paused(Duration),
    /// One before it refused the model as it is.
    #[error("{0}")]
    Refused(String),
    /// The bound on keepers; it passes when some end.
    #[error("{0} processes hold weights on GPUs, and no more are allowed")]
    TooMany(usize),
    /// The machine refused something.
    #[error("no process that holds this model can be started: {0}")]
    Io(#[from] io::Error),
}

/// The templates of one life.
pub struct Templates {
    live: BTreeMap<Key, Template>,
    /// Killed and not yet buried.
    ending: Vec<Template>,
    /// Workers that nobody wants any more, killed and not yet buried.
    unwanted: Vec<Pid>,
    pauses: Pauses,
    blocks: Blocks,
}

impl Templates {
    /// None yet. `seed` spreads what has to wait.
    pub fn new(seed: u64) -> Templates {
        Templates {
            live: BTreeMap::new(),
            ending: Vec::new(),
            unwanted: Vec::new(),
            pauses: Pauses::new(seed),
            blocks: Blocks::new(seed),
        }
    }

    /// Users for a worker that is no template's.
    pub fn give_block(&mut self) -> Option<u32> {
        self.blocks.give()
    }

    /// Asks for a worker of a model whose files are open; starts a template where there is none of
    /// that very model. Comes back with one where one is there already.
    pub fn ask(
        &mut self,
        worker: u64,
        device: &str,
        opened: &Opened<'_>,
        how: How<'_>,
        now: Instant,
    ) -> Result<Option<(Pid, OwnedFd)>, AskError> {
        let template = self.of(device, opened, how, now)?;
        if let Some(spare) = template.take_spare(now) {
            return Ok(Some(spare));
        }
        template.ask(worker, now)?;
        Ok(None)
    }

    /// Holds a model whose files are open, for workers to come, until it is let go.
    pub fn keep(
        &mut self,
        device: &str,
        opened: &Opened<'_>,
        how: How<'_>,
        now: Instant,
    ) -> Result<(), AskError> {
        self.of(device, opened, how, now)?.keep(true, now);
        Ok(())
    }

    /// Holds a model no longer than workers that were asked for need it.
    pub fn let_go(&mut self, model: &str, now: Instant) {
        let mut over = Vec::new();
        for (key, template) in self.live.iter_mut().filter(|(key, _)| key.0 == model) {
            template.keep(false, now);
            if template.expected().next().is_none() {
                over.push((key.clone(), Why::unneeded("it was unloaded")));
            }
        }
        self.end_some(over, now);
    }

    /// What failed before does not count any more: the operator has had the models read again.
    pub fn forgive(&mut self) {
        self.pauses.forgive();
    }

    /// Each model that a template holds or loads, and its digest.
    pub fn models(&self) -> Vec<(String, String)> {
        (self.live.iter())
            .map(|(key, template)| (key.0.clone(), template.digest().to_owned()))
            .collect()
    }

    /// What each model's template has come to.
    pub fn stages(&self) -> impl Iterator<Item = (&str, Stage)> {
        (self.live.iter()).map(|(key, template)| (key.0.as_str(), template.stage()))
    }

    /// The template of that very model; started where there is none.
    fn of(
        &mut self,
        device: &str,
        opened: &Opened<'_>,
        how: How<'_>,
        now: Instant,
    ) -> Result<&mut Template, AskError> {
        let key = (opened.manifest.name.clone(), device.to_owned());
        if (self.live.get(&key)).is_some_and(|template| template.digest() != opened.digest) {
            self.retire(&key.0, "its model was replaced", now);
        }
        Ok(match self.live.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let files = Identity::of(&opened.files);
                if let Some(reason) = self.pauses.refused(entry.key(), &files) {
                    return Err(AskError::Refused(reason.to_owned()));
                }
                if let Some(left) = self.pauses.left(entry.key(), now) {
                    return Err(AskError::Paused(left));
                }
                match Template::start(how, opened, self.blocks.give(), now) {
                    Ok(template) => entry.insert(template),
                    Err(error) => {
                        self.pauses.failed(entry.key(), Duration::ZERO, now);
                        return Err(error.into());
                    }
                }
            }
        })
    }

    /// Ends a model's templates; their workers live on.
    pub fn retire(&mut self, model: &str, why: &str, now: Instant) {
        let of_model = |key: &Key, _: &mut Template| key.0 == model;
        let retired: Vec<_> = self.live.extract_if(.., of_model).collect();
        for (key, template) in retired {
            self.end_one(&key, template, Why::unneeded(why), now);
        }
    }

    /// Numbers of the workers that were asked for and are not there yet.
    pub fn expected(&self) -> impl Iterator<Item = u64> {
        self.all().flat_map(Template::expected)
    }

    /// True while a child may exist that is not known yet.
    pub fn is_forking(&self) -> bool {
        self.live.values().any(Template::is_forking)
    }

    /// A worker that was asked for is not wanted any more. False where none of that number is expected.
    pub fn forget(&mut self, worker: u64) -> bool {
        let expected = self.expected().any(|number| number == worker);
        let all = self.live.values_mut().chain(&mut self.ending);
        all.for_each(|template| template.forget(worker));
        expected
    }

    /// A worker has ended.
    pub fn left(&mut self, worker: Pid, now: Instant) {
        for template in self.live.values_mut() {
            template.left(worker, now);
        }
    }

    /// All connections, to wait on.
    pub fn controls(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.live.values().map(Template::control)
    }

    /// All processes of these templates that are not workers.
    pub fn pids(&self) -> impl Iterator<Item = Pid> {
        (self.all().flat_map(Template::pids)).chain(self.unwanted.iter().copied())
    }

    /// When `tick` wants to be called at the latest.
    pub fn wake_at(&self) -> Option<Instant> {
        self.live.values().filter_map(Template::wake_at).min()
    }

    /// Takes what they say. `known` has all other children of the launcher.
    pub fn listen(&mut self, mut known: BTreeSet<Pid>, now: Instant) -> Vec<Outcome> {
        known.extend(self.pids());
        let mut outcomes = Vec::new();
        let mut over = Vec::new();
        for (key, template) in &mut self.live {
            if let Err(why) = template.listen(&mut known, now, &mut outcomes) {
                over.push((key.clone(), why));
            }
        }
        self.end_some(over, now);
        self.kill_unwanted(&mut outcomes);
        outcomes
    }

    fn kill_unwanted(&mut self, outcomes: &mut Vec<Outcome>) {
        outcomes.retain(|outcome| match outcome {
            Outcome::Unwanted { pid } => {
                sys::kill_now(*pid);
                self.unwanted.push(*pid);
                false
            }
            _ => true,
        });
    }

    /// Hears out and buries those that ended, and ends those whose time is over. `known` has all other
    /// children of the launcher.
    pub fn tick(&mut self, mut known: BTreeSet<Pid>, now: Instant) -> Vec<Outcome> {
        known.extend(self.pids());
        let mut outcomes = Vec::new();
        let mut over = Vec::new();
        for (key, template) in &mut self.live {
            template.bury_spares();
            // Since it was listened to last it may have said why, and ended.
            if sys::has_ended(template.pid()) {
                let why = template.last_words(&mut known, now, &mut outcomes);
                over.push((key.clone(), why));
            }
        }
        self.end_some(over, now);
        self.kill_unwanted(&mut outcomes);
        let late = |(key, template): (&Key, &Template)| Some((key.clone(), template.overdue(now)?));
        let late: Vec<_> = self.live.iter().filter_map(late).collect();
        self.end_some(late, now);
        self.unwanted.retain(|pid| sys::ended(*pid).is_none());
        self.ending
            .retain_mut(|template| !buried(template, &mut outcomes));
        outcomes
    }

    /// Ends them all.
    pub fn end(self) {
        let all = || self.live.values().chain(&self.ending);
        all().for_each(|template| sys::kill_group(template.pid()));
        all().flat_map(Template::pids).for_each(sys::kill_now);
        all().flat_map(Template::pids).for_each(sys::kill_and_wait);
        self.unwanted
            .iter()
            .for_each(|pid| sys::kill_and_wait(*pid));
    }

    fn all(&self) -> impl Iterator<Item = &Template> {
        self.live.values().chain(&self.ending)
    }

    fn end_some(&mut self, some: Vec<(Key, Why)>, now: Instant) {
        for (key, why) in some {
            if let Some(template) = self.live.remove(&key) {
                self.end_one(&key, template, why, now);
            }
        }
    }

    fn end_one(&mut self, key: &Key, mut template: Template, why: Why, now: Instant) {
        let life = template.life(now);
        match why.end {
            End::Unneeded => self.pauses.ended(key, life),
            End::Failed => self.pauses.failed(key, life, now),
            End::Refused => {
                let files = template.take_identity();
                self.pauses.refuse(key, files, &why.reason);
            }
        }
        for spare in template.take_spares() {
            sys::kill_now(spare);
            self.unwanted.push(spare);
        }
        template.end(why);
        self.ending.push(template);
    }
}

/// Buries a template if it has ended.
fn buried(template: &mut Template, outcomes: &mut Vec<Outcome>) -> bool {
    let Some(how) = sys::ended(template.pid()) else {
        return false;
    };
    template.bury(how, outcomes);
    true
}
