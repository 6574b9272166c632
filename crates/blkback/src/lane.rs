//! A queue and its image, served by one thread.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::image::BlockImage;
use crate::queue::{Queue, QueueError};
use crate::spin::Spin;

/// One queue with the image that does its requests.
pub(crate) struct Lane<'a> {
    pub(crate) queue: &'a mut Queue,
    pub(crate) image: &'a mut dyn BlockImage,
}

impl Lane<'_> {
    /// Does what is there to do and, where `spin` says so, looks for more for a while. True: call again. False: nothing is there, and
    /// whoever brings something will say so, so that one may sleep.
    pub(crate) fn serve(&mut self, spin: &mut Spin) -> Result<bool, QueueError> {
        if self.queue.pass(self.image)? {
            return Ok(true);
        }
        if let Some(time) = spin.look() {
            let found = self.watch(time)?;
            spin.looked(found);
            if found {
                return Ok(true);
            }
        }
        Ok(self.queue.arm())
    }

    /// Looks for requests and completions for so long; whether one came. The front end is not asked to notify meanwhile, and so does
    /// not.
    fn watch(&mut self, time: Duration) -> Result<bool, QueueError> {
        let begun = Instant::now();
        loop {
            for _ in 0..8 {
                std::hint::spin_loop();
            }
            if self.queue.pass(self.image)? {
                return Ok(true);
            }
            if begun.elapsed() >= time {
                return Ok(false);
            }
        }
    }

    /// Sleeps until the image has something or `wake` is readable; whether the latter.
    pub(crate) fn sleep(&mut self, wake: Option<BorrowedFd<'_>>) -> io::Result<bool> {
        self.image.wait(wake)
    }
}
