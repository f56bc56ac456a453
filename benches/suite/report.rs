//! The table and the file.

use std::path::Path;

use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::figure::{Bound, Figure, Goal, Series};

const HEAD: [&str; 8] = ["row", "measure", "contender", "median", "against", "its median", "ratio (spread)", "goal"];

/// All figures, one a line.
pub fn table(figures: &[Figure]) -> String {
    let mut lines = vec![HEAD.map(str::to_owned)];
    lines.extend(figures.iter().map(cells));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let line = |cells: &[String; 8]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}", width = *width));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn cells(figure: &Figure) -> [String; 8] {
    let with_unit = |series: &Series| format!("{} {}", number(series.median), figure.unit).trim_end().to_owned();
    [
        figure.row.clone(),
        figure.measure.clone(),
        figure.contender.clone(),
        with_unit(&figure.value),
        figure.against.clone().unwrap_or_default(),
        figure.other.as_ref().map(with_unit).unwrap_or_default(),
        figure
            .ratio
            .as_ref()
            .map(|ratio| format!("{} ({}–{})", number(ratio.median), number(ratio.min), number(ratio.max)))
            .unwrap_or_default(),
        figure.goal.map(|goal| format!("{} {}", words(goal), figure.verdict.unwrap_or_default())).unwrap_or_default(),
    ]
}

fn words(goal: Goal) -> String {
    let minimum = goal.bare_minimum.map(|bound| format!(" (or {})", bound_words(bound))).unwrap_or_default();
    format!("{}{minimum}:", bound_words(goal.wanted))
}

fn bound_words(bound: Bound) -> String {
    match bound {
        Bound::RatioAtLeast(least) => format!("≥ {} ×", number(least)),
        Bound::RatioAtMost(most) => format!("≤ {most} ×"),
        Bound::RatioBelow(limit) => format!("< {limit} ×"),
        Bound::RatioAbove(limit) => format!("> {limit} ×"),
        Bound::AtMost(most) => format!("≤ {most}"),
        Bound::AtLeast(least) => format!("≥ {least}"),
    }
}

/// Three digits that say something.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        small if small < 0.1 && small > 0.0 => format!("{value:.4}"),
        _ => format!("{value:.2}"),
    }
}

/// Writes the figures with the machine that they were measured on.
pub fn write(file: &Path, machine: &Value, arguments: &Arguments, figures: &[Figure], disturbed: u32) {
    let settings = json!({ "pairs": arguments.pairs, "seconds": arguments.seconds, "quick": arguments.quick });
    let document = json!({ "machine": machine, "settings": settings, "disturbed": disturbed, "figures": figures });
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory).expect("the directory is made");
    }
    std::fs::write(file, format!("{document:#}\n")).expect("the figures are written");
}
