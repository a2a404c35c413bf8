//! Passes: which tokens go through the model's layers together, and where they may stop on the way.
//!
//! Sequences that decode are one pass, pieces of prompts another. Between two layers either can be left
//! where it is and gone on with in the next step, so that a step ends when its time is up: by the clock,
//! not by what was expected alone, and however large the model or long the past. A piece may therefore take a few
//! steps, and reads its sequence's past once for all of its tokens instead of once for the few that would
//! fit into a single step.
//!
//! Decoding goes first in a step. Where that leaves no room for a layer of the other, prompts go first in the next.

use crate::divide::Part;
use crate::price::{Prices, StepWork};
use std::collections::BTreeMap;

/// What goes through the layers together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PassKind {
    /// One token of each sequence that has answered before.
    Decoding,
    /// Pieces of prompts.
    Reading,
}

impl PassKind {
    /// Both, in the order in which they go on in a step.
    const ALL: [PassKind; 2] = [PassKind::Decoding, PassKind::Reading];
}

/// One pass.
#[derive(Clone, Debug)]
pub struct Pass {
    /// No other pass of the same planner has this number.
    pub number: u64,
    pub kind: PassKind,
    /// Each sequence at most once.
    pub parts: Vec<Part>,
    /// All of it together, as it was planned.
    pub work: StepWork,
    /// What it is expected to take, nanoseconds.
    pub expected_ns: f64,
}

impl Pass {
    /// True while it is as it was planned.
    pub fn is_whole(&self) -> bool {
        let tokens: usize = self.parts.iter().map(|part| part.tokens).sum();
        tokens as u64 == self.work.tokens
    }
}

/// Steps that a pass of prompts may take at most, if nothing else runs: a prompt that comes meanwhile waits so long.
const READING_STEPS: f64 = 3.0;
/// Of a step, a layer of it may take one part in so many: a step ends between layers.
const LAYER_SHARE: f64 = 8.0;

/// How much of what a longer layer took is forgotten with the next.
const LAYER_FADES: f64 = 0.25;

/// What a pass of prompts may be expected to take in a model of so many layers, nanoseconds.
pub fn reading_ns(limit_ns: u64, layers: usize) -> f64 {
    limit_ns as f64 * READING_STEPS.min(layers as f64 / LAYER_SHARE)
}

/// A clock that is asked between stages: nanoseconds from any beginning.
pub type Clock<'a> = dyn Fn() -> u64 + Sync + 'a;

/// Asked before each stage but the first whether to go on to it. Stages are the layers, from 0, and then the
/// answers.
pub type GoOn<'a> = dyn FnMut(usize) -> bool + Send + 'a;

/// What became of a pass that was to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advanced {
    /// It came to its end.
    Over,
    /// It was told to stop before a stage.
    Stopped,
    /// It came to nothing.
    Failed,
}

/// A pass that is on its way, and how long its stages take: as expected from prices first, and then as its own
/// layers did, of which the longest counts, and fades.
#[derive(Clone, Debug)]
struct Going {
    pass: Pass,
    layers: usize,
    /// The next stage.
    stage: usize,
    layer_ns: f64,
    answers_ns: f64,
    spent_ns: u64,
}

impl Going {
    fn new(pass: Pass, prices: Prices, layers: usize) -> Self {
        let layers = layers.max(1);
        let answers_ns = prices.answer_ns * pass.work.answers as f64;
        Going {
            layers,
            stage: 0,
            layer_ns: (pass.expected_ns - answers_ns).max(0.0) / layers as f64,
            answers_ns,
            spent_ns: 0,
            pass,
        }
    }

    /// True if the next stage is expected to end by `until_ns`.
    fn fits(&self, now_ns: u64, until_ns: u64) -> bool {
        let takes_ns = match self.stage < self.layers {
            true => self.layer_ns,
            false => self.answers_ns,
        };
        now_ns as f64 + takes_ns <= until_ns as f64
    }

