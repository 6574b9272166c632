//! The figures, for people and for programs.

use std::collections::BTreeMap;

use super::said::Arrived;

/// What arrived, by run and part, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Table {
    parts: Vec<&'static str>,
    runs: Vec<String>,
    cells: BTreeMap<(String, &'static str), Arrived>,
}

impl Table {
    /// Takes a run of a part.
    pub(super) fn add(&mut self, part: &'static str, run: &str, arrived: Arrived) {
        if !self.parts.contains(&part) {
            self.parts.push(part);
        }
        if !self.runs.iter().any(|known| known == run) {
            self.runs.push(run.to_owned());
        }
        self.cells.insert((run.to_owned(), part), arrived);
    }

    /// Its lines: a column for each part, a row for each run.
    pub(super) fn rows(&self) -> Vec<String> {
        let mut rows = vec![self.row("MB/s (lost)", |part| part.to_owned())];
        for run in &self.runs {
            let cell = |part: &'static str| match self.cells.get(&(run.clone(), part)) {
                Some(Arrived { rate, lost: None }) => format!("{rate:.1}"),
                Some(Arrived {
                    rate,
                    lost: Some(lost),
                }) => format!("{rate:.1} ({lost:.1} %)"),
                None => "-".to_owned(),
            };
            rows.push(self.row(&run.replace('_', " "), cell));
        }
        rows
    }

    fn row(&self, name: &str, cell: impl Fn(&'static str) -> String) -> String {
        let mut row = format!("{name:18}");
        for part in &self.parts {
            row.push_str(&format!("{:>16}", cell(part)));
        }
        row
    }

    /// The rates alone.
    pub(super) fn by_part(&self) -> BTreeMap<&'static str, BTreeMap<String, f64>> {
        let mut by_part: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for ((run, part), arrived) in &self.cells {
            let runs = by_part.entry(*part).or_default();
            runs.insert(run.clone(), arrived.rate);
        }
        by_part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_for_each_run_and_part() {
        let of = |rate, lost| Arrived { rate, lost };
        let mut table = Table::default();
        table.add("host", "tcp_up", of(31.25, None));
        table.add("host", "udp_up", of(5.0, Some(0.25)));
        table.add("bridge", "tcp_up", of(7.0, None));
        let rows = table.rows();
        let words = |row: &str| {
            row.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(words(&rows[0]), ["MB/s", "(lost)", "host", "bridge"]);
        assert_eq!(words(&rows[1]), ["tcp", "up", "31.2", "7.0"]);
        assert_eq!(words(&rows[2]), ["udp", "up", "5.0", "(0.2", "%)", "-"]);
        assert_eq!(table.by_part()["host"]["tcp_up"], 31.25);
        assert_eq!(table.by_part()["bridge"].len(), 1);
    }
}
