//! Weights that lie in a GPU's memory once, for all workers of a model: how they are laid out there, and how a
//! worker finds them.
//!
//! A keeper lays a checkpoint's weights out in one piece of memory ([`lay_out`]) and says in a [`Table`] where each is.
//! A worker that is given both builds its tensors on that memory ([`FromTable`]), reads no file of weights, and takes
//! no memory for them. Quantised weights are never among these: candle builds such tensors on memory of its own
//! alone. Nothing here knows a driver: who has the memory is behind [`Lender`] and [`Mapped`].

mod find;
mod lay;
mod table;

pub use find::{FromTable, Mapped};
pub use lay::{Lender, lay_out};
pub use table::{TABLE_BYTES_MAX, Table, Values, Weight};
