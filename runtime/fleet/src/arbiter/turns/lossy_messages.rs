//! Random messages that get lost, doubled or out of order: the real [`Turns`] and the real [`Lease`] of three
//! processes.
//!
//! Property: at most one process holds the GPU at any time, and every living process that wants it gets it as soon as
//! messages arrive again.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::tests::{TIMING, tenant};
use super::{Action, MemberId, Turns};
use gannet_gpu_protocol::lease::{ArbiterMessage, HolderMessage, Lease};
use proptest::prelude::*;
use std::time::{Duration, Instant};

struct Process {
    lease: Lease,
    work: bool,
    in_flight: bool,
    alive: bool,
}

/// An arbiter and its processes. The network between them loses, doubles and reorders messages.
struct World {
    turns: Turns,
    now: Instant,
    processes: Vec<Process>,
    to_arbiter: Vec<(MemberId, HolderMessage)>,
    to_process: Vec<(MemberId, ArbiterMessage)>,
    dying: Vec<MemberId>,
    probing: bool,
}

/// Something that happens next. A number names the process that it happens to.
#[derive(Debug, Clone)]
enum Step {
    /// The process has work from now on.
    Work(usize),
    /// The process has no work any more.
    Done(usize),
    /// The process submits a slice, if it may.
    Submit(usize),
    /// Its slice ends.
    Finish(usize),
    /// One of the messages on their way to the arbiter is delivered, delivered twice, or lost.
    ToArbiter(usize, Fate),
    /// The same for a message to a process.
    ToProcess(usize, Fate),
    /// This many milliseconds pass.
    Pass(u64),
    /// The process dies.
    Die(usize),
    /// A dead process is reaped.
    Reap,
    /// The probe that runs ends; true if it passes.
    Probe(bool),
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Arrives,
    ArrivesTwice,
    IsLost,
}

fn step() -> impl Strategy<Value = Step> {
    let fate = || prop_oneof![8 => Just(Fate::Arrives), 1 => Just(Fate::ArrivesTwice), 1 => Just(Fate::IsLost)];
    prop_oneof![
        4 => (0usize..3).prop_map(Step::Work),
        2 => (0usize..3).prop_map(Step::Done),
        4 => (0usize..3).prop_map(Step::Submit),
        4 => (0usize..3).prop_map(Step::Finish),
        8 => (0usize..8, fate()).prop_map(|(at, fate)| Step::ToArbiter(at, fate)),
        8 => (0usize..8, fate()).prop_map(|(at, fate)| Step::ToProcess(at, fate)),
        6 => (0u64..40).prop_map(Step::Pass),
        1 => (0usize..3).prop_map(Step::Die),
        2 => Just(Step::Reap),
        2 => any::<bool>().prop_map(Step::Probe),
    ]
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let mut turns = Turns::new(TIMING, now);
        let mut processes = Vec::new();
        for id in 0..3 {
            turns.join(id, &tenant(id), 1);
            processes.push(Process { lease: Lease::default(), work: false, in_flight: false, alive: true });
        }
        let (to_arbiter, to_process, dying) = Default::default();
        Self { turns, now, processes, to_arbiter, to_process, dying, probing: false }
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Tell(id, message) => self.to_process.push((id, message)),
                Action::Kill(id) => self.die(id),
                Action::Probe => self.probing = true,
            }
        }
    }

    fn die(&mut self, id: MemberId) {
        let process = &mut self.processes[usize::try_from(id).unwrap()];
        if std::mem::replace(&mut process.alive, false) {
            self.dying.push(id);
        }
    }

    /// A process sends a message if its lease has one to send.
    fn wake_gpu_thread(&mut self, at: usize) {
        let process = &mut self.processes[at];
        if process.alive
            && let Some(message) = process.lease.next(process.work, process.in_flight, self.now)
        {
            self.to_arbiter.push((at as u64, message));
        }
    }

    fn deliver_to_process(&mut self, id: MemberId, message: ArbiterMessage) {
        let process = &mut self.processes[usize::try_from(id).unwrap()];
        if process.alive
            && let Some(message) = process.lease.receive(message, self.now)
        {
            self.to_arbiter.push((id, message));
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Work(at) => self.processes[*at].work = true,
            Step::Done(at) => self.processes[*at].work = false,
            Step::Submit(at) => {
                let process = &mut self.processes[*at];
                process.in_flight |= process.alive && process.work && process.lease.may_submit();
            }
            Step::Finish(at) => self.processes[*at].in_flight = false,
            Step::ToArbiter(at, fate) if !self.to_arbiter.is_empty() => {
                let (id, message) = self.to_arbiter.remove(at % self.to_arbiter.len());
                for _ in 0..count(*fate) {
                    let actions = self.turns.on_message(id, message, self.now);
                    self.act(actions);
                }
            }
            Step::ToProcess(at, fate) if !self.to_process.is_empty() => {
                let (id, message) = self.to_process.remove(at % self.to_process.len());
                for _ in 0..count(*fate) {
                    self.deliver_to_process(id, message);
                }
            }
            Step::Pass(ms) => {
                self.now += Duration::from_millis(*ms);
                let actions = self.turns.tick(self.now);
                self.act(actions);
            }
            Step::Die(at) => self.die(*at as u64),
            Step::Reap => {
                if let Some(id) = self.dying.pop() {
                    self.processes[usize::try_from(id).unwrap()].in_flight = false;
                    let actions = self.turns.on_exit(id, self.now);
                    self.act(actions);
                }
            }
            Step::Probe(passed) if self.probing => {
                self.probing = false;
                let actions = self.turns.probed(*passed, self.now);
                self.act(actions);
            }
            Step::ToArbiter(..) | Step::ToProcess(..) | Step::Probe(_) => {}
        }
        for at in 0..3 {
            self.wake_gpu_thread(at);
        }
    }

    /// How many processes may have work on the GPU. One that was killed may have some until it is reaped.
    fn holders(&self) -> usize {
        let holds = |process: &Process| process.in_flight || (process.alive && process.lease.may_submit());
        self.processes.iter().filter(|process| holds(process)).count()
    }
}

fn count(fate: Fate) -> usize {
    match fate {
        Fate::Arrives => 1,
        Fate::ArrivesTwice => 2,
        Fate::IsLost => 0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_order_or_loss_of_messages_grants_the_gpu_to_two_or_to_nobody(steps in prop::collection::vec(step(), 0..150)) {
        let mut world = World::new();
        for step in steps {
            world.take(&step);
            prop_assert!(world.holders() <= 1);
        }
        // From here on messages arrive, so every living process that has work must get the GPU.
        for at in 0..3 {
            let wanting = world.processes[at].alive;
            world.processes[at].work = wanting;
            let mut got = !wanting;
            for _ in 0..600 {
                for step in [
                    Step::ToArbiter(0, Fate::Arrives),
                    Step::ToProcess(0, Fate::Arrives),
                    Step::Finish(0),
                    Step::Finish(1),
                    Step::Finish(2),
                    Step::Reap,
                    Step::Probe(true),
                    Step::Pass(10),
                ] {
                    world.take(&step);
                    prop_assert!(world.holders() <= 1);
                    got |= world.processes[at].lease.may_submit() || !world.processes[at].alive;
                }
            }
            prop_assert!(got, "process {at} was never granted the gpu: {:?}", world.turns);
        }
    }
}
