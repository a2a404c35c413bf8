//! Control groups: each worker, and each process that holds a model, in one of its own, so that none takes more
//! memory or has more threads than it may, whoever's they are and whatever it shares.
//!
//! Limits of a process (`sys::bound_memory`) do not see what it copies of memory that it shared, and a process that
//! reads a model's files may have children. A group's limit covers all of that, and keeps it out of swap. Groups are
//! made in a folder of this launcher's below its own group, where that may be; which machine grants it is told once.
//! Nothing here starts or ends a process.

mod find;

use crate::config::{CGROUP_MEMORY, CGROUP_PIDS};
use find::{Controller, Own, own};
use nix::unistd::{AccessFlags, Pid, access, getpid};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// The seal's layers that are control groups: there is no other way to have them, and no worker can see to them itself.
pub const LAYERS: [&str; 2] = [CGROUP_MEMORY, CGROUP_PIDS];

/// What a launcher's folder begins with; its number follows.
const OURS: &str = "bulkhead-";
/// What the folder of the launcher itself ends with, where groups with processes may have no groups below.
const SELF: &str = "-launcher";
/// Whose members a group's are.
const MEMBERS: &str = "cgroup.procs";
/// Which controllers a group's groups have, of the second kind.
const PASSED_ON: &str = "cgroup.subtree_control";
/// Whatever a process has beside what it asks for: the kernel's own memory for it, pages of files that it reads.
const BESIDE_BYTES: u64 = 64 << 20;

/// What a group may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes; none where nothing can be said.
    pub memory_bytes: Option<u64>,
    /// Threads of all its processes.
    pub tasks: u64,
}

/// Where groups are made for a controller, and how limits are said there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tree {
    controller: Controller,
    /// The launcher's folder.
    folder: PathBuf,
    first_kind: bool,
}

impl Tree {
    /// Which file takes which limit, and whether a kernel may lack it.
    fn settings(&self, limits: Limits) -> Vec<(&'static str, String, bool)> {
        match (self.controller, self.first_kind) {
            (Controller::Tasks, _) => vec![("pids.max", limits.tasks.to_string(), false)],
            (Controller::Memory, first_kind) => {
                let Some(bytes) = limits.memory_bytes else {
                    return Vec::new();
                };
                let bytes = bytes.saturating_add(BESIDE_BYTES).to_string();
                match first_kind {
                    true => vec![
                        ("memory.limit_in_bytes", bytes, false),
                        ("memory.swappiness", "0".into(), true),
                    ],
                    false => vec![
                        ("memory.max", bytes, false),
                        ("memory.swap.max", "0".into(), true),
                    ],
                }
            }
        }
    }

    /// Sets a group's limits.
    fn set(&self, group: &Path, limits: Limits) -> io::Result<()> {
        for (file, value, may_lack) in self.settings(limits) {
            let set = fs::write(group.join(file), value);
            if !may_lack {
                set?;
            }
        }
        Ok(())
    }

    /// Where the kernel counts what it killed for memory.
    fn killed(&self) -> &'static str {
        match self.first_kind {
            true => "memory.oom_control",
            false => "memory.events",
        }
    }
}

/// A group that nobody is in yet: a folder in each tree.
pub struct Group {
    folders: Vec<PathBuf>,
}

/// What nobody is in goes with it.
impl Drop for Group {
    fn drop(&mut self) {
        self.folders.iter().for_each(|folder| {
            removed(folder);
        });
    }
}

impl Group {
    /// Where a process makes itself a member by writing `0`.
    pub fn doors(&self) -> io::Result<Vec<File>> {
        let open = |folder: &PathBuf| File::options().write(true).open(folder.join(MEMBERS));
        self.folders.iter().map(open).collect()
    }
}

/// All groups of this launcher. None where the machine grants none.
#[derive(Default)]
pub struct Groups {
    trees: Vec<Tree>,
    /// Of each process that is in one, its folders.
    members: BTreeMap<Pid, Group>,
    made: u64,
}

