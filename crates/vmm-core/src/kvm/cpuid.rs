//! What CPUID tells the guest: the host's features, its own place among the vCPUs, and Xen's leaves.

mod pv;

use cantle_abi::cpuid::{
    XEN_CPUID_FIRST_LEAF, XEN_CPUID_MAX_NUM_LEAVES, XEN_CPUID_SIGNATURE_EBX,
    XEN_CPUID_SIGNATURE_ECX, XEN_CPUID_SIGNATURE_EDX, XEN_HVM_CPUID_DOMID_PRESENT,
    XEN_HVM_CPUID_UPCALL_VECTOR, XEN_HVM_CPUID_VCPU_ID_PRESENT,
};
use cantle_abi::{DomId, VcpuId};
use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};
use kvm_ioctls::Kvm;

use super::vm::HYPERCALL_MSR;
use crate::config::GuestKind;
use crate::error::SetupError;
use crate::hypercall::XEN_VERSION;

/// Where hypervisors' leaves are.
const HYPERVISOR_LEAVES: std::ops::Range<u32> = 0x4000_0000..0x4001_0000;

/// Bits of the addresses that a PV guest may see: what the monitor maps.
const MACHINE_ADDRESS_WIDTH: u32 = 39;

/// What KVM supports, once per machine; [`for_vcpu`] makes each vCPU's own from it.
pub(crate) fn supported(kvm: &Kvm) -> Result<Vec<kvm_cpuid_entry2>, SetupError> {
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(SetupError::kvm("KVM_GET_SUPPORTED_CPUID"))?;
    // Linux takes the hypervisor with the highest base: KVM's own leaves must go, or Xen's lose.
    Ok(cpuid
        .as_slice()
        .iter()
        .copied()
        .filter(|e| !HYPERVISOR_LEAVES.contains(&e.function))
        .collect())
}

/// One vCPU's table. `tsc_khz` is the guest's TSC frequency, 0 where it is not known.
pub(crate) fn for_vcpu(
    supported: &[kvm_cpuid_entry2],
    vcpu: VcpuId,
    vcpus: u32,
    domid: DomId,
    tsc_khz: u32,
    kind: GuestKind,
) -> Result<CpuId, SetupError> {
    let mut entries: Vec<_> = supported
        .iter()
        .copied()
        .filter(|e| !matches!(e.function, 0xb | 0x1f))
        .collect();
    for entry in &mut entries {
        place(entry, vcpu, vcpus);
        if kind == GuestKind::Pv {
            pv::hide(entry);
        }
    }
    if supported.iter().any(|e| e.function == 0 && e.eax >= 0xb) {
        entries.extend(extended_topology(vcpu, vcpus));
    }
    entries.extend(xen_leaves(vcpu, domid, tsc_khz, kind));
    CpuId::from_entries(&entries).map_err(|e| SetupError::Host {
        what: "CPUID",
        why: format!("{e:?}"),
    })
}

/// log2 of the APIC numbers that `vcpus` take.
fn apic_bits(vcpus: u32) -> u32 {
    vcpus.next_power_of_two().trailing_zeros()
}

/// One socket, a core a vCPU, one thread a core.
fn place(entry: &mut kvm_cpuid_entry2, vcpu: VcpuId, vcpus: u32) {
    match entry.function {
        0x1 => {
            entry.ebx = (entry.ebx & 0xffff) | (vcpus << 16) | (vcpu.0 << 24);
            // A hypervisor is present; TSC deadline is KVM's to offer by its local APIC.
            entry.ecx |= (1 << 31) | (1 << 24);
            if vcpus > 1 {
                entry.edx |= 1 << 28;
            } else {
                entry.edx &= !(1 << 28);
            }
        }
        0x4 if entry.eax & 0x1f != 0 => {
            let shared_by = if (entry.eax >> 5) & 0x7 >= 3 {
                vcpus - 1
            } else {
                0
            };
            entry.eax = (entry.eax & 0x3fff) | (shared_by << 14) | ((vcpus - 1) << 26);
        }
        0x8000_0008 => entry.ecx = (entry.ecx & !0xf0ff) | (apic_bits(vcpus) << 12) | (vcpus - 1),
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let shared_by = if (entry.eax >> 5) & 0x7 >= 3 {
                vcpus - 1
            } else {
                0
            };
            entry.eax = (entry.eax & 0x3fff) | (shared_by << 14);
        }
        0x8000_001e => {
            entry.eax = vcpu.0;
            entry.ebx = vcpu.0;
            entry.ecx = 0;
        }
        _ => {}
    }
}

