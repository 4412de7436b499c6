//! Jobs: a submission as a list of steps for the GPU thread, with everything that must live until the steps are done.

use super::staging::StagingBuffer;
use crate::error::Error;
use crate::grid::Grid;
use crate::kernel::{Kernel, LOOP_WORK};
use crate::usage::{Clock, Usage};
use std::sync::Arc;
use tokio::sync::oneshot;

/// One command for the GPU.
#[derive(Debug)]
pub(crate) enum Step {
    Dispatch { kernel: Arc<Kernel>, groups: Arc<[wgpu::BindGroup]>, grid: Grid },
    Copy { source: wgpu::Buffer, source_offset: u64, target: wgpu::Buffer, target_offset: u64, size: u64 },
    Clear { target: wgpu::Buffer, offset: u64, size: u64 },
}

/// Steps, and everything that must live until they are done.
pub(crate) struct Job {
    pub(crate) steps: Vec<Step>,
    pub(crate) upload: Option<StagingBuffer>,
    /// Receives the header of the last slice, followed by the bytes of the reads.
    pub(crate) readback: Option<StagingBuffer>,
    /// Everything else that must live until the work is done: buffers, charges, permits. It is dropped when the device
    /// has reported that the work is done.
    pub(crate) keep_alive: Vec<Box<dyn Send>>,
    /// The usage that is charged. The GPU thread charges it, not the code that waits for the result, because a guest
    /// need not wait.
    pub(crate) usage: Option<Arc<Usage>>,
    /// The request's limit of GPU time in nanoseconds. When it is used up, the job gets no further slice.
    pub(crate) gpu_ns_max: u64,
    /// The request's limit of work of one invocation's loops.
    pub(crate) loop_work: u32,
    /// Whether the job only makes a software driver compile a kernel: its one dispatch has no workgroups. That is no
    /// work for the GPU, so it needs no lease and costs no GPU time.
    pub(crate) compiles: bool,
    pub(crate) done: oneshot::Sender<JobResult>,
}

/// The result of a job.
pub(crate) type JobResult = Result<FinishedJob, Error>;

/// Work that the GPU has finished.
pub(crate) struct FinishedJob {
    pub(crate) gpu_ns: u64,
    pub(crate) slices: u32,
    pub(crate) clock: Clock,
    /// The job's readback buffer, mapped for reading.
    pub(crate) readback: Option<StagingBuffer>,
}

impl std::fmt::Debug for FinishedJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FinishedJob").field("gpu_ns", &self.gpu_ns).finish_non_exhaustive()
    }
}

impl Job {
    /// Makes a job without uploads, reads and charges. Returns it with the receiver of its result.
    pub(crate) fn new(steps: Vec<Step>) -> (Self, oneshot::Receiver<JobResult>) {
        let (done, receiver) = oneshot::channel();
        let job = Self {
            steps,
            upload: None,
            readback: None,
            keep_alive: Vec::new(),
            usage: None,
            gpu_ns_max: u64::MAX,
            loop_work: LOOP_WORK,
            compiles: false,
            done,
        };
        (job, receiver)
    }
}
