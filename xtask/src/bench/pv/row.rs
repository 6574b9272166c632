//! Rows of figures, as `cantle-bench` writes them (`benches/README.md` says what each field is): those that need a lab are measured from here.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// What a figure is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Nanoseconds,
    Milliseconds,
    MebibytesPerSecond,
    Kibibytes,
    Lines,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Milliseconds => "ms",
            Self::MebibytesPerSecond => "MiB/s",
            Self::Kibibytes => "KiB",
            Self::Lines => "lines",
        }
    }

    /// How good `ours` is beside `other`: 1 where they are equal, above where ours is better.
    fn ratio(self, ours: f64, other: f64) -> Option<f64> {
        let positive = |figure: f64| figure.is_finite() && figure > 0.0;
        (positive(ours) && positive(other)).then(|| match self {
            Self::MebibytesPerSecond => ours / other,
            _ => other / ours,
        })
    }
}

/// One side's figures, a round each.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// The middle figure; of an even number of them, the lower of the middle two.
    pub(super) fn median(&self) -> Option<f64> {
        self.at(2)
    }

    /// Distance of the quartiles, as a fraction of the median.
    fn spread(&self) -> Option<f64> {
        let median = self.median().filter(|median| *median > 0.0)?;
        Some((self.at(3)? - self.at(1)?) / median)
    }

    /// The figure at so many quarters.
    fn at(&self, quarters: usize) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
            .get(sorted.len().checked_sub(1)? * quarters / 4)
            .copied()
    }
}

/// A row of the file.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) row: String,
    ours: Option<f64>,
    unit: &'static str,
    limit: Option<f64>,
    peer: Option<f64>,
    ratio_limit: Option<f64>,
    ratio_peer: Option<f64>,
    spread_ours: Option<f64>,
    spread_limit: Option<f64>,
    rounds: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl Row {
    pub(super) fn new(
        row: &str,
        unit: Unit,
        ours: &Samples,
        limit: &Samples,
        peer: &Samples,
    ) -> Self {
        let ratio = |other: &Samples| unit.ratio(ours.median()?, other.median()?);
        Self {
            row: row.to_owned(),
            ours: ours.median(),
            unit: unit.name(),
            limit: limit.median(),
            peer: peer.median(),
            ratio_limit: ratio(limit),
            ratio_peer: ratio(peer),
            spread_ours: ours.spread(),
            spread_limit: limit.spread(),
            rounds: ours.0.len(),
            note: None,
        }
    }

    /// With why something is missing, where it is.
    pub(super) fn noted(mut self, why: Option<&str>) -> Self {
        self.note = why.map(|why| why.lines().next().unwrap_or_default().to_owned());
        self
    }

    fn line(&self) -> String {
        let figure = |figure: Option<f64>| figure.map_or("-".into(), |f| format!("{f:.1}"));
        let ratio = |ratio: Option<f64>| ratio.map_or("-".into(), |r| format!("{r:.2}"));
        let spread = self
            .spread_ours
            .map_or("-".into(), |part| format!("{:.0}%", part * 100.0));
        let mut line = format!(
            "{:<32} {:>12} {:>12} {:>12} {:<6} {:>8} {:>8} {:>8}",
            self.row,
            figure(self.ours),
            figure(self.limit),
            figure(self.peer),
            self.unit,
            ratio(self.ratio_limit),
            ratio(self.ratio_peer),
            spread,
        );
        if let Some(note) = &self.note {
            line.push_str(&format!("\n    ({note})"));
        }
        line
    }
}

/// Prints the rows, and writes them as a list in JSON.
pub(super) fn write(rows: &[Row], path: &Path) -> Result<()> {
    println!(
        "{:<32} {:>12} {:>12} {:>12} {:<6} {:>8} {:>8} {:>8}",
        "row", "ours", "limit", "peer", "unit", "of limit", "vs peer", "spread"
    );
    for row in rows {
        println!("{}", row.line());
    }
    let mut text = serde_json::to_string_pretty(rows)?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(figures: &[f64]) -> Samples {
        Samples(figures.to_vec())
    }

    #[test]
    fn twice_the_time_and_half_the_rate_are_the_same_ratio() {
        assert_eq!(Unit::Nanoseconds.ratio(200.0, 100.0), Some(0.5));
        assert_eq!(Unit::MebibytesPerSecond.ratio(50.0, 100.0), Some(0.5));
        assert_eq!(Unit::Milliseconds.ratio(0.0, 1.0), None);
    }

    #[test]
    fn a_side_without_figures_is_null() {
        let row = Row::new(
            "pv/boot_vs_xen",
            Unit::Milliseconds,
            &samples(&[3.0, 1.0, 2.0]),
            &samples(&[]),
            &samples(&[4.0]),
        );
        let json = serde_json::to_value(row.noted(Some("why\nand more"))).unwrap();
        assert_eq!(json["ours"], 2.0);
        assert_eq!(json["ratio_peer"], 2.0);
        assert!(json["limit"].is_null() && json["ratio_limit"].is_null());
        assert_eq!(json["note"], "why");
    }
}
