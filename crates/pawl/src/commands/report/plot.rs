//! Plots as SVG, without scripts.

use core::fmt::Write as _;

use super::short;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 220.0;
/// Room for the numbers at the left, at the right, above and below.
const MARGIN: [f64; 4] = [64.0, 12.0, 10.0, 26.0];
/// Colours that also the colour-blind tell apart (Okabe & Ito 2008).
pub const COLOURS: [&str; 8] =
    ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000"];

/// A point: where in time from 0 to 1, its value and its interval.
pub struct Point {
    pub at: f64,
    pub value: f64,
    pub interval: Option<[f64; 2]>,
}

/// A line with its name.
pub struct Line<'a> {
    pub name: &'a str,
    pub points: Vec<Point>,
}

/// Steps of 1, 2 or 5 times a power of ten, five of them or a few more.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|k| k * power).into_iter().find(|s| *s >= rough);
    let step = step.unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    (first..).map(|k| k as f64 * step).take_while(|t| *t <= high + 1e-9 * step).collect()
}

/// The frame: grid, numbers at the left, words below. `label` writes a value.
fn frame(low: f64, high: f64, ends: [&str; 2], label: &dyn Fn(f64) -> String) -> String {
    let [left, right, _, below] = MARGIN;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" xmlns=\"http://www.w3.org/2000/svg\">"
    );
    for tick in ticks(low, high) {
        let (y, label) = (y_of(tick, low, high), label(tick));
        let _infallible = write!(
            svg,
            "<line x1=\"{left}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" class=\"grid\"/>\
             <text x=\"{}\" y=\"{:.1}\" class=\"end\">{label}</text>",
            WIDTH - right,
            left - 6.0,
            y + 4.0
        );
    }
    let y = HEIGHT - below + 18.0;
    let _infallible = write!(
        svg,
        "<text x=\"{left}\" y=\"{y}\">{}</text><text x=\"{}\" y=\"{y}\" class=\"end\">{}</text>",
        ends[0],
        WIDTH - right,
        ends[1]
    );
    svg
}

fn y_of(value: f64, low: f64, high: f64) -> f64 {
    let [_, _, above, below] = MARGIN;
    let room = HEIGHT - above - below;
    above + room * (1.0 - ((value - low) / (high - low)).clamp(0.0, 1.0))
}

fn x_of(at: f64) -> f64 {
    let [left, right, ..] = MARGIN;
    left + (WIDTH - left - right) * at
}

/// Lines over time, each point with its interval. Empty where there is nothing to draw.
pub fn lines(lines: &[Line<'_>], ends: [&str; 2], as_percent: bool) -> String {
    let values = || lines.iter().flat_map(|l| &l.points).map(|p| p.value);
    let (least, most) =
        (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    if !least.is_finite() {
        return String::new();
    }
    // Intervals may leave the frame, but not set its scale alone.
    let spread = (most - least).max(1e-9 + 0.02 * most.abs());
    let reach = |f: fn(f64, f64) -> f64, from: f64, side: usize| {
        let ends = lines.iter().flat_map(|l| &l.points).filter_map(|p| Some(p.interval?[side]));
        ends.fold(from, f)
    };
    let low = reach(f64::min, least, 0).max(least - 2.0 * spread) - 0.05 * spread;
    let high = reach(f64::max, most, 1).min(most + 2.0 * spread) + 0.05 * spread;
    let label = |v: f64| {
        if as_percent { format!("{:.4} %", 100.0 * v).replace(".0000", "") } else { short(v) }
    };
    let mut svg = frame(low, high, ends, &label);
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let place = |p: &Point| format!("{:.1},{:.1}", x_of(p.at), y_of(p.value, low, high));
        let path: Vec<String> = line.points.iter().map(place).collect();
        let _infallible = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            path.join(" ")
        );
        for p in &line.points {
            let (x, y) = (x_of(p.at), y_of(p.value, low, high));
            let _infallible =
                write!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>");
            if let Some([from, to]) = p.interval {
                let (from, to) = (y_of(from, low, high), y_of(to, low, high));
                let _infallible = write!(
                    svg,
                    "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{from:.1}\" y2=\"{to:.1}\" stroke=\"{colour}\" opacity=\".5\"/>"
                );
            }
        }
    }
    svg + "</svg>" + &legend(lines.iter().map(|l| l.name))
}

/// Shares of one over time as stacked bars: `bars` is (from, to, shares), the time from 0 to 1.
pub fn shares(names: &[&str], bars: &[(f64, f64, Vec<f64>)], ends: [&str; 2]) -> String {
    let mut svg = frame(0.0, 1.0, ends, &|v| format!("{:.0} %", 100.0 * v));
    for (from, to, shares) in bars {
        let mut below = 0.0;
        for (share, colour) in shares.iter().zip(COLOURS.iter().cycle()) {
            let (y, bottom) = (y_of(below + share, 0.0, 1.0), y_of(below, 0.0, 1.0));
            below += share;
            let _infallible = write!(
                svg,
                "<rect x=\"{:.1}\" width=\"{:.1}\" y=\"{y:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
                x_of(*from),
                (x_of(*to) - x_of(*from) - 1.0).max(0.5),
                bottom - y
            );
        }
    }
    svg + "</svg>" + &legend(names.iter().copied())
}

fn legend<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let entry = |(name, colour): (&str, &&str)| {
        format!("<span><i style=\"background:{colour}\"></i>{}</span>", super::page::escape(name))
    };
    let entries: String = names.zip(COLOURS.iter().cycle()).map(entry).collect();
    format!("<div class=\"legend\">{entries}</div>")
}
