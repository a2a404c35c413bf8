//! Traces as comma-separated values: seconds, tenant, prompt tokens, tokens of output. One that names no tenants is given
//! those of another.
//!
//! A line that is not as it should be is an error with its number, never skipped and never a panic.

use std::fmt;

use super::{Arrival, Workload};
use crate::draw::Draw;

const ARENA: &str = include_str!("../../traces/arena.csv");
const AZURE_CONV: &str = include_str!("../../traces/azure_conv.csv");
const HEADER: &str = "arrival_s,tenant,input_tokens,output_tokens";
const HEADER_WITHOUT_TENANTS: &str = "arrival_s,input_tokens,output_tokens";
/// Of the draw of tenants for a trace that names none.
const TENANTS_SEED: u64 = 1;
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
    /// The first line does not name the columns.
    Header,
    /// There are not exactly as many fields as columns.
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
            Problem::Header => "the header is not the columns of such a trace",
            Problem::Fields => "there are not exactly as many fields as columns",
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

/// Conversations of Azure's users: 19,366 requests in 3,502 s, with longer prompts than those of [`arena`] and as skewed a
/// choice of tenants.
pub fn azure_conv() -> Result<Workload, ParseError> {
    parse_without_tenants("azure_conv", AZURE_CONV, &arena()?, TENANTS_SEED)
}

/// Parses the text of a trace, header included.
pub fn parse(name: &'static str, text: &str) -> Result<Workload, ParseError> {
    let arrivals = arrivals(text, HEADER, |line| {
        let [at, tenant, input, output] = fields(line)?;
        arrival(at, number(tenant)?, input, output)
    })?;
    Ok(Workload::new(name, arrivals))
}

/// Parses the text of a trace that names no tenants. Each request is of the tenant of one that is drawn from `like`, so that
/// they are chosen as often as there.
fn parse_without_tenants(
    name: &'static str,
    text: &str,
    like: &Workload,
    seed: u64,
) -> Result<Workload, ParseError> {
    let mut draw = Draw::new(seed);
    let arrivals = arrivals(text, HEADER_WITHOUT_TENANTS, |line| {
        let [at, input, output] = fields(line)?;
        arrival(at, tenant(like, &mut draw), input, output)
    })?;
    Ok(Workload::new(name, arrivals))
}

/// The arrivals of all lines below the header, in the order of their time.
fn arrivals(
    text: &str,
    header: &str,
    mut arrival: impl FnMut(&str) -> Result<Arrival, Problem>,
) -> Result<Vec<Arrival>, ParseError> {
    let at = |index: usize, problem| ParseError {
        line: index + 1,
        problem,
    };
    let mut lines = text.lines().enumerate();
    if lines.next().is_none_or(|(_, first)| first != header) {
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
    Ok(arrivals)
}

fn fields<const N: usize>(line: &str) -> Result<[&str; N], Problem> {
    let fields = line.split(',').collect::<Vec<_>>();
    fields.try_into().map_err(|_| Problem::Fields)
}

fn arrival(at: &str, tenant: u32, input: &str, output: &str) -> Result<Arrival, Problem> {
    Ok(Arrival {
        at_ns: seconds(at).ok_or(Problem::Time)?,
        tenant,
        input: number(input)?,
        output: number(output)?,
    })
}

fn number(field: &str) -> Result<u32, Problem> {
    field.parse().map_err(|_| Problem::Number)
}

/// Whose a request of `like` is that is drawn; 0 where it has none.
fn tenant(like: &Workload, draw: &mut Draw) -> u32 {
    let index = draw.below(like.arrivals.len() as u64) as usize;
    like.arrivals.get(index).map_or(0, |drawn| drawn.tenant)
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
    fn the_azure_trace_is_whole_and_its_tenants_are_as_skewed_as_the_arena_traces() {
        let (arena, azure) = (arena().unwrap(), azure_conv().unwrap());
        assert_eq!((azure.arrivals.len(), azure.tenants), (19_366, 27));
        let Arrival {
            at_ns,
            input,
            output,
            ..
        } = azure.arrivals[1];
        assert_eq!((at_ns, input, output), (4_314_600_000, 396, 109));
        let share = |workload: &Workload, tenant: u32| {
            let of = workload.arrivals.iter().filter(|a| a.tenant == tenant);
            of.count() as f64 / workload.arrivals.len() as f64
        };
        for tenant in 0..27 {
            let (drawn, wanted) = (share(&azure, tenant), share(&arena, tenant));
            assert!((drawn - wanted).abs() < 0.01, "{tenant}: {drawn} {wanted}");
        }
    }

    #[test]
    fn a_trace_without_tenants_is_read_as_strictly() {
        let problem = |lines: &str| {
            let text = format!("{HEADER_WITHOUT_TENANTS}\n{lines}");
            let error = parse_without_tenants("bad", &text, &arena().unwrap(), 1).unwrap_err();
            (error.line, error.problem)
        };
        assert_eq!(problem("0.5,1,2,3"), (2, Problem::Fields));
        assert_eq!(problem("1,1,1\n0.9,1,1"), (3, Problem::Order));
        assert_eq!(problem("1,1,1\n2,-1,1"), (3, Problem::Number));
        assert_eq!(problem("x,1,1"), (2, Problem::Time));
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
