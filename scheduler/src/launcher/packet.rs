//! One message a packet, with at most one descriptor beside it: how launcher and scheduler talk.
//!
//! `SOCK_SEQPACKET` keeps the edges of messages, so there is no framing to get wrong, and a packet
//! over the bound is refused whole. The same two functions serve both sides: on a blocking socket
//! they block, on a non-blocking one (tokio's `AsyncFd`) they answer `WouldBlock`. What arrives is
//! untrusted: a cut packet, a cut or second descriptor, or bytes that are no such message are errors,
//! and no descriptor that came with them stays open.

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
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

/// Receives one message and the descriptor that came beside it; `None` once the peer has closed.
pub fn recv<M: Message + Default>(fd: BorrowedFd<'_>) -> io::Result<Option<(M, Option<OwnedFd>)>> {
    let mut bytes = vec![0u8; PACKET_BYTES_MAX];
    let (length, cut, mut fds) = retry(|| {
        let mut control = nix::cmsg_space!([std::os::fd::RawFd; DESCRIPTORS_SENT_MAX]);
        let mut into = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let got = recvmsg::<()>(fd.as_raw_fd(), &mut into, Some(&mut control), flags)?;
        let cut = got
            .flags
            .intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
        Ok((got.bytes, cut, owned(got.cmsgs()?)))
    })?;
    if cut || fds.len() > 1 {
        return Err(invalid(
            "a packet with more bytes or descriptors than allowed",
        ));
    }
    if length == 0 {
        return Ok(None);
    }
    let message = M::decode(&bytes[..length]).map_err(|e| invalid(&e.to_string()))?;
    Ok(Some((message, fds.pop())))
}

/// Takes charge of every descriptor in `control`, so that none leaks whatever happens next.
fn owned(control: impl Iterator<Item = ControlMessageOwned>) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    for message in control {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel has just made these descriptors for us; nobody else knows them.
            fds.extend(
                raw.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    fds
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
    use bulkhead_proto::internal::{
        FromLauncher, SpawnFailed, ToLauncher, from_launcher::Message as From,
    };
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
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
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
