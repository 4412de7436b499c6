//! Shares the GPUs among the processes that have a device on them: workers and builders.
//!
//! ```text
//!  join ──────────────┐                              ┌──▶ Granted, Revoked ────▶ the process
//!  its process ended ─┤                              ├──▶ kill, and the kernels it ran are reported
//!  Want, Release ─────┼──▶ [`turns`], one for a GPU ─┤
//!  a probe's result ──┤                              └──▶ a probe: a process that tries a kernel
//!  time ──────────────┘
//! ```
//!
//! One thread of its own does all of this, so that no request makes the GPU wait. The decisions are in [`turns`], which
//! is pure; `thread` carries them out. `member_process` is a process that shares a GPU, as the thread handles it.
//! `membership` is the handle that the owner of such a process has. This file is the arbiter's interface to the rest of
//! the server.

pub mod turns;
mod turns_by_gpu;
mod member_process;
mod event;
mod membership;
mod thread;
#[cfg(test)]
pub(crate) mod simulation;

pub use member_process::{MemberLink, Overstayed};
pub use membership::Membership;
pub use thread::Probe;
pub use turns_by_gpu::SharedGpu;

use crate::gpus::SlotId;
use event::{ArbiterEvent, EventSender};
use gannet_base::names::TenantName;
use gannet_process::spawn::Process;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use thread::ArbiterThread;
use tokio::sync::mpsc;
use turns::Health;
use turns_by_gpu::TurnsByGpu;

/// Capacity of the channel for reports of processes that did not release the GPU. There are few of them, because each
/// such process is killed.
const REPORTS_MAX: usize = 64;

/// The arbiter of all GPUs of this server.
#[derive(Debug)]
pub struct Arbiter {
    turns: Arc<TurnsByGpu>,
    events: EventSender,
    next_member: AtomicU64,
}

impl Arbiter {
    /// Starts the arbiter's thread. The receiver gets a report of each process that is killed because it did not
    /// release the GPU.
    pub fn start(gpus: &[SharedGpu], probe: Probe) -> io::Result<(Arc<Self>, mpsc::Receiver<Overstayed>)> {
        let turns = Arc::new(TurnsByGpu::new(gpus, Instant::now()));
        let (events, inbox) = EventSender::new();
        let (sender, reports) = mpsc::channel(REPORTS_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = ArbiterThread::new(Arc::clone(&turns), events.clone(), sender, probe);
        std::thread::Builder::new().name("arbiter".into()).spawn(move || {
            tokio::task::LocalSet::new().block_on(&runtime, thread.run(inbox));
        })?;
        Ok((Arc::new(Self { turns, events, next_member: AtomicU64::new(1) }), reports))
    }

    /// Adds a process of `tenant` with a device to those that share a GPU. `weight` sets the tenant's share of the GPU.
    pub fn join(
        &self,
        gpu: SlotId,
        tenant: &TenantName,
        weight: u32,
        link: MemberLink,
        process: Process,
    ) -> Membership {
        let id = self.next_member.fetch_add(1, Ordering::Relaxed);
        if let Some(mut turns) = self.turns.lock(gpu) {
            turns.join(id, tenant, weight);
        }
        let overstayed = Arc::<AtomicBool>::default();
        self.events.send(ArbiterEvent::Joined {
            id,
            gpu,
            link,
            process,
            tenant: tenant.clone(),
            overstayed: Arc::clone(&overstayed),
        });
        Membership { id, gpu, turns: Arc::clone(&self.turns), events: self.events.clone(), overstayed }
    }

    /// Whether a GPU can be used; `None` if it is not shared.
    pub fn health(&self, gpu: SlotId) -> Option<Health> {
        self.turns.lock(gpu).map(|turns| turns.health(Instant::now()))
    }

    /// The tenant whose process holds a GPU now.
    pub fn holder(&self, gpu: SlotId) -> Option<TenantName> {
        self.turns.lock(gpu)?.holder().cloned()
    }

    /// How long the GPUs were held, summed over all GPUs.
    pub fn held(&self) -> Duration {
        let now = Instant::now();
        self.turns.lock_each().map(|mut turns| turns.held(now)).sum()
    }

    /// Changes a tenant's weight, on every GPU.
    pub fn set_weight(&self, tenant: &TenantName, weight: u32) {
        for mut turns in self.turns.lock_each() {
            turns.set_weight(tenant, weight);
        }
    }
}
