//! Turns a batch into one command buffer: one submission, one GPU round trip.
//!
//! Layout of a submission: begin timestamp; pending writes, inline bytes and recorded writes, all out
//! of one upload buffer; the commands in order, neighbouring dispatches in one pass; the reads
//! into one readback buffer; end timestamp. Everything between the two timestamps is charged.

use crate::batch::{Batch, Command, Dispatch, Encoded, Named};
use crate::binding::Place;
use crate::buffer::Buffer;
use crate::session::PendingWrite;
use crate::staging::{READS_OFFSET, Staged, Staging, Stamps};
use crate::thread::{Done, Job, Keep};
use crate::{Error, Kernel, Session};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::oneshot;

type Recorded = (Job, oneshot::Receiver<Result<Done, Error>>, Vec<(u64, u64)>);

/// Where one piece of the upload buffer goes.
struct Upload<'a> {
    target: &'a Arc<Buffer>,
    offset: u64,
    data: &'a [u8],
}

impl Batch {
    /// Encodes the batch with the session's pending writes ahead of it. When that is refused, the
    /// writes stay pending.
    pub fn encode(&mut self, session: &mut Session) -> Result<Encoded, Error> {
        session.time_left()?;
        self.prepare_arena(session)?;
        let writes = session.take_writes();
        match self.record(session, &writes) {
            Ok((mut job, done, reads)) => {
                self.arena_stale = false;
                job.keep.extend(writes.into_iter().flat_map(<[Keep; 2]>::from));
                Ok(Encoded {
                    job,
                    done,
                    reads,
                    usage: Arc::clone(session.usage()),
                    in_flight: Arc::clone(session.in_flight()),
                    jobs: session.device().jobs.clone(),
                })
            }
            Err(error) => {
                session.restore_writes(writes);
                Err(error)
            }
        }
    }

    fn record(&mut self, session: &Session, writes: &[PendingWrite]) -> Result<Recorded, Error> {
        let sizes = self.sizes(writes);
        let upload_charge = match sizes.upload {
            0 => None,
            size => Some(session.memory().charge(Staging::rounded(size))?),
        };
        let readback_charge = session.memory().charge(Staging::rounded(sizes.readback))?;
        let device = session.device();
        let commands = &mut self.commands;
        let arena = self.arena_buffer.as_ref();
        let arena_bytes = self.arena_stale.then_some(self.arena.as_slice());
        let staging = &device.staging;
        let encoded = device.scoped(|wgpu| {
            let upload = upload_charge.map(|charge| staging.upload(sizes.upload, charge));
            let readback = staging.readback(sizes.readback, readback_charge);
            let stamps = staging.stamps();
            let mut recorder = Recorder {
                wgpu,
                arena,
                upload,
                readback,
                stamps,
                uploaded: 0,
                reads: Vec::new(),
                groups: HashMap::new(),
            };
            let commands = recorder.record(commands, writes, arena_bytes)?;
            let Recorder { upload, readback, stamps, reads, .. } = recorder;
            Ok::<_, Error>((commands, upload, readback, stamps, reads))
        });
        let (commands, upload, readback, stamps, reads) = encoded??;
        let keep = vec![Keep::Named(self.named())];
        let (done, receiver) = oneshot::channel();
        let usage = Some(Arc::clone(session.usage()));
        Ok((Job { commands, upload, readback: Some(readback), stamps, keep, usage, done }, receiver, reads))
    }

    fn prepare_arena(&mut self, session: &Session) -> Result<(), Error> {
        if self.arena.is_empty() || self.arena_buffer.is_some() {
            return Ok(());
        }
        let step = usize::try_from(crate::buffer::STEP).unwrap_or(4);
        self.arena.resize(self.arena.len().next_multiple_of(step), 0);
        self.arena_buffer = Some(Buffer::create(session, self.arena.len() as u64)?);
        self.arena_stale = true;
        Ok(())
    }

    /// What the commands name, collected once for any number of submissions.
    fn named(&mut self) -> Arc<Named> {
        if let Some(named) = &self.named {
            return Arc::clone(named);
        }
        let mut named = Named::default();
        named.buffers.extend(self.arena_buffer.iter().cloned());
        for command in &self.commands {
            match command {
                Command::Dispatch(dispatch) => {
                    named.kernels.push(Arc::clone(&dispatch.kernel));
                    named.buffers.extend(dispatch.bound.iter().filter_map(|bound| match &bound.place {
                        Place::Buffer { buffer, .. } => Some(Arc::clone(buffer)),
                        Place::Inline { .. } => None,
                    }));
                }
                Command::Copy { source, target, .. } => {
                    named.buffers.extend([Arc::clone(source), Arc::clone(target)]);
                }
                Command::Clear { target: buffer, .. }
                | Command::Write { target: buffer, .. }
                | Command::Read { source: buffer, .. } => named.buffers.push(Arc::clone(buffer)),
            }
        }
        Arc::clone(self.named.insert(Arc::new(named)))
    }

