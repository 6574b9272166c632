//! What lies where in a PV guest's memory at its start: the start-of-day layout of `xen.h`.
//!
//! ```text
//! pfn 0     ┌──────────────────────────────────────────┐ virt_base
//!           │ kernel, at its own addresses             │
//!           │ initrd, unless it need not be mapped     │
//!           │ P2M, unless it has a place of its own    │
//!           │ start info, xenstore's and console's ring│
//!           │ page tables (read-only)                  │
//!           │ boot stack                               │
//!           │ padding: 512 KiB, up to 4 MiB            │
//! mapped    ├──────────────────────────────────────────┤ a multiple of 4 MiB
//!           │ P2M and its page tables, not mapped here │
//!           │ initrd, not mapped                       │
//!           └──────────────────────────────────────────┘
//! ```

use std::ops::Range;

use cantle_abi::PAGE_SIZE;

use super::kernel::{PvError, PvKernel, is_guests};
use super::tables::tables_below_top;

const PAGE: u64 = PAGE_SIZE as u64;
/// What is mapped behind the last element, at least.
const PADDING: u64 = 512 << 10;
/// What the end of the mapped region is a multiple of.
const REGION: u64 = 4 << 20;

/// Where everything is, in pages of the guest (pfn).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Virtual address of page 0.
    pub virt_base: u64,
    /// The pages up to the kernel's end.
    pub kernel: Range<u64>,
    /// The initial RAM disk; empty without one.
    pub initrd: Range<u64>,
    /// The initial RAM disk is not mapped.
    pub unmapped_initrd: bool,
    /// The P2M.
    pub p2m: Range<u64>,
    /// The tables that map it, where it has a place of its own.
    pub p2m_tables: Range<u64>,
    /// Virtual address of the P2M.
    pub p2m_address: u64,
    /// Start info.
    pub start_info: u64,
    /// Xenstore's ring.
    pub store: u64,
    /// The console's ring.
    pub console: u64,
    /// Page tables, the top first.
    pub tables: Range<u64>,
    /// The boot stack.
    pub stack: u64,
    /// The first page that is not mapped; those before it are, from [`Self::virt_base`] on.
    pub mapped_end: u64,
}

impl Layout {
    /// For a kernel that ends at a pseudo-physical address and a RAM disk of so many bytes, in `pages` of memory.
    ///
    /// # Errors
    ///
    /// [`PvError`] where something does not fit.
    pub fn plan(
        kernel: &PvKernel,
        kernel_end: u64,
        initrd_bytes: u64,
        pages: u64,
    ) -> Result<Self, PvError> {
        let limit = pages.saturating_mul(PAGE);
        let fits = |what, end: u64| {
            if end <= pages {
                Ok(())
            } else {
                let end = end.saturating_mul(PAGE);
                Err(PvError::Memory { what, end, limit })
            }
        };
        let mut next = Next(kernel_end.div_ceil(PAGE));
        let kernel_pages = 0..next.0;
        fits("kernel", next.0)?;
        let initrd_pages = initrd_bytes.div_ceil(PAGE);
        fits("initrd", initrd_pages)?;
        let mapped_initrd = if kernel.unmapped_initrd {
            0
        } else {
            initrd_pages
        };
        let initrd = next.take(mapped_initrd);
        let p2m_pages = (pages * 8).div_ceil(PAGE);
        let p2m_bytes = p2m_pages * PAGE;
        let p2m = next.take(if kernel.init_p2m.is_some() {
            0
        } else {
            p2m_pages
        });
        let start_info = next.take(1).start;
        let store = next.take(1).start;
        let console = next.take(1).start;
        fits("start info", next.0)?;
        let (tables, stack, mapped_end) = Self::plan_tables(kernel.virt_base, next.0)?;
        fits(
            "region that is mapped at the start (the kernel and what is behind it, in steps of 4 MiB)",
            mapped_end,
        )?;
        let mut layout = Self {
            virt_base: kernel.virt_base,
            kernel: kernel_pages,
            initrd,
            unmapped_initrd: kernel.unmapped_initrd,
            p2m_address: kernel.virt_base.wrapping_add(p2m.start * PAGE),
            p2m,
            p2m_tables: 0..0,
            start_info,
            store,
            console,
            tables,
            stack,
            mapped_end,
        };
        let mut next = Next(mapped_end);
        if let Some(address) = kernel.init_p2m {
            layout.check_p2m(address, p2m_bytes)?;
            layout.p2m_address = address;
            layout.p2m = next.take(p2m_pages);
            layout.p2m_tables = next.take(tables_below_top(address, address + p2m_bytes));
            fits("P2M", next.0)?;
        }
        if kernel.unmapped_initrd {
            layout.initrd = next.take(initrd_pages);
            fits("initrd", next.0)?;
        }
        Ok(layout)
    }

    /// The page tables, the stack and the end of what is mapped, behind the elements before them. Each table more may
    /// make the region larger, and that may take more tables.
    fn plan_tables(virt_base: u64, first: u64) -> Result<(Range<u64>, u64, u64), PvError> {
        let mut count = 1;
        loop {
            let mut next = Next(first);
            let tables = next.take(count);
            let stack = next.take(1).start;
            let bytes = next.0 * PAGE;
            let region = |bytes: u64| {
                let end = virt_base.checked_add(bytes)?.checked_add(PADDING)?;
                // The region may end where the address space does.
                Some(
                    end.checked_next_multiple_of(REGION)?
                        .wrapping_sub(virt_base),
                )
            };
            let refuse = |problem| PvError::Address {
                what: "kernel",
                start: virt_base,
                bytes,
                problem,
            };
            let mapped = region(bytes).ok_or(refuse("goes beyond the end of the address space"))?;
            if !is_guests(virt_base, mapped) {
                return Err(refuse("is where a guest cannot be"));
            }
            let needed = 1 + tables_below_top(virt_base, virt_base + mapped);
            if needed <= count {
                return Ok((tables, stack, mapped / PAGE));
            }
            count = needed;
        }
    }

    /// The P2M's own place is the guest's, and in no slot of the top level that other things use.
    fn check_p2m(&self, start: u64, bytes: u64) -> Result<(), PvError> {
        let refuse = |problem| {
            Err(PvError::Address {
                what: "P2M",
                start,
                bytes,
                problem,
            })
        };
        if !is_guests(start, bytes) {
            return refuse("is where a guest cannot be");
        }
        let slots = |start: u64, bytes: u64| (start >> 39, (start + bytes - 1) >> 39);
        let (first, last) = slots(start, bytes);
        let (kernels_first, kernels_last) = slots(self.virt_base, self.mapped_end * PAGE);
        if first <= kernels_last && kernels_first <= last {
            return refuse("is in the kernel's 512 GiB");
        }
        Ok(())
    }

    /// The virtual address of a page that is mapped.
    #[must_use]
    pub const fn address(&self, pfn: u64) -> u64 {
        self.virt_base + pfn * PAGE
    }
}

struct Next(u64);

impl Next {
    fn take(&mut self, pages: u64) -> Range<u64> {
        let first = self.0;
        self.0 = first.saturating_add(pages);
        first..self.0
    }
}