/// What the machine grants of a layer: a word on it, or why not.
pub type Granted = Result<String, String>;

/// What this machine would grant, asked without changing anything. Of a group of the second kind it is known only once it
/// is made whether other processes are in the way.
pub fn look() -> Vec<(&'static str, Granted)> {
    let (groups, mounts) = of_kernel();
    let ask = |controller: Controller| {
        let granted = own(controller, &groups, &mounts)
            .ok_or_else(|| "no such control group is in sight".to_owned())
            .and_then(|own| may_be_made(controller, &own));
        (layer(controller), granted)
    };
    Controller::ALL.into_iter().map(ask).collect()
}

/// The seal's layer that a controller is.
fn layer(controller: Controller) -> &'static str {
    match controller {
        Controller::Memory => CGROUP_MEMORY,
        Controller::Tasks => CGROUP_PIDS,
    }
}

fn of_kernel() -> (String, String) {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    (read("/proc/self/cgroup"), read("/proc/self/mountinfo"))
}

fn may_be_made(controller: Controller, own: &Own) -> Granted {
    let (Own::First(folder) | Own::Second(folder)) = own;
    if let Err(errno) = access(folder, AccessFlags::W_OK) {
        return Err(format!(
            "{} cannot be written to ({errno})",
            folder.display()
        ));
    }
    if let Own::Second(folder) = own {
        let has = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
        if !has.split_whitespace().any(|name| name == controller.name()) {
            return Err(format!(
                "{} has no {} controller",
                folder.display(),
                controller.name()
            ));
        }
    }
    Ok(format!("below {}", folder.display()))
}

impl Groups {
    /// Makes this launcher's folders where that may be, and says of each layer whether it is there. What launchers left
    /// behind that are gone is removed.
    pub fn set_up() -> (Groups, Vec<(&'static str, Granted)>) {
        let (groups, mounts) = of_kernel();
        let mut trees = Vec::new();
        let mut make = |controller| -> Granted {
            let own = own(controller, &groups, &mounts);
            let own = own.ok_or_else(|| "no such control group is in sight".to_owned())?;
            let word = may_be_made(controller, &own)?;
            let used = !trees.is_empty();
            trees.push(match own {
                Own::First(own) => first(controller, &own),
                Own::Second(own) => second(controller, &own, getpid(), used),
            }?);
            Ok(word)
        };
        let told = Controller::ALL.map(|controller| (layer(controller), make(controller)));
        (Groups::of(trees), told.into())
    }

    fn of(trees: Vec<Tree>) -> Groups {
        Groups {
            trees,
            members: BTreeMap::new(),
            made: 0,
        }
    }

    /// The seal's layers that are in force for whoever is in a group.
    pub fn layers(&self) -> impl Iterator<Item = &'static str> {
        self.trees.iter().map(|tree| layer(tree.controller))
    }

    /// Makes a group. Nobody is in it.
    pub fn make(&mut self, limits: Limits) -> io::Result<Group> {
        self.made += 1;
        let mut group = Group {
            folders: Vec::new(),
        };
        for tree in &self.trees {
            let folder = tree.folder.join(self.made.to_string());
            if !group.folders.contains(&folder) {
                make_folder(&folder)?;
                group.folders.push(folder.clone());
            }
            tree.set(&folder, limits)?;
        }
        Ok(group)
    }

    /// A process has become a group's member.
    pub fn joined(&mut self, pid: Pid, group: Group) {
        // Whoever had the number before is gone, and its group with it.
        self.members.insert(pid, group);
    }

    /// Puts a process into a group of its own; where it is in one, that gets these limits. To be moved takes the kernel
    /// some ten milliseconds, to be limited anew next to none.
    pub fn enclose(&mut self, pid: Pid, limits: Limits) -> io::Result<()> {
        if let Some(group) = self.members.get(&pid) {
            return self.trees.iter().try_for_each(|tree| {
                let mut folders = group.folders.iter();
                match folders.find(|folder| folder.starts_with(&tree.folder)) {
                    Some(folder) => tree.set(folder, limits),
                    None => Ok(()),
                }
            });
        }
        let group = self.make(limits)?;
        let entered = (group.folders.iter())
            .try_for_each(|folder| fs::write(folder.join(MEMBERS), pid.to_string()));
        // Of one of two, where the other failed, it is a member too.
        self.joined(pid, group);
        entered
    }