    fn sizes(&self, writes: &[PendingWrite]) -> Sizes {
        let mut sizes = Sizes { upload: 0, readback: READS_OFFSET };
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

/// Mapped ranges begin at multiples of this.
fn aligned(size: u64) -> u64 {
    size.next_multiple_of(wgpu::MAP_ALIGNMENT)
}

struct Sizes {
    upload: u64,
    readback: u64,
}

struct Recorder<'a> {
    wgpu: &'a wgpu::Device,
    arena: Option<&'a Arc<Buffer>>,
    upload: Option<Staged>,
    readback: Staged,
    stamps: Option<Stamps>,
    uploaded: u64,
    reads: Vec<(u64, u64)>,
    /// Bind groups made for this submission: many dispatches bind the same ranges, and a driver that sees
    /// the same group again has less to do.
    groups: HashMap<GroupKey, wgpu::BindGroup>,
}

/// Which kernel's layout, which group of it, and what is bound: index, buffer, offset, size.
type GroupKey = (*const Kernel, u32, Vec<(u32, *const Buffer, u64, u64)>);

impl Recorder<'_> {
    fn record(
        &mut self,
        commands: &mut [Command],
        writes: &[PendingWrite],
        arena_bytes: Option<&[u8]>,
    ) -> Result<wgpu::CommandBuffer, Error> {
        let mut encoder = self.wgpu.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        if let Some(stamps) = &self.stamps {
            encoder.write_timestamp(&stamps.set, 0);
        }
        for write in writes {
            self.write(&mut encoder, &Upload { target: &write.target, offset: write.offset, data: &write.data })?;
        }
        if let (Some(data), Some(target)) = (arena_bytes, self.arena) {
            self.write(&mut encoder, &Upload { target, offset: 0, data })?;
        }
        let mut read_offset = READS_OFFSET;
        let mut rest = commands;
        while !rest.is_empty() {
            let run = rest.iter().take_while(|command| matches!(command, Command::Dispatch(_))).count();
            let (now, after) = rest.split_at_mut(run.max(1));
            match now {
                [Command::Dispatch(_), ..] => self.dispatches(&mut encoder, now),
                [other] => self.transfer(&mut encoder, other, &mut read_offset)?,
                _ => {}
            }
            rest = after;
        }
        if let Some(stamps) = &self.stamps {
            encoder.write_timestamp(&stamps.set, 1);
            encoder.resolve_query_set(&stamps.set, 0..2, &stamps.resolved, 0);
            encoder.copy_buffer_to_buffer(&stamps.resolved, 0, &self.readback.buffer, 0, READS_OFFSET);
        }
        Ok(encoder.finish())
    }

    /// Records a command that is not a dispatch.
    fn transfer(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        command: &Command,
        read_offset: &mut u64,
    ) -> Result<(), Error> {
        match command {
            Command::Dispatch(_) => {}
            Command::Copy { source, source_offset, target, target_offset, size } => {
                encoder.copy_buffer_to_buffer(&source.wgpu, *source_offset, &target.wgpu, *target_offset, *size);
            }
            Command::Clear { target, offset, size } => encoder.clear_buffer(&target.wgpu, *offset, Some(*size)),
            Command::Write { target, offset, data } => {
                self.write(encoder, &Upload { target, offset: *offset, data })?;
            }
            Command::Read { source, offset, size } => {
                encoder.copy_buffer_to_buffer(&source.wgpu, *offset, &self.readback.buffer, *read_offset, *size);
                self.reads.push((*read_offset, *size));
                *read_offset += aligned(*size);
            }
        }
        Ok(())
    }

    /// Puts bytes into the upload buffer and records their copy from there.
    fn write(&mut self, encoder: &mut wgpu::CommandEncoder, upload: &Upload<'_>) -> Result<(), Error> {
        let size = upload.data.len() as u64;
        if size == 0 {
            return Ok(());
        }
        let staged = self.upload.as_ref().ok_or_else(Error::lost)?;
        if !staged.fill(&mut std::iter::once((self.uploaded, upload.data))) {
            return Err(Error::lost());
        }
        encoder.copy_buffer_to_buffer(&staged.buffer, self.uploaded, &upload.target.wgpu, upload.offset, size);
        self.uploaded += aligned(size);
        Ok(())
    }

    fn dispatches(&mut self, encoder: &mut wgpu::CommandEncoder, commands: &mut [Command]) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        let mut pipeline: Option<*const Kernel> = None;
        for command in commands {
            let Command::Dispatch(dispatch) = command else { continue };
            if dispatch.grid.contains(&0) {
                continue;
            }
            self.make_groups(dispatch);
            let this = Arc::as_ptr(&dispatch.kernel);
            if pipeline != Some(this) {
                pass.set_pipeline(&dispatch.kernel.pipeline);
                pipeline = Some(this);
            }
            for (group, bind_group) in (0u32..).zip(&dispatch.groups) {
                pass.set_bind_group(group, bind_group, &[]);
            }
            let [x, y, z] = dispatch.grid;
            pass.dispatch_workgroups(x, y, z);
        }
    }

    fn make_groups(&mut self, dispatch: &mut Dispatch) {
        if dispatch.groups.len() == dispatch.kernel.layouts.len() {
            return;
        }
        let groups = (0u32..).zip(&dispatch.kernel.layouts);
        dispatch.groups = groups.map(|(group, layout)| self.make_group(dispatch, group, layout)).collect();
    }

    fn make_group(&mut self, dispatch: &Dispatch, group: u32, layout: &wgpu::BindGroupLayout) -> wgpu::BindGroup {
        let ranges: Vec<(u32, &Arc<Buffer>, u64, u64)> = dispatch
            .bound
            .iter()
            .filter(|bound| bound.group == group)
            .filter_map(|bound| match &bound.place {
                Place::Buffer { buffer, offset, size } => Some((bound.index, buffer, *offset, *size)),
                Place::Inline { offset, size } => Some((bound.index, self.arena?, *offset, *size)),
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
