//! Distinguishes a broken GPU from a tenant that breaks its own devices.
//!
//! In: the tenants whose devices were lost, with the times. Out: whether the GPU has to be probed before it is granted
//! again. A tenant may have caused the loss of its own devices. Losses of two tenants within [`LOSSES_WITHIN`] mean
//! that the GPU is suspect.
//!
//! Invariant: one tenant alone never makes the GPU suspect, and suspicion leads to one probe per [`SUSPICION_EVERY`].

use gannet_base::names::TenantName;
use std::time::{Duration, Instant};

/// Losses of devices that are this close together have one cause.
pub(super) const LOSSES_WITHIN: Duration = Duration::from_secs(60);
/// The GPU is probed because of lost devices at most this often.
const SUSPICION_EVERY: Duration = Duration::from_secs(10);

/// The lost devices of one GPU.
#[derive(Debug, Default)]
pub(super) struct DeviceLosses {
    /// Tenants whose devices were lost lately.
    recent: Vec<(TenantName, Instant)>,
    /// Whether the GPU has to be probed before it is granted again.
    is_suspect: bool,
    /// When it was last probed because of lost devices.
    probed: Option<Instant>,
}

impl DeviceLosses {
    /// Notes that a device of this tenant was lost.
    pub(super) fn record(&mut self, tenant: &TenantName, now: Instant) {
        self.recent.retain(|(_, when)| now.saturating_duration_since(*when) < LOSSES_WITHIN);
        let just_probed = self.probed.is_some_and(|when| now.saturating_duration_since(when) < SUSPICION_EVERY);
        self.is_suspect |= !just_probed && self.recent.iter().any(|(other, _)| other != tenant);
        self.recent.push((tenant.clone(), now));
    }

    /// Returns whether the GPU has to be probed now. After that it is not suspect, and earlier losses do not count.
    pub(super) fn take_suspicion(&mut self, now: Instant) -> bool {
        let was_suspect = std::mem::take(&mut self.is_suspect);
        if was_suspect {
            self.recent.clear();
            self.probed = Some(now);
        }
        was_suspect
    }
}
