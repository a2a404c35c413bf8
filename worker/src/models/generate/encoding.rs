//! Prompts become tokens inside steps, a piece at a time, each agent's in turn.
//!
//! Encoding takes time by the length of a text. Done when a request comes, megabytes of it would hold up
//! whoever waits for the next step; so a step encodes as many pieces as it has time for, and a text
//! that turns out to be over the context is not read to its end.

use super::request::{Request, too_long};
use super::sequence::Sequence;
use crate::models::text::{Chat, PIECE_BYTES, Part, TextCodec, piece_end};
use bulkhead_proto::internal::GenerateJob;
use std::collections::VecDeque;

/// A request whose prompt is not encoded yet.
#[derive(Debug)]
pub struct Arriving {
    request: u64,
    agent: u64,
    weight: u32,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Job(Box<GenerateJob>),
    Text(Box<Encoding>),
    Ready(Box<Sequence>),
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Decided {
    /// All its tokens are known.
    Ready {
        /// The scheduler's number.
        request: u64,
        /// Its agent.
        agent: u64,
        /// That agent's share relative to the tenant's others.
        weight: u32,
        /// The request itself.
        sequence: Box<Sequence>,
    },
    /// It cannot be run.
    Refused {
        /// The scheduler's number.
        request: u64,
        /// Why, for the caller.
        why: String,
    },
}

enum Progress {
    More(Arriving),
    Decided(Decided),
}

impl Arriving {
    /// Nothing is done with the job yet.
    pub fn new(request: u64, agent: u64, weight: u32, job: GenerateJob) -> Self {
        Arriving {
            request,
            agent,
            weight,
            stage: Stage::Job(Box::new(job)),
        }
    }

    /// One piece of work.
    fn advance(self, codec: &TextCodec, chat: &Chat, context_tokens: usize) -> Progress {
        let Arriving {
            request,
            agent,
            weight,
            stage,
        } = self;
        match stage.advance(codec, chat, context_tokens) {
            Err(why) => Progress::Decided(Decided::Refused { request, why }),
            Ok(Stage::Ready(sequence)) => Progress::Decided(Decided::Ready {
                request,
                agent,
                weight,
                sequence,
            }),
            Ok(stage) => Progress::More(Arriving {
                request,
                agent,
                weight,
                stage,
            }),
        }
    }
}

impl Stage {
    fn advance(self, codec: &TextCodec, chat: &Chat, context: usize) -> Result<Stage, String> {
        match self {
            Stage::Job(job) => {
                let parsed = Request::parse(*job, codec, chat, context)?;
                Ok(Stage::Text(Box::new(Encoding::new(parsed))))
            }
            Stage::Text(mut encoding) => match encoding.advance(codec, context)? {
                true => Ok(Stage::Ready(Box::new(encoding.finish(context)?))),
                false => Ok(Stage::Text(encoding)),
            },
            Stage::Ready(sequence) => Ok(Stage::Ready(sequence)),
        }
    }
}

/// A prompt on its way.
#[derive(Debug)]
struct Encoding {
    request: Request,
    /// The first part that is not done, and how many bytes of it are.
    part: usize,
    at: usize,
    tokens: Vec<u32>,
}

impl Encoding {
    fn new(request: Request) -> Self {
        Encoding {
            request,
            part: 0,
            at: 0,
            tokens: Vec::new(),
        }
    }

    /// Encodes about [`PIECE_BYTES`]. True once all is done.
    fn advance(&mut self, codec: &TextCodec, context_tokens: usize) -> Result<bool, String> {
        let mut room = PIECE_BYTES;
        while let Some(part) = self.request.prompt.get(self.part) {
            if self.tokens.len() >= context_tokens {
                return Err(too_long("at least ", self.tokens.len(), context_tokens));
            }
            let Part::Text(text) = part else {
                self.encode(codec, part.clone())?;
                (self.part, self.at) = (self.part + 1, 0);
                continue;
            };
            if room == 0 {
                return Ok(false);
            }
            let rest = &text[self.at..];
            let end = piece_end(rest, room);
            let last = end == rest.len();
            self.encode(codec, Part::Text(rest[..end].to_owned()))?;
            room = room.saturating_sub(end);
            (self.part, self.at) = match last {
                true => (self.part + 1, 0),
                false => (self.part, self.at + end),
            };
        }
        Ok(true)
    }

    fn encode(&mut self, codec: &TextCodec, part: Part) -> Result<(), String> {
        let tokens = codec
            .encode(&[part])
            .ok_or("the prompt could not be split into tokens")?;
        self.tokens.extend(tokens);
        Ok(())
    }

