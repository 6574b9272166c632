//! The targets, a module each with its `run`.

pub mod blkback_ring;
pub mod boot_image;
pub mod evtchn_fifo;
pub mod evtchn_ops;
pub mod grant_ops;
pub mod grant_process_protocol;
pub mod hypercall;
pub mod image_layers;
pub mod image_qcow2;
pub mod image_vhd;
pub mod image_vmdk;
pub mod net_packets;
pub mod net_switch;
pub mod netback_ctrl;
pub mod netback_extra;
pub mod netback_rx;
pub mod netback_tx;
pub mod pv_hypercalls;
pub mod ring_back;
pub mod xenstore_client;
pub mod xenstore_journal;
pub mod xenstore_ring;
pub mod xenstore_server;
pub mod xenstore_state;
pub mod xenstore_wire;
