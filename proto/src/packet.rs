//! One message a packet, with at most one descriptor beside it: how the launcher talks to the
//! scheduler and to templates.
//!
//! `SOCK_SEQPACKET` keeps the edges of messages, so there is no framing to get wrong, and a packet
//! over the bound is refused whole. The same functions serve both sides: on a blocking socket
//! they block, on a non-blocking one (tokio's `AsyncFd`) they answer `WouldBlock`. What arrives is
//! untrusted: a cut packet, a cut or second descriptor, or bytes that are no such message are errors,
//! and no descriptor that came with them stays open.

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixCredentials, recvmsg, sendmsg, setsockopt, socketpair, sockopt::PassCred,
};
use prost::Message;
use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// The longest message, bytes.
pub const PACKET_BYTES_MAX: usize = 64 << 10;

/// Descriptors that the kernel lets anybody put beside one message (SCM_MAX_FD). Room for all of
/// them, because one that does not fit would be open in this process and known to nobody.
const DESCRIPTORS_SENT_MAX: usize = 253;

/// Both ends of a new connection for packets, closed on exec, blocking.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// Sends one message, and a descriptor beside it where `pass` has one.
pub fn send(
    fd: BorrowedFd<'_>,
    message: &impl Message,
    pass: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = message.encode_to_vec();
    // A packet of no bytes cannot be told from the end of the connection.
    if bytes.is_empty() || bytes.len() > PACKET_BYTES_MAX {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            format!(
                "a packet holds 1 to {PACKET_BYTES_MAX} bytes, not {}",
                bytes.len()
            ),
        ));
    }
    let fds: Vec<_> = pass.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL;
    retry(|| {
        sendmsg::<()>(
            fd.as_raw_fd(),
            &[IoSlice::new(&bytes)],
            control,
            flags,
            None,
        )
    })?;
    Ok(())
}

/// From now on the kernel says of every packet that `fd` receives which process sent it.
pub fn name_senders(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(setsockopt(&fd, PassCred, &true)?)
}

/// A packet that arrived.
#[derive(Debug)]
pub struct Packet<M> {
    /// What it says.
    pub message: M,
    /// What came beside it.
    pub descriptor: Option<OwnedFd>,
    /// The number of the process that sent it, on the kernel's word; known after [`name_senders`].
    pub sender: Option<i32>,
}

/// Receives one message and the descriptor that came beside it; `None` once the peer has closed.
pub fn recv<M: Message + Default>(fd: BorrowedFd<'_>) -> io::Result<Option<(M, Option<OwnedFd>)>> {
    Ok(recv_packet(fd)?.map(|packet| (packet.message, packet.descriptor)))
}

/// Receives one packet; `None` once the peer has closed.
pub fn recv_packet<M: Message + Default>(fd: BorrowedFd<'_>) -> io::Result<Option<Packet<M>>> {
    let mut bytes = vec![0u8; PACKET_BYTES_MAX];
    let (length, cut, mut beside) = retry(|| {
        let mut control =
            nix::cmsg_space!([std::os::fd::RawFd; DESCRIPTORS_SENT_MAX], UnixCredentials);
        let mut into = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let got = recvmsg::<()>(fd.as_raw_fd(), &mut into, Some(&mut control), flags)?;
        let cut = got
            .flags
            .intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
        Ok((got.bytes, cut, Beside::of(got.cmsgs()?)))
    })?;
    if cut || beside.descriptors.len() > 1 {
        return Err(invalid(
            "a packet with more bytes or descriptors than allowed",
        ));
    }
    if length == 0 {
        return Ok(None);
    }
    Ok(Some(Packet {
        message: M::decode(&bytes[..length]).map_err(|e| invalid(&e.to_string()))?,
        descriptor: beside.descriptors.pop(),
        sender: beside.sender,
    }))
}

/// What came beside the bytes.
#[derive(Default)]
struct Beside {
    descriptors: Vec<OwnedFd>,
    sender: Option<i32>,
}

