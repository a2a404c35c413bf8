//! All keepers: one for each model and GPU that workers are asked for.
//!
//! A keeper lives while its model has workers, and a little longer. When one ends for another reason than that nobody
//! needs it, all that were given its memory end with it. One whose model was replaced gets no more workers, and ends
//! with its last. All end with the scheduler that asked for them. Where one failed the next waits, and longer each time.

use super::{
    catalog::Opened,
    keeper::{Handles, Keeper},
    outcome::{End, Why},
    pauses::{Identity, Key, Pauses},
    sys,
    templates::AskError,
    worker::{How, On},
};
use bulkhead_proto::internal::{SpawnFailed, SpawnWorker, WeightsChanged};
use nix::unistd::Pid;
use std::{
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

/// Keepers at once: far more than any machine has GPUs.
const KEEPERS_MAX: usize = 64;

/// What became of workers that keepers were asked for, and of keepers' weights.
#[derive(Debug)]
pub enum News {
    /// The weights are there: it can be asked for again.
    Ready(SpawnWorker),
    /// It will not be.
    Failed(SpawnFailed),
    /// Weights were changed; their workers were killed.
    Changed(WeightsChanged),
}

/// The keepers of one life.
pub struct Keepers {
    live: Vec<Keeper>,
    /// Killed and not yet buried.
    ending: Vec<Pid>,
    pauses: Pauses,
    news: Vec<News>,
}

impl Keepers {
    /// None yet. `seed` spreads what has to wait.
    pub fn new(seed: u64) -> Keepers {
        Keepers {
            live: Vec::new(),
            ending: Vec::new(),
            pauses: Pauses::new(seed),
            news: Vec::new(),
        }
    }

    /// What the worker that is asked for is to be given, if that is there; else it waits for it. Starts a keeper where
    /// there is none of that very model.
    pub fn ask(
        &mut self,
        ask: &SpawnWorker,
        on: On<'_>,
        opened: &Opened<'_>,
        how: How<'_>,
        (block, now): (Option<u32>, Instant),
    ) -> Result<Option<&Handles>, AskError> {
        let key = key(ask, on);
        self.retire(|model, digest| model != ask.model || digest == opened.digest);
        let of_key = |keeper: &Keeper| !keeper.retired && *keeper.key() == key;
        let at = match self.live.iter().position(of_key) {
            Some(at) => at,
            None => {
                if self.live.len() + self.ending.len() >= KEEPERS_MAX {
                    return Err(AskError::TooMany(KEEPERS_MAX));
                }
                let files = Identity::of(&opened.files);
                if let Some(reason) = self.pauses.refused(&key, &files) {
                    return Err(AskError::Refused(reason.to_owned()));
                }
                if let Some(left) = self.pauses.left(&key, now) {
                    return Err(AskError::Paused(left));
                }
                let started = Keeper::start(how, on, key.clone(), opened, (block, now));
                let keeper =
                    started.inspect_err(|_| self.pauses.failed(&key, Duration::ZERO, now))?;
                self.hold(keeper);
                self.live.len() - 1
            }
        };
        let keeper = &mut self.live[at];
        if keeper.handles().is_none() {
            keeper.wait(ask.clone());
        }
        Ok(keeper.handles())
    }

    /// Takes charge of a keeper.
    pub fn hold(&mut self, keeper: Keeper) {
        self.live.push(keeper);
    }

    /// A worker was given what `ask` answered last. Whose it is.
    pub fn gave(&mut self, ask: &SpawnWorker, on: On<'_>, pid: Pid) -> Option<Pid> {
        let key = key(ask, on);
        let of_ask = |keeper: &&mut Keeper| !keeper.retired && *keeper.key() == key;
        let keeper = self.live.iter_mut().find(of_ask)?;
        keeper.gave(ask.worker, pid);
        Some(keeper.pid())
    }

    /// Those whose model and digest do not pass get no more workers.
    pub fn retire(&mut self, passes: impl Fn(&str, &str) -> bool) {
        for keeper in &mut self.live {
            if keeper.retired || passes(&keeper.key().0, keeper.digest()) {
                continue;
            }
            keeper.retired = true;
            let waiting = keeper.take_waiting().into_iter();
            let reason = "its model was replaced or removed while it was loaded";
            self.news
                .extend(waiting.map(|ask| failed(&ask, &Why::failed(reason))));
        }
    }

    /// What failed before does not count any more.
    pub fn forgive(&mut self) {
        self.pauses.forgive();
    }

    /// Numbers of the workers that wait.
    pub fn expected(&self) -> impl Iterator<Item = u64> {
        self.live.iter().flat_map(Keeper::expected)
    }

    /// A worker is not wanted any more. False where none of that number waits.
    pub fn forget(&mut self, worker: u64) -> bool {
        let expected = self.expected().any(|number| number == worker);
        for keeper in &mut self.live {
            keeper.forget(worker);
        }
        expected
    }

    /// A worker has ended.
    pub fn left(&mut self, pid: Pid, now: Instant) {
        for keeper in &mut self.live {
            keeper.left(pid, now);
        }
    }

    /// All connections, to wait on.
    pub fn controls(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.live.iter().map(Keeper::control)
    }

    /// All keepers' processes.
    pub fn pids(&self) -> impl Iterator<Item = Pid> {
        let live = self.live.iter().map(Keeper::pid);
        live.chain(self.ending.iter().copied())
    }

    /// When `tick` wants to be called at the latest.
    pub fn wake_at(&self) -> Option<Instant> {
        self.live.iter().map(Keeper::wake_at).min()
    }

    /// Takes what they say, and ends those whose time is over or who have ended.
    pub fn tick(&mut self, now: Instant) -> Vec<News> {
        self.ending.retain(|pid| sys::ended(*pid).is_none());
        let mut at = 0;
        while let Some(keeper) = self.live.get_mut(at) {
            let waited = keeper.handles().is_none();
            let heard = keeper.listen(now);
            if waited && keeper.handles().is_some() {
                self.news
                    .extend(keeper.take_waiting().into_iter().map(News::Ready));
            }
            let over = match heard {
                Ok(()) => keeper.overdue(now).map(|why| (why, None)),
                Err(over) => Some(over),
            };
            match over {
                Some((why, changed)) => {
                    self.news.extend(changed.map(News::Changed));
                    let keeper = self.live.remove(at);
                    self.end_one(keeper, &why, now);
                }
                None => at += 1,
            }
        }
        std::mem::take(&mut self.news)
    }

    fn end_one(&mut self, mut keeper: Keeper, why: &Why, now: Instant) {
        let (key, life) = (keeper.key().clone(), keeper.life(now));
        match why.end {
            End::Unneeded => self.pauses.ended(&key, life),
            End::Failed => self.pauses.failed(&key, life, now),
            End::Refused => {
                let files = keeper.take_identity();
                self.pauses.refuse(&key, files, &why.reason);
            }
        }
        let waiting = keeper.take_waiting();
        self.news.extend(waiting.iter().map(|ask| failed(ask, why)));
        keeper.end(why);
        self.ending.push(keeper.pid());
    }

    /// Ends them all. Their workers are the caller's. Answers with those that hang.
    pub fn end(self) -> Vec<Pid> {
        sys::end_all(&self.pids().collect::<Vec<_>>())
    }
}

/// By its unique id, since what else a GPU is called is the scheduler's to say.
fn key(ask: &SpawnWorker, on: On<'_>) -> Key {
    let device = match on {
        On::Processor => ask.device.clone(),
        On::Gpu { uuid, .. } => uuid.to_owned(),
    };
    (ask.model.clone(), device)
}

fn failed(ask: &SpawnWorker, why: &Why) -> News {
    News::Failed(SpawnFailed {
        worker: ask.worker,
        reason: why.reason.clone(),
        permanent: why.end == End::Refused,
        fault: why.fault.as_deref().cloned(),
        wait_ns: 0,
    })
}
