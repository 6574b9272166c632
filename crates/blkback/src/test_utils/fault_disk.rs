//! A disk each of whose queues fails and dawdles as it is told.

use std::io::Result;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Fault, FaultImage, Faults};
use crate::image::{BlockImage, Disk, Geometry, Io};

type Plan = dyn Fn(&Io) -> Fault + Send + Sync;

/// A disk over another one whose queues are [`FaultImage`]s that all go by one plan.
pub struct FaultDisk {
    inner: Arc<dyn Disk>,
    queues: Mutex<Queues>,
}

struct Queues {
    plan: Arc<Plan>,
    faults: Vec<Arc<Faults>>,
}

impl FaultDisk {
    /// Wraps `inner`; every request passes until [`plan`](Self::plan) says otherwise.
    #[must_use]
    pub fn new(inner: impl Disk + 'static) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::new(inner),
            queues: Mutex::new(Queues {
                plan: Arc::new(|_: &Io| Fault::Pass),
                faults: Vec::new(),
            }),
        })
    }

    /// Asks `plan` about each request from now on, of whichever queue.
    pub fn plan(&self, plan: impl Fn(&Io) -> Fault + Send + Sync + 'static) {
        let mut queues = self.queues();
        queues.plan = Arc::new(plan);
        for faults in &queues.faults {
            let plan = Arc::clone(&queues.plan);
            faults.plan(move |io| plan(io));
        }
    }

    /// How many requests are held back by all queues together.
    #[must_use]
    pub fn held(&self) -> usize {
        self.queues()
            .faults
            .iter()
            .map(|faults| faults.held())
            .sum()
    }

    /// Lets the requests held back go on, and passes those to come.
    pub fn release(&self) {
        self.plan(|_| Fault::Pass);
        for faults in &self.queues().faults {
            // A release of nothing would wake a back end that does not ask its image.
            if faults.held() > 0 {
                faults.release();
            }
        }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for FaultDisk {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn open_queue(&self) -> Result<Box<dyn BlockImage>> {
        let image = FaultImage::new(self.inner.open_queue()?)?;
        let mut queues = self.queues();
        let (faults, plan) = (image.faults(), Arc::clone(&queues.plan));
        faults.plan(move |io| plan(io));
        queues.faults.push(faults);
        Ok(Box::new(image))
    }
}

impl std::fmt::Debug for FaultDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultDisk")
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}
