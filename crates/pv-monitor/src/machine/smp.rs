//! The other vCPUs: what they are asked for, and sleeping.
//!
//! A vCPU that is asked to flush gets an interrupt, and is waited for. One that is not active (see [`Shared::active`]) uses no translation and is not
//! waited for: it looks at what it has been asked for before it uses one. So nobody waits for a vCPU that sleeps or is in the host, where it might
//! itself be waiting for the one that waits; and a vCPU that waits answers others meanwhile.

use core::hint::spin_loop;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use cantle_abi::sched::SCHEDOP_yield;
use cantle_abi::xen::__HYPERVISOR_sched_op;
use cantle_pv_monitor::hardware::{Flush, VcpuSet};
use cantle_pv_monitor::interface::{HOST_VCPU_STATE, VCPU_AREA_SIZE, VCPU_AREAS};
use cantle_pv_monitor::vcpu::Vcpu;

use super::area::{self, Shared};
use super::{boot, cpu, host};

/// The first of the vectors that are the monitor's own.
pub(super) const FIRST_VECTOR: u8 = WAKE_VECTOR;
/// "Flush."
const FLUSH_VECTOR: u8 = 0xfd;
/// "Look whether you are to be up."
const WAKE_VECTOR: u8 = 0xfc;
/// What the local APIC says when it has nothing to say.
pub(super) const SPURIOUS_VECTOR: u8 = 0xff;

/// How often another vCPU is looked at before the host may let it run instead: some 100 µs.
const PATIENCE: u32 = 1 << 11;

/// The x2APIC's registers.
pub(super) const APIC_ID: u32 = 0x802;
const APIC_EOI: u32 = 0x80b;
pub(super) const APIC_SPURIOUS: u32 = 0x80f;
const APIC_COMMAND: u32 = 0x830;

/// An interrupt has come, from the guest or while the vCPU slept.
pub(super) fn interrupt(area: u64, vector: u8) {
    if vector == SPURIOUS_VECTOR {
        return;
    }
    if vector == FLUSH_VECTOR
        && let Some(shared) = own(area)
    {
        serve(shared);
    }
    // Events and waking are looked at on the way out.
    let _ = cpu::write_msr(APIC_EOI, 0);
}

/// What is shared of the vCPU in whose area this is.
pub(super) fn own(area: u64) -> Option<&'static Shared> {
    let number = area.wrapping_sub(VCPU_AREAS) / VCPU_AREA_SIZE;
    area::shared(u32::try_from(number).ok()?)
}

fn send(shared: &Shared, vector: u8) {
    let destination = u64::from(shared.apic.load(Relaxed)) << 32;
    let _ = cpu::write_msr(APIC_COMMAND, destination | u64::from(vector));
}

/// Does what this vCPU has been asked for.
fn serve(shared: &Shared) {
    let asked = shared.asked.load(SeqCst);
    if shared.flushed.load(Relaxed) != asked {
        cpu::write_cr3(cpu::read_cr3());
        // Whoever waits sees this after the flush.
        shared.flushed.store(asked, SeqCst);
    }
}

/// The vCPU uses none of the guest's translations while `work` is done.
pub(super) fn inactive<T>(shared: &Shared, work: impl FnOnce() -> T) -> T {
    shared.active.store(false, SeqCst);
    let result = work();
    // First active, then a look at what was asked; whoever asks does it in the opposite order: one of both sees the other.
    shared.active.store(true, SeqCst);
    serve(shared);
    result
}

/// Flushes on the vCPUs named; returns when all have, or will have before they use a translation again.
pub(super) fn flush(own: &Shared, id: u32, vcpus: VcpuSet, what: Flush) {
    let mut waits = VcpuSet(0);
    // What each is waited for to have reached is the number of its requests at least; later ones are its own askers' matter.
    for vcpu in 0..boot().vcpus {
        if vcpu == id || !contains(vcpus, vcpu) {
            continue;
        }
        let Some(shared) = area::shared(vcpu) else {
            continue;
        };
        shared.asked.fetch_add(1, SeqCst);
        if shared.active.load(SeqCst) {
            send(shared, FLUSH_VECTOR);
            waits.0 |= 1 << vcpu;
        }
    }
    if contains(vcpus, id) {
        match what {
            Flush::All => cpu::write_cr3(cpu::read_cr3()),
            Flush::Page(address) => cpu::flush_page(address),
            Flush::Caches => cpu::flush_caches(),
        }
    }
    for vcpu in 0..boot().vcpus {
        if !contains(waits, vcpu) {
            continue;
        }
        if let Some(shared) = area::shared(vcpu) {
            wait(own, shared);
        }
    }
}

/// Waits until a vCPU has done what it has been asked for until now, or is not active.
fn wait(own: &Shared, shared: &Shared) {
    let asked = shared.asked.load(SeqCst);
    let mut tries = 0_u32;
    // The counters run around after 2^64.
    while asked
        .wrapping_sub(shared.flushed.load(SeqCst))
        .cast_signed()
        > 0
        && shared.active.load(SeqCst)
    {
        serve(own);
        tries = tries.wrapping_add(1);
        if tries.is_multiple_of(PATIENCE) {
            // It may be waiting for the processor that this one waits on.
            let call = u64::from(__HYPERVISOR_sched_op);
            host::call(own, call, [u64::from(SCHEDOP_yield), 0, 0, 0, 0]);
        } else {
            spin_loop();
        }
    }
}

fn contains(vcpus: VcpuSet, vcpu: u32) -> bool {
    vcpu < 128 && vcpus.0 & (1 << vcpu) != 0
}

/// Sleeps until some interrupt comes.
fn sleep(shared: &Shared) {
    inactive(shared, cpu::sleep);
}

/// Unmasks events, and sleeps until one is pending.
pub(super) fn sleep_until_event(shared: &Shared, vcpu: &Vcpu) {
    vcpu.set_masked(false);
    // An interrupt between the look and the sleep waits for the latter: interrupts are off.
    while !vcpu.is_pending() && shared.up.load(SeqCst) {
        sleep(shared);
    }
}

/// The vCPU is down: sleeps until another has it up again.
pub(super) fn sleep_until_up(shared: &Shared, id: u32) {
    host::call(shared, HOST_VCPU_STATE, [u64::from(id), 0, 0, 0, 0]);
    while !shared.up.load(SeqCst) {
        sleep(shared);
    }
    host::call(shared, HOST_VCPU_STATE, [u64::from(id), 1, 0, 0, 0]);
}

/// Has a vCPU that is asleep, or in the guest, look whether it is to be up.
pub(super) fn wake(shared: &Shared) {
    send(shared, WAKE_VECTOR);
}
