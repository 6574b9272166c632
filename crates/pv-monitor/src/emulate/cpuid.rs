//! What a PV kernel may know of the processor.

/// What is taken from a leaf (and subleaf, where it has such): eax, ebx, ecx, edx.
struct Hidden {
    leaf: u32,
    subleaf: Option<u32>,
    bits: [u32; 4],
}

/// VME, PSE, MTRR, PGE, PSE36: what concerns page tables that a PV kernel does not have as it would have them. In AMD's leaf they are again.
const PAGING: u32 = 1 << 1 | 1 << 3 | 1 << 12 | 1 << 13 | 1 << 17;

/// Instructions of ring 0, and modes that the monitor does not switch on.
const HIDDEN: [Hidden; 9] = [
    Hidden {
        leaf: 1,
        subleaf: None,
        // MONITOR, VMX, SMX, PDCM, PCID, x2APIC, the TSC deadline.
        bits: [
            0,
            0,
            1 << 3 | 1 << 5 | 1 << 6 | 1 << 15 | 1 << 17 | 1 << 21 | 1 << 24,
            PAGING,
        ],
    },
    // MONITOR's and the power states' leaves, and the counters'.
    Hidden {
        leaf: 5,
        subleaf: None,
        bits: [u32::MAX; 4],
    },
    Hidden {
        leaf: 6,
        subleaf: None,
        bits: [!(1 << 2), u32::MAX, u32::MAX, u32::MAX],
    },
    Hidden {
        leaf: 7,
        subleaf: Some(0),
        // TSC_ADJUST, SMEP, INVPCID, SMAP; UMIP, PKU, OSPKE, CET_SS, LA57, PKS; UINTR, CET_IBT.
        bits: [
            0,
            1 << 1 | 1 << 7 | 1 << 10 | 1 << 20,
            1 << 2 | 1 << 3 | 1 << 4 | 1 << 7 | 1 << 16 | 1 << 31,
            1 << 5 | 1 << 20,
        ],
    },
    Hidden {
        leaf: 7,
        subleaf: Some(1),
        // FRED, LKGS, WRMSRNS, LAM.
        bits: [1 << 17 | 1 << 18 | 1 << 19 | 1 << 26, 0, 0, 0],
    },
    Hidden {
        leaf: 0xa,
        subleaf: None,
        bits: [u32::MAX; 4],
    },
    Hidden {
        leaf: 0xd,
        subleaf: Some(1),
        // XSAVES and its states.
        bits: [1 << 3, 0, u32::MAX, u32::MAX],
    },
    Hidden {
        leaf: 0x8000_0001,
        subleaf: None,
        // SVM, the counters, MONITORX; GBPAGES.
        bits: [0, 0, 1 << 2 | 1 << 23 | 1 << 24 | 1 << 29, PAGING | 1 << 26],
    },
    Hidden {
        leaf: 0x8000_0008,
        subleaf: None,
        // INVLPGB.
        bits: [0, 1 << 3, 0, 0],
    },
];

/// What is left of a leaf for a PV kernel: no large pages, no instructions of ring 0, nothing that the monitor does not switch on.
#[must_use]
pub fn restricted(leaf: u32, subleaf: u32, registers: [u32; 4]) -> [u32; 4] {
    let mut left = registers;
    for hidden in &HIDDEN {
        if hidden.leaf == leaf && hidden.subleaf.is_none_or(|only| only == subleaf) {
            for (register, bits) in left.iter_mut().zip(hidden.bits) {
                *register &= !bits;
            }
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_sees_no_large_pages_and_no_smap() {
        assert_eq!(restricted(1, 0, [u32::MAX; 4])[3] & 1 << 3, 0);
        assert_eq!(restricted(7, 0, [u32::MAX; 4])[1] & 1 << 20, 0);
        assert_eq!(restricted(0x8000_0001, 0, [u32::MAX; 4])[3] & 1 << 26, 0);
    }

    #[test]
    fn it_sees_that_xsave_is_on_but_not_xsaves() {
        assert_eq!(restricted(1, 0, [u32::MAX; 4])[2] & 3 << 26, 3 << 26);
        assert_eq!(restricted(0xd, 1, [0xf, 1, 2, 3]), [7, 1, 0, 0]);
        assert_eq!(restricted(0xd, 0, [7, 1, 2, 3]), [7, 1, 2, 3]);
    }

    #[test]
    fn other_leaves_are_as_they_are() {
        assert_eq!(restricted(0x4000_0000, 0, [1, 2, 3, 4]), [1, 2, 3, 4]);
    }
}
