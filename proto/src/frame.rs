//! Frames between our processes: a 4-byte little-endian length, then one protobuf message.
//!
//! A length over the caller's limit is refused before a byte of it is read or allocated: the other
//! side may be a compromised worker. Nothing here blocks, waits or knows what a message means.

use prost::Message;
use std::io::{self, Read, Write};

/// The longest frame that any of our processes accepts, bytes. An embedding request of the greatest
/// size the front door takes (4 MiB of text) fits, and so do its vectors.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// Bytes of the length before each message.
pub const HEADER_BYTES: usize = 4;

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended or failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The peer announced more than the limit.
    #[error("a frame of {bytes} bytes is over the limit of {max}")]
    TooLong {
        /// What was announced.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// The bytes are no such message.
    #[error("a frame could not be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
}

/// The frame of `message`, header included.
pub fn encode<M: Message>(message: &M) -> Vec<u8> {
    let length = message.encoded_len();
    let mut out = Vec::with_capacity(HEADER_BYTES + length);
    out.extend_from_slice(
        &u32::try_from(length)
            .expect("a frame is under 4 GiB")
            .to_le_bytes(),
    );
    message.encode(&mut out).expect("the vector has room");
    out
}

/// The length that a header announces, if it is within the limit.
pub fn length(header: [u8; HEADER_BYTES]) -> Result<usize, FrameError> {
    let bytes = u32::from_le_bytes(header) as usize;
    if bytes > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong {
            bytes,
            max: FRAME_BYTES_MAX,
        });
    }
    Ok(bytes)
}

/// Writes one frame with one call to `write_all`.
pub fn write<M: Message>(out: &mut impl Write, message: &M) -> io::Result<()> {
    out.write_all(&encode(message))
}

/// Reads one frame; `None` at a clean end of the stream.
pub fn read<M: Message + Default>(input: &mut impl Read) -> Result<Option<M>, FrameError> {
    let mut header = [0u8; HEADER_BYTES];
    let mut got = 0;
    while got < HEADER_BYTES {
        match input.read(&mut header[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    let mut body = vec![0u8; length(header)?];
    input.read_exact(&mut body)?;
    Ok(Some(M::decode(body.as_slice())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::internal::{Durable, DurableBatch};

    #[test]
    fn a_frame_survives_the_way() {
        let sent = DurableBatch {
            durable: vec![Durable {
                number: 7,
                position: 9,
            }],
        };
        let bytes = encode(&sent);
        let mut input = bytes.as_slice();
        assert_eq!(read::<DurableBatch>(&mut input).unwrap(), Some(sent));
        assert!(read::<DurableBatch>(&mut input).unwrap().is_none());
    }

    #[test]
    fn a_huge_length_is_refused_before_it_is_read() {
        let mut input: &[u8] = &u32::MAX.to_le_bytes();
        assert!(matches!(
            read::<DurableBatch>(&mut input),
            Err(FrameError::TooLong { .. })
        ));
    }

    #[test]
    fn a_cut_frame_is_an_error_and_not_an_end() {
        let bytes = encode(&DurableBatch {
            durable: vec![Durable {
                number: 7,
                position: 9,
            }],
        });
        for cut in 1..bytes.len() {
            assert!(read::<DurableBatch>(&mut &bytes[..cut]).is_err());
        }
    }
}
