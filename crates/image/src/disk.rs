//! A disk as a whole, of which each queue of a device has a handle.

use std::io::Result;
use std::sync::Arc;

use crate::{BlockImage, Geometry};

/// A disk that can be served by several queues at a time, each in a thread of its own.
pub trait Disk: Send + Sync {
    /// The disk's size and nature, as it is now.
    fn geometry(&self) -> Geometry;

    /// A queue of its own for one thread. All queues show the same disk: what one has completed, the others read; a flush by one
    /// covers what all have completed.
    ///
    /// # Errors
    ///
    /// The host has no io_uring, descriptor or thread left.
    fn open_queue(&self) -> Result<Box<dyn BlockImage>>;
}

impl<D: Disk + ?Sized> Disk for Arc<D> {
    fn geometry(&self) -> Geometry {
        (**self).geometry()
    }
    fn open_queue(&self) -> Result<Box<dyn BlockImage>> {
        (**self).open_queue()
    }
}

impl<D: Disk + ?Sized> Disk for Box<D> {
    fn geometry(&self) -> Geometry {
        (**self).geometry()
    }
    fn open_queue(&self) -> Result<Box<dyn BlockImage>> {
        (**self).open_queue()
    }
}
