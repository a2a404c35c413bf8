//! Decoders: every family, every kind of file, odd shapes.

pub mod drive;
mod families;
mod folder;
mod gguf;
mod model;
mod shapes;
mod shared;
