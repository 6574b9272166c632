//! HVM parameters.

use cantle_abi::hvm::{HVMOP_get_param, HVMOP_set_param, XenHvmParam};
use cantle_abi::{DomId, Errno, xen};

use crate::hypercall;

/// A parameter of this domain.
pub(crate) fn get(index: u32) -> Result<u64, Errno> {
    let mut param = XenHvmParam {
        domid: DomId::SELF,
        pad: 0,
        index,
        value: 0,
    };
    hypercall::op(xen::__HYPERVISOR_hvm_op, HVMOP_get_param, &mut param)?;
    Ok(param.value)
}

/// Sets a parameter of this domain.
pub(crate) fn set(index: u32, value: u64) -> Result<u64, Errno> {
    let mut param = XenHvmParam {
        domid: DomId::SELF,
        pad: 0,
        index,
        value,
    };
    hypercall::op(xen::__HYPERVISOR_hvm_op, HVMOP_set_param, &mut param)
}
