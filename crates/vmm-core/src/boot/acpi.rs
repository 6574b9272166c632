//! The ACPI tables of a PVH guest: RSDP, XSDT, FADT, MADT and DSDT.
//!
//! The platform is *hardware-reduced*: no PM1 block, no PIC, no timer, no RTC, no VGA, no I/O APIC. Linux needs the MADT
//! to find its other processors, and the processor ids in it must be Xen's vCPU ids. A PVH Linux reboots by
//! hypercall but powers off by ACPI: it writes to the sleep control register ([`SleepPorts`]), which the platform must
//! answer.

use acpi_tables::aml::{Name, Package, Path};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};

const OEM_ID: [u8; 6] = *b"CANTLE";
const OEM_TABLE_ID: [u8; 8] = *b"CANTLE  ";
const OEM_REVISION: u32 = 1;
/// Where processors have their local APIC.
const LOCAL_APIC_ADDRESS: u32 = 0xfee0_0000;
/// FADT, `iapc_boot_arch`: there is no VGA to probe.
const NO_VGA: u16 = 1 << 2;
/// FADT, `iapc_boot_arch`: there is no CMOS clock to read.
const NO_CMOS_RTC: u16 = 1 << 5;

/// The most processors that the tables can name: local APIC ids have 8 bits, 255 means all.
pub const MAX_PROCESSORS: u32 = 255;

/// The sleep type of S5, soft off, in [`SleepPorts::control`].
pub const SLEEP_TYPE_S5: u8 = 5;

/// ACPI's sleep registers as I/O ports of one byte each.
///
/// To power off, a guest writes bit 7 to `status` (which reads as 0 or with the same bit), then to `control` a byte for
/// which [`SleepPorts::is_power_off`] says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleepPorts {
    /// Sleep control.
    pub control: u16,
    /// Sleep status.
    pub status: u16,
}

impl SleepPorts {
    /// Where they are if nobody says otherwise.
    pub const DEFAULT: Self = Self {
        control: 0x404,
        status: 0x405,
    };

    /// Whether `value`, written to the control port, is the guest's power-off: bit 5 starts, bits 2 to 4 say
    /// [`SLEEP_TYPE_S5`].
    #[must_use]
    pub fn is_power_off(value: u8) -> bool {
        value & 0x20 != 0 && value >> 2 & 7 == SLEEP_TYPE_S5
    }
}

/// An I/O APIC that the platform has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApicConfig {
    /// Its id.
    pub id: u8,
    /// Guest-physical address.
    pub address: u32,
    /// The first global system interrupt that it has.
    pub gsi_base: u32,
}

/// What the tables say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcpiConfig {
    /// Processors, all enabled: number *i* has processor id *i* (the Xen vCPU id) and local APIC id *i*. At most
    /// [`MAX_PROCESSORS`].
    pub vcpus: u32,
    /// `None`, as on Xen: interrupts come as event channels.
    pub io_apic: Option<IoApicConfig>,
    /// Where a guest powers off; `None` leaves it without.
    pub sleep: Option<SleepPorts>,
}

/// Makes the tables for the guest-physical address `base`, which is 16-byte aligned and, with what is built here, below
/// 4 GiB. The RSDP is at `base` itself.
#[must_use]
pub fn build(config: &AcpiConfig, base: u64) -> Vec<u8> {
    let mut tables = Tables {
        base,
        bytes: Bytes(vec![0; Rsdp::len()]),
    };
    let dsdt = tables.add(&dsdt(config));
    let fadt = tables.add(&fadt(config, dsdt));
    let madt = tables.add(&madt(config));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = tables.add(&xsdt);
    let mut rsdp = Bytes(Vec::new());
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut rsdp);
    let mut bytes = tables.bytes.0;
    for (to, from) in bytes.iter_mut().zip(rsdp.0) {
        *to = from;
    }
    bytes
}

/// Tables that are laid one behind the other.
struct Tables {
    base: u64,
    bytes: Bytes,
}

impl Tables {
    /// Adds a table and says where it lies.
    fn add(&mut self, table: &dyn Aml) -> u64 {
        let offset = self.bytes.0.len().next_multiple_of(16);
        self.bytes.0.resize(offset, 0);
        table.to_aml_bytes(&mut self.bytes);
        self.base + offset as u64
    }
}

/// A buffer of AML; the trait is not there for every `Vec`.
struct Bytes(Vec<u8>);

impl AmlSink for Bytes {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

/// Nothing but how S5 is spelt: there is no device that ACPI would have to describe.
fn dsdt(config: &AcpiConfig) -> Sdt {
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    if config.sleep.is_some() {
        let mut aml = Bytes(Vec::new());
        Name::new(
            Path::new("_S5_"),
            &Package::new(vec![&SLEEP_TYPE_S5, &0u8, &0u8, &0u8]),
        )
        .to_aml_bytes(&mut aml);
        table.append_slice(&aml.0);
    }
    table
}

fn fadt(config: &AcpiConfig, dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::Headless)
        .flag(Flags::Wbinvd);
    // These two bits mean that a fixed button is *not* there.
    fadt = fadt.flag(Flags::PwrButton).flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (NO_VGA | NO_CMOS_RTC).into();
    if let Some(ports) = config.sleep {
        let port = |port: u16| {
            GAS::new(
                AddressSpace::SystemIo,
                8,
                0,
                AccessSize::ByteAccess,
                port.into(),
            )
        };
        fadt.sleep_control_reg = port(ports.control);
        fadt.sleep_status_reg = port(ports.status);
    }
    fadt.finalize()
}

fn madt(config: &AcpiConfig) -> MADT {
    let mut madt = MADT::new(
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
        LocalInterruptController::Address(LOCAL_APIC_ADDRESS),
    );
    let last = u8::try_from(config.vcpus.min(MAX_PROCESSORS)).unwrap_or(u8::MAX);
    for id in 0..last {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    if let Some(io_apic) = config.io_apic {
        madt.add_structure(IoApic::new(io_apic.id, io_apic.address, io_apic.gsi_base));
    }
    madt
}

#[cfg(test)]
mod tests;
