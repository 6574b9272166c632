//! Instructions that programs must not run, that are none, or that trap.

// UNSAFETY: instructions that fault.
#![expect(unsafe_code)]

use std::arch::asm;

use crate::digest::Digest;
use crate::faults::{Fault, Tried, add, attempt, catch};
use crate::sys::Outcome;

pub(crate) fn all(digest: &mut Digest) -> Outcome {
    catch()?;
    let tried: [Tried; 35] = [
        ("ud2", attempt!("ud2", 0)),
        ("lock", attempt!(".byte 0xf0, 0x90", 0)),
        ("div", attempt!("div rcx", 0)),
        (
            "idiv",
            attempt!("mov eax, 1; shl rax, 63; cqo; mov rcx, -1; idiv rcx", 0),
        ),
        ("int3", attempt!("int3", 0)),
        ("int 3", attempt!(".byte 0xcd, 3", 0)),
        ("int1", attempt!(".byte 0xf1", 0)),
        ("int 0", attempt!("int 0", 0)),
        ("int 4", attempt!("int 4", 0)),
        ("int 13", attempt!("int 13", 0)),
        ("int 14", attempt!("int 14", 0)),
        ("int 0x20", attempt!("int 0x20", 0)),
        ("int 0x81", attempt!("int 0x81", 0)),
        ("int 0x82", attempt!("int 0x82", 0)),
        ("int 0xf3", attempt!("int 0xf3", 0)),
        (
            "step",
            attempt!("pushfq; or qword ptr [rsp], 0x100; popfq; nop; nop", 0),
        ),
        ("hlt", attempt!("hlt", 0)),
        ("cli", attempt!("cli", 0)),
        ("sti", attempt!("sti", 0)),
        ("clts", attempt!("clts", 0)),
        ("in", attempt!("mov edx, 0x80; in al, dx", 0)),
        ("out", attempt!("mov edx, 0x80; out dx, al", 0)),
        ("rdmsr", attempt!("mov ecx, 0xc0000080; rdmsr", 0)),
        ("wrmsr", attempt!("mov ecx, 0xc0000100; wrmsr", 0)),
        ("cr0", attempt!("mov rax, cr0", 0)),
        ("cr3", attempt!("mov cr3, rax", 0)),
        ("cr4", attempt!("mov rax, cr4", 0)),
        ("dr7", attempt!("mov dr7, rax", 0)),
        ("lgdt", attempt!("lgdt [rsp]", 0)),
        ("ltr", attempt!("ltr ax", 0)),
        ("invlpg", attempt!("invlpg [rsp]", 0)),
        ("swapgs", attempt!("swapgs", 0)),
        ("sysretq", attempt!(".byte 0x48, 0x0f, 0x07", 0)),
        ("xsetbv", attempt!("xsetbv", 0)),
        ("rdpmc", attempt!("mov ecx, 0x7fffffff; rdpmc", 0)),
    ];
    for (name, fault) in tried {
        if fault.is_none() {
            return Err(format!("{name} did not fault"));
        }
        add(digest, name, without_place(fault), 0);
    }
    numbers(digest);
    segments(digest);
    Ok(())
}

/// Without the address where it is the instruction's own.
fn without_place(fault: Option<Fault>) -> Option<Fault> {
    let fault = fault?;
    let is_its_own = fault.address > 0x1_0000;
    Some(Fault {
        address: if is_its_own { 1 } else { fault.address },
        ..fault
    })
}

/// Floating point and alignment.
fn numbers(digest: &mut Digest) {
    for (name, fault) in [
        (
            "x87",
            attempt!("push 0x370; fldcw [rsp]; fld1; fldz; fdivp; fwait; nop", 0),
        ),
        (
            "sse",
            attempt!(
                "push 0x1d80; ldmxcsr [rsp]; pxor xmm0, xmm0; mov eax, 1; cvtsi2sd xmm1, rax; divsd xmm1, xmm0",
                0
            ),
        ),
        ("movaps", attempt!("movaps xmm0, [rsp + 1]", 0)),
        (
            "alignment",
            attempt!(
                "pushfq; or qword ptr [rsp], 0x40000; popfq; mov rax, [rsp + 1]; nop",
                0
            ),
        ),
    ] {
        // Exceptions are off again, and forgotten.
        // SAFETY: the usual state of both units.
        unsafe { asm!("fninit", "push 0x1f80", "ldmxcsr [rsp]", "pop rax", out("rax") _) };
        add(digest, name, without_place(fault), 0);
    }
}

/// Selectors, good and bad.
fn segments(digest: &mut Digest) {
    for (name, fault) in [
        ("ds", attempt!("mov eax, 0x1233; mov ds, ax", 0)),
        ("es kernel", attempt!("mov eax, 0x10; mov es, ax", 0)),
        ("ss null", attempt!("mov ss, ax", 0)),
        ("fs LDT", attempt!("mov eax, 0xff7; mov es, ax", 0)),
        ("es null", attempt!("mov es, ax", 0)),
        (
            "far return",
            attempt!(
                "mov rax, cs; push rax; lea rax, [rip + 23f]; push rax; .byte 0x48, 0xcb; 23: nop",
                0
            ),
        ),
        (
            "far return up",
            attempt!(
                "push 0x10; lea rax, [rip + 23f]; push rax; .byte 0x48, 0xcb; 23: nop",
                0
            ),
        ),
        (
            "iret",
            attempt!(
                "mov rcx, rsp; mov rax, ss; push rax; push rcx; pushfq; mov rax, cs; push rax; lea rax, [rip + 23f]; push rax; iretq; 23: nop",
                0
            ),
        ),
        (
            "iret up",
            attempt!(
                "push 0x18; push rsp; pushfq; push 0x10; lea rax, [rip + 23f]; push rax; iretq; 23: nop",
                0
            ),
        ),
    ] {
        add(digest, name, without_place(fault), 0);
    }
    let (code, stack): (u64, u64);
    // SAFETY: reads two selectors.
    unsafe { asm!("mov {}, cs", "mov {}, ss", out(reg) code, out(reg) stack) };
    digest.add(code);
    digest.add(stack);
}
