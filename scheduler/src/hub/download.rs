//! Bringing one file here: gone on from where it stopped, tried again a few times, checked at its end.
//!
//! Three attempts in a row that bring nothing are the end; those that bring something may be many, so that
//! a line that breaks every minute still brings a large file. What was kept of an earlier run and turns out
//! wrong is fetched anew, once.

use super::{
    Address, Hub, HubError,
    listing::{Entry, Listing, Stated},
    sink::Sink,
    web::Answer,
};
use http::{StatusCode, header};
use std::path::Path;

/// Most attempts in a row that bring nothing.
const IDLE_ATTEMPTS_MAX: u32 = 3;
/// Most attempts at one file in one run.
const ATTEMPTS_MAX: u32 = 200;

/// What somebody who watches is told.
#[derive(Debug)]
pub enum Told<'a> {
    /// This file is next.
    File(&'a Entry),
    /// So many bytes of it are here.
    Have(u64),
    /// It is tried again, because of this.
    Again(&'a HubError),
}

/// Fetches a file of the listing's commit to `path`. Gives its SHA-256, hex.
pub async fn fetch(
    hub: &Hub,
    (address, listing): (&Address, &Listing),
    entry: &Entry,
    path: &Path,
    tell: &mut dyn FnMut(Told<'_>),
) -> Result<String, HubError> {
    let url = hub.file(address, &listing.commit, &entry.name);
    tell(Told::File(entry));
    let mut sink = Sink::open(entry, path)?;
    let (mut idle, mut attempts) = (0, 0);
    loop {
        tell(Told::Have(sink.len()));
        if sink.is_full() {
            if sink.is_right() || !sink.was_resumed() {
                return sink.finish();
            }
            sink.restart()?;
        }
        let before = sink.len();
        let answer = hub.web.get(&url, before).await;
        let brought = match answer {
            Ok(answer) if answer.head.status.is_success() => {
                bring(answer, entry, &mut sink, tell).await
            }
            Ok(answer) if answer.head.status == StatusCode::RANGE_NOT_SATISFIABLE => {
                sink.restart()?;
                Err(hub.refusal(&answer, address))
            }
            Ok(answer) => Err(hub.refusal(&answer, address)),
            Err(error) => Err(error),
        };
        match brought {
            Err(error) if error.passes() => {
                idle = if sink.len() > before { 0 } else { idle + 1 };
                attempts += 1;
                if idle == IDLE_ATTEMPTS_MAX || attempts == ATTEMPTS_MAX {
                    return Err(error);
                }
                tell(Told::Again(&error));
                tokio::time::sleep(hub.web.limits.pause * 2u32.pow(idle)).await;
            }
            Err(error) => return Err(error),
            Ok(()) => {}
        }
    }
}

/// Moves a body into the file: all of it, or what is missing.
async fn bring(
    mut answer: Answer,
    entry: &Entry,
    sink: &mut Sink<'_>,
    tell: &mut dyn FnMut(Told<'_>),
) -> Result<(), HubError> {
    let odd = |answer: &Answer, what: &str| HubError::Odd {
        host: answer.url.authority(),
        what: what.into(),
    };
    if let (Stated::Sha256(stated), Some(linked)) = (&entry.stated, &answer.linked)
        && stated != linked
    {
        return Err(sink.differs("the hub states two hashes of it".into()));
    }
    let encoding = answer.head.headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != "identity") {
        return Err(odd(&answer, "it is compressed, and was asked not to be"));
    }
    if answer.head.status == StatusCode::PARTIAL_CONTENT {
        let range = answer.head.headers.get(header::CONTENT_RANGE);
        let expected = format!("bytes {}-{}/{}", sink.len(), entry.bytes - 1, entry.bytes);
        if range.is_none_or(|range| range != expected.as_str()) {
            return Err(odd(&answer, "another part of the file than was asked for"));
        }
    } else if sink.len() > 0 {
        // All of it, though a part was asked for.
        sink.restart()?;
    }
    while let Some(piece) = answer.next().await? {
        sink.push(&piece)?;
        tell(Told::Have(sink.len()));
    }
    match sink.is_full() {
        true => Ok(()),
        false => Err(HubError::Cut {
            host: answer.url.authority(),
            what: format!("{} of {} bytes came", sink.len(), entry.bytes),
        }),
    }
}