impl Beside {
    /// Takes charge of every descriptor in `control`, so that none leaks whatever happens next.
    fn of(control: impl Iterator<Item = ControlMessageOwned>) -> Beside {
        let mut beside = Beside::default();
        for message in control {
            match message {
                ControlMessageOwned::ScmRights(raw) => {
                    // SAFETY: the kernel has just made these descriptors for us; nobody else knows
                    // them.
                    let owned = raw
                        .into_iter()
                        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
                    beside.descriptors.extend(owned);
                }
                ControlMessageOwned::ScmCredentials(sender) => beside.sender = Some(sender.pid()),
                _ => {}
            }
        }
        beside
    }
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(nix::errno::Errno::EINTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::internal::{FromLauncher, SpawnFailed, ToLauncher, from_launcher::Message as From};
    use std::{
        fs::File,
        io::{Read, Write},
        os::fd::AsFd,
    };

    fn failed(reason: String) -> FromLauncher {
        FromLauncher {
            message: Some(From::SpawnFailed(SpawnFailed {
                worker: 7,
                reason,
                permanent: true,
                fault: None,
                wait_ns: 0,
            })),
        }
    }

    #[test]
    fn a_message_and_its_descriptor_arrive_together() {
        let (left, right) = pair().unwrap();
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let sent = failed("no".into());
        send(left.as_fd(), &sent, Some(writer.as_fd())).unwrap();
        send(left.as_fd(), &sent, None).unwrap();
        writer.write_all(b"mine").unwrap();
        drop(writer);

        let (got, fd) = recv::<FromLauncher>(right.as_fd()).unwrap().unwrap();
        assert_eq!(got, sent);
        File::from(fd.expect("the descriptor"))
            .write_all(b" yours")
            .unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(
            text, "mine yours",
            "the very pipe arrived, and no copy stays open"
        );

        let (_, none) = recv::<FromLauncher>(right.as_fd()).unwrap().unwrap();
        assert!(none.is_none());
        drop(left);
        assert!(recv::<FromLauncher>(right.as_fd()).unwrap().is_none());
    }

    #[test]
    fn a_received_descriptor_is_closed_on_exec() {
        let (left, right) = pair().unwrap();
        send(left.as_fd(), &failed("no".into()), Some(left.as_fd())).unwrap();
        let (_, fd) = recv::<FromLauncher>(right.as_fd()).unwrap().unwrap();
        let flags = nix::fcntl::fcntl(fd.unwrap(), nix::fcntl::FcntlArg::F_GETFD).unwrap();
        let flags = nix::fcntl::FdFlag::from_bits_retain(flags);
        assert!(flags.contains(nix::fcntl::FdFlag::FD_CLOEXEC));
    }

    #[test]
    fn a_receiver_that_asks_is_told_who_sent_a_packet() {
        let (left, right) = pair().unwrap();
        let told = |right: &OwnedFd| {
            send(left.as_fd(), &failed("no".into()), Some(left.as_fd())).unwrap();
            let packet = recv_packet::<FromLauncher>(right.as_fd()).unwrap().unwrap();
            assert!(packet.descriptor.is_some());
            packet.sender
        };
        assert_eq!(told(&right), None);
        name_senders(right.as_fd()).unwrap();
        assert_eq!(told(&right), Some(std::process::id() as i32));
    }

    #[test]
    fn bounds_hold_on_both_sides() {
        let (left, right) = pair().unwrap();
        let long = failed("x".repeat(PACKET_BYTES_MAX));
        assert_eq!(
            send(left.as_fd(), &long, None).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
        assert_eq!(
            send(left.as_fd(), &ToLauncher { message: None }, None)
                .unwrap_err()
                .kind(),
            ErrorKind::InvalidInput,
        );
        // Somebody who does not keep to the bound.
        nix::unistd::write(&left, &long.encode_to_vec()).unwrap();
        assert_eq!(
            recv::<FromLauncher>(right.as_fd()).unwrap_err().kind(),
            ErrorKind::InvalidData
        );
    }

    #[test]
    fn more_descriptors_than_one_are_an_error_and_stay_closed() {
        let (left, right) = pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let fds = [writer.as_raw_fd(); 3];
        let control = [ControlMessage::ScmRights(&fds)];
        let bytes = failed("no".into()).encode_to_vec();
        let part = [IoSlice::new(&bytes)];
        sendmsg::<()>(left.as_raw_fd(), &part, &control, MsgFlags::empty(), None).unwrap();
        drop(writer);
        assert_eq!(
            recv::<FromLauncher>(right.as_fd()).unwrap_err().kind(),
            ErrorKind::InvalidData
        );
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    }

    #[test]
    fn a_socket_that_must_not_block_says_so() {
        let (left, right) = pair().unwrap();
        nix::fcntl::fcntl(
            &right,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )
        .unwrap();
        assert_eq!(
            recv::<FromLauncher>(right.as_fd()).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        drop(left);
    }
}
