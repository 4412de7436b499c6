//! Batches: lists of commands that are recorded once and submitted any number of times.
//!
//! A batch checks each command when it is recorded, keeps its bind groups between submissions, and
//! has one small buffer (the arena) for all inline bytes. So a token loop of a language model can change a few
//! uniforms and grids without recording anything again. [`encode`] turns a batch into a job.

mod binding;
mod encode;

use crate::buffer::{Buffer, check_range};
use crate::error::Error;
use crate::grid::Grid;
use crate::kernel::Kernel;
use crate::memory::Charge;
use crate::session::Session;
use crate::submission::EncodedBatch;
use binding::{BoundResource, ResolvedBinding};
use std::sync::Arc;

pub use binding::{Binding, BindingSource, INLINE_BYTES_MAX};

/// Limit of commands in one batch. It bounds the work of recording one submission on the host.
pub const COMMANDS_MAX: usize = 4096;

/// A recorded command.
#[derive(Debug)]
pub(crate) enum Command {
    Dispatch(DispatchCommand),
    Copy { source: Arc<Buffer>, source_offset: u64, target: Arc<Buffer>, target_offset: u64, size: u64 },
    Clear { target: Arc<Buffer>, offset: u64, size: u64 },
    Write { target: Arc<Buffer>, offset: u64, data: Vec<u8> },
    Read { source: Arc<Buffer>, offset: u64, size: u64 },
}

#[derive(Debug)]
pub(crate) struct DispatchCommand {
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) bound: Vec<ResolvedBinding>,
    /// Bind groups by group index. Made at a submission; None before that, and after a binding or the arena has
    /// changed.
    pub(crate) groups: Option<Arc<[wgpu::BindGroup]>>,
    pub(crate) grid: Grid,
}

/// A change to a recorded command.
#[derive(Debug)]
pub enum Update {
    /// Replaces inline bytes: command, group, binding, bytes.
    Inline(u32, u32, u32, Vec<u8>),
    /// Moves a buffer binding: command, group, binding, new offset.
    Offset(u32, u32, u32, u64),
    /// Changes the grid of a dispatch: command, grid.
    Grid(u32, Grid),
    /// Replaces the bytes of a write: command, bytes.
    Write(u32, Vec<u8>),
}

/// A list of recorded commands.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) commands: Vec<Command>,
    /// All inline bytes.
    pub(crate) arena: Vec<u8>,
    /// The GPU's copy of the arena; None before the first submission and after the arena has grown.
    pub(crate) arena_buffer: Option<Arc<Buffer>>,
    /// Whether the arena's bytes changed since they were last uploaded.
    pub(crate) arena_stale: bool,
    /// Charges for the host memory of recorded bytes.
    charges: Vec<Charge>,
    /// The buffers and kernels that the commands use. The GPU thread keeps them alive. None after a command was
    /// added, until the next submission.
    pub(crate) resources: Option<Arc<BatchResources>>,
}

/// The buffers and kernels that a batch's commands use, one entry for each use.
#[derive(Debug, Default)]
pub(crate) struct BatchResources {
    pub(crate) buffers: Vec<Arc<Buffer>>,
    pub(crate) kernels: Vec<Arc<Kernel>>,
}

impl Batch {
    /// Records a dispatch of `kernel` over `grid`. Returns the index of the command, as all methods that record do.
    pub fn dispatch(
        &mut self,
        session: &Session,
        kernel: &Arc<Kernel>,
        bindings: Vec<Binding>,
        grid: Grid,
    ) -> Result<u32, Error> {
        self.check_count()?;
        let limits = session.device().limits();
        check_grid(grid, &limits)?;
        let before = self.arena.len();
        let resolved = binding::resolve(kernel, bindings, &limits, &mut self.arena)
            .and_then(|bound| binding::check_aliases(&bound).map(|()| bound));
        let bound = match resolved {
            Ok(bound) => bound,
            Err(error) => {
                self.arena.truncate(before);
                return Err(error);
            }
        };
        let grown = (self.arena.len() - before) as u64;
        if grown > 0 {
            match session.host_memory().charge(grown) {
                Ok(charge) => self.charges.push(charge),
                Err(error) => {
                    self.arena.truncate(before);
                    return Err(error);
                }
            }
            self.arena_grew();
        }
        self.push(Command::Dispatch(DispatchCommand { kernel: Arc::clone(kernel), bound, groups: None, grid }))
    }

    /// Drops the arena's buffer, which is too small now, and all bind groups, since they may refer to it.
    fn arena_grew(&mut self) {
        self.arena_stale = true;
        self.arena_buffer = None;
        self.resources = None;
        for command in &mut self.commands {
            if let Command::Dispatch(dispatch) = command {
                dispatch.groups = None;
            }
        }
    }

    /// Records a copy between two buffers.
    pub fn copy(
        &mut self,
        source: &Arc<Buffer>,
        source_offset: u64,
        target: &Arc<Buffer>,
        target_offset: u64,
        size: u64,
    ) -> Result<u32, Error> {
        check_range("copy source", source_offset, size, source.size())?;
        check_range("copy target", target_offset, size, target.size())?;
        if Arc::ptr_eq(source, target) {
            return Err(Error::InvalidArgument("copy: source and target are the same buffer".into()));
        }
        let (source, target) = (Arc::clone(source), Arc::clone(target));
        self.push(Command::Copy { source, source_offset, target, target_offset, size })
    }