    /// Whether the kernel ended one of a process's group for the memory that it took.
    pub fn ran_out(&self, pid: Pid) -> bool {
        let Some(group) = self.members.get(&pid) else {
            return false;
        };
        let counted = |tree: &Tree| {
            let folder = group
                .folders
                .iter()
                .find(|folder| folder.starts_with(&tree.folder))?;
            let text = fs::read_to_string(folder.join(tree.killed())).ok()?;
            let count = text
                .lines()
                .find_map(|line| line.strip_prefix("oom_kill "))?;
            count.trim().parse::<u64>().ok()
        };
        let memory = |tree: &&Tree| tree.controller == Controller::Memory;
        (self.trees.iter().filter(memory)).any(|tree| counted(tree).is_some_and(|count| count > 0))
    }

    /// Removes the groups of processes that are gone. One with members left is tried again the next time.
    pub fn sweep(&mut self, is_there: impl Fn(Pid) -> bool) {
        self.members.retain(|pid, group| {
            is_there(*pid) || !group.folders.iter().all(|folder| removed(folder))
        });
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.sweep(|_| false);
        for tree in &self.trees {
            removed(&tree.folder);
        }
    }
}

/// This launcher's folder of the first kind.
fn first(controller: Controller, own: &Path) -> Result<Tree, String> {
    remove_stale(own);
    let folder = own.join(format!("{OURS}{}", getpid()));
    make_folder(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(Tree {
        controller,
        folder,
        first_kind: true,
    })
}

/// This launcher's folder of the second kind, where a group with processes has no limited groups below it. So this process
/// moves into one of its own, and the folder lies beside that. `used` is true where another controller's groups need that.
fn second(controller: Controller, own: &Path, launcher: Pid, used: bool) -> Result<Tree, String> {
    remove_stale(own);
    let folder = own.join(format!("{OURS}{launcher}"));
    let aside = own.join(format!("{OURS}{launcher}{SELF}"));
    let enter = |group: &Path| fs::write(group.join(MEMBERS), launcher.to_string());
    let on = |group: &Path| fs::write(group.join(PASSED_ON), format!("+{}", controller.name()));
    let made = make_folder(&aside)
        .and_then(|()| make_folder(&folder))
        .and_then(|()| enter(&aside))
        .and_then(|()| on(own))
        .and_then(|()| on(&folder));
    match made {
        Ok(()) => Ok(Tree {
            controller,
            folder,
            first_kind: false,
        }),
        Err(error) => {
            // As it was.
            if !used && removed(&folder) {
                let _ = enter(own);
                removed(&aside);
            }
            Err(format!(
                "{} cannot have limited groups ({error}): other processes are in it, or it is not this server's. Give \
                 it a group of its own, as systemd does with Delegate=yes",
                own.display()
            ))
        }
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    // A launcher of the same number may have left it.
    fs::create_dir_all(folder)
}

/// Removes an empty group; true where it is gone.
fn removed(folder: &Path) -> bool {
    match fs::remove_dir(folder) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Removes folders of launchers that are gone, with the groups in them, where nobody is in those.
fn remove_stale(own: &Path) {
    let folders = |of: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(of).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .collect()
    };
    for folder in folders(own) {
        let name = folder.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix(OURS));
        let number = number.map(|number| number.trim_end_matches(SELF));
        let Some(Ok(pid)) = number.map(str::parse::<u32>) else {
            continue;
        };
        if !Path::new("/proc").join(pid.to_string()).exists() {
            folders(&folder).iter().for_each(|group| {
                removed(group);
            });
            removed(&folder);
        }
    }
}

#[cfg(test)]
mod tests;
