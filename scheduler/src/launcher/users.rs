//! Users that are kept for workers: each process of a model's is one that no other is.
//!
//! Only a launcher that is root may have other users; others give none. Which users the numbers stand for is the worker's
//! to say (`worker/src/seal/users.rs`). No number is given twice while a scheduler lives.

use nix::unistd::geteuid;
use std::ffi::OsString;

/// How many there are. At one start a second they last for four years.
const COUNT: u32 = 1 << 27;

/// Gives them out.
pub struct Users {
    /// None where there are none, or none are left.
    next: Option<u32>,
}

impl Users {
    /// All of them, where this process may have any.
    pub fn new() -> Users {
        Users {
            // The first is root's, inside.
            next: geteuid().is_root().then_some(1),
        }
    }

    /// One that nobody has had.
    pub fn give(&mut self) -> Option<u32> {
        let given = self.next?;
        self.next = Some(given + 1).filter(|next| *next < COUNT);
        Some(given)
    }
}

/// How a program is told which it is to be.
pub fn arguments(user: Option<u32>) -> Vec<OsString> {
    let told = |number: u32| ["--user".into(), number.to_string().into()];
    user.map(told).into_iter().flatten().collect()
}
