//! How a call by another function takes its place in the server, without a permit for requests.
//!
//! A request's permit covers one call at each depth at a time, so a chain of calls never meets a full server. Calls
//! beside those need permits of a pool of their own, and are refused at once if there is none: a call that waited for a
//! permit could wait for its own caller.
//!
//! Invariant: at most [`DEPTH_MAX`] calls are covered for each request that holds a permit.

use crate::quota::permits::ServerPermit;
use crate::siblings::DEPTH_MAX;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The calls that the permit of one request covers, by depth.
#[derive(Debug, Default)]
pub struct CoveredCalls([AtomicBool; DEPTH_MAX as usize]);

/// A call that its request's permit covers. Dropping it makes room for the next of its depth.
#[derive(Debug)]
pub struct CoveredCall {
    calls: Arc<CoveredCalls>,
    depth: u8,
}

impl CoveredCalls {
    fn at(&self, depth: u8) -> Option<&AtomicBool> {
        self.0.get(usize::from(depth).checked_sub(1)?)
    }

    /// Takes the place of a depth, if it is free.
    pub fn take(self: &Arc<Self>, depth: u8) -> Option<CoveredCall> {
        let was_taken = self.at(depth)?.swap(true, Ordering::AcqRel);
        (!was_taken).then(|| CoveredCall { calls: Arc::clone(self), depth })
    }
}

impl Drop for CoveredCall {
    fn drop(&mut self) {
        if let Some(taken) = self.calls.at(self.depth) {
            taken.store(false, Ordering::Release);
        }
    }
}

/// The place of a request in the server.
#[derive(Debug)]
pub enum ServerPlace {
    /// A permit of its own.
    Own(ServerPermit),
    /// The permit of the request that its calls began with.
    Covered(CoveredCall),
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_call_of_each_depth_is_covered_at_a_time() {
        let calls = Arc::<CoveredCalls>::default();
        let held: Vec<CoveredCall> = (1..=DEPTH_MAX).map(|depth| calls.take(depth).unwrap()).collect();
        assert!((0..=DEPTH_MAX + 1).all(|depth| calls.take(depth).is_none()));
        drop(held);
        assert!(calls.take(1).is_some() && calls.take(0).is_none() && calls.take(DEPTH_MAX + 1).is_none());
    }
}
