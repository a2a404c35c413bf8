//! Decoders: every family, every kind of file, odd shapes.

mod drive;
mod families;
mod gguf;
mod model;
mod shapes;
