//! Figures: their units, medians, and how they compare.

use serde::Serialize;

/// What a figure is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Nanoseconds.
    Nanoseconds,
    /// Milliseconds.
    Milliseconds,
    /// Memory in bytes.
    Bytes,
    /// Memory in MiB.
    Mebibytes,
    /// Operations a second.
    PerSecond,
    /// MiB a second.
    MebibytesPerSecond,
}

impl Unit {
    /// As it is written in tables and files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Milliseconds => "ms",
            Self::Bytes => "B",
            Self::Mebibytes => "MiB",
            Self::PerSecond => "/s",
            Self::MebibytesPerSecond => "MiB/s",
        }
    }

    /// Rates are better when higher; times and memory when lower.
    fn higher_is_better(self) -> bool {
        matches!(self, Self::PerSecond | Self::MebibytesPerSecond)
    }

    /// How good `ours` is beside `other`: 1 where they are equal, above where ours is better. `None` where either is no positive
    /// number, so that nothing can be said.
    pub(crate) fn ratio(self, ours: f64, other: f64) -> Option<f64> {
        if !(ours.is_finite() && other.is_finite() && ours > 0.0 && other > 0.0) {
            return None;
        }
        Some(if self.higher_is_better() {
            ours / other
        } else {
            other / ours
        })
    }
}

/// One side's figures, a round each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Adds a round's figure.
    pub(crate) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// The middle figure; of an even number of them, the mean of the middle two.
    pub(crate) fn median(&self) -> Option<f64> {
        self.quantile(0.5)
    }

    /// How far the figures lie apart: the distance of the quartiles as a fraction of the median.
    pub(crate) fn spread(&self) -> Option<f64> {
        let median = self.median().filter(|median| *median > 0.0)?;
        Some((self.quantile(0.75)? - self.quantile(0.25)?) / median)
    }

    /// The figure below which the fraction `part` of all lie, between two figures by proportion.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index between 0 and the length"
    )]
    fn quantile(&self, part: f64) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let place = part * (sorted.len().checked_sub(1)? as f64);
        let (below, above) = (place.floor() as usize, place.ceil() as usize);
        let (below, above) = (*sorted.get(below)?, *sorted.get(above)?);
        Some(below + (above - below) * place.fract())
    }
}

/// One row of the outcome. What could not be measured is `None`, `null` in the file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    /// `area/what`.
    pub(crate) row: String,
    /// This project's figure.
    pub(crate) ours: Option<f64>,
    /// What figures are in.
    pub(crate) unit: &'static str,
    /// What the machine could do.
    pub(crate) limit: Option<f64>,
    /// What another implementation does.
    pub(crate) peer: Option<f64>,
    /// The fraction of the limit that is reached; 1 is the limit.
    pub(crate) ratio_limit: Option<f64>,
    /// How many times better than the peer; above 1 is better.
    pub(crate) ratio_peer: Option<f64>,
    /// Distance of the quartiles of `ours`, as a fraction of it.
    pub(crate) spread_ours: Option<f64>,
    /// The same of `limit`.
    pub(crate) spread_limit: Option<f64>,
    /// How often each side was measured.
    pub(crate) rounds: usize,
    /// Why something is missing, or what else is to be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

impl Row {
    /// The row of two or three sides' figures.
    pub(crate) fn new(
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

    /// With a note.
    pub(crate) fn with_note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }
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
        assert_eq!(Unit::PerSecond.ratio(50.0, 100.0), Some(0.5));
        assert_eq!(Unit::Mebibytes.ratio(4.0, 8.0), Some(2.0));
        assert_eq!(Unit::MebibytesPerSecond.ratio(200.0, 100.0), Some(2.0));
    }

    #[test]
    fn nothing_is_said_of_what_is_no_figure() {
        for (ours, other) in [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (f64::NAN, 1.0)] {
            assert_eq!(Unit::Nanoseconds.ratio(ours, other), None);
            assert_eq!(Unit::PerSecond.ratio(other, ours), None);
        }
        assert_eq!(Unit::PerSecond.ratio(f64::INFINITY, 1.0), None);
    }

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(samples(&[]).median(), None);
        assert_eq!(samples(&[3.0]).median(), Some(3.0));
        assert_eq!(samples(&[9.0, 1.0, 5.0]).median(), Some(5.0));
        assert_eq!(samples(&[4.0, 1.0, 2.0, 100.0]).median(), Some(3.0));
    }

    #[test]
    fn one_outlier_does_not_widen_the_spread() {
        assert_eq!(
            samples(&[10.0, 10.0, 10.0, 10.0, 500.0]).spread(),
            Some(0.0)
        );
        assert_eq!(samples(&[8.0, 9.0, 10.0, 11.0, 12.0]).spread(), Some(0.2));
        assert_eq!(samples(&[]).spread(), None);
    }

    #[test]
    fn a_row_is_written_with_null_for_what_is_not_known() {
        let row = Row::new(
            "area/what",
            Unit::Nanoseconds,
            &samples(&[30.0, 20.0, 25.0]),
            &samples(&[10.0]),
            &samples(&[]),
        );
        let json: serde_json::Value = serde_json::to_value(&row).unwrap();
        let expected = serde_json::json!({
            "row": "area/what", "ours": 25.0, "unit": "ns", "limit": 10.0, "peer": null, "ratio_limit": 0.4,
            "ratio_peer": null, "spread_ours": 0.2, "spread_limit": 0.0, "rounds": 3
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_row_that_could_not_be_measured_is_null_and_says_why() {
        let none = Samples::default();
        let row = Row::new(
            "netback/gso_64k",
            Unit::MebibytesPerSecond,
            &none,
            &none,
            &none,
        )
        .with_note("needs root");
        let json = serde_json::to_value(&row).unwrap();
        for field in ["ours", "limit", "peer", "ratio_limit", "ratio_peer"] {
            assert!(json[field].is_null(), "{field}");
        }
        assert_eq!(json["note"], "needs root");
    }
}
