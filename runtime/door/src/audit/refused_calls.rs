//! Remembers which refused calls are in the audit logs, so that calls that change nothing cannot fill them.

use gannet_base::names::RequestId;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// The refused calls that each log keeps. A restart begins to count again.
const KEPT_MAX: usize = 1000;

/// The latest refused calls in each log.
#[derive(Debug, Default)]
pub struct RefusedCalls(Mutex<HashMap<String, VecDeque<RequestId>>>);

impl RefusedCalls {
    /// Adds a refused call of a log. Returns the oldest one, if there are too many now.
    pub(super) fn add(&self, whose: &str, request: RequestId) -> Option<RequestId> {
        let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = match logs.get_mut(whose) {
            Some(calls) => calls,
            None => logs.entry(whose.to_owned()).or_default(),
        };
        calls.push_back(request);
        if calls.len() > KEPT_MAX { calls.pop_front() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_calls_cannot_fill_the_audit_log() {
        let refused = RefusedCalls::default();
        let first = RequestId::new();
        assert_eq!(refused.add("acme", first), None);
        for _ in 1..KEPT_MAX {
            assert_eq!(refused.add("acme", RequestId::new()), None);
        }
        assert_eq!(refused.add("other", RequestId::new()), None, "each log has its own");
        assert_eq!(refused.add("acme", RequestId::new()), Some(first));
    }
}
