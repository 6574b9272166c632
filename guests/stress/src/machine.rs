//! The machine as programs see it: ports, CPUID, the time stamp counter, clocks, CPUs that come and go, memory that is given back.

// UNSAFETY: instructions, and calls with addresses.
#![expect(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _rdtsc};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::digest::Digest;
use crate::faults::{self, Fault, attempt};
use crate::region::{Region, WRITE};
use crate::sys::{self, Ended, Outcome};

/// Ports are not for programs, but where root has asked for them.
pub(crate) fn ports(digest: &mut Digest) -> Outcome {
    faults::catch()?;
    let port = || attempt!("mov edx, 0x80; in al, dx", 0);
    if !is_refused(port()) {
        return Err("a port could be read".to_owned());
    }
    let mut note = |what: &str, so: bool| {
        digest.text(what);
        digest.add(u64::from(so));
        if crate::is_told() {
            println!("  {what}: {so}");
        }
    };
    // SAFETY: touches no memory.
    let asked = unsafe { libc::ioperm(0x80, 1, 1) } == 0;
    note("ioperm", asked);
    if asked {
        note("a port that was asked for", port().is_none());
        let next = attempt!("mov edx, 0x81; in al, dx", 0);
        note("another one is refused", is_refused(next));
        let child = sys::forked(|| i32::from(port().is_none()))?;
        note("a child has it", sys::wait(child)? == Ended::Exit(1));
        // SAFETY: as above.
        unsafe { libc::ioperm(0x80, 1, 0) };
        if !is_refused(port()) {
            return Err("a port that was given back could be read".to_owned());
        }
    }
    // SAFETY: as above.
    let raised = unsafe { libc::iopl(3) } == 0;
    note("iopl", raised);
    if raised {
        note("all ports", port().is_none());
        // Interrupts stay the kernel's.
        note("cli is refused", is_refused(attempt!("cli", 0)));
        // SAFETY: as above.
        unsafe { libc::iopl(0) };
    }
    let child = sys::forked(|| {
        // SAFETY: touches no memory.
        let refused = unsafe {
            libc::setuid(65534) == 0 && libc::iopl(3) == -1 && libc::ioperm(0x80, 1, 1) == -1
        };
        i32::from(!refused || !is_refused(port()))
    })?;
    let ended = sys::wait(child)?;
    if ended != Ended::Exit(0) {
        return Err(format!("another user had ports: {ended:?}"));
    }
    Ok(())
}

/// Whether it was a general protection fault.
fn is_refused(fault: Option<Fault>) -> bool {
    fault.is_some_and(|fault| (fault.signal, fault.trap) == (11, 13))
}

/// What all CPUs say of themselves is the same, but for which one it is.
pub(crate) fn cpuid(digest: &mut Digest) -> Outcome {
    let said = || {
        let mut digest = Digest::new();
        for (leaf, keep) in [
            (0_u32, !0_u32),
            (1, 0),
            (7, 0),
            (0x8000_0000, !0),
            (0x8000_0002, !0),
        ] {
            let said = __cpuid_count(leaf, 0);
            for word in [said.eax, said.ebx & keep, said.ecx, said.edx] {
                digest.add(u64::from(word));
            }
        }
        digest.value()
    };
    let mut first = None;
    for cpu in sys::cpus() {
        sys::pin(cpu)?;
        let here = said();
        if *first.get_or_insert(here) != here {
            return Err(format!("CPU {cpu} says something else"));
        }
    }
    // What a program may rely on; all of it need not be the same in guests of two kinds.
    let said = __cpuid_count(0, 0);
    for word in [said.ebx, said.ecx, said.edx] {
        digest.add(u64::from(word));
    }
    let said = __cpuid_count(1, 0);
    // FPU, TSC, CX8, CMOV, MMX, FXSR, SSE, SSE2.
    digest.add(u64::from(said.edx & 0x0780_8111));
    // SSE3, SSSE3, CX16, SSE4.1, SSE4.2, POPCNT, AES, XSAVE, OSXSAVE, AVX.
    digest.add(u64::from(said.ecx & 0x1e98_2201));
    Ok(())
}

/// The time stamp counter grows, wherever the program runs; and faults where the program has asked for that.
pub(crate) fn counter(digest: &mut Digest) -> Outcome {
    faults::catch()?;
    for cpu in sys::cpus() {
        sys::pin(cpu)?;
        // SAFETY: reads a counter.
        let mut last = unsafe { _rdtsc() };
        for _ in 0..20_000 {
            // SAFETY: as above.
            let now = unsafe { _rdtsc() };
            if now < last {
                return Err(format!("{now} after {last}"));
            }
            last = now;
        }
    }
    for (word, may) in [(libc::PR_TSC_SIGSEGV, false), (libc::PR_TSC_ENABLE, true)] {
        // SAFETY: touches no memory.
        sys::checked("prctl", unsafe { libc::prctl(libc::PR_SET_TSC, word) })?;
        for _ in 0..20 {
            std::thread::yield_now();
            let fault = attempt!("rdtsc", 0);
            if fault.is_none() != may {
                return Err(format!(
                    "rdtsc where it {}: {fault:?}",
                    if may { "may" } else { "must not" }
                ));
            }
        }
        digest.add(u64::from(may));
    }
    Ok(())
}

