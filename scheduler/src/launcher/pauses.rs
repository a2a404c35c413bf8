//! Which models' templates are not started just now, because those before them failed, and for how long;
//! and which not at all, because one refused its model as it is.
//!
//! The pause is the model's: whoever asks meanwhile is told at once how long it lasts, so that a model
//! that cannot be loaded costs a bounded number of loads, however many tenants ask for it. Nothing here
//! starts or ends a process; time and seed come as arguments.

use super::backoff::Backoff;
use nix::sys::stat::fstat;
use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// A model's name and a device's.
pub type Key = (String, String);

/// The failures of all templates. Bounded by the models and devices that there are.
pub struct Pauses {
    seed: u64,
    known: BTreeMap<Key, Pause>,
    refused: BTreeMap<Key, Refusal>,
}

/// A model that was refused, by what its files were then.
struct Refusal {
    files: Vec<Identity>,
    reason: String,
}

/// What makes a file the same file.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity([i64; 4], u64, u64);

impl Identity {
    /// Of each of these files, as far as the kernel says it.
    pub fn of(files: &[OwnedFd]) -> Vec<Identity> {
        let stats = files.iter().filter_map(|file| fstat(file).ok());
        stats
            .map(|s| {
                let times = [s.st_mtime, s.st_mtime_nsec, s.st_ctime, s.st_ctime_nsec];
                Identity(times, s.st_dev, s.st_ino)
            })
            .collect()
    }
}

struct Pause {
    backoff: Backoff,
    until: Instant,
}

impl Pauses {
    /// None yet. `seed` spreads the pauses of several models.
    pub fn new(seed: u64) -> Pauses {
        Pauses {
            seed,
            known: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// How long no template of this model and device is to be started; `None` where one may be now.
    pub fn left(&self, key: &Key, now: Instant) -> Option<Duration> {
        let until = self.known.get(key)?.until;
        let left = until.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Forgets all failures and refusals.
    pub fn forgive(&mut self) {
        self.known.clear();
        self.refused.clear();
    }

    /// A template failed that had been of use for `life`, zero where it never was.
    pub fn failed(&mut self, key: &Key, life: Duration, now: Instant) {
        let seed = self.seed ^ hash(key);
        let pause = self.known.entry(key.clone()).or_insert_with(|| Pause {
            backoff: Backoff::of_template(seed),
            until: now,
        });
        let wait = pause.backoff.after(life);
        pause.until = now + wait;
        let (failures, wait_ms) = (pause.backoff.failures(), wait.as_millis());
        tracing::warn!(
            model = key.0,
            failures,
            wait_ms,
            "a template failed; the next one waits"
        );
    }

    /// A template refused its model, whose files were these: every other would.
    pub fn refuse(&mut self, key: &Key, files: Vec<Identity>, reason: &str) {
        let reason = reason.to_owned();
        self.refused.insert(key.clone(), Refusal { files, reason });
    }

    /// Why no template of this model is to be started while its files are these, if none is.
    pub fn refused(&self, key: &Key, files: &[Identity]) -> Option<&str> {
        let refusal = self.refused.get(key)?;
        (refusal.files == files).then_some(refusal.reason.as_str())
    }

    /// A template was ended that had been of use for `life`.
    pub fn ended(&mut self, key: &Key, life: Duration) {
        if let Some(pause) = self.known.get_mut(key) {
            pause.backoff.ended(life);
        }
    }
}

fn hash(key: &Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_paused_alone_and_for_longer_each_time() {
        let (mut pauses, now) = (Pauses::new(7), Instant::now());
        let key = |model: &str| (model.to_owned(), "cpu".to_owned());
        assert_eq!(pauses.left(&key("m"), now), None);
        let mut lefts = Vec::new();
        for _ in 0..3 {
            pauses.failed(&key("m"), Duration::ZERO, now);
            lefts.extend(pauses.left(&key("m"), now));
        }
        assert!(lefts[2] > lefts[0] && lefts.len() == 3, "{lefts:?}");
        assert_eq!(pauses.left(&key("n"), now), None);
        assert_eq!(pauses.left(&key("m"), now + lefts[2]), None);
        pauses.ended(&key("m"), Duration::from_secs(60));
        pauses.failed(&key("m"), Duration::ZERO, now);
        assert_eq!(pauses.left(&key("m"), now), Some(lefts[0]));
    }

    #[test]
    fn a_refusal_holds_until_a_file_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        let identity = |text: &str| {
            std::fs::write(dir.path().join("new"), text).unwrap();
            std::fs::rename(dir.path().join("new"), &path).unwrap();
            let again = || OwnedFd::from(std::fs::File::open(&path).unwrap());
            assert_eq!(Identity::of(&[again()]), Identity::of(&[again()]));
            Identity::of(&[again()])
        };
        let (mut pauses, key) = (Pauses::new(7), ("m".to_owned(), "cpu".to_owned()));
        let (before, other) = (identity("a"), ("n".to_owned(), "cpu".to_owned()));
        assert_eq!(pauses.refused(&key, &before), None);
        pauses.refuse(&key, identity("a"), "bad");
        let now = Identity::of(&[std::fs::File::open(&path).unwrap().into()]);
        assert_eq!(pauses.refused(&key, &now), Some("bad"));
        assert_eq!(pauses.refused(&other, &now), None);
        assert_eq!(pauses.refused(&key, &identity("b")), None);
    }
}
