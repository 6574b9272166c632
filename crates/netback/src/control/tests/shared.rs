use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Readers see whole configurations, one after the other and never an older one again, and the last one when all is done.
#[test]
fn a_configuration_is_seen_whole_and_in_order() {
    let queues = NonZeroU32::new(1000).unwrap();
    let shared = Arc::new(SharedHash::new(HashConfig::new(queues)));
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let mut reader = shared.reader();
        let stop = &stop;
        let seen = threads.spawn(move || {
            let mut last = 0;
            loop {
                let stopped = stop.load(Ordering::Acquire);
                let config = reader.get();
                let (first, second) = (queue_of(config, 0), queue_of(config, 1));
                // A mapping of one entry has it for both hashes; without one the hash is the queue.
                assert!(first == second || (first, second) == (0, 1));
                assert!(first >= last, "{first} after {last}");
                last = first;
                if stopped {
                    return last;
                }
            }
        });
        for n in 1..1000 {
            let mut config = HashConfig::new(queues);
            config.set_mapping_size(1).unwrap();
            config.set_mapping(0, &[n]).unwrap();
            shared.store(Arc::new(config));
        }
        stop.store(true, Ordering::Release);
        assert_eq!(seen.join().unwrap(), 999);
    });
}
