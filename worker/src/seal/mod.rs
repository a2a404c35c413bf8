//! The seal: what a worker process gives up, layer by layer, and which layers this machine granted.
//!
//! Two moments, two types. [`restrict`] runs first, while the process has one thread, because Landlock
//! and namespaces cover only threads that are made later; it takes away files, networks, privileges
//! and core dumps, and leaves what loading a model needs: threads, and the descriptors that are open.
//! [`Restricted::lock`] runs once the model is loaded and all threads exist, and leaves computing, a
//! clock, anonymous memory, and the one socket.
//!
//! A worker on a GPU has one moment more. [`restrict_for_gpu`] leaves it what opening the GPU takes, and
//! [`Opening::give_up_files`] takes that too, before a model is read.
//!
//! Nothing here decides whether a missing layer is acceptable: it reports, and the scheduler's list of
//! required layers decides. No layer is ever reported that the kernel did not confirm.

mod files;
mod gpu;
mod landlock;
mod limits;
mod names;
mod namespaces;
mod privileges;
mod probe;
mod reach;
mod seccomp;
mod users;

pub use files::close_all_but;
pub use gpu::Reach;
pub use namespaces::Apart;
pub use probe::{probe, to_json};
use reach::Devices;
use users::Mapped;

/// When the machine runs out of memory, workers end first, and nothing of the scheduler's.
pub const OOM_SCORE: &str = "oom_score";
/// No gain of privileges by any exec, ever.
pub const NO_NEW_PRIVS: &str = "no_new_privs";
/// No file can be opened by its path.
pub const LANDLOCK: &str = "landlock";
/// No TCP port can be bound or connected to.
pub const LANDLOCK_NET: &str = "landlock_net";
/// No signal to, and no abstract socket of, a process outside.
pub const LANDLOCK_SCOPE: &str = "landlock_scope";
/// An empty network namespace, of its own or of the workers of its model.
pub const NETNS: &str = "netns";
/// A user namespace of its own, so that no power over anything outside can be gained.
pub const USERNS: &str = "userns";
/// An empty file system in the place of the machine's, its own or that of the workers of its model.
pub const MNTNS: &str = "mntns";
/// No shared memory, semaphore or message queue of the machine is in sight.
pub const IPCNS: &str = "ipcns";
/// The host's name cannot be changed.
pub const UTSNS: &str = "utsns";
/// No process is in sight but itself.
pub const PIDNS: &str = "pidns";
/// A user that no other process is, and that owns no file.
pub const OWN_UID: &str = "own_uid";
/// No call that reaches into another process, or a terminal, from before a model is read.
pub const REACH: &str = "reach";
/// No capability, in any set.
pub const NO_CAPABILITIES: &str = "no_capabilities";
/// No core dump, no ptrace and no reading of its memory by others of the same user.
pub const NON_DUMPABLE: &str = "non_dumpable";
/// Nothing written to files, no new descriptor, no new process.
pub const RLIMITS: &str = "rlimits";
/// No inherited descriptor but the ones that it was given by name.
pub const CLOSED_FDS: &str = "closed_fds";
/// System calls are down to computing on what is there already.
pub const SECCOMP: &str = "seccomp";
/// There is no way to a network: there is none in sight, or no call that makes a socket.
pub const NO_NETWORK: &str = "no_network";

/// All names that a seal can report, in the order of applying.
pub const LAYERS: [&str; 19] = [
    OOM_SCORE,
    NO_NEW_PRIVS,
    USERNS,
    NETNS,
    IPCNS,
    UTSNS,
    MNTNS,
    OWN_UID,
    PIDNS,
    REACH,
    LANDLOCK,
    LANDLOCK_NET,
    LANDLOCK_SCOPE,
    NO_CAPABILITIES,
    NON_DUMPABLE,
    CLOSED_FDS,
    RLIMITS,
    SECCOMP,
    NO_NETWORK,
];