    /// Records the zeroing of a range.
    pub fn clear(&mut self, target: &Arc<Buffer>, offset: u64, size: u64) -> Result<u32, Error> {
        check_range("clear", offset, size, target.size())?;
        self.push(Command::Clear { target: Arc::clone(target), offset, size })
    }

    /// Records a write of `data` into `target` at `offset`.
    pub fn write(&mut self, session: &Session, target: &Arc<Buffer>, offset: u64, data: Vec<u8>) -> Result<u32, Error> {
        self.check_count()?;
        check_range("write", offset, data.len() as u64, target.size())?;
        self.charges.push(session.host_memory().charge(data.len() as u64)?);
        self.push(Command::Write { target: Arc::clone(target), offset, data })
    }

    /// Records a read of a range. Its bytes are returned by the submission.
    pub fn read(&mut self, source: &Arc<Buffer>, offset: u64, size: u64) -> Result<u32, Error> {
        check_range("read", offset, size, source.size())?;
        self.push(Command::Read { source: Arc::clone(source), offset, size })
    }

    /// Encodes a batch of one read.
    pub fn encode_read(
        session: &mut Session,
        source: &Arc<Buffer>,
        offset: u64,
        size: u64,
    ) -> Result<EncodedBatch, Error> {
        let mut batch = Self::default();
        batch.read(source, offset, size)?;
        batch.encode(session)
    }

    fn check_count(&self) -> Result<(), Error> {
        if self.commands.len() >= COMMANDS_MAX {
            return Err(Error::InvalidArgument(format!("the batch has {COMMANDS_MAX} commands; that is the limit")));
        }
        Ok(())
    }

    fn push(&mut self, command: Command) -> Result<u32, Error> {
        self.check_count()?;
        self.resources = None;
        self.commands.push(command);
        // `COMMANDS_MAX` is far below u32::MAX.
        Ok(u32::try_from(self.commands.len() - 1).unwrap_or(u32::MAX))
    }

    /// Applies updates in order. Stops at the first invalid one; those before it stay applied.
    pub fn update(&mut self, session: &Session, updates: Vec<Update>) -> Result<(), Error> {
        let limits = session.device().limits();
        for update in updates {
            match update {
                Update::Grid(command, grid) => {
                    check_grid(grid, &limits)?;
                    self.dispatch_at(command)?.grid = grid;
                }
                Update::Offset(command, group, index, offset) => {
                    let dispatch = self.dispatch_at(command)?;
                    let kernel = Arc::clone(&dispatch.kernel);
                    find(dispatch, command, group, index)?.move_to(offset, &limits, &kernel)?;
                    binding::check_aliases(&dispatch.bound)?;
                    dispatch.groups = None;
                }
                Update::Inline(command, group, index, bytes) => self.update_inline(command, group, index, &bytes)?,
                Update::Write(command, bytes) => self.update_write(command, bytes)?,
            }
        }
        Ok(())
    }

    fn update_inline(&mut self, command: u32, group: u32, index: u32, bytes: &[u8]) -> Result<(), Error> {
        let bound = find(self.dispatch_at(command)?, command, group, index)?;
        let BoundResource::Inline { offset, size } = bound.resource else {
            return Err(no_such(command, &format!("an inline binding at @group({group}) @binding({index})")));
        };
        same_size(command, bytes.len() as u64, size)?;
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let slot = self.arena.get_mut(at..at.saturating_add(bytes.len()));
        slot.ok_or_else(|| no_such(command, "inline bytes"))?.copy_from_slice(bytes);
        self.arena_stale = true;
        Ok(())
    }

    fn update_write(&mut self, command: u32, bytes: Vec<u8>) -> Result<(), Error> {
        match self.commands.get_mut(command as usize) {
            Some(Command::Write { data, .. }) => {
                same_size(command, bytes.len() as u64, data.len() as u64)?;
                *data = bytes;
                Ok(())
            }
            _ => Err(no_such(command, "a write")),
        }
    }

    fn dispatch_at(&mut self, command: u32) -> Result<&mut DispatchCommand, Error> {
        match self.commands.get_mut(command as usize) {
            Some(Command::Dispatch(dispatch)) => Ok(dispatch),
            _ => Err(no_such(command, "a dispatch")),
        }
    }
}

fn find(dispatch: &mut DispatchCommand, command: u32, group: u32, index: u32) -> Result<&mut ResolvedBinding, Error> {
    dispatch
        .bound
        .iter_mut()
        .find(|bound| bound.group == group && bound.index == index)
        .ok_or_else(|| no_such(command, &format!("a binding @group({group}) @binding({index})")))
}

fn no_such(command: u32, what: &str) -> Error {
    Error::InvalidArgument(format!("update: command {command} is not {what}"))
}

fn same_size(command: u32, new: u64, old: u64) -> Result<(), Error> {
    if new == old {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!("update: command {command} was recorded with {old} bytes, not {new}")))
}

fn check_grid(grid: Grid, limits: &wgpu::Limits) -> Result<(), Error> {
    let largest = limits.max_compute_workgroups_per_dimension;
    if grid.iter().any(|n| *n > largest) {
        return Err(Error::InvalidArgument(format!(
            "a grid of {} x {} x {} workgroups; each dimension has at most {largest}",
            grid[0], grid[1], grid[2]
        )));
    }
    Ok(())
}