/// Clocks never go back, on whichever CPU they are read, and agree with each other.
pub(crate) fn clocks(digest: &mut Digest) -> Outcome {
    let cpus = sys::cpus();
    let mut last = Duration::ZERO;
    let begun = Instant::now();
    for _ in 0..300 {
        for cpu in &cpus {
            sys::pin(*cpu)?;
            for _ in 0..30 {
                let now = begun.elapsed();
                if now < last {
                    return Err(format!("{now:?} after {last:?}"));
                }
                last = now;
            }
        }
    }
    std::thread::sleep(Duration::from_millis(200));
    let slept = begun.elapsed() - last;
    if slept < Duration::from_millis(200) {
        return Err(format!("200 ms were {slept:?}"));
    }
    // The page at a fixed address, where the kernel has it.
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let has = maps.contains("[vsyscall]");
    digest.add(u64::from(has));
    if has {
        let time: i64;
        // SAFETY: time(NULL); all that a function may change is said.
        unsafe {
            asm!(
                "call {call}", call = in(reg) 0xffff_ffff_ff60_0400_u64, inout("rdi") 0_u64 => _, out("rax") time,
                clobber_abi("C"),
            );
        }
        // SAFETY: no address is given.
        let now = unsafe { libc::time(std::ptr::null_mut()) };
        if !(0..=2).contains(&(now - time)) {
            return Err(format!("vsyscall says {time}, the clock {now}"));
        }
        faults::catch()?;
        let read = attempt!("mov rax, [rdi]", 0xffff_ffff_ff60_0000_u64);
        digest.add(u64::from(read.is_some()));
    }
    Ok(())
}

/// A CPU goes off line and comes back, while something runs; where there are several.
pub(crate) fn hotplug(digest: &mut Digest) -> Outcome {
    let folder = Path::new("/sys/devices/system/cpu");
    let count = (0..64)
        .filter(|cpu| folder.join(format!("cpu{cpu}")).exists())
        .count();
    digest.add(count as u64);
    let busy = sys::forked(|| {
        loop {
            std::hint::black_box(0);
        }
    })?;
    let outcome = (1..count).try_for_each(|cpu| {
        let file = folder.join(format!("cpu{cpu}/online"));
        for round in 0..3 {
            for state in ["0", "1"] {
                fs::write(&file, state)
                    .map_err(|error| format!("CPU {cpu} to {state}: {error}"))?;
                let now = fs::read_to_string(&file).unwrap_or_default();
                if now.trim() != state {
                    return Err(format!("CPU {cpu} is {now:?}, not {state}"));
                }
            }
            sys::pin(cpu)?;
            std::hint::black_box(round);
        }
        digest.add(cpu as u64);
        Ok(())
    });
    sys::kill(busy, libc::SIGKILL)?;
    sys::wait(busy)?;
    outcome
}

/// The guest gives memory back, and gets it again; where it can.
pub(crate) fn balloon(digest: &mut Digest) -> Outcome {
    const GIVEN: u64 = 32 << 10;
    let folder = Path::new("/sys/devices/system/xen_memory/xen_memory0");
    let target = folder.join("target_kb");
    digest.add(u64::from(target.exists()));
    if !target.exists() {
        return Ok(());
    }
    let number = |path: &Path| -> Outcome<u64> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        text.trim()
            .parse()
            .map_err(|_| format!("{} is {text:?}", path.display()))
    };
    let current = folder.join("info/current_kb");
    let all = number(&current)?;
    for round in 0..2 {
        for to in [all - GIVEN, all] {
            fs::write(&target, format!("{to}"))
                .map_err(|error| format!("{}: {error}", target.display()))?;
            let deadline = Instant::now() + Duration::from_secs(50);
            while number(&current)? != to {
                if Instant::now() > deadline {
                    return Err(format!(
                        "round {round}: {} KiB, not {to}",
                        number(&current)?
                    ));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        // What came back is memory.
        let region = Region::private(16 << 10, WRITE)?;
        for page in 0..16 << 10 {
            region.write(page, 1, page as u64);
        }
        if (0..16 << 10).any(|page| region.read(page, 1) != page as u64) {
            return Err("memory that came back is another's".to_owned());
        }
        digest.add(round);
    }
    Ok(())
}
