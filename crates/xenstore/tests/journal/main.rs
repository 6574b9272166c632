//! The journal on real files: what is kept, what an operator is told, and processes that are killed while they write.
#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod files;
mod kill;
