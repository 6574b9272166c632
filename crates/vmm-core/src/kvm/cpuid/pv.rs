//! What a PV guest is not shown: features of the processor's rings, tables and interrupts, which are the monitor's.
//!
//! The letters are those of Xen's `cpufeatureset.h`: what is `A` there is for all guests. `cpuid` runs in the guest without the monitor, so
//! that the table is what the guest sees. X2APIC stays for KVM lets the monitor have that mode only where CPUID offers it, and guests do not use it
//! (Linux clears it where it is a PV guest).

use kvm_bindings::kvm_cpuid_entry2;

/// Bits of a register.
const fn bits(list: &[u32]) -> u32 {
    let mut all = 0;
    let mut rest = list;
    while let [first, more @ ..] = rest {
        all |= 1 << *first;
        rest = more;
    }
    all
}

/// VME, PSE, MCE, MTRR, PGE, MCA, PSE36, DS, ACPI, TM1, PBE.
const LEAF_1_EDX: u32 = bits(&[1, 3, 7, 12, 13, 14, 17, 21, 22, 29, 31]);
/// DTES64, MONITOR, DSCPL, VMX, SMX, EIST, TM2, XTPR, PDCM, PCID, DCA, TSC_DEADLINE.
const LEAF_1_ECX: u32 = bits(&[2, 3, 4, 5, 6, 7, 8, 14, 15, 17, 18, 24]);
/// TSC_ADJUST, SGX, SMEP, INVPCID, PQM, MPX, PQE, SMAP, PROC_TRACE.
const LEAF_7_EBX: u32 = bits(&[1, 2, 7, 10, 12, 14, 15, 20, 25]);
/// UMIP, PKU, OSPKE, WAITPKG, CET_SS, LA57, BUS_LOCK_DETECT, ENQCMD, PKS.
const LEAF_7_ECX: u32 = bits(&[2, 3, 4, 5, 7, 16, 24, 29, 31]);
/// UINTR, HYBRID, CET_IBT.
const LEAF_7_EDX: u32 = bits(&[5, 15, 20]);
/// As leaf 1, on AMD, and PAGE1GB.
const EXTENDED_EDX: u32 = bits(&[1, 3, 7, 12, 13, 14, 17, 26]);
/// SVM, EXTAPIC, CR8_LEGACY, OSVW, IBS, SKINIT, WDT, LWP, NODEID_MSR, TOPOEXT, the performance counters, MONITORX.
const EXTENDED_ECX: u32 = bits(&[2, 3, 4, 9, 10, 12, 13, 15, 19, 22, 23, 24, 28, 29]);
/// IBRS and what belongs to it, NO_LMSL, SSBD, VIRT_SSBD, PSFD: MSRs that the monitor keeps for itself.
const LEAF_8000_0008_EBX: u32 = bits(&[14, 15, 16, 17, 18, 19, 20, 23, 24, 25, 28]);
/// XSAVES, and XFD.
const XSAVE_EAX: u32 = bits(&[3, 4]);

/// Hides them in a leaf.
pub(super) fn hide(leaf: &mut kvm_cpuid_entry2) {
    match (leaf.function, leaf.index) {
        (1, _) => {
            leaf.ecx &= !LEAF_1_ECX;
            leaf.edx &= !LEAF_1_EDX;
        }
        (7, 0) => {
            leaf.ebx &= !LEAF_7_EBX;
            leaf.ecx &= !LEAF_7_ECX;
            leaf.edx &= !LEAF_7_EDX;
        }
        (0xd, 1) => {
            leaf.eax &= !XSAVE_EAX;
            // What XSAVES could save besides.
            (leaf.ecx, leaf.edx) = (0, 0);
        }
        (0x8000_0001, _) => {
            leaf.ecx &= !EXTENDED_ECX;
            leaf.edx &= !EXTENDED_EDX;
        }
        (0x8000_0008, _) => leaf.ebx &= !LEAF_8000_0008_EBX,
        // MONITOR, power, performance counters, SGX, tracing, SVM, its memory encryption.
        (5 | 6 | 0xa | 0x12 | 0x14 | 0x8000_000a | 0x8000_001f | 0x8000_0022, _) => {
            (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut leaf = kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        };
        hide(&mut leaf);
        leaf
    }

    #[test]
    fn large_and_global_pages_are_hidden_and_no_execute_and_syscall_are_not() {
        let leaf = hidden(1, 0);
        assert_eq!(leaf.edx & bits(&[3, 13, 17]), 0);
        assert_eq!(
            leaf.edx & bits(&[6, 9, 11, 16, 25]),
            bits(&[6, 9, 11, 16, 25])
        );
        assert_eq!(leaf.ecx >> 21 & 1, 1, "the monitor needs x2APIC");
        let leaf = hidden(0x8000_0001, 0);
        assert_eq!(leaf.edx & bits(&[11, 20, 29]), bits(&[11, 20, 29]));
        assert_eq!(leaf.edx >> 26 & 1, 0);
        assert_eq!(leaf.ecx & 1 << 2, 0);
    }

    #[test]
    fn only_what_is_named_is_hidden() {
        let leaf = hidden(7, 0);
        assert_eq!(leaf.ebx & bits(&[0, 3, 5, 8]), bits(&[0, 3, 5, 8]));
        assert_eq!(leaf.ebx & bits(&[7, 10, 20]), 0);
        assert_eq!(hidden(7, 1).ebx, u32::MAX);
        assert_eq!(hidden(0xd, 0).eax, u32::MAX);
        assert_eq!(hidden(0xd, 1).eax & 0xf, 0x7);
        assert_eq!(hidden(0xa, 0).eax, 0);
        assert_eq!(hidden(4, 0).eax, u32::MAX);
    }
}
