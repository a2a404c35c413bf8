//! Whether a scheduler that died is started again, and when.

use super::backoff::Backoff;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Deaths within `WINDOW` after which nothing is started any more.
const DEATHS_MAX: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// A first life that ends within this with an error of its own never began: an address is taken, a
/// file cannot be read. Trying again would only repeat the message.
const BEGINNING: Duration = Duration::from_secs(10);

/// What to do about a death.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Start it again after this long.
    Start(Duration),
    /// Do not: why.
    GiveUp(&'static str),
}

/// The deaths so far.
#[derive(Debug, Default)]
pub struct Restarts {
    backoff: Backoff,
    deaths: VecDeque<Instant>,
    began: bool,
}

impl Restarts {
    /// A scheduler that started at `born` died `now`; `own_error` where it said why and exited.
    pub fn after(&mut self, born: Instant, now: Instant, own_error: bool) -> Next {
        let life = now.saturating_duration_since(born);
        if own_error && !self.began && life < BEGINNING {
            return Next::GiveUp("it could not start; its message above says why");
        }
        self.began = true;
        self.deaths.push_back(now);
        while (self.deaths.front()).is_some_and(|&at| now.saturating_duration_since(at) > WINDOW) {
            self.deaths.pop_front();
        }
        if self.deaths.len() >= DEATHS_MAX {
            return Next::GiveUp("it died 5 times within 60 s");
        }
        Next::Start(self.backoff.after(life))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fifth_death_within_a_minute_is_the_last() {
        let mut restarts = Restarts::default();
        let mut now = Instant::now();
        for _ in 0..4 {
            assert!(matches!(restarts.after(now, now, false), Next::Start(_)));
            now += Duration::from_secs(14);
        }
        assert!(matches!(restarts.after(now, now, false), Next::GiveUp(_)));
    }

    #[test]
    fn deaths_far_apart_are_forgiven() {
        let mut restarts = Restarts::default();
        let mut now = Instant::now();
        for _ in 0..50 {
            let born = now;
            now += Duration::from_secs(16);
            let next = restarts.after(born, now, false);
            assert_eq!(next, Next::Start(Duration::from_millis(50)));
        }
    }

    #[test]
    fn what_cannot_start_is_not_tried_again_but_what_ran_is() {
        let now = Instant::now();
        let give_up = Restarts::default().after(now, now, true);
        assert!(matches!(give_up, Next::GiveUp(_)));
        let mut ran = Restarts::default();
        assert!(matches!(ran.after(now, now, false), Next::Start(_)));
        assert!(matches!(ran.after(now, now, true), Next::Start(_)));
    }
}
