//! A fake GPU and the processes that share it, in simulated time: the real [`Turns`] on one side, the real [`Lease`] on
//! the other, messages that take a while between them, and a device that runs slices one after the other. The results
//! are the same on every machine.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, clippy::cast_precision_loss)]

use crate::arbiter::turns::{Action, MemberId, Timing, Turns};
use gannet_base::names::TenantName;
use gannet_gpu_protocol::lease::{ArbiterMessage, HolderMessage, Lease, fits_behind};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

const QUANTUM: Duration = Duration::from_millis(10);
const SLICE: Duration = Duration::from_millis(2);
const MESSAGE: Duration = Duration::from_micros(50);
const TIMING: Timing =
    Timing { quantum: QUANTUM, grace: Duration::from_millis(100), cordon: Duration::from_millis(500) };
const REAPING: Duration = Duration::from_millis(5);
const PROBING: Duration = Duration::from_millis(3);

/// What a process does with the GPU.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Load {
    /// Always has more work, in slices of this length.
    Flood(Duration),
    /// Has a small piece of work from time to time.
    Light { work: Duration, every: Duration },
    /// Always has more work, and never gives the GPU back.
    Stuck,
    /// Has work for one period and none for the next.
    OnOff(Duration),
    /// Has a kernel of this length for each request that it gets by [`Simulation::arrive`].
    Requests(Duration),
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A Release or a Want, its epoch, and whether a Release also wants.
    ToArbiter(MemberId, bool, u64, bool),
    /// A Granted or a Revoked, its epoch, and whether others wait.
    ToMember(MemberId, bool, u64, bool),
    SliceEnds(MemberId),
    Arrives(MemberId),
    GpuThreadWakes(MemberId),
    Tick,
    Reaped(MemberId),
    Probed,
}

struct Process {
    load: Load,
    lease: Lease,
    in_flight: usize,
    /// Arrival times of the small pieces of work that were not submitted yet.
    waiting: Vec<Instant>,
    running: Vec<Option<Instant>>,
    used: Duration,
    latencies: Vec<Duration>,
    alive: bool,
}

impl Process {
    fn has_work(&self, since_start: Duration) -> bool {
        match self.load {
            Load::Flood(_) | Load::Stuck => true,
            Load::Light { .. } | Load::Requests(_) => !self.waiting.is_empty(),
            Load::OnOff(period) => (since_start.as_nanos() / period.as_nanos()).is_multiple_of(2),
        }
    }
}

pub(crate) struct Simulation {
    turns: Turns,
    start: Instant,
    now: Instant,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    order: u64,
    gpu_free_at: Instant,
    processes: HashMap<MemberId, Process>,
    kills: Vec<MemberId>,
}

impl Simulation {
    fn new(loads: &[(u32, Load)]) -> Self {
        Self::starting_at(loads, Instant::now())
    }

    pub(crate) fn starting_at(loads: &[(u32, Load)], start: Instant) -> Self {
        let mut simulation = Self {
            turns: Turns::new(TIMING, start),
            start,
            now: start,
            events: BinaryHeap::new(),
            order: 0,
            gpu_free_at: start,
            processes: HashMap::new(),
            kills: Vec::new(),
        };
        for (id, (weight, load)) in (1u64..).zip(loads) {
            let tenant = TenantName::new(&format!("t{id}")).unwrap();
            simulation.turns.join(id, &tenant, *weight);
            let process = Process {
                load: *load,
                lease: Lease::default(),
                in_flight: 0,
                waiting: Vec::new(),
                running: Vec::new(),
                used: Duration::ZERO,
                latencies: Vec::new(),
                alive: true,
            };
            simulation.processes.insert(id, process);
            // The processes do not all start at once.
            simulation.at(Duration::from_micros(id * 730), Event::Arrives(id));
        }
        simulation
    }

    fn at(&mut self, later: Duration, event: Event) {
        self.order += 1;
        self.events.push(Reverse((self.now + later, self.order, event)));
    }

    fn run(&mut self, how_long: Duration) {
        let end = self.now + how_long;
        while let Some(Reverse((when, _, _))) = self.events.peek() {
            if *when > end {
                break;
            }
            let Some(Reverse((when, _, event))) = self.events.pop() else { break };
            self.now = when;
            self.take(event);
        }
    }