/// One layer, and what the kernel said to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerStatus {
    /// One of [`LAYERS`].
    pub name: &'static str,
    /// True where it is in force.
    pub available: bool,
    /// Why it is not, or how far it goes.
    pub detail: String,
}

impl LayerStatus {
    fn of(name: &'static str, outcome: Result<String, String>) -> Self {
        let available = outcome.is_ok();
        LayerStatus {
            name,
            available,
            detail: outcome.unwrap_or_else(|why| why),
        }
    }
}

/// A process that has given up files, networks and privileges, and can still start threads.
#[derive(Debug)]
pub struct Restricted {
    layers: Vec<LayerStatus>,
    /// Who is in its user namespace, where it has entered one itself.
    mapped: Option<Mapped>,
    /// What it may go on speaking to.
    devices: Devices,
}

/// A process that is restricted but for what it needs to open its GPU.
#[derive(Debug)]
pub struct Opening {
    layers: Vec<LayerStatus>,
    reach: Result<String, String>,
    left: Result<(), String>,
}

/// A process that can compute and speak through sockets that it has, and nothing else.
#[derive(Debug)]
pub struct Sealed {
    layers: Vec<LayerStatus>,
}

/// Applies the layers that must come before any thread exists, to a worker. `block` numbers the users that are its own, where
/// the launcher may give any.
pub fn restrict(block: Option<u32>) -> Restricted {
    restrict_in(|| namespaces::enter(block), false)
}

/// As [`restrict`], to a worker that has a GPU to open: leaves it that, and what it takes.
pub fn restrict_for_gpu(block: Option<u32>, reach: &Reach) -> Opening {
    let (mut layers, _) = unprivileged(|| namespaces::enter_for_gpu(block));
    let filtered = reach::restrict(Devices::Gpu);
    let left = landlock::leave(reach);
    layers.extend(no_power(0));
    Opening {
        layers,
        reach: filtered,
        left,
    }
}

/// As [`restrict`], to a template: where it may have users for its workers, it keeps what it takes to become them.
pub fn restrict_template(block: Option<u32>) -> Restricted {
    restrict_in(|| namespaces::enter(block), true)
}

/// In the go-between of a template, before the worker is forked from it: what a worker cannot do for itself. `user` is
/// one of the template's block.
pub fn apart(template: &Restricted, user: Option<u32>) -> Apart {
    namespaces::enter_apart(user, template.mapped)
}

/// Applies them once more, in a process that was forked from a restricted one. Where the machine
/// grants it, what the two shared is its own afterwards: namespaces, a Landlock domain. What
/// cannot be had a second time is in force as the template has it, and says so.
pub fn restrict_again(template: &Restricted, apart: Apart) -> Restricted {
    let mut again = restrict_in(|| (namespaces::enter_again(apart), None), false);
    for layer in &mut again.layers {
        // Whose it is cannot be had from another.
        if layer.name != OWN_UID && !layer.available && template.has(layer.name) {
            layer.available = true;
            layer.detail = format!(
                "its model's template's, since it cannot be had twice ({})",
                layer.detail
            );
        }
    }
    again
}

fn restrict_in(
    enter: impl FnOnce() -> (Vec<LayerStatus>, Option<Mapped>),
    is_template: bool,
) -> Restricted {
    let (mut layers, mapped) = unprivileged(enter);
    layers.push(LayerStatus::of(REACH, reach::restrict(Devices::None)));
    layers.extend(landlock::restrict(Ok(())));
    let kept = match (is_template, mapped) {
        (true, Some(Mapped::Block { .. })) => privileges::BECOMING_ANOTHER,
        _ => 0,
    };
    layers.extend(no_power(kept));
    Restricted {
        layers,
        mapped,
        devices: Devices::None,
    }
}

/// What comes before the namespaces, and they.
fn unprivileged(
    enter: impl FnOnce() -> (Vec<LayerStatus>, Option<Mapped>),
) -> (Vec<LayerStatus>, Option<Mapped>) {
    let mut layers = vec![
        LayerStatus::of(OOM_SCORE, limits::end_first()),
        LayerStatus::of(NO_NEW_PRIVS, privileges::no_new_privs()),
    ];
    let (entered, mapped) = enter();
    layers.extend(entered);
    (layers, mapped)
}

