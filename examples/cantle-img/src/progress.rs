//! How far it is.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows how far it is, on standard error.
pub(crate) struct Progress {
    shown: Shown,
    total: u64,
}

enum Shown {
    Bar(ProgressBar),
    /// How many tenths have been told.
    Lines(u64),
    Nothing,
}

impl Progress {
    /// Of so many bytes.
    pub(crate) fn new(total: u64, quiet: bool) -> Self {
        let shown = if quiet || total == 0 {
            Shown::Nothing
        } else if std::io::stderr().is_terminal() {
            Shown::Bar(bar(total))
        } else {
            Shown::Lines(0)
        };
        Self { shown, total }
    }

    /// `done` bytes are done.
    pub(crate) fn at(&mut self, done: u64) {
        match &mut self.shown {
            Shown::Bar(bar) => bar.set_position(done),
            Shown::Lines(told) => {
                let tenths = u128::from(done) * 10 / u128::from(self.total.max(1));
                let tenths = u64::try_from(tenths).unwrap_or(10).min(10);
                if tenths > *told {
                    *told = tenths;
                    eprintln!("cantle-img: {} %", tenths * 10);
                }
            }
            Shown::Nothing => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template(
        "{bar:40} {percent:>3} %  {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left",
    );
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
