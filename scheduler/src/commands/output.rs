//! How commands speak: tables for people, JSON for programs, and the runtime that clients need.
//!
//! Results go to standard output and nothing else does; remarks go to standard error. Numbers in
//! tables carry their unit, and JSON names carry it too.

use bulkhead_proto::v1::{Receipt, Usage};
use comfy_table::{CellAlignment, Table, TableComponent, presets};
use serde::Serialize;
use std::{
    io::{self, Write as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Runs a client's work to its end on a runtime of its own, with one thread.
pub fn block_on<T>(work: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(work))
}

/// Prints a line.
pub fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Prints a piece of a line, at once.
pub fn piece(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Prints a value as indented JSON.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Prints a value as one line of JSON.
pub fn json_line(value: &impl Serialize) -> io::Result<()> {
    line(&serde_json::to_string(value)?)
}

/// A table; columns whose header ends in `>` are aligned to the right.
pub fn table(headers: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_style(TableComponent::HeaderLines, '─');
    table.set_style(TableComponent::MiddleHeaderIntersections, '─');
    table.set_header(headers.iter().map(|header| header.trim_end_matches('>')));
    table.add_rows(rows);
    for (index, header) in headers.iter().enumerate() {
        if let Some(column) = table.column_mut(index).filter(|_| header.ends_with('>')) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Items in one cell; `none` where there are none.
pub fn list(items: &[String], none: &str) -> String {
    match items.is_empty() {
        true => none.to_owned(),
        false => items.join(", "),
    }
}

/// Bytes as people read them: `256 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit == 0 || value.fract() == 0.0 {
        true => format!("{value:.0} {}", UNITS[unit]),
        false => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// A time as people read it: `3 min ago`.
pub fn ago(unix_s: i64) -> String {
    let then = UNIX_EPOCH + Duration::from_secs(unix_s.max(0).unsigned_abs());
    let age_s = SystemTime::now()
        .duration_since(then)
        .map_or(0, |age| age.as_secs());
    match age_s {
        0..60 => format!("{age_s} s ago"),
        60..3600 => format!("{} min ago", age_s / 60),
        3600..86_400 => format!("{} h ago", age_s / 3600),
        _ => format!("{} d ago", age_s / 86_400),
    }
}

/// A moment in UTC, RFC 3339 with milliseconds.
pub fn utc(unix_ns: u64) -> String {
    let (days, of_day_ns) = (unix_ns / DAY_NS, unix_ns % DAY_NS);
    let (year, month, day) = civil(days);
    let (of_day_s, ms) = (of_day_ns / 1_000_000_000, of_day_ns / 1_000_000 % 1000);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z",
        of_day_s / 3600,
        of_day_s / 60 % 60,
        of_day_s % 60
    )
}

const DAY_NS: u64 = 86_400_000_000_000;

/// Year, month and day of a day counted from 1 January 1970. Counting years from March puts the
/// leap day at their end, so that every month but the last has a fixed place in its year.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    let since_march_0000 = days + 719_468;
    let (era, of_era) = (
        since_march_0000 / DAYS_PER_ERA,
        since_march_0000 % DAYS_PER_ERA,
    );
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// A count with its digits in groups of three.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A receipt in JSON.
#[derive(Debug, Serialize)]
pub struct ReceiptView {
    pub request_id: String,
    pub admitted_position: u64,
    pub completed_position: u64,
    pub bytes_zeroed: u64,
    pub bytes_verified: u64,
    pub residue_bytes: u64,
}

impl From<Receipt> for ReceiptView {
    fn from(receipt: Receipt) -> Self {
        let scrub = receipt.scrub.unwrap_or_default();
        ReceiptView {
            request_id: receipt.request_id,
            admitted_position: receipt.admitted_position,
            completed_position: receipt.completed_position,
            bytes_zeroed: scrub.bytes_zeroed,
            bytes_verified: scrub.bytes_verified,
            residue_bytes: scrub.residue_bytes,
        }
    }
}

impl ReceiptView {
    /// One line for people.
    pub fn remark(&self) -> String {
        format!(
            "request {}: recorded at {} and {}; {} zeroed, {} verified, residue {} B",
            self.request_id,
            self.admitted_position,
            self.completed_position,
            bytes(self.bytes_zeroed),
            bytes(self.bytes_verified),
            self.residue_bytes
        )
    }
}

/// Tokens in JSON.
#[derive(Debug, Serialize)]
pub struct UsageView {
    pub input_tokens: u32,
    pub output_tokens: u32,
}

impl From<Usage> for UsageView {
    fn from(usage: Usage) -> Self {
        UsageView {
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_in_the_largest_unit_that_fits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(256 << 20), "256 MiB");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777216 TiB");
    }

    #[test]
    fn counts_are_grouped_by_thousands() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
    }

    #[test]
    fn moments_are_written_in_utc() {
        assert_eq!(utc(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(951_782_400_000_000_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(utc(1_700_000_000_123_000_000), "2023-11-14T22:13:20.123Z");
        assert_eq!(utc(4_107_542_399_999_999_999), "2100-02-28T23:59:59.999Z");
        assert_eq!(utc(4_107_542_400_000_000_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn a_table_has_every_header_and_cell() {
        let text = table(&["name", "weight>"], [vec!["acme".into(), "2".into()]]);
        for part in ["name", "weight", "acme", "2"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains('>'), "{text}");
    }
}
