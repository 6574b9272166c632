//! What a hostile guest might call, out of arbitrary bytes.

use std::time::{Duration, Instant};

use cantle_abi::memory::XENMAPIDX_grant_table_status;
use cantle_abi::{Gfn, xen};

use super::{ARGS, ARGS_LEN, Harness, MEMORY};
use crate::boot::layout;

/// The longest that any call may take on a machine that does other things besides.
const LONGEST: Duration = Duration::from_secs(1);
/// The most actions out of one input.
const MOST: usize = 256;

const NUMBERS: [u32; 11] = [
    xen::__HYPERVISOR_memory_op,
    xen::__HYPERVISOR_multicall,
    xen::__HYPERVISOR_set_timer_op,
    xen::__HYPERVISOR_xen_version,
    xen::__HYPERVISOR_console_io,
    xen::__HYPERVISOR_grant_table_op,
    xen::__HYPERVISOR_vm_assist,
    xen::__HYPERVISOR_vcpu_op,
    xen::__HYPERVISOR_sched_op,
    xen::__HYPERVISOR_event_channel_op,
    xen::__HYPERVISOR_hvm_op,
];

/// An input, from its front to its end; then zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn any(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// Somewhere among the arguments, often just before a page's end.
    fn pointer(&mut self) -> u64 {
        let (page, at) = (u64::from(self.byte()), u64::from(self.byte()));
        let page = ARGS + (page << 12) % ARGS_LEN;
        match at % 4 {
            0 => page,
            1 => page + at * 8,
            2 => page + 4096 - at / 4,
            _ => page + at,
        }
    }

    /// A number as they stand in arguments and in structures.
    fn word(&mut self) -> u64 {
        match self.byte() % 13 {
            0 | 1 => u64::from(self.byte() % 8),
            2 => u64::from(self.byte()),
            3 | 4 => self.pointer(),
            5 => (self.any() % MEMORY) >> 12,
            6 => layout::SPECIAL_GFN.0 + u64::from(self.byte() % 16),
            7 => Gfn(layout::HIGH_RAM_START >> 12).0 + u64::from(self.byte()),
            // DOMID_SELF, and a small number above it.
            8 | 9 => 0x7ff0 | u64::from(self.byte() % 4) << 16 | u64::from(self.byte() % 8) << 32,
            10 => u64::MAX - u64::from(self.byte()),
            11 => XENMAPIDX_grant_table_status | u64::from(self.byte() % 8),
            _ => self.any(),
        }
    }

    fn number(&mut self) -> u64 {
        let byte = self.byte();
        match NUMBERS.get(usize::from(byte >> 3) % (NUMBERS.len() + 1)) {
            Some(nr) => u64::from(*nr),
            None => self.word(),
        }
    }
}

impl Harness {
    /// Makes calls, and changes to the memory that they read, as `input` has it: all of them by kernels, all numbers, operations
    /// and pointers, most of them such that a part of the call succeeds. What the domain is then, it stays; after
    /// [`has_ended`](Self::has_ended) it is of no more use. Returns how many calls succeeded.
    ///
    /// # Panics
    ///
    /// Where a call takes a second or longer.
    pub fn drive(&self, input: &[u8]) -> u64 {
        let mut input = Input(input);
        let mut succeeded = 0;
        for _ in 0..MOST {
            if input.0.is_empty() {
                break;
            }
            match input.byte() % 8 {
                // Structures to be, one word after the other.
                0..3 => {
                    let at = input.pointer() & !7;
                    for n in 0..8 {
                        let word = input.word();
                        if at + n * 8 < ARGS + ARGS_LEN {
                            self.put(at + n * 8, &word);
                        }
                    }
                }
                3 => {
                    let entry = Self::pte(input.pointer());
                    let value = match input.byte() % 4 {
                        0 => input.word(),
                        1 => 0,
                        2 => input.pointer() & !0xfff | 1,
                        _ => input.pointer() & !0xfff | 3,
                    };
                    self.put(entry, &value);
                }
                4 => self.map_memory_now_and_then(input.byte()),
                _ => {
                    let vcpu = u32::from(input.byte()) % super::VCPUS;
                    let nr = input.number();
                    let args = [
                        u64::from(input.byte() % 32),
                        input.word(),
                        input.word(),
                        input.word(),
                        input.word(),
                    ];
                    let is_shutdown = nr == u64::from(xen::__HYPERVISOR_sched_op)
                        && args[0] == u64::from(cantle_abi::sched::SCHEDOP_shutdown);
                    // Rarely: it ends the game.
                    if is_shutdown && input.byte() != 0 {
                        continue;
                    }
                    let began = Instant::now();
                    succeeded += u64::from(self.call_at(0, vcpu, nr, &args) >= 0);
                    let took = began.elapsed();
                    assert!(took < LONGEST, "{took:?} for call {nr} of {args:x?}");
                }
            }
        }
        succeeded
    }

    /// Rarely, for it is slow: what no mapping works of any more teaches little.
    fn map_memory_now_and_then(&self, chance: u8) {
        if chance < 16 {
            self.map_memory();
        }
    }
}
