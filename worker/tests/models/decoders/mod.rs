//! Decoders: every family, every kind of file, broken files.

mod families;
mod gguf;
mod model;
