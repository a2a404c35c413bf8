//! Which control groups this process is in, and where their folders are: read out of what the kernel lists. Makes and
//! changes nothing.
//!
//! Kernels offer two kinds (cgroups(7)): with the first each controller has a tree of its own, with the second all have
//! one. A machine may have both; a controller is in one of them.

use std::path::{Path, PathBuf};

/// What limits a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    Memory,
    Tasks,
}

impl Controller {
    pub const ALL: [Controller; 2] = [Controller::Memory, Controller::Tasks];

    /// As the kernel calls it.
    pub fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Tasks => "pids",
        }
    }
}

/// A folder of this process's own group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Own {
    /// Of the first kind, this controller's.
    First(PathBuf),
    /// Of the second kind, in which it is one of several.
    Second(PathBuf),
}

/// Where the group is of which this process's part in a controller is: `groups` is /proc/self/cgroup, `mounts`
/// /proc/self/mountinfo. None where no such tree is in sight.
pub fn own(controller: Controller, groups: &str, mounts: &str) -> Option<Own> {
    let first = path_of(groups, |names| {
        names.split(',').any(|name| name == controller.name())
    });
    if let Some(path) = first {
        let has = |kind: &str, options: &str| {
            kind == "cgroup" && options.split(',').any(|option| option == controller.name())
        };
        return folder(mounts, has, path).map(Own::First);
    }
    let path = path_of(groups, str::is_empty)?;
    folder(mounts, |kind, _| kind == "cgroup2", path).map(Own::Second)
}

/// The path in the tree whose controllers are such, from lines of `number:controllers:path`.
fn path_of(groups: &str, is_it: impl Fn(&str) -> bool) -> Option<&Path> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?);
        is_it(names).then_some(Path::new(path))
    })
}

/// Where a path of the tree that is mounted so is to be found. Lines are those of proc_pid_mountinfo(5): the third and
/// fourth field from the second on are the part of the tree that is mounted, and where; the kind and its options follow
/// a lone dash.
fn folder(mounts: &str, is_it: impl Fn(&str, &str) -> bool, path: &Path) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, tree) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, at) = (mount.next()?, mount.next()?);
        let mut tree = tree.split(' ');
        let (kind, options) = (tree.next()?, tree.nth(1)?);
        let below = path.strip_prefix(root).ok()?;
        is_it(kind, options).then(|| Path::new(at).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "\
        31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        39 31 0:36 / /sys/fs/cgroup/pids rw,relatime shared:7 - cgroup cgroup rw,pids\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_controller_is_found_in_the_tree_that_has_it() {
        let groups = "8:pids:/\n4:memory:/jobs/7\n0::/\n";
        let of = |controller| own(controller, groups, BOTH);
        let first = |path: &str| Some(Own::First(path.into()));
        assert_eq!(
            of(Controller::Memory),
            first("/sys/fs/cgroup/memory/jobs/7")
        );
        assert_eq!(of(Controller::Tasks), first("/sys/fs/cgroup/pids"));
        // Where the first kind lacks it, the second may have it.
        let second = Some(Own::Second("/sys/fs/cgroup/unified/user".into()));
        assert_eq!(
            own(Controller::Tasks, "4:memory:/\n0::/user\n", BOTH),
            second
        );
    }

    #[test]
    fn what_is_mounted_may_be_a_part_of_the_tree() {
        let mounts = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let of = |groups| own(Controller::Memory, groups, mounts);
        let found = Some(Own::First("/sys/fs/cgroup/memory/x".into()));
        assert_eq!(of("4:memory:/docker/abc/x\n"), found);
        assert_eq!(of("4:memory:/elsewhere\n"), None);
        assert_eq!(of(""), None);
        assert_eq!(own(Controller::Memory, "4:memory:/\n", "nonsense\n"), None);
    }
}
