//! How packets go through the rings.

/// How a front end is connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) queues: usize,
    /// All its pages are mapped once and for all, by the control ring.
    pub(super) statics: bool,
}

impl Case {
    pub(super) const USUAL: Self = Self {
        queues: 1,
        statics: false,
    };

    /// Whether it is how a Linux guest with one vCPU has it.
    pub(super) fn is_usual(self) -> bool {
        self.queues == 1 && !self.statics
    }

    /// What rows' names end with.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self { statics: true, .. } => "_static",
            Self { queues: 1, .. } => "",
            Self { .. } => "_2q",
        }
    }
}
