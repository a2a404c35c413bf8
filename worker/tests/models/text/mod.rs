//! Text to tokens and back, against the reference libraries.

mod pieces;
mod vocabulary;
mod words;
