//! Starting a program: what it finds, and what it does not.
//!
//! Our own fork and exec, and not the standard library's, because a worker finds its descriptors by
//! number (3, 4, 5 …), and must find no others. All memory that the child touches before exec is
//! made before fork. Nothing here decides what is started, or when.

use super::sys::{close_range, detach, die_with, drop_capabilities};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::wait::waitpid,
    unistd::{ForkResult, Pid, fork, getpid},
};
use std::{
    ffi::{CString, OsStr},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
};

/// The number of the first descriptor that a child is given.
pub const FIRST_FD: RawFd = 3;

/// A program to be started. It dies with this process, is in a process group of its own (the terminal's Ctrl-C is the
/// launcher's alone), and ignores SIGTERM and SIGINT: how it ends is the launcher's to say. Standard input and output are
/// closed off.
pub struct Spawn<'a> {
    program: &'a Path,
    /// As descriptors 3, 4, 5 ….
    fds: &'a [BorrowedFd<'a>],
    arguments: Vec<CString>,
    variables: Vec<CString>,
    doors: Vec<File>,
    stderr: Option<OwnedFd>,
    powerless: bool,
}

impl<'a> Spawn<'a> {
    /// With no arguments, no environment and this process's standard error.
    pub fn new(program: &'a Path, fds: &'a [BorrowedFd<'a>]) -> Spawn<'a> {
        Spawn {
            program,
            fds,
            arguments: Vec::new(),
            variables: Vec::new(),
            doors: Vec::new(),
            stderr: None,
            powerless: false,
        }
    }

    pub fn arguments(mut self, arguments: &[impl AsRef<OsStr>]) -> io::Result<Self> {
        for argument in arguments {
            let text = CString::new(argument.as_ref().as_bytes())?;
            self.arguments.push(text);
        }
        Ok(self)
    }

    /// Puts a variable into its environment.
    pub fn variable(mut self, name: &str, value: &str) -> io::Result<Self> {
        self.variables
            .push(CString::new(format!("{name}={value}"))?);
        Ok(self)
    }

    /// Control groups that it joins before it is the program.
    pub fn doors(mut self, doors: Vec<File>) -> Self {
        self.doors = doors;
        self
    }

    /// A standard error of its own.
    pub fn stderr(mut self, stderr: OwnedFd) -> Self {
        self.stderr = Some(stderr);
        self
    }

    /// Without any capability, even as root: its user owns what it opens.
    pub fn powerless(mut self) -> Self {
        self.powerless = true;
        self
    }

    /// Starts it.
    pub fn start(self) -> io::Result<Pid> {
        let program = CString::new(self.program.as_os_str().as_bytes())?;
        let pointers =
            |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
        let mut argv = vec![program.as_ptr()];
        argv.extend(pointers(&self.arguments));
        argv.push(ptr::null());
        let mut envp = pointers(&self.variables);
        envp.push(ptr::null());

        // Everything that the child places is first moved above the places, so that no dup2 overwrites
        // what a later one needs.
        let above = FIRST_FD + self.fds.len() as RawFd;
        let moved = |fd: BorrowedFd<'_>| dup_above(fd, above);
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let null = moved(null.as_fd())?;
        let stderr = self
            .stderr
            .as_ref()
            .map(|fd| moved(fd.as_fd()))
            .transpose()?;
        let given = self.fds.iter().map(|fd| moved(*fd));
        let given = given.collect::<Result<Vec<_>, _>>()?;
        let doors = self.doors.iter().map(|door| moved(door.as_fd()));
        let doors = doors.collect::<Result<Vec<_>, _>>()?;
        let places = [(null.as_raw_fd(), 0), (null.as_raw_fd(), 1)].into_iter();
        let places = places.chain(stderr.as_ref().map(|fd| (fd.as_raw_fd(), 2)));
        let child = Child {
            places: places
                .chain(given.iter().map(AsRawFd::as_raw_fd).zip(FIRST_FD..))
                .collect(),
            doors: doors.iter().map(AsRawFd::as_raw_fd).collect(),
            powerless: self.powerless,
            launcher: getpid(),
            argv,
            envp,
        };
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let report = moved(writer.as_fd())?;
        drop(writer);

        // SAFETY: the child calls only async-signal-safe functions, on memory made above, and ends in
        // exec or _exit.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                drop(report);
                exec_result(child, reader.into())
            }
            ForkResult::Child => {
                // SAFETY: as above; all pointers end in null and outlive the call.
                unsafe {
                    let error = child.become_it();
                    let bytes = (error as i32).to_le_bytes();
                    libc::write(report.as_raw_fd(), bytes.as_ptr().cast(), bytes.len());
                    libc::_exit(127)
                }
            }
        }
    }
}

/// All that the child needs between fork and exec.
struct Child {
    /// Descriptors, and where they are to be.
    places: Vec<(RawFd, RawFd)>,
    doors: Vec<RawFd>,
    powerless: bool,
    launcher: Pid,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
}

impl Child {
    /// The child's way from fork to exec; comes back only with an error.
    ///
    /// # Safety
    /// Only in a freshly forked child. `argv` and `envp` hold C strings and end in null.
    unsafe fn become_it(&self) -> Errno {
        let prepared = die_with(self.launcher)
            .and_then(|()| detach())
            .and_then(|()| self.join())
            .and_then(|()| self.give_up_power())
            .and_then(|()| self.place());
        if let Err(errno) = prepared {
            return errno;
        }
        // SAFETY: the caller's promise about argv and envp.
        unsafe { libc::execve(self.argv[0], self.argv.as_ptr(), self.envp.as_ptr()) };
        Errno::last()
    }

    /// Into its control groups.
    fn join(&self) -> nix::Result<()> {
        self.doors.iter().try_for_each(|door| {
            // SAFETY: a plain system call on a number and a byte that is there.
            let written = unsafe { libc::write(*door, b"0".as_ptr().cast(), 1) };
            Errno::result(written).map(drop)
        })
    }

    fn give_up_power(&self) -> nix::Result<()> {
        if !self.powerless {
            return Ok(());
        }
        // SAFETY: a plain system call on numbers.
        Errno::result(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
        // What root would get back with exec is bounded by what is taken here.
        drop_capabilities()
    }

    fn place(&self) -> nix::Result<()> {
        let mut rest = FIRST_FD;
        for (from, to) in &self.places {
            // SAFETY: plain system call on numbers.
            Errno::result(unsafe { libc::dup2(*from, *to) })?;
            rest = rest.max(to + 1);
        }
        close_range(rest as u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
    }
}

/// Waits until the child has become the program, or has said why it could not.
fn exec_result(child: Pid, mut report: File) -> io::Result<Pid> {
    let mut errno = [0u8; 4];
    match report.read_exact(&mut errno) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(child),
        other => {
            // It is ending by itself; the error to tell is why.
            let _ = waitpid(child, None);
            other?;
            Err(io::Error::from_raw_os_error(i32::from_le_bytes(errno)))
        }
    }
}

fn dup_above(fd: BorrowedFd<'_>, least: RawFd) -> io::Result<OwnedFd> {
    let raw = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(least))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