    /// Returns when something happens next.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.events.peek().map(|Reverse((when, ..))| *when)
    }

    /// Lets the time pass until then.
    pub(crate) fn run_until(&mut self, then: Instant) {
        self.run(then - self.now);
        self.now = then;
    }

    /// Gives a process another request.
    pub(crate) fn arrive(&mut self, id: MemberId) {
        let now = self.now;
        self.processes.get_mut(&id).unwrap().waiting.push(now);
        self.wake_gpu_thread(id);
    }

    /// Returns how many requests of a process have ended.
    pub(crate) fn ended(&self, id: MemberId) -> usize {
        self.processes[&id].latencies.len()
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::ToArbiter(id, release, epoch, wants) => {
                let message =
                    if release { HolderMessage::Release { epoch, wants } } else { HolderMessage::Want(epoch) };
                let actions = self.turns.on_message(id, message, self.now);
                self.act(actions);
            }
            Event::ToMember(id, granted, epoch, contended) => {
                let message = if granted {
                    ArbiterMessage::Granted { epoch, contended }
                } else {
                    ArbiterMessage::Revoked { epoch }
                };
                let now = self.now;
                let answer = self.processes.get_mut(&id).and_then(|process| process.lease.receive(message, now));
                self.send_to_arbiter(id, answer);
                self.wake_gpu_thread(id);
            }
            Event::SliceEnds(id) => {
                let now = self.now;
                let Some(process) = self.processes.get_mut(&id) else { return };
                process.in_flight -= 1;
                if let Some(Some(came)) = process.running.drain(..1).next() {
                    process.latencies.push(now - came);
                }
                self.wake_gpu_thread(id);
            }
            Event::Arrives(id) => {
                let now = self.now;
                let again = match self.processes.get_mut(&id) {
                    Some(Process { load: Load::Light { every, .. }, waiting, .. }) => {
                        waiting.push(now);
                        *every
                    }
                    Some(Process { load: Load::OnOff(period), .. }) => *period,
                    _ => Duration::from_secs(3600),
                };
                self.at(again, Event::Arrives(id));
                self.wake_gpu_thread(id);
            }
            Event::GpuThreadWakes(id) => self.wake_gpu_thread(id),
            Event::Tick => {
                let actions = self.turns.tick(self.now);
                self.act(actions);
            }
            Event::Reaped(id) => {
                let actions = self.turns.on_exit(id, self.now);
                self.act(actions);
            }
            Event::Probed => {
                let actions = self.turns.probed(true, self.now);
                self.act(actions);
            }
        }
    }

    fn send_to_arbiter(&mut self, id: MemberId, message: Option<HolderMessage>) {
        match message {
            Some(HolderMessage::Want(epoch)) => self.at(MESSAGE, Event::ToArbiter(id, false, epoch, false)),
            Some(HolderMessage::Release { epoch, wants }) => self.at(MESSAGE, Event::ToArbiter(id, true, epoch, wants)),
            None => {}
        }
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Tell(id, ArbiterMessage::Granted { epoch, contended }) => {
                    self.at(MESSAGE, Event::ToMember(id, true, epoch, contended));
                }
                Action::Tell(id, ArbiterMessage::Revoked { epoch }) => {
                    self.at(MESSAGE, Event::ToMember(id, false, epoch, false));
                }
                Action::Kill(id) => {
                    self.kills.push(id);
                    if let Some(process) = self.processes.get_mut(&id) {
                        process.alive = false;
                    }
                    self.at(REAPING, Event::Reaped(id));
                }
                Action::Probe => self.at(PROBING, Event::Probed),
            }
        }
        if let Some(deadline) = self.turns.deadline() {
            self.at(deadline.saturating_duration_since(self.now), Event::Tick);
        }
    }

    /// Does what the GPU thread of a process does whenever something happened: it submits slices, and sends a message
    /// if there is one to send.
    fn wake_gpu_thread(&mut self, id: MemberId) {
        let (now, since_start) = (self.now, self.now - self.start);
        loop {
            let Some(process) = self.processes.get_mut(&id).filter(|process| process.alive) else { return };
            let stuck = matches!(process.load, Load::Stuck) && process.lease.may_submit();
            if stuck || !process.lease.may_submit() || process.in_flight >= 2 || !process.has_work(since_start) {
                break;
            }
            let length = match process.load {
                Load::Light { work, .. } => work,
                Load::Flood(slice) | Load::Requests(slice) => slice,
                Load::OnOff(_) | Load::Stuck => SLICE,
            };
            let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap();
            if !fits_behind(ns(length) * process.in_flight as u64, ns(length), ns(SLICE)) {
                break;
            }
            let came = (!process.waiting.is_empty()).then(|| process.waiting.remove(0));
            process.in_flight += 1;
            process.used += length;
            process.running.push(came);
            self.gpu_free_at = self.gpu_free_at.max(now) + length;
            let end = self.gpu_free_at - now;
            self.at(end, Event::SliceEnds(id));
        }
        let Some(process) = self.processes.get_mut(&id) else { return };
        if matches!(process.load, Load::Stuck) && process.lease.epoch() > 0 {
            return;
        }
        let work = process.has_work(since_start);
        let message = process.lease.next(work, process.in_flight > 0, now);
        let deadline = process.lease.deadline();
        self.send_to_arbiter(id, message);
        if message.is_some() {
            self.at(Duration::ZERO, Event::GpuThreadWakes(id));
        } else if let Some(deadline) = deadline.filter(|_| !work) {
            self.at(deadline.saturating_duration_since(now), Event::GpuThreadWakes(id));
        }
    }

    fn used(&self, id: MemberId) -> f64 {
        self.processes[&id].used.as_secs_f64()
    }

    fn p99(&self, id: MemberId) -> Duration {
        let mut latencies = self.processes[&id].latencies.clone();
        latencies.sort_unstable();
        latencies[latencies.len() * 99 / 100]
    }
}

