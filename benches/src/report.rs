//! The table on the screen and the file of an area.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::measure::{Row, Samples, Unit};
use crate::rounds::{self, Plan, Side};

/// The rows of one area, printed as they come.
#[derive(Debug)]
pub(crate) struct Report {
    plan: Plan,
    only: Option<String>,
    rows: Vec<Row>,
}

impl Report {
    /// No row yet.
    pub(crate) fn new(plan: Plan, only: Option<String>) -> Self {
        Self {
            plan,
            only,
            rows: Vec::new(),
        }
    }

    /// Whether a row is asked for. Areas look where a row takes long to set up.
    pub(crate) fn wants(&self, row: &str) -> bool {
        self.only.as_ref().is_none_or(|only| row.contains(only))
    }

    /// How long and how often is measured.
    pub(crate) fn plan(&self) -> Plan {
        self.plan
    }

    /// Measures a row: this project's side and the limit in turns.
    pub(crate) fn contest(
        &mut self,
        row: &str,
        unit: Unit,
        ours: Side<'_>,
        limit: Option<Side<'_>>,
    ) {
        self.contest_by(self.plan, row, unit, ours, limit);
    }

    /// As [`contest`](Self::contest), with a plan of its own.
    pub(crate) fn contest_by(
        &mut self,
        plan: Plan,
        row: &str,
        unit: Unit,
        ours: Side<'_>,
        limit: Option<Side<'_>>,
    ) {
        match rounds::contest(plan, row, unit, ours, limit) {
            Ok(row) => self.push(row),
            Err(error) => self.absent(row, unit, &format!("{error:#}")),
        }
    }

    /// A row that cannot be measured here.
    pub(crate) fn absent(&mut self, row: &str, unit: Unit, why: &str) {
        let none = Samples::default();
        self.push(Row::new(row, unit, &none, &none, &none).with_note(why));
    }

    /// Adds a row that was measured elsewhere.
    pub(crate) fn push(&mut self, row: Row) {
        println!("{}", line(&row));
        self.rows.push(row);
    }

    /// Writes the rows as a list in JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(&self.rows)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Prints what the columns are.
pub(crate) fn heading() {
    println!(
        "{:<32} {:>12} {:>12} {:>12} {:<6} {:>8} {:>8} {:>8}",
        "row", "ours", "limit", "peer", "unit", "of limit", "vs peer", "spread"
    );
}

/// One line of the table.
fn line(row: &Row) -> String {
    let percent =
        |part: Option<f64>| part.map_or("-".into(), |part| format!("{:.0}%", part * 100.0));
    let times = |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
    let mut line = format!(
        "{:<32} {:>12} {:>12} {:>12} {:<6} {:>8} {:>8} {:>8}",
        row.row,
        figure(row.ours),
        figure(row.limit),
        figure(row.peer),
        row.unit,
        times(row.ratio_limit),
        times(row.ratio_peer),
        percent(row.spread_ours),
    );
    if let Some(note) = &row.note {
        line.push_str(&format!("\n    ({note})"));
    }
    line
}

/// A figure with about four digits.
fn figure(figure: Option<f64>) -> String {
    match figure {
        None => "-".into(),
        Some(figure) if figure >= 1000.0 => format!("{figure:.0}"),
        Some(figure) if figure >= 10.0 => format!("{figure:.1}"),
        Some(figure) => format!("{figure:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn report() -> Report {
        Report::new(
            Plan {
                rounds: 3,
                slice: Duration::from_micros(1),
            },
            None,
        )
    }

    #[test]
    fn the_file_is_a_list_of_rows() {
        let mut report = report();
        report.contest(
            "a/rate",
            Unit::PerSecond,
            &mut || Ok(80.0),
            Some(&mut || Ok(100.0)),
        );
        report.contest(
            "a/broken",
            Unit::PerSecond,
            &mut || anyhow::bail!("no"),
            None,
        );
        report.absent("a/missing", Unit::Milliseconds, "no /dev/kvm");
        let file = std::env::temp_dir().join(format!("cantle-bench-{}.json", std::process::id()));
        report.write(&file).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(rows[0]["row"], "a/rate");
        assert_eq!(rows[0]["ratio_limit"], 0.8);
        assert!(rows[1]["ours"].is_null());
        assert_eq!(rows[1]["note"], "no");
        assert!(rows[2]["ratio_limit"].is_null());
        assert_eq!(rows.as_array().unwrap().len(), 3);
    }

    #[test]
    fn figures_keep_about_four_digits() {
        assert_eq!(figure(Some(123_456.7)), "123457");
        assert_eq!(figure(Some(56.78)), "56.8");
        assert_eq!(figure(Some(0.5)), "0.500");
        assert_eq!(figure(None), "-");
    }
}
