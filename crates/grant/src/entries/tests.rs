//! Every interleaving of a host that marks an entry and a guest that changes it, as far as the memory model goes.

use std::sync::atomic::Ordering;

use cantle_abi::DomId;
use cantle_abi::grant_table::{GTF_permit_access, GTF_reading, GTF_writing};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU32;
use loom::thread;

use super::{Entry, KIND_FOR_COPY, Refused, Word, header};

struct LoomWord(AtomicU32);

impl Word for LoomWord {
    fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }
    fn store(&self, value: u32, order: Ordering) {
        self.0.store(value, order);
    }
    fn exchange(&self, current: u32, new: u32, success: Ordering) -> bool {
        let relaxed = Ordering::Relaxed;
        self.0
            .compare_exchange(current, new, success, relaxed)
            .is_ok()
    }
    fn fetch_and(&self, bits: u32, order: Ordering) -> u32 {
        self.0.fetch_and(bits, order)
    }
}

/// The domain that marks, and the frame that it is granted; any other is a stranger's.
const OURS: DomId = DomId(2);
const LENT: u32 = 7;
const SECRET: u32 = 8;

type Words = Arc<(LoomWord, LoomWord)>;

fn entry(words: &Words) -> Entry<'_, LoomWord> {
    Entry {
        header: &words.0,
        frame: &words.1,
    }
}

fn model(test: fn(Words)) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(4);
    model.check(move || {
        let lent = header(GTF_permit_access, OURS);
        let word = |value| LoomWord(AtomicU32::new(value));
        test(Arc::new((word(lent), word(LENT))));
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
            matches!(answer, Ok(gfn) if gfn.0 == u64::from(LENT)) || answer.is_err(),
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
            Ok(gfn) => assert!(gfn.0 == u64::from(LENT) && !revoked),
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
        if entry(&words).flags() == 0 {
            assert_eq!(
                page.load(Ordering::Relaxed),
                2,
                "written after it was given back"
            );
        }
    });
}
