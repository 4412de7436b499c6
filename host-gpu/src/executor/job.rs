//! Jobs: what a submission is to the GPU thread, as steps, with what must live until they are done.

use super::staging::StagingBuffer;
use crate::error::Error;
use crate::grid::Grid;
use crate::kernel::Kernel;
use crate::usage::{Clock, Usage};
use std::sync::Arc;
use tokio::sync::oneshot;

/// One thing that the GPU does.
#[derive(Debug)]
pub(crate) enum Step {
    Dispatch { kernel: Arc<Kernel>, groups: Arc<[wgpu::BindGroup]>, grid: Grid },
    Copy { source: wgpu::Buffer, source_offset: u64, target: wgpu::Buffer, target_offset: u64, size: u64 },
    Clear { target: wgpu::Buffer, offset: u64, size: u64 },
}

/// Work and what must live until it is done.
pub(crate) struct Job {
    pub(crate) steps: Vec<Step>,
    pub(crate) upload: Option<StagingBuffer>,
    /// Receives the header of the last slice, then the reads.
    pub(crate) readback: Option<StagingBuffer>,
    /// Everything else that must live until the work is done: buffers, charges, permits. Dropped when the device reports
    /// the work done.
    pub(crate) keep_alive: Vec<Box<dyn Send>>,
    /// Who is charged. The charge happens here and not where the guest waits, because a guest need
    /// not wait.
    pub(crate) usage: Option<Arc<Usage>>,
    /// GPU time of the request after which it gets no further slice.
    pub(crate) gpu_ns_max: u64,
    /// Whether it only makes a software driver compile: its one dispatch has no workgroups. That is no work on a GPU,
    /// so it needs no lease and costs no GPU time.
    pub(crate) compiles: bool,
    pub(crate) done: oneshot::Sender<JobResult>,
}

/// What becomes of a job.
pub(crate) type JobResult = Result<FinishedJob, Error>;

/// Work that the GPU has finished.
pub(crate) struct FinishedJob {
    pub(crate) gpu_ns: u64,
    pub(crate) slices: u32,
    pub(crate) clock: Clock,
    /// Mapped for reading.
    pub(crate) readback: Option<StagingBuffer>,
}

impl std::fmt::Debug for FinishedJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FinishedJob").field("gpu_ns", &self.gpu_ns).finish_non_exhaustive()
    }
}

impl Job {
    /// A job with nothing to upload or read, that nobody pays for.
    pub(crate) fn new(steps: Vec<Step>) -> (Self, oneshot::Receiver<JobResult>) {
        let (done, receiver) = oneshot::channel();
        let job = Self {
            steps,
            upload: None,
            readback: None,
            keep_alive: Vec::new(),
            usage: None,
            gpu_ns_max: u64::MAX,
            compiles: false,
            done,
        };
        (job, receiver)
    }
}
