//! What a worker that was taken over would try: on the machine, on its neighbours, and on the scheduler at the other
//! end of its socket. Nothing here is meant to succeed.

use bulkhead_proto::frame;
use bulkhead_proto::internal::{
    Counters, Expired, Finished, FromWorker, Outcome, Piece, Ready, Refused, Released, ScrubReport,
    Step, Vector, from_worker,
};
use bulkhead_worker::process::SOCKET_FD;
use from_worker::Message;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::{Pid, dup};
use std::fs::File;
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::os::fd::BorrowedFd;
use std::process::Command;
use std::thread;

/// What came of an attempt that its worker outlived.
#[derive(Clone, Debug, PartialEq)]
pub enum Came {
    /// It worked: the seal has a hole.
    Done,
    /// It did not.
    Denied(String),
    /// To be idle from now on.
    Idle,
    /// To compute on once the lane is given back.
    Busy,
    /// To be said in the step that it is in.
    Said(Vec<Piece>, Vec<Finished>),
}

/// Makes the attempt of this name, with the number that may follow it.
pub fn make(name: &str, request: u64) -> Came {
    let (name, number) = name.split_once(' ').unwrap_or((name, "0"));
    let number: i64 = number.parse().unwrap_or_default();
    let pid = Pid::from_raw(number as i32);
    match name {
        "file" => came(File::open("/etc/hostname").map(drop)),
        "own-maps" => came(File::open("/proc/self/maps").map(drop)),
        "others-memory" => came(File::open("/proc/1/mem").map(drop)),
        "connection" => came(TcpStream::connect("127.0.0.1:9464").map(drop)),
        "thread" => came(thread::Builder::new().spawn(|| ()).map(drop)),
        "program" => came(Command::new("/bin/true").status().map(drop)),
        "descriptors" => came(descriptors()),
        "signal" => came(kill(pid, Signal::SIGKILL).map_err(io::Error::from)),
        "trace" => came(trace(pid)),
        "memory" => memory(),
        "lane" => hold(),
        "idle" => Came::Idle,
        "no-lease" => Came::Busy,
        "others-answer" => Came::Said(vec![], vec![answer(request + 1)]),
        "others-text" => Came::Said(vec![text(request + 1, 4)], vec![]),
        "endless-text" => Came::Said(vec![text(request, 1 << 20)], vec![]),
        "vectors" => Came::Said(vec![], vec![vectors(request)]),
        "flood" => flood(),
        _ => {
            say(name);
            // The scheduler's turn.
            hold()
        }
    }
}

fn answer(request: u64) -> Finished {
    Finished {
        request,
        outcome: Outcome::Ok.into(),
        ..Finished::default()
    }
}

/// More than there were texts.
fn vectors(request: u64) -> Finished {
    let vector = Vector {
        values: vec![0; 4096],
        ..Vector::default()
    };
    Finished {
        vectors: vec![vector; 1000],
        ..answer(request)
    }
}

fn text(request: u64, bytes: usize) -> Piece {
    Piece {
        request,
        text: "x".repeat(bytes),
        ..Piece::default()
    }
}

fn came(outcome: io::Result<()>) -> Came {
    match outcome {
        Ok(()) => Came::Done,
        Err(error) => Came::Denied(error.to_string()),
    }
}

fn descriptors() -> io::Result<()> {
    // SAFETY: the worker's socket stays open as long as the worker lives.
    let socket = unsafe { BorrowedFd::borrow_raw(SOCKET_FD) };
    for _ in 0..100_000 {
        std::mem::forget(dup(socket)?);
    }
    Ok(())
}

fn trace(pid: Pid) -> io::Result<()> {
    // SAFETY: PTRACE_SEIZE takes no pointers and does not stop the target.
    match unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid.as_raw(), 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes memory until there is none, or more than any worker may have.
fn memory() -> Came {
    const PIECE_BYTES: usize = 64 << 20;
    const BYTES_MAX: usize = 16 << 30;
    // Untouched, so that it does not take longer than its lease.
    let pieces = 0..BYTES_MAX / PIECE_BYTES;
    let taken: Vec<Vec<u8>> = pieces.map(|_| Vec::with_capacity(PIECE_BYTES)).collect();
    std::hint::black_box(taken);
    Came::Done
}

/// Computes for ever.
pub fn hold() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// Sends frames that are no fault by themselves, as fast as the other end takes them.
fn flood() -> ! {
    loop {
        tell(Message::Expired(Expired::default()));
    }
}

/// Says what no worker may say.
fn say(name: &str) {
    match name {
        "junk" => raw(&[&16u32.to_le_bytes()[..], &[0xFF; 16]].concat()),
        "huge-frame" => raw(&u32::MAX.to_le_bytes()),
        "half-a-frame" => raw(&[&100u32.to_le_bytes()[..], &[0; 10]].concat()),
        // Ends of nothing, two bytes each.
        "many-answers" => {
            let step = [0x32, 0].repeat(1 << 18);
            let length = varint(step.len());
            let body = 1 + length.len() + step.len();
            raw(&[&(body as u32).to_le_bytes()[..], &[0x1A], &length, &step].concat());
        }
        // Fills the log, with lines that look like the server's and move a terminal's cursor.
        "log" => {
            for _ in 0..100_000 {
                // Where it is not taken there is nothing to be done.
                let _ = io::stderr().write_all(b"\x1b[2K\rFORGED the server is well\n");
            }
            raw(&0u32.to_le_bytes())
        }
        "no-message" => raw(&0u32.to_le_bytes()),
        "second-ready" => tell(Message::Ready(Ready::default())),
        // With lines that look like the server's.
        "late-refusal" => tell(Message::Refused(Refused {
            reason: "it\nFORGED the server is well\n".repeat(10_000),
            ..Refused::default()
        })),
        // First that it had something to drop, which its model never has.
        "dropped" => {
            let counters = |cached_bytes| {
                Some(Counters {
                    cached_bytes,
                    ..Counters::default()
                })
            };
            tell(Message::Step(Step {
                lease: 1,
                counters: counters(1 << 20),
                ..Step::default()
            }));
            tell(Message::Expired(Expired {
                counters: counters(0),
                ..Expired::default()
            }));
        }
        "others-lease" => tell(Message::Step(Step {
            lease: u64::MAX,
            ..Step::default()
        })),
        "others-release" => tell(Message::Released(Released {
            lease: u64::MAX,
            ..Released::default()
        })),
        "residue" => {
            let scrub = ScrubReport {
                residue_bytes: 1,
                first_residue: Some(7),
                ..ScrubReport::default()
            };
            tell(Message::Expired(Expired {
                scrub: Some(scrub),
                ..Expired::default()
            }));
        }
        other => panic!("no attempt is named {other}"),
    }
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7F {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn tell(message: Message) {
    raw(&frame::encode(&FromWorker {
        message: Some(message),
    }));
}

/// Writes to the socket past everything that the worker's own loop would say.
fn raw(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match send(SOCKET_FD, bytes, MsgFlags::MSG_NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            // Its end is near, and nobody listens any more.
            Err(_) => hold(),
        }
    }
}
