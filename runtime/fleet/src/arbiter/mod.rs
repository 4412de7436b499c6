//! Shares the GPUs among the processes that have a device on them: workers and builders.
//!
//! ```text
//!  join ──────────────┐                              ┌──▶ Granted, AskedBack ──▶ the process
//!  its process ended ─┤                              ├──▶ kill, and the kernels it ran are reported
//!  Want, Release ─────┼──▶ [`turns`], one for a GPU ─┤
//!  a probe's result ──┤                              └──▶ a probe: a process that tries a kernel
//!  time ──────────────┘
//! ```
//!
//! One thread of its own does all of this, so that no request makes the GPU wait. The decisions are in [`turns`], which is
//! pure; here they are carried out. A process that says what is no message, or does not read what it is told, is killed.
//!
//! Invariant: what a process says concerns its own membership only, which comes from the socket it said it on.

#[cfg(test)]
mod simulation;
pub mod turns;

use crate::gpus::Place;
use gannet_base::names::TenantName;
use gannet_gpu_protocol::lease::{ArbiterMessage, HolderMessage};
use gannet_gpu_protocol::running_kernels::longest_running;
use gannet_process::channel::Channel;
use gannet_process::spawn::Process;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use turns::{Action, Health, MemberId, Timing, Turns};

/// What processes may have said and was not looked at yet.
const SAID_MAX: usize = 256;
/// Members that overstayed and were not reported yet. They are few: each is a process that was killed.
const OVERSTAYED_MAX: usize = 64;

/// One GPU, as the arbiter shares it.
#[derive(Debug, Clone, Copy)]
pub struct Shared {
    /// Its place.
    pub gpu: Place,
    /// Its times.
    pub timing: Timing,
}

/// The front door's ends of what a process with a device was given.
#[derive(Debug)]
pub struct Ends {
    /// Leases.
    pub socket: OwnedFd,
    /// Where it notes what runs.
    pub notes: File,
}

/// A process that kept the GPU and was killed for it.
#[derive(Debug)]
pub struct Overstayed {
    /// Whose it was.
    pub tenant: TenantName,
    /// Hashes of the sources of the kernels that ran.
    pub kernels: Vec<[u8; 32]>,
}

/// Tries a kernel on a GPU in a process of its own.
pub type Probe = Box<dyn Fn(Place) -> std::pin::Pin<Box<dyn Future<Output = bool>>> + Send>;

enum Order {
    Join { id: MemberId, gpu: Place, ends: Ends, process: Process, overstayed: Arc<AtomicBool>, tenant: TenantName },
    Left { id: MemberId, gpu: Place, lost: bool },
    Probed { gpu: Place, passed: bool },
}

/// See the module.
#[derive(Debug)]
pub struct Arbiter {
    turns: BTreeMap<Place, Mutex<Turns>>,
    /// Unbounded because a full one would lose a GPU; there are at most two orders for each process, and processes
    /// are bounded.
    orders: mpsc::UnboundedSender<Order>,
    next: AtomicU64,
}

impl Arbiter {
    /// Starts the thread. Who overstays is told to the receiver.
    pub fn start(gpus: &[Shared], probe: Probe) -> io::Result<(Arc<Self>, mpsc::Receiver<Overstayed>)> {
        let now = Instant::now();
        let turns = gpus.iter().map(|shared| (shared.gpu, Mutex::new(Turns::new(shared.timing, now)))).collect();
        let (orders, inbox) = mpsc::unbounded_channel();
        let (overstayed, reports) = mpsc::channel(OVERSTAYED_MAX);
        let arbiter = Arc::new(Self { turns, orders, next: AtomicU64::new(1) });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = Thread { arbiter: Arc::clone(&arbiter), members: HashMap::new(), overstayed, probe };
        std::thread::Builder::new().name("arbiter".into()).spawn(move || {
            tokio::task::LocalSet::new().block_on(&runtime, thread.run(inbox));
        })?;
        Ok((arbiter, reports))
    }

    /// Lets a process with a device take part, for a tenant. Until the membership's [`Membership::left`] it may
    /// hold the GPU.
    pub fn join(
        self: &Arc<Self>,
        gpu: Place,
        tenant: &TenantName,
        weight: u32,
        ends: Ends,
        process: Process,
    ) -> Membership {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(mut turns) = self.turns(gpu) {
            turns.join(id, tenant, weight);
        }
        let overstayed = Arc::<AtomicBool>::default();
        let told = Arc::clone(&overstayed);
        self.send(Order::Join { id, gpu, ends, process, overstayed: told, tenant: tenant.clone() });
        Membership { id, gpu, arbiter: Arc::clone(self), overstayed }
    }

    /// Whether a GPU can be used.
    pub fn health(&self, gpu: Place) -> Option<Health> {
        self.turns(gpu).map(|turns| turns.health(Instant::now()))
    }

    /// The tenant that holds a GPU now.
    pub fn holder(&self, gpu: Place) -> Option<TenantName> {
        self.turns(gpu)?.holder().cloned()
    }

    /// How long the GPUs were held, all together.
    pub fn held(&self) -> Duration {
        let now = Instant::now();
        let held = |turns: &Mutex<Turns>| turns.lock().unwrap_or_else(PoisonError::into_inner).held(now);
        self.turns.values().map(held).sum()
    }

    /// Gives a tenant another share, on every GPU.
    pub fn set_weight(&self, tenant: &TenantName, weight: u32) {
        for turns in self.turns.values() {
            turns.lock().unwrap_or_else(PoisonError::into_inner).set_weight(tenant, weight);
        }
    }

