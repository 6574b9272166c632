//! A hash configuration that one thread changes while others use it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::HashConfig;

/// The [`HashConfig`] of a device, as its queues' threads find it. Each reads it through a [`HashReader`].
#[derive(Debug)]
pub struct SharedHash {
    /// Counts the configurations; changed with the lock held.
    version: AtomicU64,
    config: Mutex<Arc<HashConfig>>,
}

impl SharedHash {
    /// Begins with this.
    #[must_use]
    pub fn new(config: HashConfig) -> Self {
        Self {
            version: AtomicU64::new(0),
            config: Mutex::new(Arc::new(config)),
        }
    }

    /// The configuration now.
    #[must_use]
    pub fn load(&self) -> Arc<HashConfig> {
        self.lock().clone()
    }

    /// Sets the configuration: who reads it from now on gets this one.
    pub fn store(&self, config: Arc<HashConfig>) {
        let old = {
            let mut own = self.lock();
            // Release: pairs with the load in `HashReader::get`. The lock keeps version and configuration together.
            self.version.fetch_add(1, Ordering::Release);
            std::mem::replace(&mut *own, config)
        };
        // After the lock, since it may be the last one's end.
        drop(old);
    }

    /// A thread's own view of it.
    #[must_use]
    pub fn reader(self: &Arc<Self>) -> HashReader {
        let (version, config) = self.versioned();
        HashReader {
            shared: self.clone(),
            version,
            config,
        }
    }

    fn versioned(&self) -> (u64, Arc<HashConfig>) {
        let config = self.lock();
        // Relaxed: it changes with the lock held only.
        (self.version.load(Ordering::Relaxed), config.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Arc<HashConfig>> {
        // Nothing that is done with the lock held can leave it half done.
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread's view of a [`SharedHash`]: as long as nothing changes, looking costs one atomic load.
#[derive(Clone, Debug)]
pub struct HashReader {
    shared: Arc<SharedHash>,
    version: u64,
    config: Arc<HashConfig>,
}

impl HashReader {
    /// The configuration now. To be asked once for each batch.
    pub fn get(&mut self) -> &HashConfig {
        // Acquire: pairs with `SharedHash::store`; who sees its version finds the lock with its configuration.
        if self.shared.version.load(Ordering::Acquire) != self.version {
            (self.version, self.config) = self.shared.versioned();
        }
        &self.config
    }
}
