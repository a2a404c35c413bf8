//! What was found of jobs, counted and told.

use crate::Figure;
use bulkhead_search::{Found, Traces};
use std::{collections::BTreeMap, fmt};

/// Pieces by kind of secret.
type Kinds = BTreeMap<&'static str, usize>;

/// Pieces of one or more jobs.
#[derive(Default)]
pub struct Tally {
    jobs: u32,
    /// What there was to find of prompts while they were answered, and what was found.
    of_prompts: usize,
    running: Kinds,
    /// What there was to find afterwards, and what of it lies everywhere.
    pieces: usize,
    everywhere: usize,
    /// What was found after the job, and after further requests.
    after: [Kinds; 2],
}

impl Tally {
    /// A job whose answer is being read.
    pub fn running(traces: &Traces, found: &Found) -> Tally {
        Tally {
            jobs: 1,
            of_prompts: traces.pieces(),
            running: traces.tell(found),
            ..Tally::default()
        }
    }

    /// It is over.
    pub fn after(&mut self, traces: &Traces, everywhere: &Found, found: [&Found; 2]) {
        self.pieces = traces.pieces();
        self.everywhere = everywhere.len();
        self.after = found.map(|found| traces.tell(found));
    }

    /// Adds another's.
    pub fn add(&mut self, other: Tally) {
        self.jobs += other.jobs;
        self.of_prompts += other.of_prompts;
        self.pieces += other.pieces;
        self.everywhere += other.everywhere;
        let both = |kinds: &mut Kinds, more: Kinds| {
            for (kind, count) in more {
                *kinds.entry(kind).or_default() += count;
            }
        };
        both(&mut self.running, other.running);
        for (kinds, more) in self.after.iter_mut().zip(other.after) {
            both(kinds, more);
        }
    }

    /// All of it, for a side of this name.
    pub fn figures(&self, word: &str, server: &str) -> Vec<Figure> {
        let name = |what: &str| format!("canary/{word}/{what}");
        let mut figures = vec![Figure::higher(
            &name("seen_while_running"),
            total(&self.running) as f64,
            "pieces",
            format!(
                "{server}, jobs: {}; of {} pieces of prompts: {}",
                self.jobs,
                self.of_prompts,
                told(&self.running)
            ),
        )];
        for (when, kinds) in ["after_1", "after_6"].into_iter().zip(&self.after) {
            let against = format!(
                "of {} pieces of 8 bytes, in runs of at least 16: {}; {} that lie in a server that never saw the job \
                 are left out",
                self.pieces,
                told(kinds),
                self.everywhere
            );
            let found = total(kinds) as f64;
            let name = name(&format!("{when}/pieces_found"));
            figures.push(Figure::lower(&name, found, "pieces", against));
        }
        figures
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "found {} of {} pieces of the prompt while it was answered; of {} in all, {} after it and {} after other \
             requests",
            total(&self.running),
            self.of_prompts,
            self.pieces,
            total(&self.after[0]),
            total(&self.after[1])
        )
    }
}

fn total(kinds: &Kinds) -> usize {
    kinds.values().sum()
}

fn told(kinds: &Kinds) -> String {
    let each = kinds.iter().map(|(kind, count)| format!("{kind} {count}"));
    match kinds.is_empty() {
        true => "none".into(),
        false => each.collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_search::Secrets;

    #[test]
    fn jobs_are_added_up_and_kinds_are_told_apart() {
        let traces = Secrets::default()
            .bytes("prompt", "sixteen bytes...")
            .bytes("answer", "sixteen others..")
            .traces();
        let all: Found = [(0, 0), (0, 8), (1, 0), (1, 8)].into();
        let (some, none): (Found, Found) = ([(1, 0), (1, 8)].into(), Found::new());
        let mut tally = Tally::default();
        for _ in 0..2 {
            let mut one = Tally::running(&traces, &all);
            one.after(&traces, &none, [&some, &none]);
            tally.add(one);
        }
        let figures = tally.figures("ours", "our server");
        let values: Vec<_> = figures.iter().map(|one| one.value).collect();
        assert_eq!(values, [8.0, 4.0, 0.0]);
        assert_eq!(figures[1].name, "canary/ours/after_1/pieces_found");
        assert!(figures[0].against.ends_with("answer 4, prompt 4"));
        assert!(figures[1].against.starts_with("of 8 pieces"), "{figures:?}");
        assert!(figures[2].against.contains("none"), "{figures:?}");
    }
}
