//! `xen_version`: what the guest is told about the hypervisor.

use cantle_abi::version::{
    XENFEAT_auto_translated_physmap, XENFEAT_hvm_callback_vector, XENFEAT_hvm_safe_pvclock,
    XENFEAT_memory_op_vnode_supported, XENVER_build_id, XENVER_capabilities, XENVER_changeset,
    XENVER_commandline, XENVER_compile_info, XENVER_extraversion, XENVER_get_features,
    XENVER_guest_handle, XENVER_pagesize, XENVER_platform_parameters, XENVER_version,
    XenFeatureInfo,
};
use cantle_abi::{Errno, PAGE_SIZE};
use cantle_pv_monitor::interface::M2P_BASE;

use super::{Call, Caller, Served};

/// `MMU_PT_UPDATE_PRESERVE_AD` is served (features.h).
const XENFEAT_mmu_pt_update_preserve_ad: u32 = 5;
/// There is nothing to switch on for memory above 4 GiB (features.h).
const XENFEAT_highmem_assist: u32 = 6;
/// Bits of a grant's mapping that the guest may use as it likes; Linux demands them of PV (features.h).
const XENFEAT_gnttab_map_avail_bits: u32 = 7;
/// Its frames are not those of the machine at the same numbers (features.h).
const XENFEAT_not_direct_mapped: u32 = 16;

/// The version of Xen's interface that is served: 4.17.
pub(crate) const XEN_VERSION: u32 = (4 << 16) | 17;

pub(super) fn serve(caller: &Caller<'_>, call: &Call) -> Served {
    let to = call.arg(1);
    match call.arg32(0) {
        XENVER_version => return Ok(i64::from(XEN_VERSION)),
        XENVER_pagesize => return Ok(PAGE_SIZE as i64),
        XENVER_extraversion => caller.write_bytes(to, &text::<16>(".0-cantle"))?,
        XENVER_capabilities => caller.write_bytes(to, &text::<1024>(capabilities(caller)))?,
        XENVER_changeset => caller.write_bytes(to, &text::<64>("unavailable"))?,
        XENVER_commandline => caller.write_bytes(to, &text::<1024>(""))?,
        // compiler[64], compile_by[16], compile_domain[32], compile_date[32]
        XENVER_compile_info => caller.write_bytes(to, &text::<144>("rustc"))?,
        // virt_start: a translated guest has none.
        XENVER_platform_parameters if is_pv(caller) => caller.write(to, &M2P_BASE)?,
        XENVER_platform_parameters => caller.write(to, &0_u64)?,
        XENVER_guest_handle => caller.write_bytes(to, caller.domain().uuid())?,
        XENVER_get_features => {
            let mut info: XenFeatureInfo = caller.read(to)?;
            info.submap = match info.submap_idx {
                0 if is_pv(caller) => {
                    1 << XENFEAT_mmu_pt_update_preserve_ad
                        | 1 << XENFEAT_highmem_assist
                        | 1 << XENFEAT_gnttab_map_avail_bits
                        | 1 << XENFEAT_memory_op_vnode_supported
                        | 1 << XENFEAT_not_direct_mapped
                }
                0 => {
                    1 << XENFEAT_auto_translated_physmap
                        | 1 << XENFEAT_hvm_callback_vector
                        | 1 << XENFEAT_hvm_safe_pvclock
                        | 1 << XENFEAT_memory_op_vnode_supported
                }
                _ => return Err(Errno::EINVAL),
            };
            caller.write(to, &info)?;
        }
        XENVER_build_id => return Err(Errno::ENODATA),
        _ => return Err(Errno::ENOSYS),
    }
    Ok(0)
}

fn is_pv(caller: &Caller<'_>) -> bool {
    caller.domain().pv.is_some()
}

/// Guests of the kind that asks.
fn capabilities(caller: &Caller<'_>) -> &'static str {
    if is_pv(caller) {
        "xen-3.0-x86_64 "
    } else {
        "hvm-3.0-x86_64 "
    }
}

/// A zero-filled buffer that begins with a text.
fn text<const N: usize>(text: &str) -> [u8; N] {
    let mut buf = [0; N];
    for (to, from) in buf.iter_mut().zip(text.bytes()).take(N - 1) {
        *to = from;
    }
    buf
}

#[cfg(test)]
mod tests;
