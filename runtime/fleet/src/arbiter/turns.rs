//! Whose turn it is on one GPU: the pure part. It holds no lock, awaits nothing and is told the time.
//!
//! ```text
//!                grant                 quantum over, others are due         release
//!   Free ──────────────────▶ Held ──────────────────────────────▶ Held, asked ──────▶ Free
//!     ▲                       │ its process ended                   │ grace over: kill
//!     │                       │                                     ▼
//!     │                       │                                  Reaping
//!     │      passed           ▼            its process ended        │
//!     └──────────────────  Probing  ◀───────────────────────────────┘
//!                           │    ▲
//!                    failed ▼    │ later
//!                          Cordoned
//! ```
//!
//! Members are processes with a GPU device: workers and builders. Each belongs to a tenant, and tenants share the GPU by
//! weighted virtual time: a tenant's advances with the time its members hold the GPU while others wait, divided by its
//! weight, and the tenant that is furthest behind is next. A tenant that comes back starts at the virtual time of the
//! latest grant, so it has no credit from idling (start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996).
//! The time is the arbiter's own: what a member says changes only whether it waits or gives back.
//!
//! Invariants: at most one member holds the GPU; while anyone waits, the GPU is held, or on its way back, or not trusted;
//! after a member died with the GPU or overstayed, nobody is granted it until the process is gone and a probe passed.

use gannet_base::names::TenantName;
use gannet_gpu_protocol::lease::{ArbiterMessage, Epoch, HolderMessage};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// A process with a GPU device, numbered by the arbiter's caller; never used again.
pub type MemberId = u64;

/// Members that are gone and whose unpaid time is remembered: requests learn a little later that their worker ended.
const GONE_MAX: usize = 256;
/// Losses of devices so close together have one cause.
const LOSSES_WITHIN: Duration = Duration::from_secs(60);

/// Deaths with the GPU further apart are not counted together.
const DEATHS_WITHIN: Duration = Duration::from_secs(300);
/// Deaths with the GPU that cost a tenant nothing.
const DEATHS_FREE: u32 = 2;
/// For how long the next one bars it from the GPU; each further one doubles it.
const BAR_FIRST: Duration = Duration::from_secs(1);
const BAR_MAX: Duration = Duration::from_secs(60);
/// A process that was killed and is not gone after this hangs where no signal reaches it.
const REAPING_MAX: Duration = Duration::from_secs(5);
/// Doubts about a GPU lead to a probe at most this often.
const DOUBT_EVERY: Duration = Duration::from_secs(10);

/// What the arbiter wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Tell a member.
    Tell(MemberId, ArbiterMessage),
    /// End a member that kept the GPU.
    Kill(MemberId),
    /// See whether the GPU works, and say so by [`Turns::probed`].
    Probe,
}

/// The arbiter's times.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long a member may hold the GPU while others wait.
    pub quantum: Duration,
    /// How long it may take to give it back.
    pub grace: Duration,
    /// How long a GPU rests after a failed probe; each further one in a row doubles it, 64 times at most.
    pub cordon: Duration,
}

/// Whether a GPU can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It can.
    Ok,
    /// A process that held it died or is being ended; it is tried before anyone gets it.
    Probing,
    /// It failed its probe and rests.
    Cordoned,
}

#[derive(Debug, Default)]
struct Account {
    /// Nanoseconds, divided by the weight.
    virtual_ns: u64,
    weight: u64,
    members: usize,
    /// How often its members died with the GPU, none more than [`DEATHS_WITHIN`] after the one before, and the latest time.
    deaths: u32,
    died: Option<Instant>,
}

impl Account {
    /// Until when it gets no grant: each death costs the others a probe.
    fn barred_until(&self) -> Option<Instant> {
        let beyond = self.deaths.checked_sub(DEATHS_FREE + 1)?;
        Some(self.died? + BAR_FIRST.saturating_mul(1 << beyond.min(6)).min(BAR_MAX))
    }
}

#[derive(Debug)]
struct Member {
    tenant: TenantName,
    /// Its place in the order of arrival, if it waits.
    waits: Option<u64>,
    /// Time it held the GPU and no request was billed for yet.
    unbilled: Duration,
    /// Whether it ever held the GPU.
    granted: bool,
}

