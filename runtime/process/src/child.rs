//! What a child does first, before anything else runs in it: it takes its role and its
//! descriptors, ties its life to its parent's and confines itself.

use crate::confine;
use crate::confine::ConfineError;
use gannet_base::hop::Confinement;
use gannet_base::manifest::ASSETS_MAX;
use rustix::process::Signal;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

/// The variable that says how many descriptors a child is given.
pub const DESCRIPTORS_VARIABLE: &str = "GANNET_CHILD_DESCRIPTORS";
/// In the folder of a child: what the driver compiled for the kernels of one version, beside the driver's own cache.
pub const PIPELINE_CACHE_PREFIX: &str = "pipelines-";

/// The exit code of a process whose GPU device was lost: nothing in it can go on.
pub const EXIT_DEVICE_LOST: i32 = 75;
/// The argument of a probe that asks for what a device takes on each GPU.
pub const PROBE_MEASURE: &str = "measure";

/// The hidden verbs of the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs one tenant's components.
    Worker,
    /// Checks and compiles one upload.
    Builder,
    /// Lists the GPUs, or tries a kernel on one, and ends.
    Probe,
    /// Tries what a confined child must not be able to do, and ends.
    ConfineCheck,
}

impl Role {
    /// The command-line word.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Worker => "__worker",
            Self::Builder => "__builder",
            Self::Probe => "__probe",
            Self::ConfineCheck => "__confine-check",
        }
    }

    /// The role of a command-line word.
    pub fn from_verb(verb: &str) -> Option<Self> {
        [Self::Worker, Self::Builder, Self::Probe, Self::ConfineCheck].into_iter().find(|role| role.verb() == verb)
    }

    /// How many descriptors it is given, from 3 on; a builder is given those of assets behind them.
    pub fn descriptors(self) -> usize {
        match self {
            // Control, logs, leases, notes. HTTP connections come over control as they are needed.
            Self::Worker => 4,
            // Control, order, component, output, report, leases, notes.
            Self::Builder => 7,
            Self::Probe | Self::ConfineCheck => 1,
        }
    }
}

/// A child that has confined itself but for the last layer.
#[derive(Debug)]
pub struct Child {
    /// Its descriptors, in the order they were given.
    pub descriptors: Vec<OwnedFd>,
    /// Its own folder.
    pub home: PathBuf,
    /// Which layers hold.
    pub confinement: Confinement,
}

impl Child {
    /// Takes over the process. Call it first in `main`, while there is one thread: a thread that
    /// exists before Landlock is applied stays free.
    pub fn enter(role: Role) -> Result<Self, ConfineError> {
        // If the parent is gone already, this process has been adopted and must not linger.
        let parent = rustix::process::getppid();
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(ConfineError::system("prctl"))?;
        if rustix::process::getppid() != parent {
            std::process::exit(1);
        }
        let given = std::env::var(DESCRIPTORS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let count = role.descriptors().max(given).min(role.descriptors() + ASSETS_MAX);
        let count = i32::try_from(count).unwrap_or(0);
        confine::close_from(3 + count)?;
        let descriptors = (3..3 + count).map(own).collect();
        let home = std::env::var_os("GANNET_CHILD_HOME").map(PathBuf::from).unwrap_or_default();
        let user = std::env::var("GANNET_CHILD_USER").ok().and_then(|text| text.parse().ok());
        let confinement = confine::before_drivers(&home, user)?;
        Ok(Self { descriptors, home, confinement })
    }
}

/// Ends the process at once. Not by `exit`: its handlers unload GPU drivers whose threads still run, which has
/// crashed, and waiting for a GPU has no limit.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; nothing runs after it.
    unsafe { libc::_exit(code) }
}

fn own(number: RawFd) -> OwnedFd {
    // SAFETY: the parent put a descriptor of ours at this number, and nothing else in this process
    // has been started that could own it: `enter` runs first in `main`.
    unsafe { OwnedFd::from_raw_fd(number) }
}
