//! An answer leaves in pieces, few at a time. A piece is on its way until the transport has let go of it, so whatever a
//! client's windows say, what it has not taken is in the books of its agent, and shows.
//!
//! Nothing is thrown away here: who has left an answer for too long is found and cut in `connection`.

use super::{Activity, Running, State, Unread};
use crate::server::buffers::Booked;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Bytes of a piece, as many as one frame of HTTP/2 has room for.
const PIECE_BYTES: usize = 16 << 10;
/// Bytes of one answer that may be on their way.
pub const ON_THE_WAY_MAX: usize = 4 * PIECE_BYTES;

impl State {
    /// An answer has been left where it is since a time.
    fn look_at(&mut self, way: &Way, state: &OnTheWay) {
        let unread = Unread {
            until: state.since + state.patience + self.for_a_piece(),
            cut: way.cut.clone(),
        };
        self.unread.insert(way.number, unread);
    }
}

/// What of one answer is on its way to its client.
struct Way {
    activity: Activity,
    number: u64,
    cut: Option<Arc<Notify>>,
    state: Mutex<OnTheWay>,
    /// What its agent has of it in the books, where it has an agent.
    booked: Option<Booked>,
}

struct OnTheWay {
    bytes: usize,
    /// Of all that has left.
    left: usize,
    /// Since when none of it has arrived.
    since: Instant,
    patience: Duration,
    /// Who waits until there is less.
    waker: Option<Waker>,
    /// Nothing more comes, and there is nothing left that could be cut.
    ended: bool,
}

impl Way {
    /// A piece is on its way.
    fn begins(&self, bytes: usize) {
        let mut way = self.state.lock();
        if way.bytes == 0 {
            way.since = Instant::now();
        }
        way.bytes += bytes;
        way.left += bytes;
        let mut activity = self.activity.state.lock();
        activity.bytes += bytes;
        activity.look_at(self, &way);
    }

    /// The transport has let go of a piece.
    fn is_gone(&self, bytes: usize) {
        let mut way = self.state.lock();
        let mut activity = self.activity.state.lock();
        let now = Instant::now();
        let beyond = (now - way.since).saturating_sub(activity.for_a_piece());
        (way.patience, way.since) = (way.patience.saturating_sub(beyond), now);
        way.bytes -= bytes;
        activity.bytes -= bytes;
        // What was cut is let go of without having arrived.
        if activity.bytes == 0 || activity.unread.contains_key(&self.number) {
            activity.stuck_since = None;
        }
        match way.bytes == 0 || way.ended {
            true => drop(activity.unread.remove(&self.number)),
            false => activity.look_at(self, &way),
        }
        if let Some(waker) = way.waker.take() {
            waker.wake();
        }
    }

    /// So much of it is held, beside what is on its way.
    fn book(&self, rest: usize) {
        if let Some(booked) = &self.booked {
            let bytes = self.state.lock().bytes + rest;
            booked.is(bytes as u64);
        }
    }
}

/// Bytes of an answer that are on their way.
struct Piece {
    bytes: Bytes,
    way: Arc<Way>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.way.is_gone(self.bytes.len());
    }
}

/// The end of a body.
enum Last {
    Trailers(HeaderMap),
    Nothing,
}

/// A body that leaves in pieces, and keeps its request counted until it has.
pub struct Leaving<B> {
    body: B,
    /// What of its last frame has not left, and whether some of it has.
    rest: Bytes,
    is_split: bool,
    /// What comes last, once it is there.
    last: Option<Last>,
    way: Arc<Way>,
    _running: Running,
}

impl<B> Leaving<B> {
    pub(super) fn new(body: B, running: Running, booked: Option<Booked>) -> Self {
        let state = OnTheWay {
            bytes: 0,
            left: 0,
            since: Instant::now(),
            patience: running.activity.patience,
            waker: None,
            ended: false,
        };
        let way = Way {
            activity: running.activity.clone(),
            number: running.number,
            cut: running.cut.clone(),
            state: Mutex::new(state),
            booked,
        };
        Leaving {
            body,
            rest: Bytes::new(),
            is_split: false,
            last: None,
            way: Arc::new(way),
            _running: running,
        }
    }

