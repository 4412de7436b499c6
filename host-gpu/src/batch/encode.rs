//! Encodes a batch as a job: steps that the GPU thread records slice by slice.
//!
//! A job first copies the session's pending writes and the inline bytes, then runs the commands in their recorded
//! order. All written bytes come from one upload buffer, and all reads go into one readback buffer. Everything is
//! charged: writes, reads and clears are steps like dispatches.

use super::binding::BoundResource;
use super::{Batch, BatchResources, Command, DispatchCommand};
use crate::buffer::{BUFFER_ALIGNMENT, Buffer};
use crate::error::Error;
use crate::executor::{HEADER_SIZE, Job, JobResult, StagingBuffer, StagingPool, Step};
use crate::kernel::Kernel;
use crate::session::{PendingWrite, Session};
use crate::submission::EncodedBatch;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A job, the receiver of its result, and the offset and size of each read in its readback buffer.
type EncodedJob = (Job, oneshot::Receiver<JobResult>, Vec<(u64, u64)>);

/// Bytes to put into the upload buffer, and the buffer they are copied to.
struct StagedWrite<'a> {
    target: &'a Arc<Buffer>,
    offset: u64,
    data: &'a [u8],
}

impl Batch {
    /// Encodes the batch, with the session's pending writes before it. If this fails, the writes stay pending.
    pub fn encode(&mut self, session: &mut Session) -> Result<EncodedBatch, Error> {
        session.time_left()?;
        self.prepare_arena(session)?;
        let writes = session.take_writes();
        match self.encode_job(session, &writes) {
            Ok((mut job, done, reads)) => {
                self.arena_stale = false;
                for PendingWrite { target, charge, .. } in writes {
                    job.keep_alive.push(Box::new(target));
                    job.keep_alive.push(Box::new(charge));
                }
                Ok(EncodedBatch {
                    job,
                    done,
                    reads,
                    usage: Arc::clone(session.usage()),
                    in_flight: Arc::clone(session.in_flight()),
                    executor: Arc::clone(session.device().executor()),
                })
            }
            Err(error) => {
                session.restore_writes(writes);
                Err(error)
            }
        }
    }

    fn encode_job(&mut self, session: &Session, writes: &[PendingWrite]) -> Result<EncodedJob, Error> {
        let sizes = self.sizes(writes);
        let upload_charge = match sizes.upload {
            0 => None,
            size => Some(session.memory().charge(StagingPool::rounded(size))?),
        };
        let readback_charge = session.memory().charge(StagingPool::rounded(sizes.readback))?;
        let executor = session.device().executor();
        let commands = &mut self.commands;
        let arena = self.arena_buffer.as_ref();
        let arena_bytes = self.arena_stale.then_some(self.arena.as_slice());
        let staging = executor.staging();
        let encoded = executor.scoped(|wgpu| {
            let upload = upload_charge.map(|charge| staging.upload(sizes.upload, charge));
            let readback = staging.readback(sizes.readback, readback_charge);
            let mut encoder = JobEncoder {
                wgpu,
                arena,
                upload,
                readback,
                uploaded: 0,
                steps: Vec::with_capacity(commands.len() + writes.len()),
                reads: Vec::new(),
                groups: HashMap::new(),
            };
            encoder.encode(commands, writes, arena_bytes)?;
            let JobEncoder { upload, readback, steps, reads, .. } = encoder;
            Ok::<_, Error>((steps, upload, readback, reads))
        });
        let (steps, upload, readback, reads) = encoded??;
        let (mut job, receiver) = Job::new(steps);
        job.upload = upload;
        job.readback = Some(readback);
        job.keep_alive.push(Box::new(self.resources()));
        job.usage = Some(Arc::clone(session.usage()));
        job.gpu_ns_max = session.limits().gpu_ns;
        job.loop_work = session.limits().loop_work;
        Ok((job, receiver, reads))
    }