    fn turns(&self, gpu: Place) -> Option<MutexGuard<'_, Turns>> {
        self.turns.get(&gpu).map(|turns| turns.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn send(&self, order: Order) {
        if self.orders.send(order).is_err() {
            tracing::error!("the arbiter's thread is gone");
        }
    }
}

/// A process's part in a GPU.
#[derive(Debug)]
pub struct Membership {
    id: MemberId,
    gpu: Place,
    arbiter: Arc<Arbiter>,
    overstayed: Arc<AtomicBool>,
}

impl Membership {
    /// How much of `reported` GPU time the process can have used: never more than it held the GPU.
    pub fn bill(&self, reported: Duration) -> Duration {
        self.arbiter.turns(self.gpu).map_or(reported, |mut turns| turns.bill(self.id, reported, Instant::now()))
    }

    /// How long the process has held the GPU that no request was billed for.
    pub fn unbilled(&self) -> Duration {
        self.arbiter.turns(self.gpu).map_or(Duration::ZERO, |mut turns| turns.unbilled(self.id, Instant::now()))
    }

    /// Its process has ended and was reaped; `lost` if that was because its device was lost.
    pub fn left(&self, lost: bool) {
        self.arbiter.send(Order::Left { id: self.id, gpu: self.gpu, lost });
    }

    /// Whether it was killed because it kept the GPU.
    pub fn overstayed(&self) -> bool {
        self.overstayed.load(Ordering::Relaxed)
    }
}

struct Member {
    channel: Arc<Channel>,
    notes: File,
    process: Process,
    overstayed: Arc<AtomicBool>,
    tenant: TenantName,
}

struct Thread {
    arbiter: Arc<Arbiter>,
    members: HashMap<MemberId, Member>,
    overstayed: mpsc::Sender<Overstayed>,
    probe: Probe,
}

impl Thread {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let (says, mut said) = mpsc::channel::<(Place, MemberId, HolderMessage)>(SAID_MAX);
        loop {
            let deadlines = self.arbiter.turns.keys().filter_map(|gpu| self.arbiter.turns(*gpu)?.deadline());
            let deadline = deadlines.min();
            let time = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(order) => self.order(order, &says),
                    None => return,
                },
                Some((gpu, id, ask)) = said.recv() => self.turn(gpu, |turns, now| turns.asked(id, ask, now)),
                () = time => {}
            }
            for gpu in self.arbiter.turns.keys().copied().collect::<Vec<_>>() {
                self.turn(gpu, Turns::tick);
            }
        }
    }

    fn order(&mut self, order: Order, says: &mpsc::Sender<(Place, MemberId, HolderMessage)>) {
        match order {
            Order::Join { id, gpu, ends, process, overstayed, tenant } => {
                let channel = match Channel::new(ends.socket) {
                    Ok(channel) => Arc::new(channel),
                    Err(error) => {
                        tracing::error!(%error, "a process cannot take part in a gpu");
                        return process.kill();
                    }
                };
                let listening = listen(gpu, id, Arc::clone(&channel), process.clone(), says.clone());
                tokio::task::spawn_local(listening);
                self.members.insert(id, Member { channel, notes: ends.notes, process, overstayed, tenant });
            }
            Order::Left { id, gpu, lost } => {
                self.members.remove(&id);
                self.turn(gpu, |turns, now| {
                    if lost {
                        turns.lost(id, now);
                    }
                    turns.left(id, now)
                });
            }
            Order::Probed { gpu, passed } => {
                tracing::info!(gpu, passed, "a gpu was probed");
                self.turn(gpu, |turns, now| turns.probed(passed, now));
            }
        }
    }

    fn turn(&mut self, gpu: Place, event: impl FnOnce(&mut Turns, Instant) -> Vec<Action>) {
        let actions = self.arbiter.turns(gpu).map(|mut turns| event(&mut turns, Instant::now())).unwrap_or_default();
        for action in actions {
            match action {
                Action::Tell(id, told) => self.tell(id, told),
                Action::Kill(id) => self.kill(gpu, id),
                Action::Probe => {
                    let (probing, arbiter) = ((self.probe)(gpu), Arc::clone(&self.arbiter));
                    tokio::task::spawn_local(async move {
                        let passed = probing.await;
                        arbiter.send(Order::Probed { gpu, passed });
                    });
                }
            }
        }
    }

    fn tell(&self, id: MemberId, told: ArbiterMessage) {
        let Some(member) = self.members.get(&id) else { return };
        if let Err(error) = member.channel.try_send(&told) {
            tracing::debug!(process = member.process.id(), %error, "a process does not hear of its lease");
            member.process.kill();
        }
    }

    fn kill(&self, gpu: Place, id: MemberId) {
        let Some(member) = self.members.get(&id) else { return };
        let kernels = longest_running(&member.notes);
        tracing::warn!(gpu, process = member.process.id(), tenant = %member.tenant, kernels = kernels.len(),
            "a process kept the gpu and is killed");
        member.overstayed.store(true, Ordering::Relaxed);
        member.process.kill();
        let report = Overstayed { tenant: member.tenant.clone(), kernels };
        if let Err(error) = self.overstayed.try_send(report) {
            tracing::error!(%error, "a kernel that kept the gpu is not quarantined");
        }
    }
}

/// Reads what one process says, for as long as it lives.
async fn listen(
    gpu: Place,
    id: MemberId,
    channel: Arc<Channel>,
    process: Process,
    says: mpsc::Sender<(Place, MemberId, HolderMessage)>,
) {
    loop {
        match channel.receive::<HolderMessage>().await {
            Ok((ask, _)) => {
                if says.send((gpu, id, ask)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(process = process.id(), %error, "a lease socket ended");
                return process.kill();
            }
        }
    }
}
