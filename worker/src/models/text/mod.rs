//! Text to tokens and back: tokenizers, chat templates, and the stream of an answer's text.
//!
//! Nothing here keeps anything of a prompt between two calls.

mod chat;
mod stream;
mod tokenizer;

pub use chat::{Chat, ChatError};
pub use stream::{STOP_BYTES_MAX, STOPS_MAX, TextStream};
pub use tokenizer::{Part, TextCodec};