    fn prepare_arena(&mut self, session: &Session) -> Result<(), Error> {
        if self.arena.is_empty() || self.arena_buffer.is_some() {
            return Ok(());
        }
        let step = usize::try_from(BUFFER_ALIGNMENT).unwrap_or(4);
        self.arena.resize(self.arena.len().next_multiple_of(step), 0);
        self.arena_buffer = Some(session.create_buffer(self.arena.len() as u64)?);
        self.arena_stale = true;
        Ok(())
    }

    /// Returns the buffers and kernels that the commands use. They are collected once for any number of submissions.
    fn resources(&mut self) -> Arc<BatchResources> {
        if let Some(resources) = &self.resources {
            return Arc::clone(resources);
        }
        let mut resources = BatchResources::default();
        resources.buffers.extend(self.arena_buffer.iter().cloned());
        for command in &self.commands {
            match command {
                Command::Dispatch(dispatch) => {
                    resources.kernels.push(Arc::clone(&dispatch.kernel));
                    resources.buffers.extend(dispatch.bound.iter().filter_map(|bound| match &bound.resource {
                        BoundResource::Buffer { buffer, .. } | BoundResource::Asset { buffer, .. } => {
                            Some(Arc::clone(buffer))
                        }
                        BoundResource::Inline { .. } => None,
                    }));
                }
                Command::Copy { source, target, .. } => {
                    resources.buffers.extend([Arc::clone(source), Arc::clone(target)]);
                }
                Command::Clear { target: buffer, .. }
                | Command::Write { target: buffer, .. }
                | Command::Read { source: buffer, .. } => resources.buffers.push(Arc::clone(buffer)),
            }
        }
        Arc::clone(self.resources.insert(Arc::new(resources)))
    }

    fn sizes(&self, writes: &[PendingWrite]) -> Sizes {
        let mut sizes = Sizes { upload: 0, readback: HEADER_SIZE };
        for write in writes {
            sizes.upload += aligned(write.data.len() as u64);
        }
        if self.arena_stale {
            sizes.upload += aligned(self.arena.len() as u64);
        }
        for command in &self.commands {
            match command {
                Command::Write { data, .. } => sizes.upload += aligned(data.len() as u64),
                Command::Read { size, .. } => sizes.readback += aligned(*size),
                _ => {}
            }
        }
        sizes
    }
}

/// Rounds a size up to the alignment of mapped ranges.
fn aligned(size: u64) -> u64 {
    size.next_multiple_of(wgpu::MAP_ALIGNMENT)
}

struct Sizes {
    upload: u64,
    readback: u64,
}

struct JobEncoder<'a> {
    wgpu: &'a wgpu::Device,
    arena: Option<&'a Arc<Buffer>>,
    upload: Option<StagingBuffer>,
    readback: StagingBuffer,
    uploaded: u64,
    steps: Vec<Step>,
    reads: Vec<(u64, u64)>,
    /// Bind groups made for this submission. Many dispatches bind the same ranges, and a driver has less work if it
    /// sees the same group again.
    groups: HashMap<GroupKey, wgpu::BindGroup>,
}

/// Key of a bind group: the kernel, the index of its group, and each binding's index, buffer, offset and size.
type GroupKey = (*const Kernel, u32, Vec<(u32, *const Buffer, u64, u64)>);

