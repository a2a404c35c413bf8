//! How many requests did not succeed, by the reason that was given.

use crate::error::{ClientError, code_name};
use serde::Serialize;
use std::collections::BTreeMap;

/// Reasons that are told apart. A server has some dozens; beyond that they count as "OTHER".
const REASONS_MAX: usize = 64;

/// Counts by reason, as the server spelled it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Reasons(BTreeMap<String, u64>);

impl Reasons {
    /// Counts one failure.
    pub fn add(&mut self, error: &ClientError) {
        let reason = reason(error);
        let known = self.0.contains_key(reason) || self.0.len() < REASONS_MAX;
        let name = if known { reason } else { "OTHER" };
        *self.0.entry(name.to_owned()).or_default() += 1;
    }

    /// All failures.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Each reason and its count, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, count)| (name.as_str(), *count))
    }

    /// What came since `earlier` was taken of the same counts.
    pub fn since(&self, earlier: &Reasons) -> Reasons {
        let grown = self.iter().map(|(name, count)| {
            let before = earlier.0.get(name).copied().unwrap_or_default();
            (name.to_owned(), count.saturating_sub(before))
        });
        Reasons(grown.filter(|(_, count)| *count > 0).collect())
    }
}

/// The server's own word where it gave one, else the kind of failure.
fn reason(error: &ClientError) -> &str {
    match error {
        _ if !error.reason().is_empty() => error.reason(),
        ClientError::Refused(refusal) => code_name(refusal.code),
        ClientError::TimedOut { .. } => "TIMED_OUT",
        ClientError::Unreachable { .. } => "UNREACHABLE",
        _ => "OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;

    fn late() -> ClientError {
        ClientError::TimedOut { seconds: 1 }
    }

    #[test]
    fn failures_are_counted_by_what_they_say() {
        let mut reasons = Reasons::default();
        reasons.add(&late());
        reasons.add(&late());
        reasons.add(&Status::unavailable("closing").into());
        let counted: Vec<_> = reasons.iter().collect();
        assert_eq!(counted, [("TIMED_OUT", 2), ("UNAVAILABLE", 1)]);
        assert_eq!(reasons.total(), 3);
    }

    #[test]
    fn a_span_holds_only_what_grew_in_it() {
        let mut reasons = Reasons::default();
        reasons.add(&late());
        let before = reasons.clone();
        reasons.add(&Status::unavailable("closing").into());
        let grown = reasons.since(&before);
        assert_eq!(grown.iter().collect::<Vec<_>>(), [("UNAVAILABLE", 1)]);
    }

    #[test]
    fn endless_new_reasons_do_not_take_endless_memory() {
        let mut reasons = Reasons::default();
        for n in 0..1000 {
            reasons.add(&ClientError::Token {
                error: format!("reason-{n}"),
                description: String::new(),
            });
        }
        assert_eq!(reasons.total(), 1000);
        assert_eq!(reasons.iter().count(), REASONS_MAX + 1);
    }
}
