//! What a stage of a build may take: CPU time, and five times as much wall time, to end a builder that waits. A large
//! component on a busy machine takes long, but no more CPU time than on an idle one. Pure.

use gannet_base::hop::build::BuildStage;
use std::time::Duration;

/// CPU time limit for one kernel: reading, compiling, one dispatch.
const KERNEL_CPU_MAX: Duration = Duration::from_secs(20);
/// CPU time limit for running `init` and reading the memory that it left.
const INIT_CPU_MAX: Duration = Duration::from_secs(30);
/// A stage may take this many times its CPU time, for example while it waits for a GPU or a busy processor.
const WALL_FACTOR: u32 = 5;

/// A limit that a builder passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overrun {
    /// The CPU time of the stage or of the build.
    CpuTime,
    /// The wall time of the stage or of the build.
    WallTime {
        /// The limit.
        waited: Duration,
    },
}

/// Returns the CPU time limit of a stage. `build_max` is that of the whole build (`build_cpu_s`).
pub(super) fn cpu_max(stage: &BuildStage, build_max: Duration) -> Duration {
    match stage {
        BuildStage::Kernel { .. } => KERNEL_CPU_MAX.min(build_max),
        BuildStage::Init => INIT_CPU_MAX.min(build_max),
        BuildStage::Component | BuildStage::Done => build_max,
    }
}

/// CPU time and wall time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    pub(super) cpu: Duration,
    pub(super) wall: Duration,
}

/// What a build has used, in its stage and in all.
#[derive(Debug)]
pub(super) struct StageClock {
    entered: Times,
    build_max: Duration,
}

impl StageClock {
    /// Makes the clock of a build that may use this much CPU time.
    pub(super) fn new(build_max: Duration) -> Self {
        Self { entered: Times::default(), build_max }
    }

    /// Records that a stage begins. `now` is what the build has used so far.
    pub(super) fn enter(&mut self, now: Times) {
        self.entered = now;
    }

    /// Returns the limit that is passed. `now` is what the build has used so far.
    pub(super) fn overrun(&self, stage: &BuildStage, now: Times) -> Option<Overrun> {
        let in_stage =
            Times { cpu: now.cpu.saturating_sub(self.entered.cpu), wall: now.wall.saturating_sub(self.entered.wall) };
        for (used, limit) in [(in_stage, cpu_max(stage, self.build_max)), (now, self.build_max)] {
            if used.cpu > limit {
                return Some(Overrun::CpuTime);
            }
            let waited = limit * WALL_FACTOR;
            if used.wall > waited {
                return Some(Overrun::WallTime { waited });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(cpu_s: u64, wall_s: u64) -> Times {
        Times { cpu: Duration::from_secs(cpu_s), wall: Duration::from_secs(wall_s) }
    }

    #[test]
    fn a_stage_ends_by_its_cpu_time_and_only_a_builder_that_waits_ends_by_wall_time() {
        let mut clock = StageClock::new(Duration::from_secs(180));
        let kernel = BuildStage::Kernel { name: "k".into() };
        clock.enter(times(100, 400));
        assert_eq!(clock.overrun(&kernel, times(120, 499)), None, "20 s in 99 s, on a busy machine");
        assert_eq!(clock.overrun(&kernel, times(121, 421)), Some(Overrun::CpuTime));
        let waited = Duration::from_secs(100);
        assert_eq!(clock.overrun(&kernel, times(100, 501)), Some(Overrun::WallTime { waited }));
        assert_eq!(clock.overrun(&BuildStage::Component, times(181, 500)), Some(Overrun::CpuTime), "all stages");
    }
}
