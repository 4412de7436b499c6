//! Why a build failed or was refused, and whose fault it is.

use super::stage::{Overrun, cpu_max};
use gannet_base::hop::build::{BuildStage, RejectCode, Rejected};
use std::io;
use std::time::Duration;

/// Why a build failed or was refused.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The upload is invalid.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// Too many builds wait. The message hides how many, because they belong to other tenants too.
    #[error("too many uploads are waiting for a builder")]
    Busy,
    /// The tenant itself has too many builds or uploads.
    #[error("{most} uploads of this tenant are under way; that is the limit")]
    TenantBusy {
        /// The limit.
        most: usize,
    },
    /// The tenant's builds have used up the CPU time of the day.
    #[error("build_cpu_ms_per_day = {limit_ms}; in use: {used_ms}")]
    BudgetUsedUp {
        /// The limit in milliseconds.
        limit_ms: u64,
        /// CPU time of the tenant's builds today, in milliseconds.
        used_ms: u64,
    },
    /// All GPUs that the function may run on have failed their probe.
    #[error("no gpu that this function can run on works now")]
    NoGpu,
    /// The disk has no room for what the build may write.
    #[error("the server's disk is full")]
    DiskFull,
    /// The server or the builder failed, and the upload is not to blame.
    #[error("the builder failed: {0}")]
    Failed(String),
}

impl From<io::Error> for BuildError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::StorageFull { Self::DiskFull } else { Self::Failed(error.to_string()) }
    }
}

/// How a builder ended that did not finish.
pub(super) enum Failure {
    /// It passed a limit of its stage.
    Overran(Overrun),
    /// It ended by itself, or was killed by somebody else. The text says how.
    Ended(String),
}

/// Returns the error for a builder that did not finish in this stage. The whole build may use `build_max` of CPU time.
pub(super) fn blame(stage: &BuildStage, failure: &Failure, build_max: Duration) -> BuildError {
    let limit = format!("may use {} s of CPU time", cpu_max(stage, build_max).as_secs());
    let how = match failure {
        Failure::Overran(Overrun::CpuTime) => format!("used more CPU time than allowed; it {limit}"),
        Failure::Overran(Overrun::WallTime { waited }) => {
            format!("was not finished after {} s; it {limit}", waited.as_secs())
        }
        Failure::Ended(how) => how.clone(),
    };
    let rejected = |code, what: &str| Rejected { code, detail: format!("{what} {how}") }.into();
    match stage {
        BuildStage::Kernel { name } => rejected(RejectCode::KernelRejected, &format!("kernel {name:?}: its trial")),
        BuildStage::Component => rejected(RejectCode::ComponentInvalid, "compiling the component"),
        BuildStage::Init => rejected(RejectCode::InitFailed, "init"),
        BuildStage::Done => BuildError::Failed(format!("it {how}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_whose_trial_crashes_or_takes_too_long_is_rejected_with_the_reason() {
        let stage = BuildStage::Kernel { name: "fft".into() };
        let (waited, most) = (Duration::from_secs(100), Duration::from_secs(180));
        for (failure, how) in [
            (Failure::Ended("ended with signal 11".into()), "ended with signal 11"),
            (Failure::Ended("did not release the gpu in time".into()), "did not release the gpu in time"),
            (Failure::Overran(Overrun::CpuTime), "used more CPU time than allowed; it may use 20 s of CPU time"),
            (
                Failure::Overran(Overrun::WallTime { waited }),
                "was not finished after 100 s; it may use 20 s of CPU time",
            ),
        ] {
            let BuildError::Rejected(rejected) = blame(&stage, &failure, most) else {
                unreachable!("a kernel is to blame")
            };
            assert_eq!(rejected.code, RejectCode::KernelRejected);
            assert_eq!(rejected.detail, format!("kernel \"fft\": its trial {how}"));
        }
        let late = Failure::Overran(Overrun::CpuTime);
        assert!(matches!(blame(&BuildStage::Done, &late, most), BuildError::Failed(_)), "ours");
    }
}
