//! What the machine was told at its start: start info, the command line, the memory map.

use cantle_abi::start_info::{HvmMemmapTableEntry, HvmModlistEntry, HvmStartInfo};

use crate::memory::Window;

/// The longest command line that is read.
const CMDLINE_MAX: usize = 1024;

/// Start info, copied, with its command line.
pub(crate) struct Start {
    pub(crate) addr: u64,
    pub(crate) info: HvmStartInfo,
    cmdline: [u8; CMDLINE_MAX],
    cmdline_len: usize,
}

impl Start {
    /// Reads start info at an address.
    pub(crate) fn read(addr: u32) -> Option<Self> {
        let addr = u64::from(addr);
        let window = Window::outside_image(addr, size_of::<HvmStartInfo>())?;
        let mut start = Self {
            addr,
            info: window.read(0),
            cmdline: [0; CMDLINE_MAX],
            cmdline_len: 0,
        };
        start.read_cmdline();
        Some(start)
    }

    fn read_cmdline(&mut self) {
        let Some(text) = Window::outside_image(self.info.cmdline_paddr, CMDLINE_MAX) else {
            return;
        };
        for (i, slot) in self.cmdline.iter_mut().enumerate() {
            *slot = text.read(i);
            if *slot == 0 {
                self.cmdline_len = i;
                return;
            }
        }
        self.cmdline_len = CMDLINE_MAX;
    }

    pub(crate) fn cmdline(&self) -> &str {
        let bytes = self.cmdline.get(..self.cmdline_len).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    /// An option `key=value` of the command line; the last one counts.
    pub(crate) fn option(&self, key: &str) -> Option<&str> {
        self.cmdline()
            .split_ascii_whitespace()
            .filter_map(|word| word.split_once('='))
            .filter(|(k, _)| *k == key)
            .map(|(_, value)| value)
            .next_back()
    }

    /// An option's number, decimal or `0x…`.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        let value = self.option(key)?;
        match value.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => value.parse().ok(),
        }
    }

    /// The memory map's entries, at most 64.
    pub(crate) fn memmap(&self) -> impl Iterator<Item = HvmMemmapTableEntry> {
        let addr = self.info.memmap_paddr;
        (0..u64::from(self.info.memmap_entries.min(64))).filter_map(move |i| {
            let size = size_of::<HvmMemmapTableEntry>();
            Window::outside_image(addr + i * size as u64, size).map(|w| w.read(0))
        })
    }

    /// The modules, at most 16.
    pub(crate) fn modules(&self) -> impl Iterator<Item = HvmModlistEntry> {
        let addr = self.info.modlist_paddr;
        (0..u64::from(self.info.nr_modules.min(16))).filter_map(move |i| {
            let size = size_of::<HvmModlistEntry>();
            Window::outside_image(addr + i * size as u64, size).map(|w| w.read(0))
        })
    }
}