    /// Goes on until `until_ns`, and by a stage at least.
    fn run(
        &mut self,
        until_ns: u64,
        now_ns: &Clock<'_>,
        advance: &mut dyn FnMut(&Pass, &mut GoOn<'_>) -> Advanced,
    ) -> Advanced {
        let pass = self.pass.clone();
        let mut began_ns = now_ns();
        let mut go_on = |stage: usize| {
            let now_ns = now_ns();
            let took_ns = now_ns.saturating_sub(began_ns);
            (began_ns, self.stage) = (now_ns, stage);
            self.spent_ns += took_ns;
            let (last_ns, took_ns) = (self.layer_ns, took_ns as f64);
            self.layer_ns = took_ns.max(last_ns + (took_ns - last_ns) * LAYER_FADES);
            self.fits(now_ns, until_ns)
        };
        let advanced = advance(&pass, &mut go_on);
        self.spent_ns += now_ns().saturating_sub(began_ns);
        advanced
    }
}

/// Of a step, the pass of prompts may take one part in so many before the other, where it goes first.
const FIRST_SHARE: u64 = 4;

/// The passes that are on their way, at most one of each kind.
#[derive(Debug, Default)]
pub struct Underway {
    going: BTreeMap<PassKind, Going>,
    /// The pass of prompts did not get on in the last step.
    reading_waited: bool,
}

impl Underway {
    /// Takes a pass that was planned at these prices, through so many layers.
    pub fn begin(&mut self, pass: Pass, prices: Prices, layers: usize) {
        self.going
            .insert(pass.kind, Going::new(pass, prices, layers));
    }

    /// Lets `shrink` take out of each pass what is not to be computed any more; one without parts is let go.
    pub fn shrink(&mut self, mut shrink: impl FnMut(&mut Pass)) {
        self.going.retain(|_, going| {
            shrink(&mut going.pass);
            !going.pass.parts.is_empty()
        });
    }

    /// Runs what is on its way until `until_ns`, and the one that goes first by a stage at least. Returns the
    /// passes that are over, and what was spent on each, nanoseconds.
    pub fn run(
        &mut self,
        until_ns: u64,
        now_ns: &Clock<'_>,
        advance: &mut dyn FnMut(&Pass, &mut GoOn<'_>) -> Advanced,
    ) -> Vec<(Pass, u64)> {
        let began_ns = now_ns();
        let both = self.going.len() == PassKind::ALL.len();
        let mut order = PassKind::ALL;
        let mut first_until_ns = until_ns;
        if both && self.reading_waited {
            order.reverse();
            first_until_ns = began_ns + until_ns.saturating_sub(began_ns) / FIRST_SHARE;
        }
        self.reading_waited = false;
        let (mut over, mut ran) = (Vec::new(), false);
        for kind in order {
            let Some(going) = self.going.get_mut(&kind) else {
                continue;
            };
            if ran && !going.fits(now_ns(), until_ns) {
                self.reading_waited = kind == PassKind::Reading;
                break;
            }
            let until_ns = if ran { until_ns } else { first_until_ns };
            ran = true;
            let advanced = going.run(until_ns, now_ns, advance);
            if advanced != Advanced::Stopped
                && let Some(gone) = self.going.remove(&kind)
                && advanced == Advanced::Over
            {
                over.push((gone.pass, gone.spent_ns));
            }
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    const LAYERS: usize = 10;

    fn pass(kind: PassKind, expected_ns: f64) -> Pass {
        let part = Part {
            request: kind as u64,
            from: 0,
            tokens: 1,
            answers: false,
        };
        Pass {
            number: kind as u64,
            kind,
            parts: vec![part],
            work: StepWork::default(),
            expected_ns,
        }
    }

    /// Decoding fills every step to the last layer.
    #[test]
    fn a_prompt_that_had_no_time_goes_first_in_the_next_step() {
        let mut underway = Underway::default();
        let prices = crate::price::StepModel::new(1).prices();
        let now = AtomicU64::new(0);
        let clock = || now.load(Relaxed);
        underway.begin(pass(PassKind::Reading, 10.0), prices, LAYERS);
        let mut stages = [0, 0];
        for step in 1..=40 {
            underway.begin(pass(PassKind::Decoding, 100.0), prices, LAYERS);
            underway.run(step * 100, &clock, &mut |pass, go_on| {
                let ns = if pass.kind == PassKind::Decoding {
                    10
                } else {
                    1
                };
                for stage in 1.. {
                    now.fetch_add(ns, Relaxed);
                    stages[pass.kind as usize] += 1;
                    if !go_on(stage % LAYERS) {
                        break;
                    }
                }
                Advanced::Stopped
            });
            assert!(clock() <= step * 100, "over the limit");
            now.store(step * 100, Relaxed);
        }
        let [decoding, reading] = stages;
        assert!(decoding >= 40 * 8, "{decoding} layers of decoding");
        assert!(reading >= 20 * 20, "{reading} layers of a prompt");
    }

    #[test]
    fn a_layer_of_a_prompts_pass_takes_a_small_part_of_a_step() {
        for layers in [1, 2, 10, 30, 80] {
            let layer_ns = reading_ns(25_000_000, layers) / layers as f64;
            assert!(layer_ns <= 25e6 / 8.0, "{layer_ns} ns of {layers} layers");
        }
        assert_eq!(reading_ns(25_000_000, 80), 75e6);
    }
}
