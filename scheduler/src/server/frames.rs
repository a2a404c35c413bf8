//! Reading our own frames from an async stream, under the same limit as everywhere.
//!
//! What a worker sends is data: before it is decoded it is looked through for how many entries it would become, since an
//! entry of two bytes takes a hundred times as much once it is a value.

use bulkhead_proto::{
    frame::{self, FrameError, HEADER_BYTES},
    internal::{FromWorker, from_worker},
};
use prost::{
    DecodeError, Message,
    bytes::Buf,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The most entries of one frame: the log-probabilities of a thousand answers with twenty alternatives each fit several
/// times.
const ENTRIES_MAX: usize = 1 << 17;

/// Bytes of a frame that may say nothing, beside as many as say something: fields that nobody knows take time to read, too.
const PADDING_BYTES_MAX: usize = 1024;

/// The fields of a message that become values of their own, and those within.
struct Entries(&'static [(u32, Entries)]);

const NONE: Entries = Entries(&[]);
const LOGPROBS: Entries = Entries(&[(4, NONE)]);
const PIECE: Entries = Entries(&[(4, LOGPROBS)]);
const FINISHED: Entries = Entries(&[(7, NONE)]);
const STEP: Entries = Entries(&[(5, PIECE), (6, FINISHED)]);
const READY: Entries = Entries(&[(5, NONE)]);
const FROM_WORKER: Entries = Entries(&[(1, READY), (3, STEP)]);

/// The next message; `None` at a clean end of the stream.
pub async fn read<M: Message + Default>(
    input: &mut (impl AsyncRead + Unpin),
) -> Result<Option<M>, FrameError> {
    match body(input).await? {
        Some(body) => Ok(Some(M::decode(body.as_slice())?)),
        None => Ok(None),
    }
}

/// A worker's message, and how much it is: bytes, and entries that it holds.
#[derive(Debug)]
pub struct Spoken {
    pub message: FromWorker,
    pub bytes: usize,
    pub entries: usize,
}

/// The next message of a worker, which may say no more than one could have to say.
pub async fn from_worker(
    input: &mut (impl AsyncRead + Unpin),
) -> Result<Option<Spoken>, FrameError> {
    let Some(body) = body(input).await? else {
        return Ok(None);
    };
    let entries = count(&body, &FROM_WORKER)?;
    if entries > ENTRIES_MAX {
        return Err(FrameError::TooLong {
            bytes: entries,
            max: ENTRIES_MAX,
        });
    }
    let message = FromWorker::decode(body.as_slice())?;
    if body.len() > 2 * message.encoded_len() + PADDING_BYTES_MAX {
        return Err(FrameError::TooLong {
            bytes: body.len(),
            max: message.encoded_len(),
        });
    }
    // Each of the steps that it counts is heard of like one of its own.
    let silent = match &message.message {
        Some(from_worker::Message::Step(step)) => step.silent_steps as usize,
        _ => 0,
    };
    Ok(Some(Spoken {
        message,
        bytes: body.len(),
        entries: entries.saturating_add(silent),
    }))
}

async fn body(input: &mut (impl AsyncRead + Unpin)) -> Result<Option<Vec<u8>>, FrameError> {
    let mut header = [0u8; HEADER_BYTES];
    let got = input.read(&mut header).await?;
    if got == 0 {
        return Ok(None);
    }
    input.read_exact(&mut header[got..]).await?;
    let mut body = vec![0u8; frame::length(header)?];
    input.read_exact(&mut body).await?;
    Ok(Some(body))
}

/// How many entries a message's bytes hold.
fn count(mut bytes: &[u8], entries: &Entries) -> Result<usize, DecodeError> {
    let mut counted = 0;
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes)?;
        let inner = entries.0.iter().find(|(known, _)| *known == tag);
        match inner {
            Some((_, inner)) if wire_type == WireType::LengthDelimited => {
                let length = decode_varint(&mut bytes)?;
                // Longer than what is there: decoding says so, and makes nothing of it.
                let length = usize::try_from(length).map_or(bytes.len(), |n| n.min(bytes.len()));
                // What has no entries within may be text.
                counted += 1 + match inner.0 {
                    [] => 0,
                    _ => count(&bytes[..length], inner)?,
                };
                bytes.advance(length);
            }
            _ => skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?,
        }
    }
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_proto::internal::{
        Alternative, Finished, Piece, Ready, Refused, Step, TokenLogprob, Vector,
        from_worker::Message as Said,
    };

    fn framed(step: Step) -> Vec<u8> {
        frame::encode(&FromWorker {
            message: Some(Said::Step(step)),
        })
    }

    fn step(finished: usize) -> Step {
        let top = vec![Alternative::default(); 3];
        let logprob = TokenLogprob {
            top,
            ..TokenLogprob::default()
        };
        let piece = Piece {
            text: "a piece".into(),
            logprobs: vec![logprob; 2],
            ..Piece::default()
        };
        let vectors = vec![Vector::default(); 5];
        Step {
            lease: 7,
            pieces: vec![piece; 2],
            finished: vec![
                Finished {
                    vectors,
                    ..Finished::default()
                };
                finished
            ],
            ..Step::default()
        }
    }

    #[test]
    fn entries_are_counted_at_every_depth() {
        let bytes = framed(step(2));
        // The step, two pieces of two tokens with three alternatives, two ends with five vectors.
        let expected = 1 + 2 * (1 + 2 * (1 + 3)) + 2 * (1 + 5);
        assert_eq!(
            count(&bytes[HEADER_BYTES..], &FROM_WORKER).unwrap(),
            expected
        );
    }

    #[tokio::test]
    async fn what_a_worker_has_to_say_is_read_whole() {
        let ready = Ready {
            task: "embed".into(),
            seal: vec!["landlock".into(), "seccomp".into()],
            ..Ready::default()
        };
        for said in [
            Said::Ready(ready),
            Said::Step(step(3)),
            Said::Refused(Refused::default()),
        ] {
            let message = FromWorker {
                message: Some(said),
            };
            let bytes = frame::encode(&message);
            let read = from_worker(&mut bytes.as_slice()).await.unwrap().unwrap();
            assert_eq!(read.bytes, bytes.len() - HEADER_BYTES);
            assert_eq!(read.message, message);
        }
    }

    #[tokio::test]
    async fn a_frame_of_too_many_entries_is_refused_before_it_is_decoded() {
        let many = framed(step(ENTRIES_MAX / 6));
        assert!(many.len() < frame::FRAME_BYTES_MAX);
        let read = from_worker(&mut many.as_slice()).await;
        assert!(matches!(read, Err(FrameError::TooLong { .. })));
    }

    #[tokio::test]
    async fn a_frame_that_says_little_at_length_is_refused() {
        let refused = |reason: String| {
            let refused = Refused {
                reason,
                ..Refused::default()
            };
            let message = Some(Said::Refused(refused));
            FromWorker { message }.encode_to_vec()
        };
        // A field that nobody knows, and a text of which another takes the place.
        let unknown = [&[0x7a, 0xff, 0x7f][..], &[0; 16_383]].concat();
        let twice = [refused("x".repeat(16_383)), refused("y".into())].concat();
        for body in [unknown, twice] {
            let length = u32::try_from(body.len()).unwrap();
            let frame = [&length.to_le_bytes()[..], &body].concat();
            let read = from_worker(&mut frame.as_slice()).await;
            assert!(matches!(read, Err(FrameError::TooLong { .. })), "{read:?}");
        }
    }
}
