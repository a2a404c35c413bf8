//! Traces as comma-separated values: seconds, tenant, prompt tokens, tokens of output.
//!
//! A line that is not as it should be is an error with its number, never skipped and never a panic.

use std::fmt;

use super::{Arrival, Workload};

const ARENA: &str = include_str!("../../traces/arena.csv");
const HEADER: &str = "arrival_s,tenant,input_tokens,output_tokens";
const NS_PER_S: u64 = 1_000_000_000;
const NS_DIGITS: usize = 9;

/// What is wrong with a trace, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The line, counted from 1 with the header.
    pub line: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The first line does not name the four columns.
    Header,
    /// There are not exactly four fields.
    Fields,
    /// The time is no decimal number of seconds with at most nine decimals, or beyond 64 bits of ns.
    Time,
    /// Tenant or token count is no whole number of 32 bits.
    Number,
    /// It arrived before the line above it.
    Order,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = match self.problem {
            Problem::Header => "the header is not the four columns of a trace",
            Problem::Fields => "there are not exactly four fields",
            Problem::Time => "the time is not in seconds with at most nine decimals",
            Problem::Number => "a tenant or token count is not a whole number of 32 bits",
            Problem::Order => "it arrived before the line above it",
        };
        write!(f, "trace, line {}: {problem}", self.line)
    }
}

impl std::error::Error for ParseError {}

/// The trace of VTC's real workload: 1,500 requests of 27 tenants in 600 s.
pub fn arena() -> Result<Workload, ParseError> {
    parse("arena", ARENA)
}

/// Parses the text of a trace, header included.
pub fn parse(name: &'static str, text: &str) -> Result<Workload, ParseError> {
    let at = |index: usize, problem| ParseError {
        line: index + 1,
        problem,
    };
    let mut lines = text.lines().enumerate();
    if lines.next().is_none_or(|(_, header)| header != HEADER) {
        return Err(at(0, Problem::Header));
    }
    let mut arrivals: Vec<Arrival> = Vec::new();
    for (index, line) in lines {
        let arrival = arrival(line).map_err(|problem| at(index, problem))?;
        if arrivals
            .last()
            .is_some_and(|last| arrival.at_ns < last.at_ns)
        {
            return Err(at(index, Problem::Order));
        }
        arrivals.push(arrival);
    }
    Ok(Workload::new(name, arrivals))
}

fn arrival(line: &str) -> Result<Arrival, Problem> {
    let fields = line.split(',').collect::<Vec<_>>();
    let [at, tenant, input, output] = fields[..] else {
        return Err(Problem::Fields);
    };
    let number = |field: &str| field.parse::<u32>().map_err(|_| Problem::Number);
    Ok(Arrival {
        at_ns: seconds(at).ok_or(Problem::Time)?,
        tenant: number(tenant)?,
        input: number(input)?,
        output: number(output)?,
    })
}

/// Decimal seconds as ns, without the detour over a float.
fn seconds(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    if decimals.len() > NS_DIGITS || !decimals.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let ns = format!("{decimals:0<NS_DIGITS$}").parse::<u64>().ok()?;
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(NS_PER_S)?
        .checked_add(ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(lines: &str) -> (usize, Problem) {
        let error = parse("bad", &format!("{HEADER}\n{lines}")).unwrap_err();
        (error.line, error.problem)
    }

    #[test]
    fn the_arena_trace_is_whole() {
        let arena = arena().unwrap();
        assert_eq!((arena.arrivals.len(), arena.tenants), (1_500, 27));
        let second = Arrival {
            at_ns: 207_900_000,
            tenant: 2,
            input: 36,
            output: 137,
        };
        assert_eq!(arena.arrivals[1], second);
    }

    #[test]
    fn errors_name_their_line() {
        assert_eq!(problem("0.5,1,2"), (2, Problem::Fields));
        assert_eq!(problem("1,0,1,1\n0.9,0,1,1"), (3, Problem::Order));
        assert_eq!(problem("1,0,1,1\n2,0,-1,1"), (3, Problem::Number));
        for time in ["x", "", "-1", "1.0000000001", "1.+5", "18446744074"] {
            assert_eq!(
                problem(&format!("{time},0,1,1")),
                (2, Problem::Time),
                "{time}"
            );
        }
        let error = parse("empty", "").unwrap_err();
        assert_eq!((error.line, error.problem), (1, Problem::Header));
    }
}
