//! What a compromised worker would try.

use bulkhead_worker::seal::{LANDLOCK, LANDLOCK_NET, LANDLOCK_SCOPE, MNTNS, NETNS, REACH};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::fs::File;
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// What stops whoever opens a path, or reaches into a process outside.
const FILES: &[&str] = &[LANDLOCK];

/// One attempt, and what it needs that is there before the seal.
pub struct Attack {
    pub name: &'static str,
    /// Layers that come before the threads, of which each alone stops it already.
    pub stopped_by: &'static [&'static str],
    pub prepare: fn() -> Prepared,
    pub attempt: fn(Prepared) -> io::Result<()>,
}

/// What an attack brings along.
pub enum Prepared {
    Nothing,
    Listener(TcpListener),
    Socket(OwnedFd),
    /// A socket that has a name, and one of a pair.
    Named(UnixDatagram, UnixDatagram),
    /// Another process, and an address that is mapped in it.
    Target(Child, usize),
}

const fn attack(
    name: &'static str,
    stopped_by: &'static [&'static str],
    prepare: fn() -> Prepared,
    attempt: fn(Prepared) -> io::Result<()>,
) -> Attack {
    Attack {
        name,
        stopped_by,
        prepare,
        attempt,
    }
}

fn nothing() -> Prepared {
    Prepared::Nothing
}

/// Where a socket lies that is to be spoken to by its name, for whoever runs the tests to remove.
pub fn name(runner: u32) -> PathBuf {
    std::env::temp_dir().join(format!("bulkhead-seal-name-{runner}"))
}

fn named() -> Prepared {
    let path = name(std::os::unix::process::parent_id());
    let _ = std::fs::remove_file(&path);
    let listener = UnixDatagram::bind(path).expect("a free name");
    let (one, _) = UnixDatagram::pair().expect("a pair");
    Prepared::Named(listener, one)
}

