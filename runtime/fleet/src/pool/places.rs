//! A function on several places in simulated time: the real table, scaling, arbiter and leases, and a fake GPU in each
//! slot, whose kernels take a fixed time. The results are the same on every machine.

use super::scaling::{Rule, Rules, Scaling, Seen};
use super::table::{ClaimDecision, SlotLimits, WorkerTable};
use crate::arbiter::simulation::{Load, Simulation};
use crate::gpus::SlotId;
use gannet_base::names::TenantName;
use std::time::{Duration, Instant};

const KERNEL: Duration = Duration::from_millis(2);
const LOOK: Duration = Duration::from_millis(250);
const START: Duration = Duration::from_secs(1);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Permits of the function.
const CONCURRENCY: usize = 16;
/// Clients that each send a request as soon as their last one has ended.
const CLIENTS: usize = 24;
/// The process of the tenant on each GPU.
const MEMBER: u64 = 1;

struct Places {
    tenant: TenantName,
    candidates: Vec<Vec<SlotId>>,
    table: WorkerTable<SlotId>,
    rules: Rules,
    scaling: Scaling,
    gpus: Vec<Simulation>,
    now: Instant,
    next_look: Instant,
    /// Workers that are being started, and when they are up.
    starting: Vec<(Instant, SlotId)>,
    clients: usize,
    running: usize,
    /// Requests that have ended, by slot.
    ended: Vec<usize>,
    wanted: usize,
}

impl Places {
    fn new(slots: usize) -> Self {
        let now = Instant::now();
        let limits = SlotLimits { spares: 0, workers_max: 4 };
        let gpu = |_| Simulation::starting_at(&[(1, Load::Requests(KERNEL))], now);
        Self {
            tenant: TenantName::new("acme").unwrap(),
            candidates: vec![(0..slots).collect()],
            table: WorkerTable::new(vec![limits; slots]),
            rules: Rules { rule: Rule::RequestCount(8), min: 0, max: 4, idle_timeout: IDLE_TIMEOUT },
            scaling: Scaling::default(),
            gpus: (0..slots).map(gpu).collect(),
            now,
            next_look: now,
            starting: Vec::new(),
            clients: 0,
            running: 0,
            ended: vec![0; slots],
            wanted: 0,
        }
    }

    fn run(&mut self, how_long: Duration, clients: usize) {
        let end = self.now + how_long;
        self.clients = clients;
        while self.now < end {
            self.begin_requests();
            let starts = self.starting.iter().map(|(at, _)| *at);
            let gpus = self.gpus.iter().filter_map(Simulation::next_at);
            let next = starts.chain(gpus).chain([self.next_look, end]).min().unwrap();
            self.now = next.max(self.now);
            self.gpus.iter_mut().for_each(|gpu| gpu.run_until(next));
            self.end_requests();
            self.look();
        }
    }

    /// Requests with a permit claim a worker, until one has to wait for its start.
    fn begin_requests(&mut self) {
        while self.running < self.clients.min(CONCURRENCY) {
            match self.table.claim(&self.tenant, &self.candidates, self.wanted, self.now) {
                ClaimDecision::Use(slot) => {
                    self.running += 1;
                    self.gpus[slot].arrive(MEMBER);
                }
                ClaimDecision::Start(slot) => self.starting.push((self.now + START, slot)),
                ClaimDecision::Wait => return,
                other => panic!("{other:?}"),
            }
        }
    }

    fn end_requests(&mut self) {
        for (slot, gpu) in self.gpus.iter().enumerate() {
            while self.ended[slot] < gpu.ended(MEMBER) {
                self.ended[slot] += 1;
                self.running -= 1;
                self.table.release(&self.tenant, &slot, IDLE_TIMEOUT, self.now);
            }
        }
    }

    fn look(&mut self) {
        let (up, later): (Vec<_>, Vec<_>) = self.starting.drain(..).partition(|(at, _)| *at <= self.now);
        self.starting = later;
        for (_, slot) in up {
            self.table.started(&self.tenant, slot, slot, self.now);
        }
        if self.now < self.next_look {
            return;
        }
        self.next_look += LOOK;
        let up = self.table.places(&self.tenant, &self.candidates, self.now).len();
        let seen = Seen { requests: self.clients, up, slots: self.gpus.len(), ..Seen::default() };
        self.wanted = self.scaling.decide(&self.rules, seen, self.now);
        if up > 0
            && let Some(start) = self.table.claim_extra(&self.tenant, &self.candidates, self.wanted)
        {
            self.starting.push((self.now + START, start.slot));
        }
        for slot in self.table.retire(self.now) {
            self.table.died(&slot);
        }
    }

    /// Returns the requests that end in a second, once all workers are up.
    fn throughput(slots: usize) -> usize {
        let mut places = Self::new(slots);
        places.run(Duration::from_secs(5), CLIENTS);
        assert_eq!(places.table.places(&places.tenant, &places.candidates, places.now).len(), slots);
        let before: usize = places.ended.iter().sum();
        places.run(Duration::from_secs(20), CLIENTS);
        (places.ended.iter().sum::<usize>() - before) / 20
    }
}

#[test]
fn two_places_serve_at_least_1_8_times_what_one_serves() {
    let [one, two, three] = [1, 2, 3].map(Places::throughput);
    println!("requests a second, each with a kernel of {KERNEL:?}: {one} on one place, {two} on two, {three} on three");
    assert!(one > 450, "the gpu is busy nearly all the time: {one}");
    assert!(two * 10 >= one * 18 && three * 10 >= one * 27, "{one} {two} {three}");
}

#[test]
fn all_places_are_given_back_after_the_idle_timeout() {
    let mut places = Places::new(2);
    places.run(Duration::from_secs(5), CLIENTS);
    let both = places.table.places(&places.tenant, &places.candidates, places.now);
    assert_eq!((both, places.wanted), (vec![0, 1], 2));
    // One client is enough for the first place only.
    places.run(Duration::from_secs(61), 1);
    let first = places.table.places(&places.tenant, &places.candidates, places.now);
    assert_eq!((first, places.wanted), (vec![0], 1));
    places.run(Duration::from_secs(61), 0);
    assert_eq!((places.table.places(&places.tenant, &places.candidates, places.now).len(), places.wanted), (0, 0));
}