/// Leaf 0xb: one thread a core, all cores in one package.
fn extended_topology(vcpu: VcpuId, vcpus: u32) -> [kvm_cpuid_entry2; 3] {
    let level = |index, shift, count, kind: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: (kind << 8) | index,
        edx: vcpu.0,
        ..Default::default()
    };
    [
        level(0, 0, 1, 1),
        level(1, apic_bits(vcpus), vcpus, 2),
        level(2, 0, 0, 0),
    ]
}

fn xen_leaves(vcpu: VcpuId, domid: DomId, tsc_khz: u32, kind: GuestKind) -> Vec<kvm_cpuid_entry2> {
    let leaf = |n: u32, index: u32, eax: u32, ebx: u32, ecx: u32, edx: u32| kvm_cpuid_entry2 {
        function: XEN_CPUID_FIRST_LEAF + n,
        index,
        flags: if matches!(n, 3 | 4) {
            KVM_CPUID_FLAG_SIGNIFCANT_INDEX
        } else {
            0
        },
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    };
    let hvm_features =
        XEN_HVM_CPUID_VCPU_ID_PRESENT | XEN_HVM_CPUID_DOMID_PRESENT | XEN_HVM_CPUID_UPCALL_VECTOR;
    vec![
        leaf(
            0,
            0,
            XEN_CPUID_FIRST_LEAF + XEN_CPUID_MAX_NUM_LEAVES,
            XEN_CPUID_SIGNATURE_EBX,
            XEN_CPUID_SIGNATURE_ECX,
            XEN_CPUID_SIGNATURE_EDX,
        ),
        leaf(1, 0, XEN_VERSION, 0, 0, 0),
        // One hypercall page, asked for by this MSR.
        leaf(2, 0, 1, HYPERCALL_MSR, 0, 0),
        // The TSC runs by itself, never emulated (mode 2), at this frequency.
        leaf(3, 0, 1 << 1, 2, tsc_khz, 0),
        match kind {
            GuestKind::Pvh => leaf(4, 0, hvm_features, vcpu.0, u32::from(domid.0), 0),
            GuestKind::Pv => leaf(4, 0, 0, 0, 0, 0),
        },
        match kind {
            GuestKind::Pvh => leaf(5, 0, 0, 0, 0, 0),
            GuestKind::Pv => leaf(5, 0, 0, MACHINE_ADDRESS_WIDTH, 0, 0),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(table: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *table
            .as_slice()
            .iter()
            .find(|e| e.function == function && e.index == index)
            .expect("the leaf is there")
    }

    #[test]
    fn each_vcpu_finds_its_number_and_xens_signature() {
        let supported = [
            kvm_cpuid_entry2 {
                function: 0,
                eax: 0x16,
                ..Default::default()
            },
            kvm_cpuid_entry2 {
                function: 1,
                ebx: 0x1234,
                ..Default::default()
            },
        ];
        let table = for_vcpu(
            &supported,
            VcpuId(3),
            6,
            DomId(9),
            2_500_000,
            GuestKind::Pvh,
        )
        .unwrap();
        assert_eq!(leaf(&table, 1, 0).ebx, 0x1234 | (6 << 16) | (3 << 24));
        assert_eq!(leaf(&table, 0xb, 1).edx, 3);
        assert_eq!(leaf(&table, 0xb, 1).eax, 3, "six vCPUs take three bits");
        assert_eq!(leaf(&table, 0x4000_0000, 0).ebx.to_le_bytes(), *b"XenV");
        assert_eq!(
            (
                leaf(&table, 0x4000_0004, 0).ebx,
                leaf(&table, 0x4000_0004, 0).ecx
            ),
            (3, 9)
        );
    }
}