    fn finish(self, context_tokens: usize) -> Result<Sequence, String> {
        if self.tokens.is_empty() {
            return Err("the prompt is empty: give `messages` or a `prompt`".to_owned());
        }
        if self.tokens.len() >= context_tokens {
            return Err(too_long("", self.tokens.len(), context_tokens));
        }
        Ok(Sequence::new(self.request, self.tokens, context_tokens))
    }
}

/// The requests that are being encoded, agents in turn.
#[derive(Debug, Default)]
pub struct Arrivals {
    turns: VecDeque<(u64, VecDeque<Arriving>)>,
}

impl Arrivals {
    /// Adds a request behind those of its agent.
    pub fn add(&mut self, arriving: Arriving) {
        let agent = arriving.agent;
        match self.turns.iter_mut().find(|(whose, _)| *whose == agent) {
            Some((_, queue)) => queue.push_back(arriving),
            None => self.turns.push_back((agent, VecDeque::from([arriving]))),
        }
    }

    /// Drops a request. False if it is not here.
    pub fn cancel(&mut self, request: u64) -> bool {
        for (_, queue) in &mut self.turns {
            let before = queue.len();
            queue.retain(|arriving| arriving.request != request);
            if queue.len() < before {
                self.turns.retain(|(_, queue)| !queue.is_empty());
                return true;
            }
        }
        false
    }

    /// True where nothing waits.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// One piece of work for the agent whose turn it is. Returns what is decided by it.
    pub fn advance(
        &mut self,
        codec: &TextCodec,
        chat: &Chat,
        context_tokens: usize,
    ) -> Option<Decided> {
        let (agent, mut queue) = self.turns.pop_front()?;
        let decided = match queue.pop_front()?.advance(codec, chat, context_tokens) {
            Progress::More(arriving) => {
                queue.push_front(arriving);
                None
            }
            Progress::Decided(decided) => Some(decided),
        };
        if !queue.is_empty() {
            self.turns.push_back((agent, queue));
        }
        decided
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::text::WORD_BYTES_MAX;

    /// Words of one letter, and nothing that merges.
    fn codec() -> TextCodec {
        let file = r#"{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}"#;
        TextCodec::from_json(file.as_bytes(), None, None).expect("it parses")
    }

    /// How often a prompt has to be advanced until it is decided.
    fn advances(prompt: String, context_tokens: usize) -> (usize, Decided) {
        let codec = codec();
        let chat = Chat::from_json(None, None, &codec).expect("none");
        let job = GenerateJob {
            prompt,
            ..GenerateJob::default()
        };
        let mut arrivals = Arrivals::default();
        arrivals.add(Arriving::new(1, 1, 1, job));
        for count in 1.. {
            if let Some(decided) = arrivals.advance(&codec, &chat, context_tokens) {
                return (count, decided);
            }
        }
        unreachable!("it ends")
    }

    #[test]
    fn no_piece_of_work_reads_more_than_a_bounded_part_of_one_endless_word() {
        let bytes = 1 << 20;
        let (count, decided) = advances("a".repeat(bytes), 2 * bytes);
        assert!(count > bytes / (PIECE_BYTES + WORD_BYTES_MAX), "{count}");
        let Decided::Ready { sequence, .. } = decided else {
            panic!("it fits");
        };
        assert_eq!(sequence.tokens, vec![0; bytes]);
    }

    #[test]
    fn text_that_no_real_context_could_hold_is_refused_unread() {
        let word = "a".repeat(256);
        let file =
            format!(r#"{{"model": {{"type": "BPE", "vocab": {{"{word}": 0}}, "merges": []}}}}"#);
        let codec = TextCodec::from_json(file.as_bytes(), None, None).expect("it parses");
        let chat = Chat::from_json(None, None, &codec).expect("none");
        let job = GenerateJob {
            prompt: word.repeat(4096),
            ..GenerateJob::default()
        };
        let refused = Request::parse(job, &codec, &chat, 8192).expect_err("a megabyte");
        assert!(refused.contains("131072 at most"), "{refused}");
    }

    #[test]
    fn what_cannot_fit_is_refused_before_any_of_it_is_encoded() {
        let (count, decided) = advances("b".repeat(1 << 20), 1 << 10);
        assert_eq!(count, 1);
        let Decided::Refused { why, .. } = decided else {
            panic!("it does not fit");
        };
        assert!(why.contains("at least 1048576"), "{why}");
    }
}
