//! Instructions that fault: each has to be told by the right signal, with the right numbers, and the program goes on after it.

// UNSAFETY: instructions that fault, and the frames of signals.
#![expect(unsafe_code)]

use std::arch::asm;
use std::ffi::c_void;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use libc::{c_int, siginfo_t, ucontext_t};

use crate::digest::Digest;
use crate::region::{NONE, READ, Region, WRITE};
use crate::sys::{self, Outcome};

/// Where the program goes on after a fault; 0 where none is expected.
pub(crate) static RESUME: AtomicU64 = AtomicU64::new(0);
/// The last fault: signal, code, trap number, error code, address, and how many there were.
static SEEN: [AtomicI64; 6] = [const { AtomicI64::new(0) }; 6];

/// EFLAGS: single step, alignment check.
const FLAGS: i64 = 0x100 | 0x4_0000;

/// A fault, as the kernel told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) signal: i64,
    pub(crate) code: i64,
    pub(crate) trap: i64,
    pub(crate) error: i64,
    pub(crate) address: i64,
}

extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the alignment check, which may have led here, is not for this function.
    unsafe { asm!("pushfq", "and qword ptr [rsp], {}", "popfq", const !0x4_0000_i32) };
    let context = context.cast::<ucontext_t>();
    // SAFETY: the kernel made both for this call.
    unsafe {
        let registers = &mut (*context).uc_mcontext.gregs;
        let resume = RESUME.swap(0, Ordering::Relaxed);
        if resume == 0 {
            // Not expected: ends the process, by the same signal.
            libc::signal(signal, libc::SIG_DFL);
            return;
        }
        let seen = [
            i64::from(signal),
            i64::from((*info).si_code),
            registers[libc::REG_TRAPNO as usize],
            registers[libc::REG_ERR as usize],
            (*info).si_addr() as i64,
            SEEN[5].load(Ordering::Relaxed) + 1,
        ];
        for (place, number) in SEEN.iter().zip(seen) {
            place.store(number, Ordering::Relaxed);
        }
        registers[libc::REG_RIP as usize] = resume as i64;
        registers[libc::REG_EFL as usize] &= !FLAGS;
    }
}

/// Has faults handled.
pub(crate) fn catch() -> Outcome {
    for signal in [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGTRAP,
    ] {
        sys::handle(signal, 0, on_fault)?;
    }
    Ok(())
}

pub(crate) fn count() -> i64 {
    SEEN[5].load(Ordering::Relaxed)
}

/// What was seen since `count` was this.
pub(crate) fn since(before: i64) -> Option<Fault> {
    RESUME.store(0, Ordering::Relaxed);
    let [signal, code, trap, error, address, now] =
        [0, 1, 2, 3, 4, 5].map(|index: usize| SEEN[index].load(Ordering::Relaxed));
    (now != before).then_some(Fault {
        signal,
        code,
        trap,
        error,
        address,
    })
}

/// Runs an instruction with this in rdi, rax = ecx = edx = 0; its fault, where it has one.
macro_rules! attempt {
    ($instruction:literal, $rdi:expr) => {{
        let before = $crate::faults::count();
        // SAFETY: the instruction is in this file's table; what it changes is said, and a fault leads behind it.
        unsafe {
            asm!(
                "push rbp", "push rbx", "push r12",
                "mov r12, rsp",
                "lea rbp, [rip + 22f]",
                "mov [rsi], rbp",
                $instruction,
                "22:",
                "mov rsp, r12",
                "cld",
                "pop r12", "pop rbx", "pop rbp",
                inout("rdi") $rdi as u64 => _, inout("rsi") $crate::faults::RESUME.as_ptr() => _,
                inout("rax") 0_u64 => _, inout("rcx") 0_u64 => _, inout("rdx") 0_u64 => _,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                out("xmm0") _, out("xmm1") _,
            );
        }
        $crate::faults::since(before)
    }};
}
pub(crate) use attempt;

/// An instruction's name, and its fault.
pub(crate) type Tried = (&'static str, Option<Fault>);

/// Accesses that must not be possible, and the addresses that are told.
pub(crate) fn pages(digest: &mut Digest) -> Outcome {
    catch()?;
    let region = Region::private(4, WRITE)?;
    region.protect(1..2, NONE)?;
    region.protect(2..3, READ)?;
    region.write(0, 0, 0xc3c3_c3c3_c3c3_c3c3);
    let base = region.at(0);
    let fixed: [u64; 9] = [
        0,
        0x1000,
        0x7fff_ffff_f000,
        // Xen's tables, the monitor, memory by its place, a Linux kernel and its modules, the last page.
        0xffff_8000_0000_0000,
        0xffff_8280_0000_0000,
        0xffff_8300_0010_0000,
        0xffff_8880_0010_0000,
        0xffff_ffff_8100_0000,
        0xffff_ffff_ffff_f000,
    ];
    let own = [0, 1, 2].map(|page| region.at(page) as u64);
    for (index, address) in own.into_iter().chain(fixed).enumerate() {
        let tried: [Tried; 5] = [
            ("read", attempt!("mov rax, [rdi]", address)),
            ("write", attempt!("mov [rdi + 8], rax", address)),
            ("add", attempt!("lock add [rdi + 16], rcx", address)),
            (
                "string",
                attempt!("rep movsb; mov rcx, 3; rep stosb", address),
            ),
            ("run", attempt!("jmp rdi", address)),
        ];
        for (name, fault) in tried {
            let may = index == 0 && name != "run" || index == 2 && name == "read";
            if may != fault.is_none() {
                return Err(format!("{name} at {address:#x}: {fault:x?}"));
            }
            add(digest, name, fault, base as i64);
        }
        let kernel = sys::kernel_reaches(usize::try_from(address).unwrap_or(0), false)?;
        if kernel != (index == 0 || index == 2) {
            return Err(format!("the kernel reads {address:#x}: {kernel}"));
        }
    }
    // Addresses that are none.
    for address in [1_u64 << 47, 0x8000_0000_0000_0000, 0xffff_7fff_ffff_fff8] {
        add(digest, "none", attempt!("mov rax, [rdi]", address), 0);
        add(
            digest,
            "stack",
            attempt!("mov rbp, rdi; mov rax, [rbp]", address),
            0,
        );
        add(digest, "run", attempt!("push rdi; ret", address), 0);
    }
    // Made accessible by a fault, a page is as good as any other.
    for round in 0..200 {
        region.renew(1..2, NONE)?;
        if attempt!("mov [rdi], rax", region.at(1)).is_none() {
            return Err(format!("round {round}: no fault"));
        }
        region.protect(1..2, WRITE)?;
        if attempt!("mov [rdi], rax", region.at(1)).is_some() {
            return Err(format!("round {round}: a fault"));
        }
    }
    Ok(())
}

/// Adds a fault; its address as one beyond `base`, or as it is.
pub(crate) fn add(digest: &mut Digest, name: &str, fault: Option<Fault>, base: i64) {
    digest.text(name);
    if crate::is_told() {
        println!("  {name}: {fault:x?}");
    }
    let Some(fault) = fault else {
        digest.add(0);
        return;
    };
    let beyond = fault.address.wrapping_sub(base);
    let address = if (0..0x10_0000).contains(&beyond) {
        beyond
    } else {
        fault.address
    };
    for number in [fault.signal, fault.code, fault.trap, fault.error, address] {
        digest.add(number.cast_unsigned());
    }
}
