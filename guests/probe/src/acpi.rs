//! As much of ACPI as is to be checked: RSDP, XSDT, and the processors in the MADT.

use crate::memory::Window;
use crate::report::{Failure, Outcome};
use crate::text::Text;
use crate::{ensure, fail};

/// The longest table that is read.
const TABLE_MAX: u32 = 0x1_0000;

fn window(addr: u64, len: usize) -> Outcome<Window> {
    Window::outside_image(addr, len)
        .ok_or_else(|| Failure::Failed(Text::format(format_args!("an ACPI table at {addr:#x}"))))
}

fn checksum(window: &Window, len: usize) -> u8 {
    (0..len).fold(0, |sum: u8, i| sum.wrapping_add(window.read(i)))
}

/// A table whose length and checksum hold.
pub(crate) struct Table {
    window: Window,
    len: usize,
}

impl Table {
    fn read(addr: u64) -> Outcome<Self> {
        let len: u32 = window(addr, 36)?.read(4);
        ensure!(
            (36..=TABLE_MAX).contains(&len),
            "the ACPI table at {addr:#x} has {len} bytes"
        );
        let len = len as usize;
        let window = window(addr, len)?;
        let table = Self { window, len };
        ensure!(
            checksum(&window, len) == 0,
            "the checksum of {} is wrong",
            table.name()
        );
        Ok(table)
    }

    pub(crate) fn name(&self) -> Text<4> {
        let mut name = [0; 4];
        self.window.read_bytes(0, &mut name);
        Text::from_bytes(&name)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn word32(&self, offset: usize) -> u32 {
        if offset + 4 > self.len {
            return 0;
        }
        self.window.read(offset)
    }

    fn byte(&self, offset: usize) -> u8 {
        if offset >= self.len {
            return 0;
        }
        self.window.read(offset)
    }
}

/// The tables that the XSDT names, at most 32, each checked.
pub(crate) struct Tables {
    xsdt: Table,
}

impl Tables {
    /// Checks RSDP and XSDT.
    pub(crate) fn find(rsdp: u64) -> Outcome<Self> {
        ensure!(rsdp != 0, "start info names no RSDP");
        let window = window(rsdp, 36)?;
        let mut signature = [0; 8];
        window.read_bytes(0, &mut signature);
        ensure!(&signature == b"RSD PTR ", "the RSDP's signature is wrong");
        ensure!(
            checksum(&window, 20) == 0,
            "the RSDP's first checksum is wrong"
        );
        let revision: u8 = window.read(15);
        ensure!(revision >= 2, "the RSDP's revision is {revision}");
        ensure!(
            checksum(&window, 36) == 0,
            "the RSDP's second checksum is wrong"
        );
        let xsdt = Table::read(window.read(24))?;
        ensure!(
            xsdt.name().as_str() == "XSDT",
            "the XSDT is called {}",
            xsdt.name()
        );
        Ok(Self { xsdt })
    }

    /// The table of this name.
    pub(crate) fn table(&self, name: &str) -> Outcome<Table> {
        for entry in (36..self.xsdt.len().min(36 + 32 * 8)).step_by(8) {
            let addr =
                u64::from(self.xsdt.word32(entry)) | u64::from(self.xsdt.word32(entry + 4)) << 32;
            let table = Table::read(addr)?;
            if table.name().as_str() == name {
                return Ok(table);
            }
        }
        fail!("the XSDT names no {name}");
    }

    /// The APIC numbers of the processors that can be started, in the MADT's order: how many, and the first 16.
    pub(crate) fn processors(&self) -> Outcome<(usize, [u32; 16])> {
        const LOCAL_APIC: u8 = 0;
        const LOCAL_X2APIC: u8 = 9;
        let madt = self.table("APIC")?;
        let (mut count, mut ids) = (0, [0; 16]);
        let mut at = 44;
        while at + 2 <= madt.len() {
            let (kind, len) = (madt.byte(at), usize::from(madt.byte(at + 1)));
            ensure!(
                len >= 2 && at + len <= madt.len(),
                "a MADT entry of {len} bytes at {at}"
            );
            let (id, flags) = match kind {
                LOCAL_APIC => (u32::from(madt.byte(at + 3)), madt.word32(at + 4)),
                LOCAL_X2APIC => (madt.word32(at + 4), madt.word32(at + 8)),
                _ => (0, 0),
            };
            if flags & 1 != 0 {
                if let Some(slot) = ids.get_mut(count) {
                    *slot = id;
                }
                count += 1;
            }
            at += len;
        }
        Ok((count, ids))
    }
}
