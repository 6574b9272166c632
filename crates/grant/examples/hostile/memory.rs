//! Attempts to change what is mapped where, and to keep what was.

use std::ptr::null_mut;
use std::time::Duration;

use cantle_abi::PAGE_SIZE;

use crate::backend::{Hostile, read, say, say_byte, write};
use crate::calls::{arg, call, look_into_pipe};
use crate::host::{DIRT, FRAMES};

pub(crate) fn mremap(hostile: &mut Hostile) {
    let flags = libc::MREMAP_MAYMOVE as usize;
    let (from, len) = (hostile.frame(0).addr(), FRAMES / 2 * PAGE_SIZE);
    // Of a whole window, of a page, and of length 0, which makes a second mapping.
    for (old, new) in [(0, PAGE_SIZE), (PAGE_SIZE, PAGE_SIZE), (len, len)] {
        let at = if old == len {
            from
        } else {
            hostile.beside().addr()
        };
        if let Some(moved) = call("mremap", libc::SYS_mremap, [at, old, new, flags, 0, 0]) {
            say_byte(read(std::ptr::without_provenance(moved)));
        }
    }
}

pub(crate) fn remap_file_pages(hostile: &mut Hostile) {
    let args = [hostile.page().addr(), PAGE_SIZE, 0, 1, 0, 0];
    if call("remap_file_pages", libc::SYS_remap_file_pages, args).is_some() {
        say_byte(read(hostile.page()));
    }
}

pub(crate) fn fork(hostile: &mut Hostile) {
    let advice = libc::MADV_DOFORK as usize;
    let args = [hostile.frame(0).addr(), FRAMES * PAGE_SIZE, advice, 0, 0, 0];
    call("madvise", libc::SYS_madvise, args);
    let beside = hostile.beside();
    let flags = usize::try_from(libc::SIGCHLD).expect("positive");
    match call("clone", libc::SYS_clone, [flags, 0, 0, 0, 0, 0]) {
        Some(0) => {
            say_byte(read(beside));
            std::process::exit(0);
        }
        Some(child) => {
            let child = i32::try_from(child).expect("a process's number");
            // SAFETY: waits for the child.
            unsafe { libc::waitpid(child, null_mut(), 0) };
            // A control has shown what it should; the calls below are for those who are refused.
            return;
        }
        None => {}
    }
    let args = [0_u64; 11];
    let args = [args.as_ptr().addr(), 88, 0, 0, 0, 0];
    call("clone3", libc::SYS_clone3, args);
    call("vfork", libc::SYS_vfork, [0; 6]);
    call(
        "unshare",
        libc::SYS_unshare,
        [libc::CLONE_FILES as usize, 0, 0, 0, 0, 0],
    );
}

/// Makes the page that is lent for reading writable.
pub(crate) fn mprotect(hostile: &mut Hostile) {
    let page = hostile.read_only_page();
    let both = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let below = page.addr() & !((4 << 30) - 1);
    for (at, len) in [
        (page.addr(), PAGE_SIZE),
        (below, page.addr() + PAGE_SIZE - below),
        (page.addr() | 1 << 60, PAGE_SIZE),
        (
            below - (4 << 30),
            page.addr() + PAGE_SIZE - below + (4 << 30),
        ),
    ] {
        call("mprotect", libc::SYS_mprotect, [at, len, both, 0, 0, 0]);
        call(
            "pkey_mprotect",
            libc::SYS_pkey_mprotect,
            [at, len, both, usize::MAX, 0, 0],
        );
    }
    write(page, DIRT);
    say("SEEN: written");
}

/// Empties the file under a page that is not lent.
pub(crate) fn madvise_remove(hostile: &mut Hostile) {
    let advice = libc::MADV_REMOVE as usize;
    let args = [hostile.beside().addr(), PAGE_SIZE, advice, 0, 0, 0];
    call("madvise", libc::SYS_madvise, args);
    call(
        "madvise",
        libc::SYS_madvise,
        [args[0], args[1], advice | 1 << 32, 0, 0, 0],
    );
}

pub(crate) fn madvise_others(hostile: &mut Hostile) {
    let (all, len) = (hostile.frame(0).addr(), FRAMES * PAGE_SIZE);
    // HUGEPAGE, COLLAPSE, POPULATE_READ, POPULATE_WRITE, WILLNEED, PAGEOUT
    for advice in [14, 25, 22, 23, 3, 21] {
        call("madvise", libc::SYS_madvise, [all, len, advice, 0, 0, 0]);
    }
    call("mlock", libc::SYS_mlock, [all, len, 0, 0, 0, 0]);
    call("mlock2", libc::SYS_mlock2, [all, len, 0, 0, 0, 0]);
    call("mbind", libc::SYS_mbind, [all, len, 0, 0, 0, 0]);
    let args = [arg(&hostile.pipe.1), hostile.beside().addr(), 1, 0, 0, 0];
    if call("write", libc::SYS_write, args) == Some(1) {
        look_into_pipe(hostile, 1);
    }
}

/// Puts the lent page itself into a pipe, so as to read it after it was given back.
pub(crate) fn vmsplice(hostile: &mut Hostile) {
    let vector = libc::iovec {
        iov_base: hostile.page().cast(),
        iov_len: PAGE_SIZE,
    };
    let args = [arg(&hostile.pipe.1), (&raw const vector).addr(), 1, 0, 0, 0];
    let kept = call("vmsplice", libc::SYS_vmsplice, args).is_some();
    hostile.lent = None;
    say("unmapped");
    std::thread::sleep(Duration::from_millis(50));
    if kept {
        look_into_pipe(hostile, PAGE_SIZE);
    }
    // Other ways to keep a page: the kernel's copies to a socket that are none.
    call(
        "setsockopt SO_ZEROCOPY",
        libc::SYS_setsockopt,
        [0, 1, 60, 0, 0, 0],
    );
}