#[derive(Debug, Clone)]
enum Gpu {
    Free,
    /// `quantum` is when its present quantum began.
    Held {
        by: MemberId,
        quantum: Instant,
        asked: Option<Instant>,
    },
    Reaping {
        member: MemberId,
        since: Instant,
    },
    Probing,
    Cordoned {
        until: Instant,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Turns {
    timing: Timing,
    gpu: Gpu,
    /// Of the latest grant.
    epoch: Epoch,
    accounts: HashMap<TenantName, Account>,
    members: HashMap<MemberId, Member>,
    /// What members that are gone had held and nobody was billed for, the latest last.
    gone: VecDeque<(MemberId, Duration)>,
    /// The virtual time at which the latest grant began.
    virtual_now: u64,
    /// Who pays for the time in which the GPU cannot be granted: the tenant of the latest holder.
    payer: Option<TenantName>,
    /// Until when time has been accounted for.
    /// How long members have held it, all together.
    held: Duration,
    accounted: Instant,
    arrivals: u64,
    failed_probes: u32,
    /// Tenants whose devices were lost lately.
    losses: Vec<(TenantName, Instant)>,
    /// Whether the GPU is to be tried before it is granted again.
    doubtful: bool,
    doubted: Option<Instant>,
}

impl Turns {
    /// A GPU that nobody holds.
    pub fn new(timing: Timing, now: Instant) -> Self {
        Self {
            timing,
            gpu: Gpu::Free,
            epoch: 0,
            accounts: HashMap::new(),
            members: HashMap::new(),
            gone: VecDeque::new(),
            virtual_now: 0,
            payer: None,
            held: Duration::ZERO,
            accounted: now,
            arrivals: 0,
            failed_probes: 0,
            losses: Vec::new(),
            doubtful: false,
            doubted: None,
        }
    }

    /// A process has a device and a tenant.
    pub fn join(&mut self, id: MemberId, tenant: &TenantName, weight: u32) {
        let account = self.accounts.entry(tenant.clone()).or_default();
        account.weight = u64::from(weight.max(1));
        account.members += 1;
        let member = Member { tenant: tenant.clone(), waits: None, unbilled: Duration::ZERO, granted: false };
        self.members.insert(id, member);
    }

    /// Gives a tenant another share.
    pub fn set_weight(&mut self, tenant: &TenantName, weight: u32) {
        if let Some(account) = self.accounts.get_mut(tenant) {
            account.weight = u64::from(weight.max(1));
        }
    }

    /// A member says something. A stranger's words are ignored.
    pub fn asked(&mut self, id: MemberId, ask: HolderMessage, now: Instant) -> Vec<Action> {
        self.account_for(now);
        if !self.members.contains_key(&id) {
            return Vec::new();
        }
        let holds = matches!(self.gpu, Gpu::Held { by, .. } if by == id);
        match ask {
            HolderMessage::Release { epoch, wants } if holds && epoch == self.epoch => {
                if wants {
                    self.wait(id);
                }
                self.gpu = Gpu::Free;
            }
            // Its grant did not reach it.
            HolderMessage::Want(seen) if holds && seen < self.epoch => {
                let contended = self.others_wait(id);
                return vec![Action::Tell(id, ArbiterMessage::Granted { epoch: self.epoch, contended })];
            }
            HolderMessage::Want(_) => {
                // A holder that wants again has given back, and the word of it was lost.
                self.wait(id);
                if holds {
                    self.gpu = Gpu::Free;
                }
            }
            HolderMessage::Release { .. } => {}
        }
        self.go_on(now)
    }

    /// A member's process has ended and was reaped.
    pub fn left(&mut self, id: MemberId, now: Instant) -> Vec<Action> {
        self.account_for(now);
        let Some(member) = self.members.remove(&id) else { return Vec::new() };
        self.gone.truncate(GONE_MAX - 1);
        self.gone.push_front((id, member.unbilled));
        if let Some(account) = self.accounts.get_mut(&member.tenant) {
            account.members -= 1;
        }
        let had = match self.gpu {
            Gpu::Held { by, .. } => by == id,
            Gpu::Reaping { member, .. } => member == id,
            _ => false,
        };
        if had {
            if let Some(account) = self.accounts.get_mut(&member.tenant) {
                let again = account.died.is_some_and(|died| now.saturating_duration_since(died) < DEATHS_WITHIN);
                account.deaths = if again { account.deaths.saturating_add(1) } else { 1 };
                account.died = Some(now);
            }
            self.gpu = Gpu::Probing;
            return vec![Action::Probe];
        }
        self.go_on(now)
    }

    /// A member's device was lost, and it ends. One tenant's may be its own doing; those of two within [`LOSSES_WITHIN`] are
    /// the GPU's.
    pub fn lost(&mut self, id: MemberId, now: Instant) {
        // Whoever never held it can have no reason to say so.
        let Some(member) = self.members.get(&id).filter(|member| member.granted) else { return };
        self.losses.retain(|(_, when)| now.saturating_duration_since(*when) < LOSSES_WITHIN);
        let lately = self.doubted.is_some_and(|when| now.saturating_duration_since(when) < DOUBT_EVERY);
        self.doubtful |= !lately && self.losses.iter().any(|(tenant, _)| *tenant != member.tenant);
        self.losses.push((member.tenant.clone(), now));
    }

    /// A probe has ended.
    pub fn probed(&mut self, passed: bool, now: Instant) -> Vec<Action> {
        self.account_for(now);
        if !matches!(self.gpu, Gpu::Probing) {
            return Vec::new();
        }
        if passed {
            self.failed_probes = 0;
            self.gpu = Gpu::Free;
        } else {
            let rest = self.timing.cordon.saturating_mul(1 << self.failed_probes.min(6));
            self.failed_probes = self.failed_probes.saturating_add(1);
            self.gpu = Gpu::Cordoned { until: now + rest };
        }
        self.go_on(now)
    }

    /// Time has passed; call it at [`Turns::deadline`].
    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        self.account_for(now);
        self.go_on(now)
    }

    /// When [`Turns::tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self.gpu {
            Gpu::Held { asked: Some(asked), .. } => Some(asked + self.timing.grace),
            Gpu::Held { by, quantum, asked: None } if self.others_wait(by) => Some(quantum + self.timing.quantum),
            Gpu::Cordoned { until } => Some(until),
            // Only tenants that are barred wait.
            Gpu::Free => {
                let waiting = self.members.values().filter(|member| member.waits.is_some());
                waiting.filter_map(|member| self.accounts.get(&member.tenant)?.barred_until()).min()
            }
            _ => None,
        }
    }

    /// Whether the GPU can be used.
    pub fn health(&self, now: Instant) -> Health {
        match self.gpu {
            Gpu::Reaping { since, .. } if now.saturating_duration_since(since) > REAPING_MAX => Health::Cordoned,
            Gpu::Free | Gpu::Held { .. } => Health::Ok,
            Gpu::Reaping { .. } | Gpu::Probing => Health::Probing,
            Gpu::Cordoned { .. } => Health::Cordoned,
        }
    }

    /// The tenant whose process holds the GPU.
    pub fn holder(&self) -> Option<&TenantName> {
        let Gpu::Held { by, .. } = self.gpu else { return None };
        self.members.get(&by).map(|member| &member.tenant)
    }

    /// How long members have held the GPU, all together.
    pub fn held(&mut self, now: Instant) -> Duration {
        self.account_for(now);
        self.held
    }

    /// How much of `reported` GPU time a member can have used: never more than it held the GPU. What is
    /// answered counts as billed.
    pub fn bill(&mut self, id: MemberId, reported: Duration, now: Instant) -> Duration {
        self.account_for(now);
        let Some(unbilled) = self.unbilled_of(id) else { return Duration::ZERO };
        let billed = reported.min(*unbilled);
        *unbilled -= billed;
        billed
    }

    /// How long a member has held the GPU that no request was billed for.
    pub fn unbilled(&mut self, id: MemberId, now: Instant) -> Duration {
        self.account_for(now);
        self.unbilled_of(id).map_or(Duration::ZERO, |unbilled| *unbilled)
    }

    fn unbilled_of(&mut self, id: MemberId) -> Option<&mut Duration> {
        let gone = self.gone.iter_mut().find(|(gone, _)| *gone == id).map(|(_, unbilled)| unbilled);
        self.members.get_mut(&id).map(|member| &mut member.unbilled).or(gone)
    }

    fn others_wait(&self, id: MemberId) -> bool {
        self.members.iter().any(|(other, member)| *other != id && member.waits.is_some())
    }

    fn wait(&mut self, id: MemberId) {
        let active = self.tenant_is_active(id);
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.waits.is_some() {
            return;
        }
        self.arrivals += 1;
        member.waits = Some(self.arrivals);
        if let Some(account) = self.accounts.get_mut(&member.tenant).filter(|_| !active) {
            account.virtual_ns = account.virtual_ns.max(self.virtual_now);
        }
    }

    /// Whether any member of this one's tenant waits or holds.
    fn tenant_is_active(&self, id: MemberId) -> bool {
        let Some(member) = self.members.get(&id) else { return false };
        self.members.iter().any(|(other, of)| {
            let holds = matches!(self.gpu, Gpu::Held { by, .. } if by == *other);
            of.tenant == member.tenant && (of.waits.is_some() || holds)
        })
    }

    /// Adds the time since the last event to whoever has the GPU, or left it in doubt.
    fn account_for(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.accounted);
        self.accounted = self.accounted.max(now);
        if let Gpu::Held { by, .. } = self.gpu
            && let Some(member) = self.members.get_mut(&by)
        {
            member.unbilled += passed;
            self.held += passed;
        }
        // A GPU that rests does so for its own reasons.
        let counts = !matches!(self.gpu, Gpu::Free | Gpu::Cordoned { .. });
        let Some(payer) = self.payer.as_ref().filter(|_| counts) else { return };
        if self.members.values().any(|member| member.waits.is_some() && member.tenant != *payer)
            && let Some(account) = self.accounts.get_mut(payer)
        {
            let ns = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
            account.virtual_ns = account.virtual_ns.saturating_add(ns / account.weight.max(1));
        }
    }

    /// Does what is due.
    fn go_on(&mut self, now: Instant) -> Vec<Action> {
        match self.gpu {
            Gpu::Free if std::mem::take(&mut self.doubtful) => {
                self.losses.clear();
                // Nobody in particular pays for this.
                (self.payer, self.doubted) = (None, Some(now));
                self.gpu = Gpu::Probing;
                vec![Action::Probe]
            }
            Gpu::Free => self.grant(now),
            Gpu::Held { by, asked: Some(asked), .. } if now >= asked + self.timing.grace => {
                self.gpu = Gpu::Reaping { member: by, since: now };
                vec![Action::Kill(by)]
            }
            Gpu::Held { by, quantum, asked: None } if self.others_wait(by) && now >= quantum + self.timing.quantum => {
                if self.is_furthest_behind(by) {
                    self.gpu = Gpu::Held { by, quantum: now, asked: None };
                    return Vec::new();
                }
                self.gpu = Gpu::Held { by, quantum, asked: Some(now) };
                vec![Action::Tell(by, ArbiterMessage::AskedBack { epoch: self.epoch })]
            }
            Gpu::Cordoned { until } if now >= until => {
                self.gpu = Gpu::Probing;
                vec![Action::Probe]
            }
            Gpu::Held { .. } | Gpu::Reaping { .. } | Gpu::Probing | Gpu::Cordoned { .. } => Vec::new(),
        }
    }

    fn virtual_ns(&self, tenant: &TenantName) -> u64 {
        self.accounts.get(tenant).map_or(0, |account| account.virtual_ns)
    }

    /// Whether a holder would be granted the GPU again if it gave it back: then it need not.
    fn is_furthest_behind(&self, holder: MemberId) -> bool {
        let Some(own) = self.members.get(&holder).map(|member| self.virtual_ns(&member.tenant)) else { return false };
        let waiting = self.members.iter().filter(|(id, member)| **id != holder && member.waits.is_some());
        waiting.map(|(_, member)| self.virtual_ns(&member.tenant)).min().is_none_or(|least| own < least)
    }

    fn grant(&mut self, now: Instant) -> Vec<Action> {
        let virtual_ns = |tenant| self.virtual_ns(tenant);
        let barred =
            |tenant| self.accounts.get(tenant).and_then(Account::barred_until).is_some_and(|until| until > now);
        let waiting = self.members.iter().filter(|(_, member)| !barred(&member.tenant));
        let waiting = waiting.filter_map(|(id, member)| Some((member.waits?, *id, member)));
        let next = waiting.min_by_key(|(arrival, _, member)| (virtual_ns(&member.tenant), *arrival));
        let Some((_, id, member)) = next else {
            self.forget(now);
            return Vec::new();
        };
        self.virtual_now = self.virtual_now.max(virtual_ns(&member.tenant));
        self.payer = Some(member.tenant.clone());
        if let Some(member) = self.members.get_mut(&id) {
            (member.waits, member.granted) = (None, true);
        }
        self.epoch += 1;
        self.gpu = Gpu::Held { by: id, quantum: now, asked: None };
        let contended = self.others_wait(id);
        vec![Action::Tell(id, ArbiterMessage::Granted { epoch: self.epoch, contended })]
    }

    /// Forgets tenants that are gone and owe nothing: they would begin at the same virtual time if they came back.
    fn forget(&mut self, now: Instant) {
        let virtual_now = self.virtual_now;
        let lately = |died: Instant| now.saturating_duration_since(died) < DEATHS_WITHIN;
        let owes = |account: &Account| account.virtual_ns > virtual_now || account.died.is_some_and(lately);
        self.accounts.retain(|_, account| account.members > 0 || owes(account));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use gannet_gpu_protocol::lease::Lease;
    use proptest::prelude::*;

    const TIMING: Timing = Timing {
        quantum: Duration::from_millis(10),
        grace: Duration::from_millis(100),
        cordon: Duration::from_millis(500),
    };

    fn tenant(index: u64) -> TenantName {
        TenantName::new(&format!("t{index}")).unwrap()
    }

    struct Process {
        lease: Lease,
        work: bool,
        in_flight: bool,
        alive: bool,
    }

    /// Processes and an arbiter with a network between them that loses, doubles and reorders messages.
    struct World {
        turns: Turns,
        now: Instant,
        processes: Vec<Process>,
        to_arbiter: Vec<(MemberId, HolderMessage)>,
        to_process: Vec<(MemberId, ArbiterMessage)>,
        dying: Vec<MemberId>,
        probing: bool,
    }

    #[derive(Debug, Clone)]
    enum Step {
        Work(usize),
        Done(usize),
        Submit(usize),
        Finish(usize),
        ToArbiter(usize, Fate),
        ToProcess(usize, Fate),
        Pass(u64),
        Die(usize),
        Reap,
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
                    Action::Tell(id, told) => self.to_process.push((id, told)),
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

        fn look(&mut self, at: usize) {
            let process = &mut self.processes[at];
            if process.alive
                && let Some(ask) = process.lease.next(process.work, process.in_flight, self.now)
            {
                self.to_arbiter.push((at as u64, ask));
            }
        }

        fn deliver_to_process(&mut self, id: MemberId, told: ArbiterMessage) {
            let process = &mut self.processes[usize::try_from(id).unwrap()];
            if process.alive
                && let Some(ask) = process.lease.receive(told, self.now)
            {
                self.to_arbiter.push((id, ask));
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
                    let (id, ask) = self.to_arbiter.remove(at % self.to_arbiter.len());
                    for _ in 0..count(*fate) {
                        let actions = self.turns.asked(id, ask, self.now);
                        self.act(actions);
                    }
                }
                Step::ToProcess(at, fate) if !self.to_process.is_empty() => {
                    let (id, told) = self.to_process.remove(at % self.to_process.len());
                    for _ in 0..count(*fate) {
                        self.deliver_to_process(id, told);
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
                        let actions = self.turns.left(id, self.now);
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
                self.look(at);
            }
        }

        /// A process that was killed may still have work on the GPU, until it is reaped.
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
            // From here on messages arrive; whoever is alive and has work must get the GPU.
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

        #[test]
        fn bills_are_never_more_than_the_time_held(
            holds in prop::collection::vec((0u64..50, 0u64..200), 1..20),
        ) {
            let mut now = Instant::now();
            let mut turns = Turns::new(TIMING, now);
            turns.join(1, &tenant(1), 1);
            let (mut held, mut billed) = (Duration::ZERO, Duration::ZERO);
            for (epoch, (ms, claimed)) in (1..).zip(holds) {
                turns.asked(1, HolderMessage::Want(epoch - 1), now);
                now += Duration::from_millis(ms);
                held += Duration::from_millis(ms);
                turns.asked(1, HolderMessage::Release { epoch, wants: false }, now);
                now += Duration::from_millis(7);
                billed += turns.bill(1, Duration::from_millis(claimed), now);
                prop_assert!(billed <= held);
            }
        }
    }

    #[test]
    fn a_silent_holder_is_asked_then_killed_and_nobody_is_granted_before_the_probe() {
        let start = Instant::now();
        let mut turns = Turns::new(TIMING, start);
        turns.join(1, &tenant(1), 1);
        turns.join(2, &tenant(2), 1);
        let granted = |epoch, contended| ArbiterMessage::Granted { epoch, contended };
        assert_eq!(turns.asked(1, HolderMessage::Want(0), start), [Action::Tell(1, granted(1, false))]);
        assert_eq!(turns.deadline(), None, "alone it keeps the gpu, and no message is sent");
        let later = start + Duration::from_secs(1);
        assert_eq!(
            turns.asked(2, HolderMessage::Want(0), later),
            [Action::Tell(1, ArbiterMessage::AskedBack { epoch: 1 })],
            "its quantum is over"
        );
        let over = later + TIMING.grace;
        assert_eq!(turns.deadline(), Some(over));
        assert_eq!(turns.tick(over), [Action::Kill(1)]);
        assert_eq!(turns.asked(1, HolderMessage::Release { epoch: 1, wants: false }, over), [], "too late");
        assert_eq!(turns.left(1, over), [Action::Probe]);
        assert_eq!(turns.health(over), Health::Probing);
        assert_eq!(turns.probed(false, over), []);
        assert_eq!(turns.health(over), Health::Cordoned);
        assert_eq!(turns.tick(over + TIMING.cordon), [Action::Probe]);
        assert_eq!(turns.probed(true, over + TIMING.cordon), [Action::Tell(2, granted(2, false))]);
    }

    #[test]
    fn a_tenant_whose_processes_die_with_the_gpu_again_and_again_is_barred_for_a_while() {
        let mut now = Instant::now();
        let mut turns = Turns::new(TIMING, now);
        for id in 1..=3 {
            turns.join(id, &tenant(1), 1);
            assert_eq!(turns.asked(id, HolderMessage::Want(0), now).len(), 1, "the first three are granted at once");
            assert_eq!(turns.left(id, now), [Action::Probe]);
            turns.probed(true, now);
        }
        turns.join(4, &tenant(1), 1);
        turns.join(5, &tenant(2), 1);
        assert_eq!(turns.asked(4, HolderMessage::Want(0), now), []);
        assert_eq!(turns.deadline(), Some(now + BAR_FIRST));
        assert_eq!(turns.asked(5, HolderMessage::Want(0), now).len(), 1, "others are not");
        let epoch = turns.epoch;
        turns.asked(5, HolderMessage::Release { epoch, wants: false }, now);
        now += BAR_FIRST;
        assert_eq!(turns.tick(now).len(), 1);
    }

    #[test]
    fn devices_lost_by_two_tenants_are_the_gpus_fault_and_by_one_are_not() {
        let now = Instant::now();
        let mut turns = Turns::new(TIMING, now);
        let join = |turns: &mut Turns, id, owner| {
            turns.join(id, &tenant(owner), 1);
            turns.asked(id, HolderMessage::Want(0), now);
            let epoch = turns.epoch;
            turns.asked(id, HolderMessage::Release { epoch, wants: false }, now);
        };
        for (id, owner) in [(1, 1), (2, 1), (3, 2)] {
            join(&mut turns, id, owner);
        }
        for id in [1, 2] {
            turns.lost(id, now);
            assert_eq!(turns.left(id, now), []);
        }
        turns.lost(3, now + LOSSES_WITHIN / 2);
        assert_eq!(turns.left(3, now + LOSSES_WITHIN / 2), [Action::Probe]);
        turns.probed(true, now + LOSSES_WITHIN / 2);
        join(&mut turns, 4, 4);
        turns.lost(4, now + LOSSES_WITHIN);
        assert_eq!(turns.left(4, now + LOSSES_WITHIN), [], "what was before the probe does not count");
    }

    #[test]
    fn tenants_that_left_are_forgotten_unless_they_owe() {
        let mut now = Instant::now();
        let mut turns = Turns::new(TIMING, now);
        turns.join(1, &tenant(1), 1);
        turns.join(2, &tenant(2), 1);
        turns.asked(1, HolderMessage::Want(0), now);
        turns.asked(2, HolderMessage::Want(0), now);
        now += Duration::from_millis(10);
        turns.asked(1, HolderMessage::Release { epoch: 1, wants: false }, now);
        turns.left(1, now);
        turns.asked(2, HolderMessage::Release { epoch: 2, wants: false }, now);
        assert_eq!(turns.accounts.len(), 2, "the first has used ten milliseconds more");
        turns.join(1, &tenant(1), 1);
        turns.asked(1, HolderMessage::Want(0), now);
        turns.asked(1, HolderMessage::Release { epoch: 3, wants: false }, now);
        turns.left(1, now);
        turns.left(2, now);
        turns.tick(now);
        assert_eq!(turns.accounts.len(), 0);
    }
}
