//! What the identity crate promises, asked from outside: only tokens that keep every rule
//! authenticate, each assertion is good for one, and a status change is in force at once.

mod assertions;
mod forge;
mod house;
mod lifecycle;
mod mutation;
mod refusals;
mod rotation;
