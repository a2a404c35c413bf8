//! The sum of all receipts that the demo was given: what was recorded, and what was wiped.

use bulkhead_proto::v1::Receipt;
use parking_lot::Mutex;
use serde::Serialize;
use std::sync::Arc;

/// Totals over receipts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Answers that came to their end.
    pub answers: u64,
    /// Of these, those with a receipt that names its request.
    pub receipts: u64,
    pub bytes_zeroed: u64,
    pub bytes_verified: u64,
    pub residue_bytes: u64,
}

/// Collects receipts from many tasks.
#[derive(Clone, Default)]
pub struct Evidence(Arc<Mutex<Totals>>);

impl Evidence {
    /// Takes what an answer ended with.
    pub fn add(&self, receipt: Option<Receipt>) {
        let mut totals = self.0.lock();
        totals.answers += 1;
        let Some(receipt) = receipt.filter(|receipt| !receipt.request_id.is_empty()) else {
            return;
        };
        totals.receipts += 1;
        let scrub = receipt.scrub.unwrap_or_default();
        totals.bytes_zeroed += scrub.bytes_zeroed;
        totals.bytes_verified += scrub.bytes_verified;
        totals.residue_bytes += scrub.residue_bytes;
    }

    /// The sums so far.
    pub fn totals(&self) -> Totals {
        self.0.lock().clone()
    }
}

impl Totals {
    /// True where every answer had its receipt and every byte was found zero.
    pub fn clean(&self) -> bool {
        self.answers > 0
            && self.receipts == self.answers
            && self.bytes_zeroed > 0
            && self.bytes_verified > 0
            && self.residue_bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_proto::v1::Scrub;

    fn receipt(residue_bytes: u64) -> Option<Receipt> {
        Some(Receipt {
            request_id: "r".into(),
            scrub: Some(Scrub {
                bytes_zeroed: 10,
                bytes_verified: 10,
                residue_bytes,
                ..Scrub::default()
            }),
            ..Receipt::default()
        })
    }

    #[test]
    fn an_answer_without_receipt_or_with_residue_is_not_clean() {
        let good = Evidence::default();
        assert!(!good.totals().clean());
        good.add(receipt(0));
        assert!(good.totals().clean());
        good.add(None);
        assert!(!good.totals().clean());
        let residue = Evidence::default();
        residue.add(receipt(1));
        assert!(!residue.totals().clean());
    }
}
