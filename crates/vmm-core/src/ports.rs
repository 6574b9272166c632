//! The few I/O ports that a PVH guest pokes although it has no PC's hardware: how it powers off, and where it looks for what is not there.

use vm_superio::{I8042Device, Trigger};

use crate::boot::acpi::SleepPorts;
use crate::domain::Domain;
use crate::outcome::End;

/// ACPI's sleep registers, as the tables name them.
const SLEEP: SleepPorts = SleepPorts::DEFAULT;
/// The keyboard controller's data port; its command port is 4 above.
const I8042: u16 = 0x60;
/// The interval timer. There is none, but a Linux that looks for one times a counter that stands at 0xff a hundred
/// thousand times, and gives up at once on one that stands at 0.
const PIT: std::ops::RangeInclusive<u16> = 0x40..=0x43;

/// A byte written to a port; true where it meant something.
pub(crate) fn write(domain: &Domain, port: u16, data: &[u8]) -> bool {
    let [value] = *data else { return false };
    if port == SLEEP.control && SleepPorts::is_power_off(value) {
        domain.end(End::PowerOff);
        return true;
    }
    match port.checked_sub(I8042).map(u8::try_from) {
        Some(Ok(offset @ (0 | 4))) => {
            // The only command that it knows is the reset, which cannot fail.
            let Ok(()) = I8042Device::new(Reset(domain)).write(offset, value);
            true
        }
        _ => false,
    }
}

/// What a port reads as: nothing there floats high.
pub(crate) fn read(port: u16, data: &mut [u8]) {
    let quiet =
        PIT.contains(&port) || [I8042, I8042 + 4, SLEEP.control, SLEEP.status].contains(&port);
    data.fill(if quiet { 0 } else { 0xff });
}

/// Ends the run as a reset does.
struct Reset<'a>(&'a Domain);

impl Trigger for Reset<'_> {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.end(End::Reboot);
        Ok(())
    }
}
