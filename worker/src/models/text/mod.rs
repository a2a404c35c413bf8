//! Text to tokens and back: tokenizers, chat templates, and the stream of an answer's text.
//!
//! Nothing here keeps anything of a prompt between two calls.

mod added;
mod before;
mod chat;
mod codec;
mod controls;
mod cuts;
mod date;
mod folder;
pub(crate) mod guard;
mod pieces;
mod spaces;
mod stream;
mod vocabulary;

pub use chat::{Chat, ChatError};
pub use codec::{Part, TextCodec};
pub use cuts::{PIECE_BYTES, WORD_BYTES_MAX, piece_end};
pub use stream::{STOP_BYTES_MAX, STOPS_MAX, Shown, TextStream};