/// No capability but these, and nobody to read its memory.
fn no_power(kept: u32) -> [LayerStatus; 2] {
    [
        LayerStatus::of(NO_CAPABILITIES, privileges::drop_capabilities(kept)),
        LayerStatus::of(NON_DUMPABLE, privileges::non_dumpable()),
    ]
}

impl Opening {
    /// Once the GPU is open: takes all that opening it took. What threads there are by now lose every call that takes a
    /// name, and this one, with those that it makes, the right to any.
    pub fn give_up_files(mut self) -> Restricted {
        let reach = self.reach.and_then(|how| {
            names::give_up()?;
            Ok(format!("{how}; no call that takes a name, on all threads"))
        });
        self.layers.push(LayerStatus::of(REACH, reach));
        self.layers.extend(landlock::restrict(self.left));
        Restricted {
            layers: self.layers,
            mapped: None,
            devices: Devices::Gpu,
        }
    }
}

impl Restricted {
    /// Notes how closing the inherited descriptors went (see [`close_all_but`]).
    pub fn closed_descriptors(&mut self, outcome: Result<String, String>) {
        self.layers.push(LayerStatus::of(CLOSED_FDS, outcome));
    }

    /// Applies the rest, to all threads. Afterwards no thread, file or socket can be made.
    pub fn lock(mut self) -> Sealed {
        self.layers.push(LayerStatus::of(RLIMITS, limits::lock()));
        let seccomp = LayerStatus::of(SECCOMP, seccomp::lock(self.devices));
        let unreachable = seccomp.available || self.has(NETNS);
        self.layers.push(seccomp);
        let no_network = if unreachable {
            Ok("no call makes a socket, or no network is in sight".to_owned())
        } else {
            Err("neither seccomp nor an own network namespace is in force".to_owned())
        };
        self.layers.push(LayerStatus::of(NO_NETWORK, no_network));
        Sealed {
            layers: self.layers,
        }
    }

    fn has(&self, name: &str) -> bool {
        self.layers
            .iter()
            .any(|layer| layer.name == name && layer.available)
    }

    /// What was tried so far.
    pub fn layers(&self) -> &[LayerStatus] {
        &self.layers
    }
}

impl Sealed {
    /// What was tried.
    pub fn layers(&self) -> &[LayerStatus] {
        &self.layers
    }

    /// Names of the layers in force.
    pub fn applied(&self) -> Vec<String> {
        let applied = self.layers.iter().filter(|layer| layer.available);
        applied.map(|layer| layer.name.to_owned()).collect()
    }

    /// The required layers that are not in force, each with the reason; empty is good.
    pub fn missing(&self, required: &[String]) -> Vec<String> {
        required
            .iter()
            .filter_map(|name| self.why_missing(name))
            .collect()
    }

    fn why_missing(&self, name: &str) -> Option<String> {
        match self.layers.iter().find(|layer| layer.name == name) {
            Some(layer) if layer.available => None,
            Some(layer) => Some(format!("{name} ({})", layer.detail)),
            None => Some(format!("{name} (this worker knows no such layer)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_unknown_required_layer_is_named_with_its_reason() {
        let layers = vec![
            LayerStatus::of(SECCOMP, Ok(String::new())),
            LayerStatus::of(LANDLOCK, Err("kernel too old".to_owned())),
        ];
        let sealed = Sealed { layers };
        assert_eq!(sealed.applied(), [SECCOMP]);
        assert!(sealed.missing(&[SECCOMP.to_owned()]).is_empty());
        let missing = sealed.missing(&[LANDLOCK.to_owned(), "moat".to_owned()]);
        assert_eq!(missing.len(), 2);
        assert!(missing[0].contains("kernel too old") && missing[1].contains("moat"));
    }
}
