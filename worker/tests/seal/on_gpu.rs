//! A worker on a GPU, from opening the GPU to the lock: what it may at each stage, and what it may not any more.
//!
//! There is no GPU here. Nodes that every machine has stand in: one for its own GPU's and one for another's. Whether a
//! node takes a request does not matter: that it was asked shows in what it answers.

use bulkhead_worker::seal::{self, LANDLOCK, LANDLOCK_SCOPE, REACH, Reach};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// Stands for a worker's own GPU.
const OWN: &str = "/dev/zero";
/// Stands for another's.
const OTHERS: &str = "/dev/full";
/// Stands for what a driver looks up about the machine.
const LOOKED_UP: &str = "/proc/self/status";
/// Is read for chance, and asked nothing.
const CHANCE: &str = "/dev/urandom";

/// A request of `nvidiaN` by its type (`NV_ESC_RM_CONTROL`), and one of `nvidia-uvm` (`UVM_REGISTER_GPU`).
const REQUESTS: [libc::Ioctl; 2] = [0xC020_462A, 37];
/// Of a terminal: what it is set to, and as if somebody had typed.
const OF_TERMINALS: [libc::Ioctl; 2] = [libc::TCGETS, libc::TIOCSTI];
/// `RNDGETENTCNT`, of what gives chance.
const OF_CHANCE: libc::Ioctl = 0x8004_5200;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Stage {
    /// Not sealed at all.
    Open,
    /// The GPU may be opened.
    Opening,
    /// Files are given up; a model may be read.
    GaveUp,
    Locked,
}

pub const STAGES: [Stage; 4] = [Stage::Open, Stage::Opening, Stage::GaveUp, Stage::Locked];

/// What a process has since it could open its GPU.
pub struct Opened {
    own: File,
    chance: Option<File>,
    /// It has a name.
    _listener: UnixDatagram,
    /// A thread that was made then: it opens what it is told, and says how that went.
    thread: (Sender<&'static str>, Receiver<io::Result<()>>),
}

/// Something that it tries, and the last stage at which that is to succeed.
pub struct Case {
    pub name: &'static str,
    pub until: Stage,
    /// Layers without which this machine shows nothing.
    pub needs: &'static [&'static str],
    pub attempt: fn(&Opened) -> io::Result<()>,
}

const fn case(
    name: &'static str,
    until: Stage,
    needs: &'static [&'static str],
    attempt: fn(&Opened) -> io::Result<()>,
) -> Case {
    Case {
        name,
        until,
        needs,
        attempt,
    }
}

const FILES: &[&str] = &[LANDLOCK];
const CALLS: &[&str] = &[REACH];
/// The first that is named of those that came with, or after, rules for what a device is asked.
const REQUESTS_RULED: &[&str] = &[LANDLOCK_SCOPE];

pub const CASES: &[Case] = &[
    case("opening_its_own_node", Stage::Opening, FILES, |_| node(OWN)),
    case("opening_anothers_node", Stage::Open, FILES, |_| {
        node(OTHERS)
    }),
    case("looking_up_the_machine", Stage::Opening, FILES, |_| {
        File::open(LOOKED_UP).map(drop)
    }),
    case("reading_another_file", Stage::Open, FILES, |_| {
        File::open("/etc/passwd").map(drop)
    }),
    case("asking_its_own_node", Stage::Locked, &[], |opened| {
        REQUESTS.iter().try_for_each(|one| ask(&opened.own, *one))
    }),
    case("asking_it_as_a_terminal", Stage::Open, CALLS, |opened| {
        OF_TERMINALS
            .iter()
            .try_for_each(|one| ask(&opened.own, *one))
    }),
    case(
        "asking_what_is_to_be_read",
        Stage::Open,
        REQUESTS_RULED,
        |opened| ask(opened.chance.as_ref().expect("it was opened"), OF_CHANCE),
    ),
    case("mapping_its_own_node", Stage::Locked, &[], |opened| {
        map(&opened.own, libc::MAP_SHARED)
    }),
    case(
        "mapping_a_copy_of_what_is_open",
        Stage::GaveUp,
        &[],
        |opened| map(&opened.own, libc::MAP_PRIVATE),
    ),
    case(
        "opening_its_node_in_a_thread_of_the_drivers",
        Stage::Opening,
        CALLS,
        |opened| in_thread(opened, OWN),
    ),
    case(
        "reading_in_a_thread_of_the_drivers",
        Stage::Opening,
        CALLS,
        |opened| in_thread(opened, LOOKED_UP),
    ),
    case(
        "speaking_to_a_socket_by_a_pairs_end",
        Stage::Opening,
        CALLS,
        |_| {
            UnixDatagram::pair()?
                .0
                .send_to(b"x", socket(parent_id()))
                .map(drop)
        },
    ),
    case(
        "speaking_to_a_socket_by_name",
        Stage::Opening,
        CALLS,
        |_| UnixDatagram::unbound()?.connect(socket(parent_id())),
    ),
];

