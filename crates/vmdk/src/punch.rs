//! Giving space back to the host.

use std::io::Result;

use cantle_image::Storage;
use rustix::io::Errno;

/// Frees a part of a file, or does nothing where the host cannot.
pub(crate) fn punch(storage: &impl Storage, offset: u64, len: u64) -> Result<()> {
    match storage.punch(offset, len) {
        Err(error)
            if [Errno::OPNOTSUPP, Errno::NOSYS]
                .map(|errno| Some(errno.raw_os_error()))
                .contains(&error.raw_os_error()) =>
        {
            Ok(())
        }
        result => result,
    }
}
