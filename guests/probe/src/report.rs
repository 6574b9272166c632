//! How a test ends, and the words for it.

use core::fmt;

use cantle_abi::Errno;
use cantle_abi::ring::{RingBroken, RingFull};

use crate::text::Text;

/// Why a test did not end well.
pub(crate) enum Failure {
    /// The host did something wrong.
    Failed(Text<200>),
    /// The machine does not have what the test is about.
    Absent(Text<200>),
}

/// A test's end.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) => write!(f, "FAILED: {why}"),
            Self::Absent(what) => write!(f, "skipped: {what}"),
        }
    }
}

impl From<RingBroken> for Failure {
    fn from(broken: RingBroken) -> Self {
        Self::Failed(Text::format(format_args!("{broken}")))
    }
}

impl From<RingFull> for Failure {
    fn from(full: RingFull) -> Self {
        Self::Failed(Text::format(format_args!("{full}")))
    }
}

/// Ends the test as failed, with a formatted reason.
#[macro_export]
macro_rules! fail {
    ($($arg:tt)*) => {
        return Err($crate::report::Failure::Failed($crate::text::Text::format(format_args!($($arg)*))))
    };
}

/// Ends the test as failed unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($arg:tt)*) => {
        if !$condition { $crate::fail!($($arg)*) }
    };
}

/// What a hypercall's error means for a test.
pub(crate) trait Because<T> {
    /// Names what was tried.
    fn because(self, what: &str) -> Outcome<T>;
}

impl<T> Because<T> for Result<T, Errno> {
    fn because(self, what: &str) -> Outcome<T> {
        self.map_err(|errno| Failure::Failed(Text::format(format_args!("{what}: {errno}"))))
    }
}

/// An error where one was due.
pub(crate) fn refused<T>(result: Result<T, Errno>, what: &str) -> Outcome<Errno> {
    match result {
        Err(errno) => Ok(errno),
        Ok(_) => Err(Failure::Failed(Text::format(format_args!(
            "{what} was accepted"
        )))),
    }
}
