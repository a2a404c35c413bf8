//! Processor time by process, of a span: the kernel's count, in its ticks.

use crate::{Failure, process};
use std::collections::BTreeMap;

/// Microseconds of a tick: the kernel's `USER_HZ` is 100 on every machine.
const TICK_US: f64 = 10_000.0;

/// Processor time for each answered request, microseconds, by the name of a process.
pub struct Usage {
    at_begin: Vec<(String, i32, u64)>,
    us: BTreeMap<String, f64>,
}

impl Usage {
    /// From now on, of these processes and this one.
    pub fn begin<N: ToString>(processes: &[(N, i32)]) -> Result<Usage, Failure> {
        let own = i32::try_from(std::process::id())?;
        let named = processes.iter().map(|(name, pid)| (name.to_string(), *pid));
        let all = named.chain([("load".to_owned(), own)]);
        let at_begin = all.filter_map(|(name, pid)| Some((name, pid, process::cpu_ticks(pid)?)));
        Ok(Usage {
            at_begin: at_begin.collect(),
            us: BTreeMap::new(),
        })
    }

    /// Until now, for each of so many requests.
    pub fn end(mut self, requests: usize) -> Usage {
        for (name, pid, before) in std::mem::take(&mut self.at_begin) {
            // Who ended meanwhile is missing, as it would be from any list.
            let Some(now) = process::cpu_ticks(pid) else {
                continue;
            };
            let us = now.saturating_sub(before) as f64 * TICK_US / requests.max(1) as f64;
            *self.us.entry(name).or_default() += us;
        }
        self
    }

    /// By name.
    pub fn by_process(&self) -> impl Iterator<Item = (&str, f64)> {
        self.us.iter().map(|(name, us)| (name.as_str(), *us))
    }
}
