//! Decides how many workers a function is spread over. Pure: it takes what was seen and the time as arguments.
//!
//! ```text
//!  request_count   ceil((queued + running) / N)
//!  queue_delay     the oldest waits longer than N s: one more, at most one in N s; else as many as have a request
//!  both            a call by another function found its worker full: one more
//!
//!  the need rises ─▶ wanted rises at once      the need was lower for the idle timeout ─▶ wanted falls to it
//! ```
//!
//! Invariants: the number is never below `min` nor above `max` and the number of slots, except that there cannot be more
//! than there are slots. Between two decisions it falls only to a number that was needed within the idle timeout.

use gannet_base::manifest::{FunctionLimits, Scale, ScaleRule};
use std::time::{Duration, Instant};

/// The rule and the bounds of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) rule: Rule,
    pub(crate) min: usize,
    pub(crate) max: usize,
    pub(crate) idle_timeout: Duration,
}

/// When there is another worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// The oldest has waited for so long.
    QueueDelay(Duration),
    /// There are more than so many requests for each worker.
    RequestCount(usize),
}

/// What was seen of a function since the last decision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The most requests and jobs that ran or waited at once.
    pub(crate) requests: usize,
    /// For how long the oldest that waits has waited.
    pub(crate) oldest: Duration,
    /// Whether a call by another function found its worker full of calls.
    pub(crate) found_full: bool,
    /// Workers that are up where the function may run.
    pub(crate) up: usize,
    /// Slots where the function may run.
    pub(crate) slots: usize,
}

/// The state of one function's scaling.
#[derive(Debug, Default)]
pub(crate) struct Scaling {
    /// When so many workers were last needed: the first entry is about one worker, the second about two. A number is
    /// needed whenever a larger one is, so no entry is older than the next.
    needed: Vec<Instant>,
    /// When `queue_delay` last asked for one more.
    stepped: Option<Instant>,
}

impl Rules {
    /// Returns the rules of a manifest. `is_kept` says whether `min` is in force.
    pub(crate) fn new(scale: &Scale, limits: &FunctionLimits, is_kept: bool) -> Self {
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let rule = match scale.rule {
            ScaleRule::QueueDelay => Rule::QueueDelay(Duration::from_secs(scale.queue_delay_s)),
            ScaleRule::RequestCount => Rule::RequestCount(count(scale.requests_per_worker(limits)).max(1)),
        };
        Self {
            rule,
            min: if is_kept { count(scale.min) } else { 0 },
            max: count(scale.max).max(1),
            idle_timeout: Duration::from_secs(scale.idle_timeout_s),
        }
    }
}

impl Scaling {
    /// Returns how many workers are wanted now.
    pub(crate) fn decide(&mut self, rules: &Rules, seen: Seen, now: Instant) -> usize {
        let most = rules.max.min(seen.slots);
        let need = self.need(rules, seen, most, now).min(most);
        for (_, needed) in (0..need).zip(&mut self.needed) {
            *needed = now;
        }
        while self.needed.len() < need {
            self.needed.push(now);
        }
        let is_over = |needed: &Instant| now.saturating_duration_since(*needed) >= rules.idle_timeout;
        while self.needed.last().is_some_and(is_over) || self.needed.len() > most {
            self.needed.pop();
        }
        self.needed.len().max(rules.min).min(most)
    }

    fn need(&mut self, rules: &Rules, seen: Seen, most: usize, now: Instant) -> usize {
        let wanted = self.needed.len().max(rules.min).max(1);
        // One more helps only if the last one has come.
        let has_come = seen.up >= wanted && wanted < most;
        let delay = match rules.rule {
            Rule::RequestCount(each) => {
                let more = if seen.found_full && has_come { wanted + 1 } else { 0 };
                return seen.requests.div_ceil(each.max(1)).max(more);
            }
            Rule::QueueDelay(delay) => delay,
        };
        let may_step = self.stepped.is_none_or(|stepped| now.saturating_duration_since(stepped) >= delay);
        // A call that found its worker full was refused, or went where it was not wanted: it has waited for ever.
        if (seen.oldest >= delay || seen.found_full) && may_step && has_come {
            self.stepped = Some(now);
            return wanted + 1;
        }
        // Requests go to the worker with the fewest, so fewer requests than workers leave one without any.
        seen.requests.min(wanted)
    }

