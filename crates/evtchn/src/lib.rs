//! evtchn
