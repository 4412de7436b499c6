//! The queue of one function's jobs: which one is next. Pure: it takes the time as an argument.
//!
//! ```text
//!  add ─▶ later (its time has not come) ─▶ ready ─▶ take ─▶ running ─▶ done
//!                                            └ its concurrency key is taken: its group waits
//! ```
//!
//! Jobs are taken in the order of their submission. A job with low priority counts as if it had been submitted
//! [`LOW_PRIORITY_MS`] later, so it is overtaken but never starves. Jobs with the same concurrency key form a group, of
//! which at most so many run at once as the function's settings say; a group that may not run holds up no other.
//!
//! Items of batches have low priority, and leave half of the function's concurrency to other jobs and requests as soon
//! as one of those waits ([`FunctionQueue::next_must_wait`]).
//!
//! Invariant: a job is in the queue, or runs, or is not known; never two of them.

mod group;

pub use group::{KeyLimits, serial_key};

use crate::job::{Job, JobId, Millis};
use group::{Group, GroupKey, Rank};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// By how much a job with low priority is behind others.
pub const LOW_PRIORITY_MS: Millis = 600_000;

/// What the queue knows about a waiting job.
///
/// There may be a million of these, so it is small: its id is its key in the map.
#[derive(Debug, Clone)]
struct Waiting {
    /// The time in its [`Rank`].
    rank_at: Millis,
    expires: Millis,
    /// Since when it could run, as far as this process knows; or, if its time has not come, when it can.
    ready: Millis,
    is_later: bool,
    group: GroupKey,
    is_item: bool,
}

/// What the queue knows about a job that runs.
#[derive(Debug)]
struct Runs {
    group: GroupKey,
    is_item: bool,
}

/// The queue of one function.
#[derive(Debug, Default)]
pub struct FunctionQueue {
    waiting: HashMap<JobId, Waiting>,
    /// The first job of each group that may run.
    heads: BTreeSet<(Rank, GroupKey)>,
    groups: HashMap<GroupKey, Group>,
    /// Jobs whose time has not come.
    later: BTreeSet<(Millis, JobId)>,
    /// When waiting jobs expire.
    expiries: BTreeSet<(Millis, JobId)>,
    /// Running jobs that wait again as soon as their attempt is done.
    again: HashMap<JobId, Job>,
    running: HashMap<JobId, Runs>,
    /// How many of those that wait, and that run, are items of batches.
    items: (usize, usize),
    /// Groups that rest because of their rate, and until when.
    resting: BTreeSet<(Millis, GroupKey)>,
    limits: Option<KeyLimits>,
}

/// What holds before the function's settings are known.
const ONE_AT_ONCE: KeyLimits = KeyLimits { at_once: 1, per_minute: 0 };

impl FunctionQueue {
    /// Sets what is allowed for the jobs of one concurrency key. With another rate than before, no group rests any more.
    pub fn set_key_limits(&mut self, limits: KeyLimits) {
        if self.limits != Some(limits) {
            if self.limits().per_minute != limits.per_minute {
                self.resting.clear();
                self.groups.values_mut().for_each(|group| group.rests_until = None);
                self.groups.retain(|_, group| !group.is_empty());
            }
            self.limits = Some(limits);
            self.heads = self.groups.iter().filter_map(|(key, group)| group.head(key, limits)).collect();
        }
    }

    fn limits(&self) -> KeyLimits {
        self.limits.unwrap_or(ONE_AT_ONCE)
    }

    /// Adds a queued job, unless it is known.
    pub fn add(&mut self, job: &Job, now: Millis) {
        if self.waiting.contains_key(&job.id) {
            return;
        }
        if self.running.contains_key(&job.id) {
            // Its last attempt has ended, but that is not noted yet.
            self.again.insert(job.id, job.clone());
            return;
        }
        let behind = if job.low { LOW_PRIORITY_MS } else { 0 };
        let later = job.not_before.filter(|at| *at > now);
        let waiting = Waiting {
            rank_at: job.submitted.saturating_add(behind),
            expires: job.expires,
            ready: later.unwrap_or(now),
            is_later: later.is_some(),
            group: job.key.as_deref().map(Arc::from),
            is_item: job.batch.is_some(),
        };
        self.items.0 += usize::from(waiting.is_item);
        self.expiries.insert((waiting.expires, job.id));
        if waiting.is_later {
            self.later.insert((waiting.ready, job.id));
        } else {
            self.make_ready(job.id, &waiting);
        }
        self.waiting.insert(job.id, waiting);
    }

    fn make_ready(&mut self, id: JobId, waiting: &Waiting) {
        self.groups.entry(waiting.group.clone()).or_default();
        self.with_group(&waiting.group, |group| {
            group.ready.insert((waiting.rank_at, id));
        });
    }

