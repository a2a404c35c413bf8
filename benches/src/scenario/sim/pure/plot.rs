//! The frontier as an SVG: throughput against how unfair it was, a point for each length of a turn. Text made by hand; no
//! figure is made here.

use super::Line;
use crate::scenario::svg::{begin, text};
use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 60.0;
const RIGHT: f64 = 30.0;
const BOTTOM: f64 = 60.0;

/// The differences that have a line.
const DIFFS: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 8.0];

/// The whole plot; the first line is the shared batch.
pub fn svg(lines: &[Line]) -> String {
    let x = |share: f64| LEFT + share * (WIDTH - LEFT - RIGHT);
    // Logarithmic: those in the middle lie close together.
    let (low, high) = (DIFFS[0].log10(), DIFFS[DIFFS.len() - 1].log10());
    let tall = HEIGHT - TOP - BOTTOM;
    let y = |diff: f64| HEIGHT - BOTTOM - (diff.log10() - low) / (high - low) * tall;
    let (bottom, top) = (HEIGHT - BOTTOM, TOP);
    let mut svg = begin(WIDTH, HEIGHT);
    text(
        &mut svg,
        (LEFT, 22.0),
        "start",
        15,
        "What it costs that no batch holds two tenants (arena trace, simulated)",
    );
    text(
        &mut svg,
        (LEFT, 40.0),
        "start",
        11,
        "each number: turns of a length, and p99 of the lighter tenants' first tokens",
    );
    for tenth in 0..=10 {
        let at = x(f64::from(tenth) / 10.0);
        rule(&mut svg, (at, bottom), (at, top));
        text(
            &mut svg,
            (at - 8.0, HEIGHT - BOTTOM + 16.0),
            "start",
            11,
            &format!("{}", tenth * 10),
        );
    }
    for diff in DIFFS {
        let at = y(diff);
        rule(&mut svg, (x(0.0), at), (x(1.0), at));
        text(
            &mut svg,
            (LEFT - 26.0, at + 4.0),
            "start",
            11,
            &format!("{diff}"),
        );
    }
    text(
        &mut svg,
        (LEFT, HEIGHT - 20.0),
        "start",
        11,
        "tokens/s, % of the shared batch's under VTC",
    );
    let _ = writeln!(
        svg,
        "<text transform=\"translate(24 {}) rotate(-90)\">greatest difference in service ÷ tokens/s, log</text>",
        HEIGHT - BOTTOM
    );
    for (nth, line) in lines.iter().enumerate() {
        let at = (x(line.mean[0]), y(line.mean[1]));
        let colour = if nth == 0 { "#d29922" } else { "#1f6feb" };
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/>",
            at.0, at.1
        );
        text(
            &mut svg,
            (at.0 + 6.0, at.1 - 4.0),
            "start",
            10,
            &format!("{}", nth + 1),
        );
        let key = format!("{}: {}, {:.0} s", nth + 1, line.name, line.mean[2]);
        text(
            &mut svg,
            (x(0.66), top + 18.0 + 14.0 * nth as f64),
            "start",
            11,
            &key,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn rule(svg: &mut String, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#d0d7de\"/>",
        from.0, from.1, to.0, to.1
    );
}