impl JobEncoder<'_> {
    fn encode(
        &mut self,
        commands: &mut [Command],
        writes: &[PendingWrite],
        arena_bytes: Option<&[u8]>,
    ) -> Result<(), Error> {
        for write in writes {
            self.write(&StagedWrite { target: &write.target, offset: write.offset, data: &write.data })?;
        }
        if let (Some(data), Some(target)) = (arena_bytes, self.arena) {
            self.write(&StagedWrite { target, offset: 0, data })?;
        }
        let mut read_offset = HEADER_SIZE;
        for command in commands {
            self.command(command, &mut read_offset)?;
        }
        Ok(())
    }

    fn command(&mut self, command: &mut Command, read_offset: &mut u64) -> Result<(), Error> {
        let step = match command {
            Command::Dispatch(dispatch) => {
                let groups = self.make_groups(dispatch);
                Step::Dispatch { kernel: Arc::clone(&dispatch.kernel), groups, grid: dispatch.grid }
            }
            Command::Copy { source, source_offset, target, target_offset, size } => Step::Copy {
                source: source.wgpu.clone(),
                source_offset: *source_offset,
                target: target.wgpu.clone(),
                target_offset: *target_offset,
                size: *size,
            },
            Command::Clear { target, offset, size } => {
                Step::Clear { target: target.wgpu.clone(), offset: *offset, size: *size }
            }
            Command::Write { target, offset, data } => {
                return self.write(&StagedWrite { target, offset: *offset, data });
            }
            Command::Read { source, offset, size } => {
                let target_offset = *read_offset;
                self.reads.push((target_offset, *size));
                *read_offset += aligned(*size);
                Step::Copy {
                    source: source.wgpu.clone(),
                    source_offset: *offset,
                    target: self.readback.buffer.clone(),
                    target_offset,
                    size: *size,
                }
            }
        };
        self.steps.push(step);
        Ok(())
    }

    /// Puts bytes into the upload buffer and records the copy to their target.
    fn write(&mut self, write: &StagedWrite<'_>) -> Result<(), Error> {
        let size = write.data.len() as u64;
        if size == 0 {
            return Ok(());
        }
        let staged = self.upload.as_ref().ok_or_else(Error::lost)?;
        if !staged.fill(&mut std::iter::once((self.uploaded, write.data))) {
            return Err(Error::lost());
        }
        self.steps.push(Step::Copy {
            source: staged.buffer.clone(),
            source_offset: self.uploaded,
            target: write.target.wgpu.clone(),
            target_offset: write.offset,
            size,
        });
        self.uploaded += aligned(size);
        Ok(())
    }

    fn make_groups(&mut self, dispatch: &mut DispatchCommand) -> Arc<[wgpu::BindGroup]> {
        if let Some(groups) = &dispatch.groups {
            return Arc::clone(groups);
        }
        let kernel = Arc::clone(&dispatch.kernel);
        let groups = (0u32..).zip(&kernel.layouts).map(|(group, layout)| self.make_group(dispatch, group, layout));
        let groups: Arc<[_]> = groups.collect();
        Arc::clone(dispatch.groups.insert(groups))
    }

    fn make_group(
        &mut self,
        dispatch: &DispatchCommand,
        group: u32,
        layout: &wgpu::BindGroupLayout,
    ) -> wgpu::BindGroup {
        let ranges: Vec<(u32, &Arc<Buffer>, u64, u64)> = dispatch
            .bound
            .iter()
            .filter(|bound| bound.group == group)
            .filter_map(|bound| match &bound.resource {
                BoundResource::Buffer { buffer, offset, size } | BoundResource::Asset { buffer, offset, size } => {
                    Some((bound.index, buffer, *offset, *size))
                }
                BoundResource::Inline { offset, size } => Some((bound.index, self.arena?, *offset, *size)),
            })
            .collect();
        let bound = ranges.iter().map(|(index, buffer, offset, size)| (*index, Arc::as_ptr(buffer), *offset, *size));
        let key = (Arc::as_ptr(&dispatch.kernel), group, bound.collect());
        let made = self.groups.entry(key).or_insert_with(|| {
            let entries: Vec<_> = ranges
                .iter()
                .map(|(index, buffer, offset, size)| wgpu::BindGroupEntry {
                    binding: *index,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &buffer.wgpu,
                        offset: *offset,
                        size: std::num::NonZeroU64::new(*size),
                    }),
                })
                .collect();
            self.wgpu.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
        });
        made.clone()
    }
}
