//! The arbiter's thread: it passes events to the [`Turns`] of their GPU, and carries out what those decide.
//!
//! In: events, messages of members, and time. Out: messages to members, kills, reports of processes that did not
//! release the GPU, and probes, whose results come back as events.
//!
//! Invariant: nothing here waits for a process. A slow one is killed, and probes run in tasks of their own.

use super::event::{ArbiterEvent, EventSender};
use super::member_process::{MemberMessage, MemberProcess, Overstayed};
use super::turns::{Action, MemberId, Turns};
use super::turns_by_gpu::TurnsByGpu;
use crate::gpus::SlotId;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// The most messages of members that wait to be handled. Members wait when there are more.
const MESSAGES_MAX: usize = 256;

/// Runs a kernel on a GPU in a process of its own, and returns whether the result was right.
pub type Probe = Box<dyn Fn(SlotId) -> Pin<Box<dyn Future<Output = bool>>> + Send>;

/// What the thread owns.
pub(super) struct ArbiterThread {
    turns: Arc<TurnsByGpu>,
    members: HashMap<MemberId, MemberProcess>,
    /// Where results of probes are sent.
    events: EventSender,
    reports: mpsc::Sender<Overstayed>,
    probe: Probe,
}

impl ArbiterThread {
    /// A thread that is not running yet.
    pub(super) fn new(
        turns: Arc<TurnsByGpu>,
        events: EventSender,
        reports: mpsc::Sender<Overstayed>,
        probe: Probe,
    ) -> Self {
        Self { turns, members: HashMap::new(), events, reports, probe }
    }

    /// Runs the loop on a local task set.
    pub(super) async fn run(mut self, mut events: mpsc::UnboundedReceiver<ArbiterEvent>) {
        let (sender, mut messages) = mpsc::channel::<MemberMessage>(MESSAGES_MAX);
        loop {
            let deadline = self.turns.lock_each().filter_map(|turns| turns.deadline()).min();
            let time = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => self.handle(event, &sender),
                    None => return,
                },
                Some(MemberMessage { gpu, id, message }) = messages.recv() => {
                    self.update(gpu, |turns, now| turns.on_message(id, message, now));
                }
                () = time => {}
            }
            for gpu in self.turns.gpus() {
                self.update(gpu, Turns::tick);
            }
        }
    }

    fn handle(&mut self, event: ArbiterEvent, messages: &mpsc::Sender<MemberMessage>) {
        match event {
            ArbiterEvent::Joined { id, gpu, link, process, tenant, overstayed } => {
                match MemberProcess::open(link, process.clone(), tenant, overstayed) {
                    Ok(member) => {
                        tokio::task::spawn_local(member.forward(gpu, id, messages.clone()));
                        self.members.insert(id, member);
                    }
                    Err(error) => {
                        tracing::error!(%error, "a process could not join a gpu");
                        process.kill();
                    }
                }
            }
            ArbiterEvent::Left { id, gpu, device_lost } => {
                self.members.remove(&id);
                self.update(gpu, |turns, now| {
                    if device_lost {
                        turns.on_device_lost(id, now);
                    }
                    turns.on_exit(id, now)
                });
            }
            ArbiterEvent::Probed { gpu, passed } => {
                tracing::info!(gpu, passed, "a gpu was probed");
                self.update(gpu, |turns, now| turns.probed(passed, now));
            }
        }
    }

    /// Passes what happened to the turns of a GPU, and carries out the actions that they return.
    fn update(&self, gpu: SlotId, happened: impl FnOnce(&mut Turns, Instant) -> Vec<Action>) {
        let actions = self.turns.lock(gpu).map(|mut turns| happened(&mut turns, Instant::now())).unwrap_or_default();
        for action in actions {
            match action {
                Action::Tell(id, message) => {
                    if let Some(member) = self.members.get(&id) {
                        member.send(message);
                    }
                }
                Action::Kill(id) => self.kill(gpu, id),
                Action::Probe => self.start_probe(gpu),
            }
        }
    }

    fn kill(&self, gpu: SlotId, id: MemberId) {
        let Some(member) = self.members.get(&id) else { return };
        if let Err(error) = self.reports.try_send(member.kill_for_overstaying(gpu)) {
            tracing::error!(%error, "a kernel that kept the gpu could not be reported for quarantine");
        }
    }

    fn start_probe(&self, gpu: SlotId) {
        let (probing, events) = ((self.probe)(gpu), self.events.clone());
        tokio::task::spawn_local(async move {
            let passed = probing.await;
            events.send(ArbiterEvent::Probed { gpu, passed });
        });
    }
}
