//! Reports to the front door which stage a build is at, so that it can blame a crash or a timeout on that stage.

use crate::build::component::invalid;
use gannet_base::hop::build::{BuildStage, Rejected};
use gannet_process::channel::send_now;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Sends stages over the builder's control socket.
pub(super) struct Progress {
    control: OwnedFd,
}

impl Progress {
    pub(super) fn new(control: OwnedFd) -> Self {
        Self { control }
    }

    /// Reports that a stage begins.
    pub(super) fn report(&self, stage: BuildStage) -> io::Result<()> {
        send_now(self.control.as_fd(), &serde_json::to_vec(&stage)?, &[])
    }

    /// Like [`Self::report`], for build steps: their error type is a rejection.
    pub(super) fn enter(&self, stage: BuildStage) -> Result<(), Rejected> {
        self.report(stage).map_err(|error| invalid(format!("the front door has exited: {error}")))
    }
}
