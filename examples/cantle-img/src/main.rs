//! `cantle-img`: makes, converts, checks and measures disk images.

fn main() {}