pub const ATTACKS: &[Attack] = &[
    attack("making_a_pair_of_sockets", &[REACH], nothing, |_| {
        UnixDatagram::pair().map(drop)
    }),
    attack(
        "speaking_to_a_socket_by_its_name",
        &[MNTNS],
        named,
        |prepared| match prepared {
            Prepared::Named(_listener, one) => {
                let path = name(std::os::unix::process::parent_id());
                one.send_to(b"a prompt", path).map(drop)
            }
            _ => unreachable!("prepared above"),
        },
    ),
    attack("reading_a_file", FILES, nothing, |_| {
        File::open("/etc/passwd")
            .and_then(|mut file| file.read(&mut [0; 16]))
            .map(drop)
    }),
    attack("reading_its_own_environment", FILES, nothing, |_| {
        File::open("/proc/self/environ").map(drop)
    }),
    attack("writing_a_file", FILES, nothing, |_| {
        let path = std::env::temp_dir().join(format!("bulkhead-seal-{}", std::process::id()));
        File::create(&path)?;
        std::fs::remove_file(path)
    }),
    attack("listing_a_folder", FILES, nothing, |_| {
        std::fs::read_dir("/").map(drop)
    }),
    attack("making_an_internet_socket", &[], nothing, |_| {
        socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::empty(),
            None,
        )
        .map(drop)
        .map_err(io::Error::from)
    }),
    attack("making_a_netlink_socket", &[], nothing, |_| {
        socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::empty(),
            None,
        )
        .map(drop)
        .map_err(io::Error::from)
    }),
    attack(
        "connecting_to_a_port",
        &[LANDLOCK_NET, NETNS],
        listener,
        |prepared| match prepared {
            Prepared::Listener(listener) => TcpStream::connect(listener.local_addr()?).map(drop),
            _ => unreachable!("prepared above"),
        },
    ),
    attack(
        "connecting_a_socket_that_it_has",
        &[],
        unix_socket,
        |prepared| match prepared {
            Prepared::Socket(socket) => {
                // Autobind gives it a name: connecting to itself needs no second process.
                let address = nix::sys::socket::getsockname::<UnixAddr>(socket.as_raw_fd())?;
                connect(socket.as_raw_fd(), &address).map_err(io::Error::from)
            }
            _ => unreachable!("prepared above"),
        },
    ),
    attack("forking", &[], nothing, |_| {
        // SAFETY: one thread, and the child ends at once.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: ends the child without running anything of the parent's.
            0 => unsafe { libc::_exit(0) },
            _ => Ok(()),
        }
    }),
    attack("starting_a_thread", &[], nothing, |_| {
        std::thread::Builder::new()
            .spawn(|| {})?
            .join()
            .map_err(|_| io::Error::other("panicked"))
    }),
    attack("running_a_program", FILES, nothing, |_| {
        // A child that is killed for it before it becomes the program ran none.
        match Command::new("/bin/true").status()?.success() {
            true => Ok(()),
            false => Err(io::Error::other("it did not run")),
        }
    }),
    attack("tracing_another_process", FILES, target, |prepared| {
        let (pid, _) = of(&prepared);
        // SAFETY: PTRACE_SEIZE takes no pointers and does not stop the target.
        answer(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) })
    }),
    attack(
        "reading_another_processs_memory",
        FILES,
        target,
        |prepared| {
            let (pid, address) = of(&prepared);
            let mut byte = 0u8;
            let local = libc::iovec {
                iov_base: (&raw mut byte).cast(),
                iov_len: 1,
            };
            let remote = libc::iovec {
                iov_base: address as *mut libc::c_void,
                iov_len: 1,
            };
            // SAFETY: one byte is written to `byte`, which is alive; the remote address is the kernel's to
            // check.
            let rc = unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
            answer(rc as libc::c_long)
        },
    ),
    attack(
        "signalling_another_process",
        &[LANDLOCK_SCOPE],
        target,
        |prepared| {
            // SAFETY: signal 0 is never delivered: only the permission is asked for.
            answer(unsafe { libc::kill(of(&prepared).0, 0) }.into())
        },
    ),
    attack(
        "changing_another_processs_limits",
        &[REACH],
        target,
        |prepared| {
            let limit = libc::rlimit {
                rlim_cur: 60,
                rlim_max: 60,
            };
            let (pid, _) = of(&prepared);
            // SAFETY: one structure is read, which is alive; nothing is written back.
            let rc = unsafe { libc::prlimit(pid, libc::RLIMIT_CPU, &limit, std::ptr::null_mut()) };
            answer(rc.into())
        },
    ),
    attack(
        "holding_another_process_back",
        &[REACH],
        target,
        |prepared| {
            let (pid, _) = of(&prepared);
            let lowest = libc::sched_param { sched_priority: 0 };
            // SAFETY: one structure is read, which is alive.
            answer(unsafe { libc::sched_setscheduler(pid, libc::SCHED_IDLE, &lowest) }.into())
        },
    ),
    attack(
        "having_another_process_signalled",
        &[REACH],
        unix_socket,
        |prepared| match prepared {
            Prepared::Socket(socket) => {
                // SAFETY: a plain system call on numbers.
                answer(unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETOWN, 1) }.into())
            }
            _ => unreachable!("prepared above"),
        },
    ),
    attack(
        "speaking_to_a_device",
        &[REACH],
        unix_socket,
        |prepared| match prepared {
            Prepared::Socket(socket) => {
                let mut waiting: libc::c_int = 0;
                // SAFETY: one integer is written, which is alive.
                let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &mut waiting) };
                answer(rc.into())
            }
            _ => unreachable!("prepared above"),
        },
    ),
    attack("mapping_executable_memory", &[], nothing, |_| {
        map(libc::PROT_EXEC)
    }),
    attack("making_memory_executable", &[], nothing, |_| {
        // SAFETY: a fresh anonymous page of our own, which nothing refers to.
        unsafe {
            let page = libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            answer(libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC).into())
        }
    }),
    attack("making_a_memory_file", &[], nothing, |_| {
        // SAFETY: the name is a C string.
        answer(unsafe { libc::memfd_create(c"x".as_ptr(), 0) }.into())
    }),
    attack("mapping_memory_that_no_limit_counts", &[], nothing, |_| {
        map_as(libc::PROT_READ, libc::MAP_SHARED)
    }),
    attack("mapping_a_stack_that_grows", &[], nothing, |_| {
        map_as(
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_GROWSDOWN,
        )
    }),
    attack(
        "ending_a_connection_that_others_hold",
        &[],
        unix_socket,
        |prepared| match prepared {
            Prepared::Socket(socket) => {
                nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Both)
                    .or_else(|errno| match errno {
                        // It could be asked, of one that has nobody at the other end.
                        nix::errno::Errno::ENOTCONN => Ok(()),
                        other => Err(other),
                    })
                    .map_err(io::Error::from)
            }
            _ => unreachable!("prepared above"),
        },
    ),
    attack("making_a_pipe", &[], nothing, |_| {
        nix::unistd::pipe().map(drop).map_err(io::Error::from)
    }),
];

fn listener() -> Prepared {
    Prepared::Listener(TcpListener::bind("127.0.0.1:0").expect("a free port"))
}

/// A datagram socket with a name that the kernel chose.
fn unix_socket() -> Prepared {
    let socket = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::empty(),
        None,
    )
    .expect("a socket");
    nix::sys::socket::bind(socket.as_raw_fd(), &UnixAddr::new_unnamed()).expect("autobind");
    Prepared::Socket(socket)
}

/// A process of the same user that ends when its input does, that is, with the attacker.
fn target() -> Prepared {
    let child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("a child");
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", child.id())).expect("its maps");
    let (start, _) = maps.split_once('-').expect("a range");
    Prepared::Target(child, usize::from_str_radix(start, 16).expect("an address"))
}

fn of(prepared: &Prepared) -> (libc::pid_t, usize) {
    match prepared {
        Prepared::Target(child, address) => (child.id() as libc::pid_t, *address),
        _ => unreachable!("prepared with a target"),
    }
}

fn map(extra: libc::c_int) -> io::Result<()> {
    map_as(libc::PROT_READ | extra, libc::MAP_PRIVATE)
}

fn map_as(protection: libc::c_int, sharing: libc::c_int) -> io::Result<()> {
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            protection,
            sharing | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn answer(rc: libc::c_long) -> io::Result<()> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