    /// Waits until no more than so many bytes are on their way.
    fn poll_room(&self, most: usize, cx: &mut Context<'_>) -> Poll<()> {
        let mut way = self.way.state.lock();
        if way.bytes <= most {
            return Poll::Ready(());
        }
        way.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Once the transport has the end of it an answer cannot be cut any more: so the end waits for all that was before it,
    /// but where that was less than a piece in all.
    fn poll_end(&self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.way.state.lock().left;
        match left <= PIECE_BYTES {
            true => Poll::Ready(()),
            false => self.poll_room(0, cx),
        }
    }

    /// The next piece. Copied where it is a part: or it would keep all of its frame.
    fn next_piece(&mut self) -> Bytes {
        let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        let bytes = match self.is_split || !self.rest.is_empty() {
            true => Bytes::copy_from_slice(&piece),
            false => piece,
        };
        self.is_split = !self.rest.is_empty();
        self.way.begins(bytes.len());
        let way = self.way.clone();
        Bytes::from_owner(Piece { bytes, way })
    }
}

impl<B> Drop for Leaving<B> {
    fn drop(&mut self) {
        let mut way = self.way.state.lock();
        way.ended = true;
        self.way
            .activity
            .state
            .lock()
            .unread
            .remove(&self.way.number);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Leaving<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        ready!(self.poll_room(ON_THE_WAY_MAX - PIECE_BYTES, cx));
        if self.rest.is_empty() && self.last.is_none() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => self.last = Some(Last::Nothing),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(frame) => self.last = frame.into_trailers().ok().map(Last::Trailers),
                },
            }
            self.way.book(self.rest.len());
        }
        if self.last.is_some() {
            ready!(self.poll_end(cx));
            return Poll::Ready(match self.last.replace(Last::Nothing) {
                Some(Last::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                _ => None,
            });
        }
        Poll::Ready(Some(Ok(Frame::data(self.next_piece()))))
    }

    fn is_end_stream(&self) -> bool {
        // Whoever is told so asks no more: then the end would not wait for what was before it.
        let asks_no_more = match &self.last {
            Some(last) => matches!(last, Last::Nothing),
            None => self.way.state.lock().left <= PIECE_BYTES,
        };
        asks_no_more && self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, inner) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest + inner.lower());
        if let Some(upper) = inner.upper() {
            hint.set_upper(rest + upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::connection::{LOOK_EVERY, STUCK_MAX, TIME_OF_PIECE};
    use http::Version;
    use http_body_util::{BodyExt, Full};
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::time::{advance, timeout};

    const PIECES: usize = 200;
    const PATIENCE: Duration = Duration::from_secs(30);

    fn answer(activity: &Activity, version: Version) -> Leaving<Full<Bytes>> {
        let body = Full::new(Bytes::from(vec![7; PIECES * PIECE_BYTES]));
        Leaving::new(body, activity.enter(version), None)
    }

    async fn piece(body: &mut Leaving<Full<Bytes>>) -> Option<Bytes> {
        let frame = timeout(Duration::from_millis(1), body.frame()).await;
        frame.ok()?.map(|frame| frame.unwrap().into_data().unwrap())
    }

    /// Fails where the transport is given more than a few pieces, whatever its client takes.
    #[tokio::test(start_paused = true)]
    async fn few_pieces_are_on_their_way() {
        let activity = Activity::new(PATIENCE);
        let mut body = answer(&activity, Version::HTTP_2);
        let mut taken = Vec::new();
        while let Some(piece) = piece(&mut body).await {
            taken.push(piece);
        }
        let bytes = |taken: &[Bytes]| taken.iter().map(Bytes::len).sum::<usize>();
        assert_eq!(bytes(&taken), ON_THE_WAY_MAX);
        taken.pop();
        taken.extend(piece(&mut body).await);
        assert_eq!(bytes(&taken), ON_THE_WAY_MAX);
    }

    /// Fails where an answer of several pieces ends, and cannot be cut any more, while any of it is on its way; or where its
    /// last piece keeps the memory of all the others.
    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_what_was_before_it() {
        let activity = Activity::new(PATIENCE);
        let mut body = answer(&activity, Version::HTTP_2);
        let whole = Bytes::from(vec![7; 2 * PIECE_BYTES]);
        let places = whole.as_ptr_range();
        body.body = Full::new(whole);
        let first = piece(&mut body).await.unwrap();
        let last = piece(&mut body).await.unwrap();
        assert!(!places.contains(&first.as_ptr()) && !places.contains(&last.as_ptr()));
        drop(first);
        let end = timeout(LOOK_EVERY, body.frame()).await;
        assert!(end.is_err(), "not yet");
        assert_eq!(activity.state.lock().unread.len(), 1);
        drop(last);
        assert!(body.frame().await.is_none(), "the end");
        assert!(activity.state.lock().unread.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_answer_waits_for_nothing() {
        let activity = Activity::new(PATIENCE);
        let mut body = answer(&activity, Version::HTTP_2);
        body.body = Full::new(Bytes::from_static(b"small"));
        let _piece = piece(&mut body).await.unwrap();
        assert!(body.frame().await.is_none());
    }

    /// Fails where what was cut stays on a connection whose client takes nothing at all.
    #[tokio::test(start_paused = true)]
    async fn a_connection_that_takes_nothing_is_closed() {
        let activity = Activity::new(PATIENCE);
        let mut body = answer(&activity, Version::HTTP_2);
        let first = piece(&mut body).await.unwrap();
        let second = piece(&mut body).await.unwrap();
        let start = Instant::now();
        activity.unread(|| {}).await;
        assert!(start.elapsed() >= PATIENCE + STUCK_MAX - LOOK_EVERY);
        drop((first, second));
        assert!(timeout(PATIENCE, activity.unread(|| {})).await.is_err());
    }

    /// Fails where answers that share a connection are cut though it is read well, the last of them before its first piece.
    #[tokio::test(start_paused = true)]
    async fn who_shares_a_connection_has_longer() {
        let activity = Activity::new(PATIENCE);
        let mut bodies = [(); 64].map(|()| answer(&activity, Version::HTTP_2));
        for _ in 0..9 {
            let mut taken = Vec::new();
            for body in &mut bodies {
                taken.extend(piece(body).await);
            }
            for piece in taken {
                advance(TIME_OF_PIECE * 9 / 10).await;
                assert!(activity.take_unread(Instant::now()).is_empty());
                drop(piece);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_ends_its_stream_and_one_that_is_being_made_does_not() {
        let activity = Activity::new(PATIENCE);
        let (mut unread, being_made) = (
            answer(&activity, Version::HTTP_2),
            answer(&activity, Version::HTTP_2),
        );
        let cut = unread.way.cut.clone().unwrap();
        let _piece = piece(&mut unread).await.unwrap();
        let told = AtomicU32::new(0);
        let watch = activity.unread(|| {
            told.fetch_add(1, Ordering::Relaxed);
        });
        let start = Instant::now();
        tokio::select! {
            () = watch => panic!("others share the connection"),
            () = cut.notified() => {}
        }
        let for_two = 2 * TIME_OF_PIECE;
        let took = start.elapsed();
        assert!(took >= PATIENCE + for_two && took <= PATIENCE + for_two + LOOK_EVERY);
        assert_eq!(told.load(Ordering::Relaxed), 1);
        drop(being_made);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unread_answer_that_has_its_connection_to_itself_ends_that() {
        let activity = Activity::new(PATIENCE);
        let mut body = answer(&activity, Version::HTTP_11);
        let _piece = piece(&mut body).await.unwrap();
        let closed = timeout(PATIENCE * 2, activity.unread(|| {})).await;
        assert!(closed.is_ok());
    }

    /// Fails where a stream of words is cut for the time that each takes beside others' pieces.
    #[tokio::test(start_paused = true)]
    async fn words_that_arrive_one_by_one_are_not_cut() {
        let activity = Activity::new(PATIENCE);
        let mut body = answer(&activity, Version::HTTP_2);
        for _ in 0..1_000 {
            body.body = Full::new(Bytes::from_static(b"word"));
            let word = piece(&mut body).await.unwrap();
            advance(TIME_OF_PIECE * 9 / 10).await;
            assert!(activity.take_unread(Instant::now()).is_empty());
            drop(word);
        }
    }

    /// Fails where what leaves of a body that knows its end can no more be cut.
    #[tokio::test(start_paused = true)]
    async fn a_body_that_knows_its_end_does_not_tell_before_all_is_gone() {
        let activity = Activity::new(PATIENCE);
        let mut body = answer(&activity, Version::HTTP_2);
        body.body = Full::new(Bytes::from(vec![7; 2 * PIECE_BYTES]));
        let taken = [piece(&mut body).await, piece(&mut body).await];
        assert!(!body.is_end_stream());
        drop(taken);
        assert!(body.frame().await.is_none() && body.is_end_stream());
    }

    /// Fails where a client keeps what is held for it by taking a little now and then.
    #[tokio::test(start_paused = true)]
    async fn who_reads_too_slowly_shows_and_who_reads_slowly_does_not() {
        for (pause, shows) in [(TIME_OF_PIECE, false), (TIME_OF_PIECE * 2, true)] {
            let activity = Activity::new(PATIENCE);
            let mut body = answer(&activity, Version::HTTP_2);
            let mut shown = false;
            while let Some(piece) = piece(&mut body).await {
                advance(pause).await;
                shown |= !activity.take_unread(Instant::now()).is_empty();
                drop(piece);
            }
            assert_eq!(shown, shows, "{pause:?} for a piece");
        }
    }
}
