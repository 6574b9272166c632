//! 32-bit programs: one is made here, of assembly that is in this program, and run.

// UNSAFETY: the assembly's bytes; modify_ldt, and accesses by the segment that it makes.
#![expect(unsafe_code)]

use std::arch::{asm, global_asm};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::digest::Digest;
use crate::sys::{self, Outcome, PAGE};

global_asm!(include_str!("compat.s"), options(att_syntax));

unsafe extern "C" {
    static stress_compat: u8;
    static stress_compat_end: u8;
}

/// Where the program runs, and where it has its data.
const CODE: u32 = 0x0804_8000;
const DATA: u32 = 0x0805_0000;
/// Bytes of the file before the code: a page of headers.
const HEADERS: u32 = 4096;
/// What the program says when all went well.
const SAID: &str = "abcdefghi";

pub(crate) fn program(digest: &mut Digest) -> Outcome {
    let path = format!("/tmp/stress-compat-{}", std::process::id());
    let failed = |error: std::io::Error| format!("{path}: {error}");
    fs::write(&path, elf()).map_err(failed)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    let mut outcome = Ok(());
    for round in 0..20 {
        match Command::new(&path).output() {
            // A kernel without 32-bit programs.
            Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => {
                digest.text("none");
                break;
            }
            Err(error) => outcome = Err(failed(error)),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                digest.text(&said);
                if said != SAID || !output.status.success() {
                    outcome = Err(format!("round {round}: {said:?}, {}", output.status));
                    break;
                }
            }
        }
    }
    let _ = fs::remove_file(&path);
    outcome
}

fn code() -> &'static [u8] {
    let (start, end) = (&raw const stress_compat, &raw const stress_compat_end);
    // SAFETY: both are in the same section, the end behind the start.
    unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}

/// The file: headers, and the code a page behind.
fn elf() -> Vec<u8> {
    let code = code();
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    let halves = |file: &mut Vec<u8>, halves: &[u16]| {
        for half in halves {
            file.extend(half.to_le_bytes());
        }
    };
    let words = |file: &mut Vec<u8>, words: &[u32]| {
        for word in words {
            file.extend(word.to_le_bytes());
        }
    };
    // A program for i386.
    halves(&mut file, &[2, 3]);
    words(&mut file, &[1, CODE, 52, 0, 0]);
    halves(&mut file, &[52, 32, 3, 0, 0, 0]);
    let len = u32::try_from(code.len()).unwrap_or(0);
    // The code, a page of zeros for data, and a stack that is not to be run.
    words(&mut file, &[1, HEADERS, CODE, CODE, len, len, 5, 4096]);
    words(&mut file, &[1, 0, DATA, DATA, 0, 4096, 6, 4096]);
    words(&mut file, &[0x6474_e551, 0, 0, 0, 0, 0, 6, 16]);
    file.resize(HEADERS as usize, 0);
    file.extend(code);
    file
}

/// `struct user_desc`.
#[repr(C)]
struct Entry {
    number: u32,
    base: u32,
    limit: u32,
    flags: u32,
}

/// Segments of 64-bit programs' own: entries of the LDT, which children get and others have not.
pub(crate) fn local_descriptors(digest: &mut Digest) -> Outcome {
    // Where 32 bits reach.
    let low = low_page()?;
    for round in 0..200_u32 {
        let number = round % 60;
        // SAFETY: the page is this function's.
        unsafe {
            (low as *mut u64)
                .add(number as usize)
                .write_volatile(u64::from(round) + 1)
        };
        let base = u32::try_from(low).unwrap_or(0) + number * 8;
        set(&Entry {
            number,
            base,
            limit: 0xfff,
            flags: 0x41,
        })?;
        let seen = word_of(number);
        if seen != u64::from(round) + 1 {
            return Err(format!("entry {number} shows {seen}"));
        }
        if round % 20 == 0 {
            // SAFETY: the child only reads.
            let child = sys::forked(|| i32::from(word_of(number) != u64::from(round) + 1))?;
            let ended = sys::wait(child)?;
            digest.add(ended.number());
        }
        digest.add(seen);
    }
    // Two that have other entries, and take turns.
    let twins: Vec<i32> = (1..=2_u32)
        .map(|which| sys::forked(|| i32::from(twin(low, which).is_err())))
        .collect::<Outcome<_>>()?;
    for twin in twins {
        digest.add(sys::wait(twin)?.number());
    }
    // What is no segment for programs is refused.
    let bad = Entry {
        number: 9000,
        base: 0,
        limit: 0,
        flags: 0x41,
    };
    if set(&bad).is_ok() {
        return Err("entry 9000 was taken".to_owned());
    }
    Ok(())
}

fn twin(low: usize, which: u32) -> Outcome {
    let base = u32::try_from(low).unwrap_or(0) + which * 64;
    // SAFETY: the page is this process's own copy.
    unsafe { (base as usize as *mut u64).write_volatile(u64::from(which) * 1000) };
    set(&Entry {
        number: 3,
        base,
        limit: 0xff,
        flags: 0x41,
    })?;
    for _ in 0..500 {
        std::thread::yield_now();
        if word_of(3) != u64::from(which) * 1000 {
            return Err("the other one's".to_owned());
        }
    }
    Ok(())
}

/// A page below 4 GiB.
fn low_page() -> Outcome<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: where the kernel chooses.
    let got = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, -1, 0) };
    if got == libc::MAP_FAILED {
        return Err("no memory below 4 GiB".to_owned());
    }
    Ok(got as usize)
}

fn set(entry: &Entry) -> Outcome {
    let arguments = [1, &raw const *entry as usize, size_of::<Entry>()];
    if sys::number_call(libc::SYS_modify_ldt, arguments) != 0 {
        return Err(format!("modify_ldt: {}", std::io::Error::last_os_error()));
    }
    Ok(())
}

/// The first word of the LDT's segment.
fn word_of(number: u32) -> u64 {
    let word: u64;
    // In 64-bit mode, only FS and GS have a base; FS is the thread's own.
    // SAFETY: the entry was made before; GS is nobody's.
    unsafe {
        asm!(
            "mov gs, {selector:x}", "mov {word}, gs:[0]", "mov {selector:e}, 0", "mov gs, {selector:x}",
            selector = inout(reg) number << 3 | 7 => _, word = out(reg) word,
        );
    }
    word
}
