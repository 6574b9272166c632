//! The console ring (`io/console.h`): bytes to the guest (`in`) and from it (`out`), in one page.

use crate::ring::ByteRing;

/// Bytes to the guest: `in`, 1024 bytes at offset 0.
pub const XENCONS_IN: ByteRing = ByteRing::new(0, 1024, 3072, 3076);
/// Bytes from the guest: `out`, 2048 bytes at offset 1024.
pub const XENCONS_OUT: ByteRing = ByteRing::new(1024, 2048, 3080, 3084);