/// Jain's index of fairness: 1 if all shares are equal, 1/n if one of n has everything.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    sum * sum / (shares.len() as f64 * shares.iter().map(|share| share * share).sum::<f64>())
}

/// Returns Jain's index for `count` tenants that always have more work.
fn flooding(count: usize) -> f64 {
    // Slices of different lengths must not matter.
    let loads: Vec<_> = (0..count).map(|at| (1, Load::Flood(SLICE.mul_f64(0.5 + 0.25 * at as f64)))).collect();
    let mut simulation = Simulation::new(&loads);
    simulation.run(Duration::from_secs(10));
    let shares: Vec<_> = (1..=count as u64).map(|id| simulation.used(id)).collect();
    assert!(shares.iter().sum::<f64>() > 9.5, "the gpu was idle: {shares:?}");
    jain(&shares)
}

#[test]
fn tenants_that_flood_get_equal_shares() {
    for count in [2, 8] {
        let index = flooding(count);
        println!("{count} tenants of equal weight: Jain index {index:.4}");
        assert!(index >= 0.98, "{count} tenants: {index}");
    }
}

#[test]
fn shares_are_as_weights() {
    let loads = [1, 2, 4].map(|weight| (weight, Load::Flood(SLICE)));
    let mut simulation = Simulation::new(&loads);
    simulation.run(Duration::from_secs(20));
    let unit = (1..=3).map(|id| simulation.used(id)).sum::<f64>() / 7.0;
    for (id, weight) in [(1, 1.0), (2, 2.0), (3, 4.0)] {
        let off = simulation.used(id) / unit / weight - 1.0;
        println!("weight {weight}: {:+.2} % off its share", off * 100.0);
        assert!(off.abs() < 0.05, "weight {weight}: {off:+}");
    }
}

#[test]
fn a_light_tenant_waits_a_quantum_and_two_slices_at_most_more_than_alone() {
    let light = Load::Light { work: Duration::from_micros(100), every: Duration::from_micros(50_130) };
    let mut alone = Simulation::new(&[(1, light)]);
    alone.run(Duration::from_secs(60));
    let solo = alone.p99(1);
    // A hostile neighbour's slice is one workgroup that runs as long as its budget lets it.
    let longest = Duration::from_millis(20);
    for (neighbour, hostile) in [(SLICE, Duration::ZERO), (longest, longest)] {
        let mut shared = Simulation::new(&[(1, light), (1, Load::Flood(neighbour))]);
        shared.run(Duration::from_secs(60));
        let bound = solo + 2 * SLICE + QUANTUM + hostile;
        let p99 = shared.p99(1);
        println!("light beside slices of {neighbour:?}: p99 {p99:?}, alone {solo:?}, bound {bound:?}");
        assert!(p99 <= bound, "{p99:?} > {bound:?}");
        assert!(shared.processes[&1].latencies.len() > 1000);
    }
}

#[test]
fn one_that_comes_back_gets_no_credit_for_resting() {
    let mut simulation = Simulation::new(&[(1, Load::Flood(SLICE)), (1, Load::OnOff(Duration::from_secs(2)))]);
    simulation.run(Duration::from_secs(2));
    simulation.run(Duration::from_secs(2));
    let before = (simulation.used(1), simulation.used(2));
    simulation.run(Duration::from_secs(2));
    let shares = [simulation.used(1) - before.0, simulation.used(2) - before.1];
    assert!(jain(&shares) > 0.98, "{shares:?}");
}

#[test]
fn one_that_keeps_the_gpu_is_killed_and_the_others_go_on() {
    let mut simulation = Simulation::new(&[(1, Load::Stuck), (1, Load::Flood(SLICE)), (1, Load::Flood(SLICE))]);
    simulation.run(Duration::from_secs(2));
    assert_eq!(simulation.kills, [1]);
    let shares = [simulation.used(2), simulation.used(3)];
    assert!(jain(&shares) > 0.98 && shares.iter().sum::<f64>() > 1.7, "{shares:?}");
}
