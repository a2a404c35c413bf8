//! How commands speak: tables for people, JSON for programs, and the runtime that clients need.
//!
//! Results go to standard output and nothing else does; remarks go to standard error. Numbers in
//! tables carry their unit, and JSON names carry it too.
//!
//! Whoever reads standard output may stop reading (`| head`): that is `ReaderGone`, a quiet end.

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

/// A column is never cut to fewer characters.
const CUT_CHARS_MIN: usize = 12;

/// Nobody reads standard output any more.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output any more")]
struct ReaderGone;

/// Whether a command ended because nobody reads its output any more.
pub fn reader_is_gone(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
        .is_some_and(|inner| inner.is::<ReaderGone>())
}

/// Prints a line.
pub fn line(text: &str) -> io::Result<()> {
    print(&[text, "\n"])
}

/// Prints a piece of a line, at once.
pub fn piece(text: &str) -> io::Result<()> {
    print(&[text])
}

fn print(parts: &[&str]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    parts
        .iter()
        .try_for_each(|part| out.write_all(part.as_bytes()))
        .and_then(|()| out.flush())
        .map_err(|e| match e.kind() {
            kind @ io::ErrorKind::BrokenPipe => io::Error::new(kind, ReaderGone),
            kind => io::Error::new(kind, format!("cannot write to standard output: {e}")),
        })
}

/// Prints a value as indented JSON.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Prints a value as one line of JSON.
pub fn json_line(value: &impl Serialize) -> io::Result<()> {
    line(&serde_json::to_string(value)?)
}

/// A table; columns whose header ends in `>` are aligned to the right. Those whose header ends in `~`
/// are cut, the widest first, where the table would be wider than the terminal.
pub fn table(headers: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    table_within(width(), headers, rows.into_iter().collect())
}

/// Columns of the terminal; as many as anybody wants where there is none.
fn width() -> usize {
    let told = std::env::var("COLUMNS").ok().and_then(|n| n.parse().ok());
    let seen = || console::Term::stdout().size_checked();
    told.filter(|columns| *columns > 0)
        .or_else(|| seen().map(|(_, columns)| usize::from(columns)))
        .unwrap_or(usize::MAX)
}

fn table_within(width: usize, headers: &[&str], mut rows: Vec<Vec<String>>) -> String {
    cut_to(width, headers, &mut rows);
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_style(TableComponent::HeaderLines, '─');
    table.set_style(TableComponent::MiddleHeaderIntersections, '─');
    table.set_header(headers.iter().map(|header| bare(header)));
    table.add_rows(rows);
    for (index, header) in headers.iter().enumerate() {
        if let Some(column) = table.column_mut(index).filter(|_| header.ends_with('>')) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// A header without its marks.
fn bare(header: &str) -> &str {
    header.trim_end_matches(['>', '~'])
}

/// Cuts cells of the columns that may be cut, until the table fits or none can be cut further.
fn cut_to(width: usize, headers: &[&str], rows: &mut [Vec<String>]) {
    let chars = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = headers.iter().map(|header| chars(bare(header))).collect();
    for row in rows.iter() {
        for (column, cell) in widths.iter_mut().zip(row) {
            *column = chars(cell).max(*column);
        }
    }
    // Each column has a space on either side, and one stands between two columns.
    let spaces = (3 * widths.len()).saturating_sub(1);
    let mut over = (widths.iter().sum::<usize>() + spaces).saturating_sub(width);
    while over > 0 {
        let cuttable = |&index: &usize| headers[index].ends_with('~');
        let widest = (0..widths.len())
            .filter(cuttable)
            .max_by_key(|&index| widths[index]);
        let Some(widest) = widest.filter(|&index| widths[index] > CUT_CHARS_MIN) else {
            break;
        };
        widths[widest] -= 1;
        over -= 1;
    }
    for row in rows {
        for (cell, width) in row.iter_mut().zip(&widths) {
            *cell = shortened(cell, *width);
        }
    }
}

/// A text of at most `chars_max` characters, without control characters.
pub fn shortened(text: &str, chars_max: usize) -> String {
    let plain = || text.chars().map(|c| if c.is_control() { ' ' } else { c });
    match plain().count() > chars_max {
        true => (plain().take(chars_max.saturating_sub(1)))
            .chain(['…'])
            .collect(),
        false => plain().collect(),
    }
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
    /// What the prefix cache keeps of the prompt.
    pub retained_bytes: u64,
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
            retained_bytes: scrub.retained_bytes,
        }
    }
}

impl ReceiptView {
    /// One line for people.
    pub fn remark(&self) -> String {
        format!(
            "request {}: recorded at {} and {}; {} zeroed, {} verified, residue {} B, {} kept",
            self.request_id,
            self.admitted_position,
            self.completed_position,
            bytes(self.bytes_zeroed),
            bytes(self.bytes_verified),
            self.residue_bytes,
            bytes(self.retained_bytes),
        )
    }
}

/// Tokens in JSON.
#[derive(Debug, Serialize)]
pub struct UsageView {
    pub input_tokens: u32,
    pub output_tokens: u32,
    /// Of the input tokens, those that the prefix cache had.
    pub cached_tokens: u32,
}

impl From<Usage> for UsageView {
    fn from(usage: Usage) -> Self {
        UsageView {
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            cached_tokens: usage.cached_tokens,
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

    #[test]
    fn a_table_is_no_wider_than_the_terminal_where_columns_can_be_cut() {
        let row = vec!["req_0123456789".into(), "long ".repeat(60)];
        let text = table_within(60, &["id", "says~"], vec![row.clone()]);
        assert!(
            text.lines().all(|line| line.chars().count() <= 60),
            "{text}"
        );
        assert!(
            text.contains("req_0123456789") && text.contains('…'),
            "{text}"
        );
        let whole = table_within(1000, &["id", "says~"], vec![row]);
        assert!(!whole.contains('…'), "{whole}");
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(shortened("a\x1b[2Jb", 40), "a [2Jb");
    }

    #[test]
    fn a_reader_that_went_is_told_from_other_broken_pipes() {
        let gone = io::Error::new(io::ErrorKind::BrokenPipe, ReaderGone);
        assert!(reader_is_gone(&gone));
        assert!(!reader_is_gone(&io::Error::from(io::ErrorKind::BrokenPipe)));
    }
}
