//! The plot: for each victim and aggressor how many times as long the victim's p99 is as alone, as an SVG.
//!
//! The axis is logarithmic, since the orders are far apart. It is text made by hand; no figure is made here.

use super::{Pair, victim::Victim};
use crate::scenario::svg::{begin, text};
use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const PANEL: f64 = 250.0;
const TOP: f64 = 70.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
/// Of a panel's height: its bars, and what is below them.
const BARS: f64 = 180.0;

/// Colours, and what they stand for.
const OURS: (&str, &str) = ("#1f6feb", "ours");
const ARRIVAL: (&str, &str) = (
    "#d29922",
    "first come, first served (everybody shares one identity, batches across all)",
);

/// One bar.
struct Bar {
    ratio: f64,
    /// Some requests had no answer, so that it is higher in truth.
    least: bool,
}

/// An aggressor's two bars: ours and the order of arrival.
type Group<'a> = (&'a str, [Bar; 2]);

/// The whole plot.
pub fn svg(pairs: &[Pair]) -> String {
    let groups = |victim: Victim| -> Vec<Group<'_>> {
        let of = |pair: &Pair| {
            let bars = [&pair.ours, &pair.arrival].map(|beside| Bar {
                ratio: pair.ratio(beside),
                least: beside.seen.fate.unanswered > 0,
            });
            (pair.aggressor.word(), bars)
        };
        let own = pairs.iter().filter(|pair| pair.victim == victim);
        own.map(of).collect()
    };
    let panels: Vec<_> = Victim::ALL
        .iter()
        .map(|victim| (victim.title(), groups(*victim)))
        .filter(|(_, groups)| !groups.is_empty())
        .collect();
    draw(&panels)
}

fn draw(panels: &[(&str, Vec<Group<'_>>)]) -> String {
    let height = TOP + PANEL * panels.len() as f64;
    let mut svg = begin(WIDTH, height);
    text(
        &mut svg,
        (LEFT, 22.0),
        "start",
        15,
        "A victim's p99 beside a noisy neighbour, times its p99 alone",
    );
    for (nth, (colour, meaning)) in [OURS, ARRIVAL].into_iter().enumerate() {
        let x = LEFT + 80.0 * nth as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"34\" width=\"10\" height=\"10\" fill=\"{colour}\"/>"
        );
        text(&mut svg, (x + 15.0, 43.0), "start", 11, meaning);
    }
    let all = panels.iter().flat_map(|(_, groups)| groups);
    let bars = all.flat_map(|(_, bars)| bars.iter().map(|bar| bar.ratio));
    // Whole powers of ten that hold every bar.
    let (least, most) = bars.fold((1.0_f64, 10.0_f64), |(least, most), ratio| {
        (least.min(ratio), most.max(ratio))
    });
    let scale = (least.log10().floor(), most.log10().ceil());
    for (nth, (title, groups)) in panels.iter().enumerate() {
        panel(&mut svg, TOP + PANEL * nth as f64, scale, title, groups);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, top: f64, (low, high): (f64, f64), title: &str, groups: &[Group<'_>]) {
    let base = top + 20.0 + BARS;
    let y = |ratio: f64| base - (ratio.log10() - low) / (high - low) * BARS;
    text(
        svg,
        (LEFT, top + 12.0),
        "start",
        12,
        &format!("victim: {title}"),
    );
    for power in (low as i32)..=(high as i32) {
        let (at, one) = (y(10f64.powi(power)), power == 0);
        let colour = if one { "#57606a" } else { "#d0d7de" };
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"{colour}\"/>",
            WIDTH - RIGHT
        );
        let label = format!("{} ×", 10f64.powi(power));
        text(svg, (LEFT - 6.0, at + 4.0), "end", 11, &label);
    }
    let _ = writeln!(
        svg,
        "<text transform=\"translate(16 {}) rotate(-90)\" text-anchor=\"middle\">p99 ÷ p99 alone, log</text>",
        base - BARS / 2.0
    );
    let width = (WIDTH - LEFT - RIGHT) / groups.len() as f64;
    for (nth, (word, bars)) in groups.iter().enumerate() {
        let x = LEFT + width * nth as f64;
        for (bar, ((colour, _), at)) in bars.iter().zip([(OURS, 0.14), (ARRIVAL, 0.52)]) {
            let (x, wide) = (x + width * at, width * 0.34);
            // From 1: a bar that goes down is a victim that was quicker than alone.
            let (from, to) = (y(1.0), y(bar.ratio.max(f64::MIN_POSITIVE)));
            let (upper, tall) = (from.min(to), (from - to).abs().max(1.0));
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{upper:.1}\" width=\"{wide:.1}\" height=\"{tall:.1}\" fill=\"{colour}\"/>"
            );
            let least = if bar.least { "≥" } else { "" };
            let label = match bar.ratio {
                ratio if ratio >= 100.0 => format!("{least}{ratio:.0}"),
                ratio => format!("{least}{ratio:.1}"),
            };
            text(svg, (x + wide / 2.0, upper - 3.0), "middle", 10, &label);
        }
        text(svg, (x + width / 2.0, base + 16.0), "middle", 11, word);
    }
    let middle = LEFT + (WIDTH - LEFT - RIGHT) / 2.0;
    text(svg, (middle, base + 32.0), "middle", 11, "aggressor");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bar_has_its_height_and_its_value() {
        let bar = |ratio, least| Bar { ratio, least };
        let groups = vec![("flood", [bar(1.6, false), bar(1000.0, true)])];
        let svg = draw(&[("one text", groups)]);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        for label in [
            ">1.6<",
            ">≥1000<",
            ">flood<",
            ">1000 ×<",
            ">victim: one text<",
        ] {
            assert!(svg.contains(label), "{label} in {svg}");
        }
        // The highest bar is as high as the axis.
        assert!(svg.contains("height=\"180.0\" fill=\"#d29922\""), "{svg}");
    }
}