    /// Whether no worker was needed within the idle timeout.
    pub(crate) fn is_idle(&self) -> bool {
        self.needed.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(rule: Rule) -> Rules {
        Rules { rule, min: 0, max: 4, idle_timeout: Duration::from_secs(60) }
    }

    /// A function in simulated time, looked at four times a second: each wanted worker comes after a second, and serves
    /// one request at a time.
    struct Simulated {
        rules: Rules,
        scaling: Scaling,
        start: Instant,
        now: Instant,
        slots: usize,
        /// When each waiting request came.
        waiting: Vec<Instant>,
        /// When each running request ends.
        running: Vec<Instant>,
        /// When each worker came or comes.
        workers: Vec<Instant>,
        served: usize,
        /// The seconds at which the number changed, and the number.
        changes: Vec<(u64, usize)>,
    }

    const TICK: Duration = Duration::from_millis(250);

    impl Simulated {
        fn new(rules: Rules, slots: usize) -> Self {
            let start = Instant::now();
            let (waiting, running, workers) = Default::default();
            let changes = Vec::new();
            Self {
                rules,
                scaling: Scaling::default(),
                start,
                now: start,
                slots,
                waiting,
                running,
                workers,
                served: 0,
                changes,
            }
        }

        fn run(&mut self, how_long: Duration, work: Duration, mut comes: impl FnMut(usize) -> bool) {
            let end = self.now + how_long;
            let mut peak = 0;
            let mut tick = 0;
            while self.now < end {
                let now = self.now;
                self.running.retain(|ends| *ends > now);
                if comes(tick) {
                    self.waiting.push(now);
                }
                tick += 1;
                peak = peak.max(self.waiting.len() + self.running.len());
                // The first worker starts with the first request.
                if self.workers.is_empty() && !self.waiting.is_empty() {
                    self.workers.push(now + Duration::from_secs(1));
                }
                let up = self.workers.iter().filter(|came| **came <= now).count();
                while self.running.len() < up && !self.waiting.is_empty() {
                    self.waiting.remove(0);
                    self.running.push(now + work);
                    self.served += 1;
                }
                let oldest = self.waiting.first().map_or(Duration::ZERO, |came| now - *came);
                let seen = Seen { requests: peak, oldest, up, slots: self.slots, ..Seen::default() };
                let wanted = self.scaling.decide(&self.rules, seen, now);
                peak = 0;
                if self.changes.last().map_or(0, |(_, number)| *number) != wanted {
                    self.changes.push(((now - self.start).as_secs(), wanted));
                }
                while self.workers.len() < wanted {
                    self.workers.push(now + Duration::from_secs(1));
                }
                self.workers.truncate(wanted);
                self.now += TICK;
            }
        }
    }

    #[test]
    fn a_queue_that_waits_gets_one_more_worker_at_a_time_and_none_is_left_when_it_is_idle() {
        let mut function = Simulated::new(rules(Rule::QueueDelay(Duration::from_secs(4))), 8);
        // Two requests a second, of a second each: two workers are too few for what has gathered.
        function.run(Duration::from_secs(40), Duration::from_secs(1), |tick| tick % 2 == 0);
        function.run(Duration::from_secs(200), Duration::from_secs(1), |_| false);
        let numbers: Vec<usize> = function.changes.iter().map(|(_, number)| *number).collect();
        assert_eq!(numbers[..3], [1, 2, 3], "{:?}", function.changes);
        let steps: Vec<u64> = function.changes.iter().map(|(at, _)| *at).take(3).collect();
        assert!(steps.windows(2).all(|pair| pair[1] - pair[0] >= 4), "{:?}", function.changes);
        assert_eq!((numbers.last(), function.served), (Some(&0), 80), "{:?}", function.changes);
    }

    #[test]
    fn the_number_of_requests_is_spread_at_once_and_comes_back_to_zero_after_the_idle_timeout() {
        let mut function = Simulated::new(rules(Rule::RequestCount(2)), 3);
        // Five at the start, of 10 s each, by workers that serve one at a time.
        function.run(Duration::from_secs(300), Duration::from_secs(10), |tick| tick < 5);
        let numbers: Vec<usize> = function.changes.iter().map(|(_, number)| *number).collect();
        assert_eq!((numbers.as_slice(), function.served), ([1, 2, 3, 2, 1, 0].as_slice(), 5), "{:?}", function.changes);
        // The last request runs until second 20 or so, and then for a minute nobody comes.
        let (zero_at, _) = *function.changes.last().unwrap();
        assert!((80..=82).contains(&zero_at), "{:?}", function.changes);
    }

    #[test]
    fn a_queue_that_reads_empty_at_each_look_but_is_busy_keeps_its_worker() {
        let (rules, mut scaling, mut now) =
            (rules(Rule::QueueDelay(Duration::from_secs(4))), Scaling::default(), Instant::now());
        let quiet = Seen { up: 1, slots: 2, ..Seen::default() };
        for look in 0..2_000 {
            // Each minute but a second a request comes and goes between two looks.
            let requests = usize::from(look % 59 == 0);
            assert_eq!(scaling.decide(&rules, Seen { requests, ..quiet }, now), 1);
            now += Duration::from_secs(1);
        }
        assert_eq!(scaling.decide(&rules, quiet, now + Duration::from_secs(60)), 0);
        assert!(scaling.is_idle());
    }

    #[test]
    fn no_more_are_wanted_while_the_last_one_has_not_come() {
        let (rules, mut scaling, mut now) =
            (rules(Rule::QueueDelay(Duration::from_secs(4))), Scaling::default(), Instant::now());
        let stuck = Seen { requests: 99, oldest: Duration::from_secs(99), slots: 4, ..Seen::default() };
        for _ in 0..9 {
            assert_eq!(scaling.decide(&rules, stuck, now), 1);
            now += Duration::from_secs(9);
        }
        assert_eq!(scaling.decide(&rules, Seen { up: 1, ..stuck }, now), 2);
        assert_eq!(scaling.decide(&rules, Seen { up: 2, ..stuck }, now), 2, "one step at a time");
    }

    #[test]
    fn a_call_that_found_its_worker_full_asks_for_one_more_under_either_rule() {
        for rule in [Rule::QueueDelay(Duration::from_secs(4)), Rule::RequestCount(100)] {
            let (rules, mut scaling, now) = (rules(rule), Scaling::default(), Instant::now());
            let calm = Seen { requests: 50, up: 1, slots: 4, ..Seen::default() };
            let full = Seen { found_full: true, ..calm };
            assert_eq!(scaling.decide(&rules, calm, now), 1);
            assert_eq!(scaling.decide(&rules, full, now), 2, "{rule:?}");
            assert_eq!(scaling.decide(&rules, full, now), 2, "the last one has not come");
            let later = now + Duration::from_secs(4);
            assert_eq!(scaling.decide(&rules, Seen { up: 2, ..full }, later), 3, "{rule:?}");
            assert_eq!(scaling.decide(&rules, Seen { up: 9, ..full }, later + Duration::from_secs(4)), 4);
            assert_eq!(
                scaling.decide(&rules, Seen { up: 9, ..full }, later + Duration::from_secs(8)),
                4,
                "not above max"
            );
        }
    }

    proptest! {
        #[test]
        fn the_number_stays_within_its_bounds_and_falls_to_what_was_needed_last(
            is_delay: bool,
            amount in 1usize..6,
            (min, more) in (0usize..3, 0usize..4),
            slots in 0usize..5,
            looks in proptest::collection::vec((0usize..20, 0u64..12, 0usize..5, 1u64..40), 1..80),
        ) {
            let rule = if is_delay { Rule::QueueDelay(Duration::from_secs(amount as u64)) } else { Rule::RequestCount(amount) };
            let rules = Rules { rule, min, max: (min + more).max(1), idle_timeout: Duration::from_secs(30) };
            let most = rules.max.min(slots);
            let (mut scaling, mut now) = (Scaling::default(), Instant::now());
            let mut before = 0;
            for (requests, oldest_s, up, pass_s) in looks {
                let seen = Seen { requests, oldest: Duration::from_secs(oldest_s), up, slots, ..Seen::default() };
                let wanted = scaling.decide(&rules, seen, now);
                prop_assert!(wanted <= most && wanted >= min.min(most));
                if is_delay && before > 0 {
                    prop_assert!(wanted <= before + 1, "one step at a time");
                }
                if let Rule::RequestCount(each) = rule {
                    prop_assert!(wanted >= requests.div_ceil(each).min(most), "what is needed is there at once");
                }
                // The same again changes nothing.
                prop_assert_eq!(scaling.decide(&rules, Seen { oldest: Duration::ZERO, ..seen }, now), wanted);
                (before, now) = (wanted, now + Duration::from_secs(pass_s));
            }
            now += Duration::from_secs(30);
            let idle = Seen { slots, ..Seen::default() };
            prop_assert_eq!(scaling.decide(&rules, idle, now), min.min(most), "nobody came for the idle timeout");
        }

        #[test]
        fn more_requests_never_mean_fewer_workers(each in 1usize..6, loads in proptest::collection::vec((0usize..20, 0usize..5), 1..60)) {
            let rules = rules(Rule::RequestCount(each));
            let (mut low, mut high, mut now) = (Scaling::default(), Scaling::default(), Instant::now());
            for (requests, more) in loads {
                let seen = Seen { requests, up: 4, slots: 4, ..Seen::default() };
                let few = low.decide(&rules, seen, now);
                let many = high.decide(&rules, Seen { requests: requests + more, ..seen }, now);
                prop_assert!(many >= few, "{} and {}", many, few);
                now += Duration::from_secs(17);
            }
        }
    }
}
