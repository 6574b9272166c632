//! Taking turns: ours, limit, ours, limit …

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::measure::{Row, Samples, Unit};

/// How long and how often is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Rounds of each side, after one to warm up.
    pub(crate) rounds: usize,
    /// Measured time of a round.
    pub(crate) slice: Duration,
}

impl Plan {
    /// For figures.
    pub(crate) fn usual() -> Self {
        Self {
            rounds: 15,
            slice: Duration::from_millis(25),
        }
    }

    /// To see that everything runs.
    pub(crate) fn quick() -> Self {
        Self {
            rounds: 3,
            slice: Duration::from_millis(5),
        }
    }

    /// About half as many rounds, each so many times longer: for what needs time to settle, such as queues.
    pub(crate) fn longer(self, times: u32) -> Self {
        Self {
            // An odd number, whose median is a figure that was measured.
            rounds: self.rounds.div_ceil(2).max(3) | 1,
            slice: self.slice * times,
        }
    }
}

/// One side of a row: does a round and returns its figure.
pub(crate) type Side<'a> = &'a mut dyn FnMut() -> Result<f64>;

/// Runs the sides in turns and compares them.
///
/// # Errors
///
/// A side's own.
pub(crate) fn contest(
    plan: Plan,
    row: &str,
    unit: Unit,
    ours: Side<'_>,
    mut limit: Option<Side<'_>>,
) -> Result<Row> {
    let (mut our_samples, mut limit_samples) = (Samples::default(), Samples::default());
    for round in 0..=plan.rounds {
        let our_figure = ours()?;
        let limit_figure = match &mut limit {
            Some(limit) => Some(limit()?),
            None => None,
        };
        // The first round warms caches, clocks and the branch predictor, and is forgotten.
        if round > 0 {
            our_samples.push(our_figure);
            if let Some(figure) = limit_figure {
                limit_samples.push(figure);
            }
        }
    }
    Ok(Row::new(
        row,
        unit,
        &our_samples,
        &limit_samples,
        &Samples::default(),
    ))
}

/// Calls `batch` until the time it says it took adds up to `slice`; each call does `ops` operations. Nanoseconds per operation.
///
/// # Errors
///
/// The batch's own.
pub(crate) fn per_op(
    slice: Duration,
    ops: u32,
    mut batch: impl FnMut() -> Result<Duration>,
) -> Result<f64> {
    let (mut took, mut done) = (Duration::ZERO, 0_u64);
    while took < slice {
        took += batch()?;
        done += u64::from(ops);
    }
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    Ok(took.as_secs_f64() * 1e9 / done as f64)
}

/// As [`per_op`], in operations a second.
///
/// # Errors
///
/// The batch's own.
pub(crate) fn per_second(
    slice: Duration,
    ops: u32,
    batch: impl FnMut() -> Result<Duration>,
) -> Result<f64> {
    Ok(1e9 / per_op(slice, ops, batch)?)
}

/// A load that is given a number of operations and says how long they took: finds the number that fills a slice.
#[derive(Debug)]
pub(crate) struct Pace {
    count: u64,
}

impl Pace {
    /// Begins with `count` operations.
    pub(crate) fn new(count: u64) -> Self {
        Self { count }
    }

    /// Operations a second over about `slice`.
    ///
    /// # Errors
    ///
    /// The load's own.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts far below 2^52"
    )]
    pub(crate) fn rate(
        &mut self,
        slice: Duration,
        mut load: impl FnMut(u64) -> Result<Duration>,
    ) -> Result<f64> {
        loop {
            let count = self.count;
            let took = load(count)?.as_secs_f64().max(1e-9);
            let fitting = count as f64 * (slice.as_secs_f64() / took);
            // Not by leaps: the first operations of all are slow.
            self.count = (fitting as u64).clamp(count / 4, count * 16).max(1);
            if took >= slice.as_secs_f64() / 4.0 {
                return Ok(count as f64 / took);
            }
        }
    }
}

/// How long something takes.
///
/// # Errors
///
/// Its own.
pub(crate) fn timed(mut work: impl FnMut() -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    const PLAN: Plan = Plan {
        rounds: 3,
        slice: Duration::from_millis(1),
    };

    #[test]
    fn sides_take_turns_and_the_first_round_is_forgotten() {
        let order = RefCell::new(String::new());
        let mut ours = [900.0, 20.0, 40.0, 30.0].into_iter();
        let mut limit = [1.0, 15.0, 15.0, 15.0].into_iter();
        let row = contest(
            PLAN,
            "a/b",
            Unit::Nanoseconds,
            &mut || {
                order.borrow_mut().push('o');
                Ok(ours.next().unwrap())
            },
            Some(&mut || {
                order.borrow_mut().push('l');
                Ok(limit.next().unwrap())
            }),
        )
        .unwrap();
        assert_eq!(order.into_inner(), "olololol");
        assert_eq!((row.ours, row.limit), (Some(30.0), Some(15.0)));
        assert_eq!(row.ratio_limit, Some(0.5));
        assert_eq!(row.rounds, 3);
    }

    #[test]
    fn a_side_that_fails_fails_the_row() {
        let outcome = contest(
            PLAN,
            "a/b",
            Unit::PerSecond,
            &mut || Ok(1.0),
            Some(&mut || anyhow::bail!("no tap")),
        );
        assert_eq!(outcome.unwrap_err().to_string(), "no tap");
    }

    #[test]
    fn a_load_is_made_as_long_as_a_slice() {
        let mut asked = Vec::new();
        let mut pace = Pace::new(10);
        let rate = pace.rate(Duration::from_millis(80), |count| {
            asked.push(count);
            Ok(Duration::from_micros(10) * u32::try_from(count).unwrap())
        });
        assert!((rate.unwrap() - 1e5).abs() < 1.0);
        assert_eq!(
            asked,
            [10, 160, 2560],
            "16-fold at most, and enough with a quarter"
        );
        assert_eq!(pace.count, 8000);
    }

    #[test]
    fn only_the_time_that_the_batch_reports_counts() {
        let batch = || {
            std::thread::sleep(Duration::from_micros(10));
            Ok(Duration::from_micros(50))
        };
        let nanoseconds = per_op(PLAN.slice, 100, batch).unwrap();
        assert!((nanoseconds - 500.0).abs() < 1e-6, "{nanoseconds}");
        let rate = per_second(PLAN.slice, 100, batch).unwrap();
        assert!((rate - 2e6).abs() < 1e-3, "{rate}");
    }
}