    /// Changes a group, and keeps the heads and the groups right.
    fn with_group(&mut self, key: &GroupKey, change: impl FnOnce(&mut Group)) {
        let limits = self.limits();
        let Entry::Occupied(mut entry) = self.groups.entry(key.clone()) else { return };
        if let Some(head) = entry.get().head(key, limits) {
            self.heads.remove(&head);
        }
        change(entry.get_mut());
        self.heads.extend(entry.get().head(key, limits));
        if entry.get().is_empty() {
            entry.remove();
        }
    }

    /// Moves jobs whose time has come to those that are ready, and lets groups go on that have rested.
    fn promote(&mut self, now: Millis) {
        while let Some((at, id)) = self.later.first().copied().filter(|(at, _)| *at <= now) {
            self.later.remove(&(at, id));
            if let Some(waiting) = self.waiting.get_mut(&id) {
                waiting.is_later = false;
                let waiting = waiting.clone();
                self.make_ready(id, &waiting);
            }
        }
        while self.resting.first().is_some_and(|(until, _)| *until <= now) {
            let Some((until, key)) = self.resting.pop_first() else { return };
            self.with_group(&key, |group| group.rests_until = group.rests_until.filter(|at| *at > until));
        }
    }

    /// Returns the job that is next, without taking it.
    pub fn next(&mut self, now: Millis) -> Option<JobId> {
        self.promote(now);
        self.heads.first().map(|((_, id), _)| *id)
    }

    /// Whether the job that is next is an item of a batch that must leave room: items take half of the function's
    /// concurrency already, and another job waits, or a request does.
    pub fn next_must_wait(&mut self, now: Millis, concurrency: u64, do_requests_wait: bool) -> bool {
        let next = self.next(now).and_then(|id| self.waiting.get(&id));
        let has_others = self.waiting.len() > self.items.0;
        next.is_some_and(|next| next.is_item)
            && self.items.1 as u64 >= concurrency.div_ceil(2)
            && (has_others || do_requests_wait)
    }

    /// Takes the job that is next: it runs until [`FunctionQueue::done`].
    pub fn take(&mut self, now: Millis) -> Option<JobId> {
        let id = self.next(now)?;
        let waiting = self.forget(id)?;
        self.groups.entry(waiting.group.clone()).or_default();
        let (limits, mut rests) = (self.limits(), None);
        self.with_group(&waiting.group, |group| rests = group.begin(&waiting.group, limits, now));
        self.resting.extend(rests.map(|until| (until, waiting.group.clone())));
        self.items.1 += usize::from(waiting.is_item);
        self.running.insert(id, Runs { group: waiting.group, is_item: waiting.is_item });
        Some(id)
    }

    /// Notes that an attempt has ended.
    pub fn done(&mut self, id: JobId, now: Millis) {
        if let Some(Runs { group, is_item }) = self.running.remove(&id) {
            self.items.1 -= usize::from(is_item);
            self.with_group(&group, |group| group.running = group.running.saturating_sub(1));
        }
        if let Some(job) = self.again.remove(&id) {
            self.add(&job, now);
        }
    }

    /// Removes a waiting job. Returns whether it was there.
    pub fn remove(&mut self, id: JobId) -> bool {
        self.again.remove(&id);
        self.forget(id).is_some()
    }

    fn forget(&mut self, id: JobId) -> Option<Waiting> {
        let waiting = self.waiting.remove(&id)?;
        self.items.0 -= usize::from(waiting.is_item);
        self.expiries.remove(&(waiting.expires, id));
        if waiting.is_later {
            self.later.remove(&(waiting.ready, id));
        } else {
            self.with_group(&waiting.group, |group| {
                group.ready.remove(&(waiting.rank_at, id));
            });
        }
        Some(waiting)
    }

    /// Returns the waiting jobs that have expired.
    pub fn expired(&self, now: Millis) -> Vec<JobId> {
        self.expiries.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect()
    }

    /// Returns when a job's time comes or a group has rested, if no job is ready.
    pub fn next_ready(&self) -> Option<Millis> {
        let later = self.later.first().map(|(at, _)| *at);
        let rested = self.resting.first().map(|(until, _)| *until);
        later.into_iter().chain(rested).min()
    }

