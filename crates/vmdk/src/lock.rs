//! The lock of an image that is open for writing.

use std::fs::File;
use std::io::Result;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

/// A file, locked against others who write it, until this is dropped. It is let go in so many words: the file alone may live on for
/// a moment in a process that is being started, or in the kernel.
#[derive(Debug)]
pub(crate) struct Lock(Arc<File>);

impl Lock {
    pub(crate) fn take(file: &Arc<File>) -> Result<Self> {
        flock(file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self(Arc::clone(file)))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "a VMDK could not be unlocked");
        }
    }
}