/// Goes to a stage and tries. `None` where the machine grants none of the layers that the case needs.
pub fn attempt(case: &Case, stage: Stage) -> Option<io::Result<()>> {
    let reach = Reach {
        nodes: vec![PathBuf::from(OWN)],
        readable: vec!["/proc/self".into(), CHANCE.into()],
    };
    let listener = listener();
    let opening = (stage > Stage::Open).then(|| seal::restrict_for_gpu(None, &reach));
    let opened = open(listener);
    let early = (stage <= Stage::Opening).then(|| (case.attempt)(&opened));
    // What it was granted is told by what comes after, which changes nothing of what came early.
    let restricted = opening.map(seal::Opening::give_up_files);
    if restricted
        .as_ref()
        .is_some_and(|it| !grants(it, case.needs))
    {
        return None;
    }
    let _sealed = restricted
        .filter(|_| stage == Stage::Locked)
        .map(seal::Restricted::lock);
    Some(early.unwrap_or_else(|| (case.attempt)(&opened)))
}

fn grants(restricted: &seal::Restricted, needs: &[&str]) -> bool {
    let has = |name: &&str| {
        let mut layers = restricted.layers().iter();
        layers.any(|layer| layer.available && layer.name == *name)
    };
    needs.iter().all(has)
}

fn open(listener: UnixDatagram) -> Opened {
    let (ask, asked) = channel::<&str>();
    let (say, said) = channel();
    thread::spawn(move || {
        for path in asked {
            // Whoever asked waits for it.
            let _ = say.send(File::open(path).map(drop));
        }
    });
    Opened {
        own: rw(OWN).expect("its own may be opened"),
        chance: File::open(CHANCE).ok(),
        _listener: listener,
        thread: (ask, said),
    }
}

/// The name of a socket, for what is started by the process of this number.
pub fn socket(runner: u32) -> PathBuf {
    std::env::temp_dir().join(format!("bulkhead-seal-{runner}"))
}

fn listener() -> UnixDatagram {
    let path = socket(parent_id());
    // That of the case before.
    let _ = std::fs::remove_file(&path);
    UnixDatagram::bind(path).expect("a free name")
}

fn rw(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn node(path: &str) -> io::Result<()> {
    rw(path).map(drop)
}

/// A node that does not know the request says so: it was asked.
fn ask(node: &File, request: libc::Ioctl) -> io::Result<()> {
    let mut answer = [0u8; 64];
    // SAFETY: whatever such a node answers fits into what it is given, which is alive.
    let rc = unsafe { libc::ioctl(node.as_raw_fd(), request, answer.as_mut_ptr()) };
    let error = io::Error::last_os_error();
    match (rc, error.raw_os_error()) {
        (-1, Some(libc::ENOTTY | libc::EINVAL)) => Ok(()),
        (-1, _) => Err(error),
        _ => Ok(()),
    }
}

fn map(node: &File, sharing: libc::c_int) -> io::Result<()> {
    // SAFETY: a fresh mapping at an address of the kernel's choice, which nothing refers to.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            sharing,
            node.as_raw_fd(),
            0,
        )
    };
    match page == libc::MAP_FAILED {
        true => Err(io::Error::last_os_error()),
        false => Ok(()),
    }
}

fn in_thread(opened: &Opened, path: &'static str) -> io::Result<()> {
    let (ask, said) = &opened.thread;
    ask.send(path).expect("it waits");
    said.recv().expect("it answers")
}
