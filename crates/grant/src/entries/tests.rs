//! Every interleaving of a host that marks an entry and a guest that changes it, as far as the memory model goes.

use std::sync::atomic::Ordering;

use cantle_abi::DomId;
use cantle_abi::grant_table::{GTF_permit_access, GTF_reading, GTF_writing};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU32;
use loom::thread;

use super::{EntryV1, KIND_FOR_COPY, Refused, Word, header};

mod v2;

macro_rules! loom_words {
    ($($name:ident($atomic:ident): $value:ty),*) => {$(
        struct $name(loom::sync::atomic::$atomic);

        impl $name {
            fn new(value: $value) -> Self {
                Self(loom::sync::atomic::$atomic::new(value))
            }
        }

        impl Word for $name {
            type Value = $value;

            fn load(&self, order: Ordering) -> $value {
                self.0.load(order)
            }
            fn store(&self, value: $value, order: Ordering) {
                self.0.store(value, order);
            }
            fn exchange(&self, current: $value, new: $value, success: Ordering) -> bool {
                let relaxed = Ordering::Relaxed;
                self.0.compare_exchange(current, new, success, relaxed).is_ok()
            }
            fn fetch_and(&self, bits: $value, order: Ordering) -> $value {
                self.0.fetch_and(bits, order)
            }
            fn fetch_or(&self, bits: $value, order: Ordering) -> $value {
                self.0.fetch_or(bits, order)
            }
            fn barrier() {
                loom::sync::atomic::fence(Ordering::SeqCst);
            }
        }
    )*};
}

loom_words!(LoomWord(AtomicU32): u32, LoomFrame(AtomicU64): u64, LoomStatus(AtomicU16): u16);

/// The domain that marks, and the frame that it is granted; any other is a stranger's.
const OURS: DomId = DomId(2);
const LENT: u32 = 7;
const SECRET: u32 = 8;

type Words = Arc<(LoomWord, LoomWord)>;

fn entry(words: &Words) -> EntryV1<'_, LoomWord> {
    EntryV1 {
        header: &words.0,
        frame: &words.1,
    }
}

fn model(test: fn(Words)) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(4);
    model.check(move || {
        let lent = header(GTF_permit_access, OURS);
        test(Arc::new((LoomWord::new(lent), LoomWord::new(LENT))));
    });
}

/// The guest minds no mark: it takes the entry away and gives it to another domain for another frame.
#[test]
fn frame_of_a_rewritten_entry_is_never_ours() {
    model(|words| {
        let guest = {
            let words = words.clone();
            thread::spawn(move || entry(&words).write(GTF_permit_access, DomId(3), SECRET))
        };
        let answer = entry(&words).mark(OURS, true, KIND_FOR_COPY);
        assert!(
            matches!(answer, Ok(granted) if granted.gfn.0 == u64::from(LENT)) || answer.is_err(),
            "a frame that was never granted to us: {answer:?}"
        );
        guest.join().unwrap();
    });
}

/// The guest takes the page back as it should. Either we have it and it is told so, or it has it back and we are refused.
#[test]
fn revoking_and_marking_exclude_each_other() {
    model(|words| {
        let guest = {
            let words = words.clone();
            thread::spawn(move || {
                let revoked = entry(&words).revoke();
                if revoked {
                    // Its own again, for something else.
                    entry(&words).frame.store(SECRET, Ordering::Relaxed);
                }
                revoked
            })
        };
        let answer = entry(&words).mark(OURS, false, KIND_FOR_COPY);
        let revoked = guest.join().unwrap();
        match answer {
            Ok(granted) => assert!(granted.gfn.0 == u64::from(LENT) && !revoked),
            Err(refused) => assert!(refused == Refused::Untouched && revoked),
        }
    });
}

/// What was done with the page is done before the guest can have it back.
#[test]
fn page_is_left_alone_before_its_marks_are_cleared() {
    model(|words| {
        // Written by us, then by the guest, never the other way round.
        let page = Arc::new(AtomicU32::new(0));
        let guest = {
            let (words, page) = (words.clone(), page.clone());
            thread::spawn(move || {
                if entry(&words).revoke() {
                    page.store(2, Ordering::Relaxed);
                }
            })
        };
        if entry(&words).mark(OURS, true, KIND_FOR_COPY).is_ok() {
            page.store(1, Ordering::Relaxed);
            entry(&words).clear(GTF_reading | GTF_writing);
        }
        guest.join().unwrap();
        if entry(&words).raw().flags == 0 {
            assert_eq!(
                page.load(Ordering::Relaxed),
                2,
                "written after it was given back"
            );
        }
    });
}
