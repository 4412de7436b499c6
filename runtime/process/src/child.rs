//! The start of a child process, before anything else runs in it. The child takes its descriptors, makes
//! sure that it is killed when its parent ends, and confines itself.

use crate::confine;
use crate::confine::ConfineError;
use gannet_base::hop::Confinement;
use gannet_base::manifest::ASSETS_MAX;
use rustix::process::Signal;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

/// Environment variable with the number of descriptors that a child is given.
pub const DESCRIPTORS_VARIABLE: &str = "GANNET_CHILD_DESCRIPTORS";
/// Prefix of the files in a child's folder with the pipelines that the driver compiled for the kernels of one version.
/// They are in addition to the driver's own cache.
pub const PIPELINE_CACHE_PREFIX: &str = "pipelines-";

/// Name prefix of the files in a child's folder that are compiled components. The number of the version follows.
pub const COMPONENT_PREFIX: &str = "component-";

/// Exit code of a process whose GPU device was lost. Such a process cannot continue.
pub const EXIT_DEVICE_LOST: i32 = 75;
/// Argument that makes a probe measure how much memory a device takes by itself on each GPU.
pub const PROBE_MEASURE: &str = "measure";

/// The role of a child. Each has a hidden verb of the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs the components of one tenant.
    Worker,
    /// Checks and compiles one upload.
    Builder,
    /// Lists or measures the GPUs, or runs a kernel on one, and ends.
    Probe,
    /// Tries what a confined child must not be able to do, and ends.
    ConfineCheck,
}

impl Role {
    /// Returns the hidden verb: the first argument of the process.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Worker => "__worker",
            Self::Builder => "__builder",
            Self::Probe => "__probe",
            Self::ConfineCheck => "__confine-check",
        }
    }

    /// Returns the role with this verb.
    pub fn from_verb(verb: &str) -> Option<Self> {
        [Self::Worker, Self::Builder, Self::Probe, Self::ConfineCheck].into_iter().find(|role| role.verb() == verb)
    }

    /// Returns the number of descriptors that the role is given, from 3 on. A builder is given those of assets in
    /// addition.
    pub fn descriptors(self) -> usize {
        match self {
            // Control, logs, leases, notes of running kernels. Hops arrive over the control socket.
            Self::Worker => 4,
            // Control, build specification, component, output, report, leases, notes of running kernels.
            Self::Builder => 7,
            Self::Probe | Self::ConfineCheck => 1,
        }
    }
}

/// How much sooner than the server a child is killed when the machine's memory runs out. Of 1000, so that a child is
/// chosen even if the server is larger.
const OOM_SCORE: &str = "800";

/// A child that has applied all layers of confinement except the last one, seccomp.
#[derive(Debug)]
pub struct Child {
    /// The child's descriptors, in the order in which the parent gave them.
    pub descriptors: Vec<OwnedFd>,
    /// The child's own folder.
    pub home: PathBuf,
    /// Which layers of confinement are in force.
    pub confinement: Confinement,
}

impl Child {
    /// Takes the descriptors and confines the process. Call it first in `main`, while there is only one
    /// thread: Landlock does not restrict threads that already exist. `open_own_files` runs as the child's own user
    /// in the only moment at which that user may open the process's files in `/proc`.
    pub fn enter(role: Role, open_own_files: impl FnOnce()) -> Result<Self, ConfineError> {
        // If the parent has ended already, this process has another parent now, and must end too.
        let parent = rustix::process::getppid();
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(ConfineError::system("prctl"))?;
        if rustix::process::getppid() != parent {
            std::process::exit(1);
        }
        if let Err(error) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
            // Then the system chooses by size alone when memory runs out, which is mostly a child too.
            tracing::debug!(%error, "the process could not be put before the server for the system's killer");
        }
        let given = std::env::var(DESCRIPTORS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let count = role.descriptors().max(given).min(role.descriptors() + ASSETS_MAX);
        let count = i32::try_from(count).unwrap_or(0);
        confine::close_from(3 + count)?;
        let descriptors = (3..3 + count).map(own).collect();
        let home = std::env::var_os("GANNET_CHILD_HOME").map(PathBuf::from).unwrap_or_default();
        let user = std::env::var("GANNET_CHILD_USER").ok().and_then(|text| text.parse().ok());
        let confinement = confine::before_drivers(&home, user, open_own_files)?;
        Ok(Self { descriptors, home, confinement })
    }
}

/// Ends the process at once, by `_exit`. The handlers of `exit` would unload GPU drivers whose threads still run, which
/// has crashed, and could wait for a GPU without a limit.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; nothing runs after it.
    unsafe { libc::_exit(code) }
}

fn own(number: RawFd) -> OwnedFd {
    // SAFETY: the parent put a descriptor of ours at this number, and nothing else in this process
    // has been started that could own it, because `enter` runs first in `main`.
    unsafe { OwnedFd::from_raw_fd(number) }
}
