//! The other vCPUs.

use cantle_abi::vcpu::VCPUOP_is_up;

use crate::acpi::Tables;
use crate::report::{Because as _, Failure, Outcome};
use crate::text::Text;
use crate::{Probe, apic, clock, ensure, events, hypercall, say, smp};

/// All that the MADT names come up, register themselves, and take events.
pub(super) fn smp(probe: &mut Probe) -> Outcome {
    let (count, ids) = Tables::find(probe.start.info.rsdp_paddr)?.processors()?;
    if count < 2 {
        return Err(Failure::Absent(Text::format(format_args!("one vCPU"))));
    }
    events::prepare()?;
    events::enable_upcalls(0)?;
    let own = apic::id();
    let others = ids.into_iter().take(count).filter(|id| *id != own);
    for id in others {
        ensure!(
            smp::start(&probe.start, id, 5_000)?,
            "the vCPU with APIC number {id} does not start"
        );
    }
    let broken = smp::broken();
    ensure!(broken == 0, "{broken} vCPUs could not register themselves");
    let expected = u32::try_from(count.min(events::VCPUS) - 1).unwrap_or(0);
    ensure!(
        smp::up() == expected,
        "{} of {expected} vCPUs came up",
        smp::up()
    );

    for vcpu in 1..=expected {
        let mut none = [0_u8; 0];
        let up = hypercall::vcpu_op(VCPUOP_is_up, vcpu, &mut none).because("VCPUOP_is_up")?;
        ensure!(up == 1, "vCPU {vcpu} is not up");
        let port = events::bind_ipi(vcpu).because("bind_ipi")?;
        events::unmask(port).because("unmask")?;
        // Pending bits are the domain's: a vCPU still busy with its first upcall, which looks at all of them, may
        // take another's event. That ends, so that five in a row are the right one's.
        let mut in_a_row = 0;
        for _ in 0..100 {
            let before = events::count(port);
            events::send(port).because("send")?;
            ensure!(
                clock::wait(5_000, || events::count(port) == before + 1),
                "an event does not reach vCPU {vcpu}"
            );
            in_a_row = if events::seen_by(port) == vcpu {
                in_a_row + 1
            } else {
                0
            };
            if in_a_row == 5 {
                break;
            }
        }
        ensure!(
            in_a_row == 5,
            "vCPU {} takes the events of vCPU {vcpu}",
            events::seen_by(port)
        );
        events::close(port).because("close")?;
    }
    say!("probe: smp: {count} vCPUs, x2APIC: {}", apic::is_x2apic());
    Ok(())
}
