//! What the demo shows while it runs: numbered steps, and what each found.
//!
//! With `--json` standard output is kept for the one object, so progress goes to standard error.

use crate::commands::output;
use std::io;

/// Steps that the demo has.
pub const STEPS: usize = 9;

/// Where progress is shown.
pub struct Screen {
    json: bool,
}

impl Screen {
    pub fn new(json: bool) -> Screen {
        Screen { json }
    }

    /// Begins a step.
    pub fn step(&self, number: usize, title: &str) -> io::Result<()> {
        self.line(&format!("\n[{number}/{STEPS}] {title}"))
    }

    /// Says something within a step.
    pub fn say(&self, text: &str) -> io::Result<()> {
        self.line(&format!("      {text}"))
    }

    /// Prints a piece of a line, at once.
    pub fn piece(&self, text: &str) -> io::Result<()> {
        match self.json {
            true => {
                eprint!("{text}");
                Ok(())
            }
            false => output::piece(text),
        }
    }

    /// Prints a line.
    pub fn line(&self, text: &str) -> io::Result<()> {
        match self.json {
            true => {
                eprintln!("{text}");
                Ok(())
            }
            false => output::line(text),
        }
    }
}
