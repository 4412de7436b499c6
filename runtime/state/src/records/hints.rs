//! Hints that wake who waits for something: a job for another node, or a change of the registry. A hint may be lost, so
//! who sleeps also looks by itself from time to time; nothing is ever decided by a hint alone.
//!
//! Implementations: [`LocalHints`] for one process, and [`SimulatedHints`], which loses what a seed decides.

use super::StoreFuture;
use crate::faults::Chance;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Notify;

/// Topics that are remembered although nobody may sleep there any more, before they are cleared.
const TOPICS_MAX: usize = 4_096;

/// Wakes sleepers by topic; see the module.
pub trait Hints: Send + Sync + Debug {
    /// Wakes all who sleep on a topic. It may be lost.
    fn wake(&self, topic: &str);

    /// Waits for a wake of the topic that comes after this call, before the returned future is first polled. It may wait
    /// for ever.
    fn sleep(&self, topic: &str) -> StoreFuture<'static, ()>;
}

/// Hints within one process.
#[derive(Debug, Default)]
pub struct LocalHints {
    topics: Mutex<HashMap<String, Weak<Notify>>>,
}

impl LocalHints {
    /// Makes hints without sleepers.
    pub fn new() -> Self {
        Self::default()
    }

    fn topics(&self) -> MutexGuard<'_, HashMap<String, Weak<Notify>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hints for LocalHints {
    fn wake(&self, topic: &str) {
        if let Some(sleepers) = self.topics().get(topic).and_then(Weak::upgrade) {
            sleepers.notify_waiters();
        }
    }

    fn sleep(&self, topic: &str) -> StoreFuture<'static, ()> {
        let mut topics = self.topics();
        if topics.len() >= TOPICS_MAX {
            topics.retain(|_, sleepers| sleepers.strong_count() > 0);
        }
        let known = topics.get(topic).and_then(Weak::upgrade);
        let sleepers = known.unwrap_or_else(|| {
            let fresh = Arc::new(Notify::new());
            topics.insert(topic.to_owned(), Arc::downgrade(&fresh));
            fresh
        });
        // It gets wakes from here on, although nothing polls it yet.
        let woken = sleepers.notified_owned();
        Box::pin(woken)
    }
}

/// Hints that lose wakes.
#[derive(Debug)]
pub struct SimulatedHints {
    hints: LocalHints,
    state: Mutex<(Chance, usize)>,
}

impl SimulatedHints {
    /// Makes hints that lose this many of a thousand wakes. Equal seeds and calls lose equally.
    pub fn new(seed: u64, lost_permille: usize) -> Self {
        Self { hints: LocalHints::new(), state: Mutex::new((Chance::new(seed), lost_permille)) }
    }
}

impl Hints for SimulatedHints {
    fn wake(&self, topic: &str) {
        let is_lost = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.0.below(1_000) < state.1
        };
        if !is_lost {
            self.hints.wake(topic);
        }
    }

    fn sleep(&self, topic: &str) -> StoreFuture<'static, ()> {
        self.hints.sleep(topic)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    /// What holds although wakes may be lost.
    async fn a_sleeper_is_woken_by_its_topic_only(hints: Arc<dyn Hints>) {
        hints.wake("a");
        let mut sleeping = hints.sleep("a");
        hints.wake("b");
        assert!(timeout(Duration::ZERO, &mut sleeping).await.is_err(), "neither an earlier wake nor another topic's");
        let waking = Arc::clone(&hints);
        let others: Vec<_> = (0..4).map(|_| tokio::spawn(hints.sleep("a"))).collect();
        let again = tokio::spawn(async move {
            loop {
                waking.wake("a");
                tokio::task::yield_now().await;
            }
        });
        timeout(Duration::from_secs(60), sleeping).await.unwrap();
        for other in others {
            timeout(Duration::from_secs(60), other).await.unwrap().unwrap();
        }
        again.abort();
    }

    #[tokio::test]
    async fn sleepers_are_woken_in_each_implementation() {
        a_sleeper_is_woken_by_its_topic_only(Arc::new(LocalHints::new())).await;
        a_sleeper_is_woken_by_its_topic_only(Arc::new(SimulatedHints::new(9, 700))).await;
    }

    #[tokio::test]
    async fn a_wake_between_the_call_and_the_first_poll_is_not_missed() {
        let hints = LocalHints::new();
        let sleeping = hints.sleep("a");
        hints.wake("a");
        timeout(Duration::from_secs(60), sleeping).await.unwrap();
    }

    #[tokio::test]
    async fn topics_without_sleepers_are_forgotten() {
        let hints = LocalHints::new();
        let kept = hints.sleep("kept");
        for n in 0..TOPICS_MAX * 2 {
            drop(hints.sleep(&n.to_string()));
        }
        assert!(hints.topics().len() <= TOPICS_MAX);
        hints.wake("kept");
        timeout(Duration::from_secs(60), kept).await.unwrap();
    }
}