    /// Returns the ids of all waiting jobs.
    pub fn waiting(&self) -> impl Iterator<Item = JobId> + '_ {
        self.waiting.keys().copied()
    }

    /// Whether a job waits or runs.
    pub fn knows(&self, id: JobId) -> bool {
        self.waiting.contains_key(&id) || self.running.contains_key(&id)
    }

    /// Returns how many jobs could run now if there were room for them, and since when the next one could. Jobs whose
    /// concurrency key is taken count too, unless no other job could run.
    pub fn ready(&mut self, now: Millis) -> (usize, Option<Millis>) {
        let since = self.next(now).and_then(|id| self.waiting.get(&id)).map(|waiting| waiting.ready);
        (since.map_or(0, |_| self.waiting.len() - self.later.len()), since)
    }

    /// Returns how many jobs wait.
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// Returns how many jobs run.
    pub fn running_count(&self) -> usize {
        self.running.len()
    }

    /// Whether nothing waits and nothing runs.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::job::Policy;
    use crate::outcome::Payload;
    use gannet_base::manifest::JobSettings;
    use gannet_base::names::{FunctionName, TenantName};
    use proptest::prelude::*;

    fn job(submitted: Millis, key: Option<&str>) -> Job {
        let names = (TenantName::new("acme").unwrap(), FunctionName::new("blur").unwrap());
        let mut job = Job::submitted(
            names,
            &Policy::default(),
            &JobSettings::default(),
            Payload { bytes: 2, blob: None },
            submitted,
        );
        job.key = key.map(Into::into);
        job
    }

    fn queue(at_once: u64) -> FunctionQueue {
        let mut queue = FunctionQueue::default();
        queue.set_key_limits(KeyLimits { at_once, per_minute: 0 });
        queue
    }

    #[test]
    fn low_priority_is_overtaken_but_never_starves() {
        let mut queue = queue(1);
        let mut low = job(1_000, None);
        low.low = true;
        let (soon, late) = (job(2_000, None), job(1_000 + LOW_PRIORITY_MS + 1, None));
        for job in [&late, &low, &soon] {
            queue.add(job, 2_000);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.take(2_000)).collect();
        assert_eq!(order, [soon.id, low.id, late.id]);
    }

    #[test]
    fn a_concurrency_key_holds_up_only_its_own_jobs() {
        let mut queue = queue(1);
        let jobs = [job(1, Some("a")), job(2, Some("a")), job(3, Some("b")), job(4, None), job(5, None)];
        jobs.iter().for_each(|job| queue.add(job, 10));
        let first: Vec<_> = std::iter::from_fn(|| queue.take(10)).collect();
        assert_eq!(first, [jobs[0].id, jobs[2].id, jobs[3].id, jobs[4].id]);
        queue.done(jobs[2].id, 10);
        assert_eq!(queue.next(10), None);
        queue.done(jobs[0].id, 10);
        assert_eq!(queue.take(10), Some(jobs[1].id));
    }

    #[test]
    fn the_jobs_of_a_schedule_run_in_turn_whatever_the_settings_are() {
        let mut queue = queue(9);
        let key = serial_key("nightly");
        let jobs = [job(1, Some(&key)), job(2, Some(&key)), job(3, Some("a")), job(4, Some("a"))];
        jobs.iter().for_each(|job| queue.add(job, 10));
        let first: Vec<_> = std::iter::from_fn(|| queue.take(10)).collect();
        assert_eq!(first, [jobs[0].id, jobs[2].id, jobs[3].id]);
        queue.done(jobs[0].id, 10);
        assert_eq!(queue.take(10), Some(jobs[1].id));
    }

    #[test]
    fn a_job_whose_time_has_not_come_waits_for_it() {
        let mut queue = queue(1);
        let mut later = job(1, None);
        later.not_before = Some(500);
        queue.add(&later, 100);
        assert_eq!((queue.next(499), queue.next_ready()), (None, Some(500)));
        assert_eq!((queue.ready(499), queue.ready(600)), ((0, None), (1, Some(500))));
        assert_eq!(queue.take(500), Some(later.id));
        queue.done(later.id, 500);
        assert!(queue.is_empty() && queue.groups.is_empty() && queue.heads.is_empty());
    }

    #[test]
    fn jobs_of_one_key_begin_evenly_spaced_and_no_faster_than_their_rate() {
        let mut queue = FunctionQueue::default();
        queue.set_key_limits(KeyLimits { at_once: 9, per_minute: 7 });
        let jobs = [job(1, Some("a")), job(2, Some("a")), job(3, Some("b")), job(4, None), job(5, None)];
        jobs.iter().for_each(|job| queue.add(job, 10));
        let first: Vec<_> = std::iter::from_fn(|| queue.take(10)).collect();
        assert_eq!(first, [jobs[0].id, jobs[2].id, jobs[3].id, jobs[4].id]);
        let next = queue.next_ready().unwrap();
        assert_eq!(next, 10 + 8_572, "a minute has 7 such gaps and not 8");
        assert_eq!((queue.next(next - 1), queue.take(next)), (None, Some(jobs[1].id)));
        jobs.iter().for_each(|job| queue.done(job.id, next));
        assert!(queue.is_empty() && !queue.groups.is_empty(), "the next job with the key waits too");
        queue.promote(next + 8_572);
        assert!(queue.groups.is_empty() && queue.resting.is_empty());
    }

    #[test]
    fn items_of_a_batch_take_half_while_others_wait_and_all_while_nobody_does() {
        let mut queue = queue(1);
        let items: Vec<Job> = (0..4)
            .map(|index| {
                let mut item = job(1, None);
                (item.low, item.batch) = (true, Some(crate::job::BatchRef { id: JobId::new(), index }));
                item
            })
            .collect();
        items.iter().for_each(|item| queue.add(item, 10));
        assert!(!queue.next_must_wait(10, 3, true), "none runs");
        queue.take(10);
        queue.take(10);
        assert_eq!((queue.next_must_wait(10, 3, true), queue.next_must_wait(10, 3, false)), (true, false));
        let mut later = job(1, None);
        later.not_before = Some(500);
        queue.add(&later, 10);
        assert!(queue.next_must_wait(10, 3, false), "another job waits");
        assert!(!queue.next_must_wait(500, 3, true), "it is next");
        queue.remove(later.id);
        queue.done(items[0].id, 10);
        assert!(!queue.next_must_wait(10, 3, true), "one has ended");
        items.iter().for_each(|item| {
            queue.remove(item.id);
            queue.done(item.id, 10);
        });
        assert_eq!((queue.items, queue.is_empty()), ((0, 0), true));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add { key: u8, delay: i64, low: bool },
        Take,
        Done(usize),
        Remove(usize),
        Wait(i64),
        Limits(u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..4, 0i64..50, any::<bool>()).prop_map(|(key, delay, low)| Step::Add { key, delay, low }),
            Just(Step::Take),
            any::<usize>().prop_map(Step::Done),
            any::<usize>().prop_map(Step::Remove),
            (1i64..40).prop_map(Step::Wait),
            (1u64..3, prop_oneof![Just(0u64), Just(2_000)]).prop_map(|(at_once, rate)| Step::Limits(at_once, rate)),
        ]
    }

    proptest! {
        /// Against a list that is searched from the front.
        #[test]
        fn the_next_job_is_the_first_that_may_run(steps in proptest::collection::vec(step(), 0..120)) {
            let (mut queue, mut now, mut at_once, mut rate) = (queue(1), 1_000, 1, 0);
            let mut rests: HashMap<String, Millis> = HashMap::new();
            let mut waiting: Vec<Job> = Vec::new();
            let mut running: Vec<Job> = Vec::new();
            for step in steps {
                match step {
                    Step::Add { key, delay, low } => {
                        let name = format!("k{key}");
                        let mut job = job(now, (key > 0).then_some(name.as_str()));
                        job.low = low;
                        job.not_before = (delay > 0).then_some(now + delay);
                        queue.add(&job, now);
                        waiting.push(job);
                    }
                    Step::Take => {
                        let free = |job: &&Job| {
                            let same = running.iter().filter(|other| other.key == job.key).count() as u64;
                            let rested = job.key.as_ref().and_then(|key| rests.get(key)).is_none_or(|until| *until <= now);
                            job.not_before.is_none_or(|at| at <= now) && (job.key.is_none() || same < at_once && rested)
                        };
                        let rank = |job: &&Job| (job.submitted + if job.low { LOW_PRIORITY_MS } else { 0 }, job.id);
                        let expected = waiting.iter().filter(free).min_by_key(rank).map(|job| job.id);
                        prop_assert_eq!(queue.take(now), expected);
                        if let Some(at) = waiting.iter().position(|job| Some(job.id) == expected) {
                            let job = waiting.remove(at);
                            if let Some(key) = job.key.clone().filter(|_| rate > 0) {
                                rests.insert(key, now + 60_000 / rate);
                            }
                            running.push(job);
                        }
                    }
                    Step::Done(at) if !running.is_empty() => queue.done(running.remove(at % running.len()).id, now),
                    Step::Remove(at) if !waiting.is_empty() => {
                        prop_assert!(queue.remove(waiting.remove(at % waiting.len()).id));
                    }
                    Step::Wait(ms) => now += ms,
                    Step::Limits(most, per_minute) => {
                        if rate != per_minute as Millis {
                            rests.clear();
                        }
                        (at_once, rate) = (most, per_minute as Millis);
                        queue.set_key_limits(KeyLimits { at_once, per_minute });
                    }
                    Step::Done(_) | Step::Remove(_) => {}
                }
                prop_assert_eq!((queue.waiting_count(), queue.running_count()), (waiting.len(), running.len()));
            }
        }
    }
}
