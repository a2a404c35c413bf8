//! What a worker on a GPU may reach while it opens that GPU, and may ask of it from then on.
//!
//! A driver is a vendor's library: it opens its device's nodes, other libraries, and files about the machine. So for as
//! long as it opens a GPU it is left those, by name, and nothing else: no other GPU's node, and no file of anybody's.
//! Then files are given up, before a byte of a model is read. What remains is asking descriptors that are open. Built,
//! not yet run: no machine with a GPU has shown that this is all a driver needs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where device nodes are.
const NODES: &str = "/dev";

/// Libraries, what the loader and the driver look up about the machine and this process, and chance. All of it may be
/// read by every user of the machine, and none of it is a tenant's.
const READABLE: &[&str] = &[
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/devices",
    "/proc/driver/nvidia",
    "/proc/meminfo",
    "/proc/modules",
    "/proc/sys/vm",
    "/sys/bus",
    "/sys/class",
    "/sys/devices",
    "/sys/module",
    "/dev/urandom",
];

/// Paths that are left for a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// To be opened for reading and writing, and asked.
    pub nodes: Vec<PathBuf>,
    /// To be read, with all that lies below.
    pub readable: Vec<PathBuf>,
}

impl Reach {
    /// What opening the GPU takes whose device node has this number.
    pub fn of_gpu(minor: u32) -> Reach {
        // Without it, libraries outside the system's folders are not found, and the driver says which.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let system = READABLE.iter().map(PathBuf::from);
        Reach {
            nodes: nodes(Path::new(NODES), minor),
            readable: system.chain(library_folders(&maps)).collect(),
        }
    }
}

/// The nodes of one GPU: its own, that of the driver as a whole, and that of its memory. Not `nvidia-uvm-tools`, which
/// shows what other processes do.
fn nodes(folder: &Path, minor: u32) -> Vec<PathBuf> {
    let own = format!("nvidia{minor}");
    let names = [own.as_str(), "nvidiactl", "nvidia-uvm"];
    names.map(|name| folder.join(name)).into()
}

/// The folders of the libraries that this process was started with: CUDA's may lie anywhere, and bring others along that
/// are opened later.
fn library_folders(maps: &str) -> BTreeSet<PathBuf> {
    let paths = maps.lines().filter_map(|line| line.split_once('/'));
    let libraries = paths.filter(|(_, path)| path.contains(".so"));
    libraries
        .filter_map(|(_, path)| Some(Path::new("/").join(path).parent()?.to_owned()))
        .collect()
}

/// A request that a driver's library makes of its device: bits of the number, and what they are.
pub(super) struct Request {
    pub mask: u64,
    pub value: u64,
}

/// By the numbers in the driver's source (NVIDIA/open-gpu-kernel-modules: `nv-ioctl-numbers.h`, `uvm_ioctl.h`): type 'F'
/// for `nvidiaN` and `nvidiactl`; for `nvidia-uvm` small numbers without a type. That one's first and last request
/// (`uvm_linux_ioctl.h`) are none that a process under the last filter makes.
pub(super) const REQUESTS: [Request; 2] = [
    Request {
        mask: 0xFF00,
        value: (b'F' as u64) << 8,
    },
    Request {
        mask: !0x7F & 0xFFFF_FFFF,
        value: 0,
    },
];

/// Types of requests that terminals, consoles, keyboards and sockets take (ioctl_list(2)), and no GPU.
pub(super) const OF_TERMINALS: [u64; 4] = [0x54, 0x56, 0x4B, 0x89];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_all_gpus_only_its_own_has_its_node_named() {
        let named = nodes(Path::new("/dev"), 3);
        let names: Vec<_> = named.iter().filter_map(|path| path.to_str()).collect();
        assert_eq!(names, ["/dev/nvidia3", "/dev/nvidiactl", "/dev/nvidia-uvm"]);
        let reach = Reach::of_gpu(3);
        assert_eq!(reach.nodes, named);
        for path in &reach.readable {
            assert!(!Path::new("/dev/nvidia0").starts_with(path), "{path:?}");
            assert!(!Path::new("/etc/passwd").starts_with(path), "{path:?}");
        }
    }

    #[test]
    fn libraries_are_looked_for_where_those_lie_that_are_there_already() {
        let maps = "7f00-7f01 r-xp 00000000 fd:00 1   /opt/cuda 13/lib/libnvrtc.so.13\n\
                    7f01-7f02 r--p 00000000 fd:00 2   /opt/cuda 13/lib/libcublas.so.13.0\n\
                    7f02-7f03 r-xp 00000000 fd:00 3   /srv/bulkhead-worker-cuda\n\
                    7f03-7f04 rw-p 00000000 00:00 0   [heap]\n";
        let found: Vec<_> = library_folders(maps).into_iter().collect();
        assert_eq!(found, [PathBuf::from("/opt/cuda 13/lib")]);
    }

    /// A request that both lists had would be killed early and allowed late.
    #[test]
    fn no_request_of_a_terminal_is_one_of_a_gpu() {
        let gpus = |request: u64| REQUESTS.iter().any(|r| request & r.mask == r.value);
        for kind in OF_TERMINALS {
            assert!((0..=0xFF).all(|number| !gpus(kind << 8 | number)));
        }
        // NV_ESC_RM_CONTROL of 32 bytes, UVM_REGISTER_GPU; TIOCSTI, FIONREAD.
        assert!(gpus(0xC020_462A) && gpus(37));
        assert!(!gpus(0x5412) && !gpus(0x541B) && !gpus(128));
    }
}
