//! Promises 3 and 4 from outside: what the kernel says of a worker's seal, and what the memory of our
//! processes holds after a job; and whom a failing worker harms.

mod crash_loops;
mod fork_fails;
mod hostile;
mod left_behind;
mod memory;
mod seal;
mod spares;
mod weights;
