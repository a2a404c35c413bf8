//! One sequence in numbers: how many tokens it has, and how many of those are computed.

use crate::agents::Agent;
use crate::blocks::{BLOCK_TOKENS, blocks_for};
use crate::memory::Table;
use crate::pass::PassKind;
use crate::prefix::BlockHash;

/// A sequence that is to be planned for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The caller's number of it.
    pub request: u64,
    /// Whose it is.
    pub agent: Agent,
    /// That agent's share relative to others; 0 counts as 1.
    pub weight: u32,
    /// Tokens of its prompt, at least one.
    pub prompt_tokens: usize,
    /// Tokens that it may generate.
    pub max_tokens: usize,
    /// Of the prompt's whole blocks, from the first; none where nothing is to be cached.
    pub hashes: Vec<BlockHash>,
}

impl Arrival {
    /// Tokens whose keys and values have to be kept, at worst. The last token's are never needed.
    pub fn kv_tokens(&self) -> usize {
        (self.prompt_tokens + self.max_tokens).saturating_sub(1)
    }
}

#[derive(Debug)]
pub(crate) struct Sequence {
    pub request: u64,
    pub agent: Agent,
    /// Order in which sequences came, and in which they were let in last.
    pub arrived: u64,
    pub admitted: u64,
    /// Step in which it last got a token computed.
    pub served: u64,
    pub prompt: usize,
    /// Tokens that it has: its prompt and what was generated.
    pub known: usize,
    /// Of these, how many have their keys and values in its blocks, or will once its pass is over.
    pub computed: usize,
    /// The pass that it is in.
    pub pass: Option<PassKind>,
    /// The most that `computed` ever was: beyond it tokens are billed, below it they are overhead.
    pub billed: usize,
    /// Tokens of the prompt that the cache had, when it was let in first.
    pub cached: usize,
    pub hashes: Vec<BlockHash>,
    pub table: Table,
}

impl Sequence {
    pub fn new(arrival: Arrival, arrived: u64) -> Self {
        let mut hashes = arrival.hashes;
        hashes.truncate(arrival.prompt_tokens / BLOCK_TOKENS);
        Sequence {
            request: arrival.request,
            agent: arrival.agent,
            arrived,
            admitted: 0,
            served: 0,
            prompt: arrival.prompt_tokens,
            known: arrival.prompt_tokens,
            computed: 0,
            pass: None,
            billed: 0,
            cached: 0,
            hashes,
            table: Table::default(),
        }
    }

    /// Tokens that are known and not computed.
    pub fn pending(&self) -> usize {
        self.known - self.computed
    }

    /// True where the only thing to do, and nothing else is on its way, is its newest token.
    pub fn decodes(&self) -> bool {
        self.pass.is_none() && self.pending() == 1 && self.known > self.prompt
    }

    /// True where there is more to read, and nothing on its way.
    pub fn is_prompt(&self) -> bool {
        self.pass.is_none() && self.pending() > 0 && !self.decodes()
    }

    /// Tokens that its blocks have room for beyond those computed.
    pub fn room(&self) -> usize {
        self.table.len() * BLOCK_TOKENS - self.computed
    }

    /// Blocks that it still needs for the tokens that it has.
    pub fn blocks_wanted(&self) -> usize {
        blocks_for(self.known).saturating_sub(self.table.len())
    }

    /// Hashes of the blocks that it may take from the cache: its last token has to be computed
    /// whatever is cached, since something has to say what comes next.
    pub fn reusable(&self) -> &[BlockHash] {
        let blocks = (self.known - 1) / BLOCK_TOKENS;
        &self.hashes[..blocks.min(self.hashes.len())]
    }

    /// Bills `tokens` computed now: returns how many are new and how many were computed before.
    pub fn advance(&mut self, tokens: usize) -> (usize, usize) {
        let to = self.computed + tokens;
        let new = to.saturating_sub(self.billed.max(self.computed));
        self.computed = to;
        self.billed = self.billed.max(to);
        (new, tokens - new)
    }
}
