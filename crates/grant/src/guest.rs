//! What guests themselves do with each other's grants: the operations of `grant_table_op` that reach beyond the own table.
//!
//! Each takes a copy of what the guest passed, and says in its `status` what became of it.

mod cache_flush;
mod copy;
mod map;
mod transfer;
