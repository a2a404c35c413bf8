//! Text to tokens and back, against the reference libraries.

mod cuts;
mod hostile;
mod pieces;
mod vocabulary;
mod words;
