//! A lease on a shared GPU: the messages between its holder and the arbiter, and the holder's state machine. That
//! decides when the GPU thread may submit and which messages it sends. Pure: it does no I/O and takes `now` as an
//! argument.
//!
//! ```text
//!            work, send Want            Granted                   Revoked
//!   Resting ───────────────▶ Wanting ──────────▶ Held ─────────────────────────▶ Releasing
//!      ▲                                          │ idle for 1 ms, send Release      │ nothing in flight, send Release
//!      └──────────────────────────────────────────┴──────────────────────────────────┘
//! ```
//!
//! Each grant has an epoch. Messages about an older epoch are ignored, so a message that comes late or twice changes
//! nothing. A Want that gets no reply is sent again; a grant that was lost is then sent again.
//!
//! Invariant: work is submitted only between a Granted and the Release of the same epoch.

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Number of a grant; the first is 1.
pub type Epoch = u64;

/// How long a holder without work keeps the GPU. A request's next submission mostly comes within this time.
pub const IDLE_MAX: Duration = Duration::from_millis(1);
/// Time after which a Want without a reply is sent again.
pub const WANT_RETRY: Duration = Duration::from_secs(1);

/// Holder to arbiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderMessage {
    /// The holder has work. Its grants up to this epoch have ended.
    Want(Epoch),
    /// The holder gives this grant back. None of its work is on the GPU any more.
    Release {
        /// The epoch of the grant.
        epoch: Epoch,
        /// Whether the holder has more work. This acts as a Want in the same message: with a separate Want after it, a
        /// tenant of great weight would lose its turn.
        wants: bool,
    },
}

/// Arbiter to holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArbiterMessage {
    /// The holder may use the GPU until it is asked back.
    Granted {
        /// The number of this grant.
        epoch: Epoch,
        /// Whether others wait for the GPU.
        contended: bool,
    },
    /// The holder should finish its work that is on the GPU, and then give the GPU back.
    #[serde(rename = "asked_back")]
    Revoked {
        /// The epoch of the grant that is asked back.
        epoch: Epoch,
    },
}

/// Returns whether a slice that is expected to take `next_ns` may be submitted behind slices that were expected to take
/// `in_flight_ns`. So a holder that is asked back has at most two slices of work on the GPU, or one workgroup that is
/// longer.
pub fn fits_behind(in_flight_ns: u64, next_ns: u64, slice_ns: u64) -> bool {
    let short = in_flight_ns < LONG_NS && in_flight_ns.saturating_add(next_ns) <= slice_ns.saturating_mul(2);
    in_flight_ns == 0 || short
}

/// Nothing is queued behind work of this length or more. The cost of a submission is small compared with it, and other
/// tenants would have to wait for both slices.
pub const LONG_NS: u64 = 100_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Resting,
    Wanting {
        asked: Instant,
    },
    Held {
        idle_since: Instant,
    },
    Releasing,
    /// There is no arbiter: the GPU is not shared.
    Alone,
}

/// The state of one holder.
#[derive(Debug)]
pub struct Lease {
    state: State,
    /// The epoch of the grant that is held or was held last.
    epoch: Epoch,
    contended: bool,
}

impl Default for Lease {
    fn default() -> Self {
        Self { state: State::Resting, epoch: 0, contended: false }
    }
}

impl Lease {
    /// Makes a lease. `shared` is false if there is no arbiter; then the holder may always submit.
    pub fn new(shared: bool) -> Self {
        Self { state: if shared { State::Resting } else { State::Alone }, ..Self::default() }
    }

    /// Applies a message of the arbiter. Returns the reply, if one must be sent at once.
    pub fn receive(&mut self, message: ArbiterMessage, now: Instant) -> Option<HolderMessage> {
        match message {
            ArbiterMessage::Granted { epoch, contended } if epoch > self.epoch => {
                (self.state, self.epoch, self.contended) = (State::Held { idle_since: now }, epoch, contended);
                None
            }
            ArbiterMessage::Revoked { epoch } if epoch == self.epoch && self.may_submit() => {
                (self.state, self.contended) = (State::Releasing, true);
                None
            }
            // The grant never arrived, or its Release was lost. If the grant arrives later, it is ignored.
            ArbiterMessage::Revoked { epoch } if epoch >= self.epoch && self.state != State::Releasing => {
                (self.state, self.epoch) = (State::Resting, epoch);
                Some(HolderMessage::Release { epoch, wants: false })
            }
            ArbiterMessage::Granted { .. } | ArbiterMessage::Revoked { .. } => None,
        }
    }

    /// Whether the next slice may be submitted.
    pub fn may_submit(&self) -> bool {
        matches!(self.state, State::Held { .. } | State::Alone)
    }

    /// Epoch of the latest grant that the holder knows of.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether others wait for the GPU, as far as the holder knows. Slices should be short then.
    pub fn is_contended(&self) -> bool {
        self.contended
    }

    /// Returns the message to send now. `work`: there is work to submit; `in_flight`: work is on the GPU. Call it again
    /// after each change, and at [`Lease::deadline`].
    pub fn next(&mut self, work: bool, in_flight: bool, now: Instant) -> Option<HolderMessage> {
        match self.state {
            State::Resting if work => {
                self.state = State::Wanting { asked: now };
                Some(HolderMessage::Want(self.epoch))
            }
            State::Wanting { asked } if now.saturating_duration_since(asked) >= WANT_RETRY => {
                self.state = State::Wanting { asked: now };
                Some(HolderMessage::Want(self.epoch))
            }
            State::Held { .. } if work || in_flight => {
                self.state = State::Held { idle_since: now };
                None
            }
            State::Held { idle_since } if now.saturating_duration_since(idle_since) >= IDLE_MAX => {
                self.release(false, now)
            }
            State::Releasing if !in_flight => self.release(work, now),
            State::Resting | State::Wanting { .. } | State::Held { .. } | State::Releasing | State::Alone => None,
        }
    }

    fn release(&mut self, wants: bool, now: Instant) -> Option<HolderMessage> {
        self.state = if wants { State::Wanting { asked: now } } else { State::Resting };
        self.contended = false;
        Some(HolderMessage::Release { epoch: self.epoch, wants })
    }

    /// When to call [`Lease::next`] again if nothing else happens before.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Wanting { asked } => Some(asked + WANT_RETRY),
            State::Held { idle_since } => Some(idle_since + IDLE_MAX),
            State::Resting | State::Releasing | State::Alone => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANTED: ArbiterMessage = ArbiterMessage::Granted { epoch: 1, contended: false };

    #[test]
    fn work_asks_once_and_an_idle_holder_gives_back_after_a_millisecond() {
        let (mut lease, now) = (Lease::default(), Instant::now());
        assert_eq!(lease.next(false, false, now), None);
        assert_eq!(lease.next(true, false, now), Some(HolderMessage::Want(0)));
        assert_eq!(lease.next(true, false, now), None);
        assert!(!lease.may_submit());
        lease.receive(GRANTED, now);
        assert!(lease.may_submit());
        assert_eq!(lease.next(false, true, now), None);
        let idle = now + Duration::from_micros(500);
        assert_eq!(lease.next(false, false, idle), None);
        assert_eq!(lease.deadline(), Some(now + IDLE_MAX));
        assert_eq!(lease.next(false, false, now + IDLE_MAX), Some(HolderMessage::Release { epoch: 1, wants: false }));
        assert!(!lease.may_submit());
    }

    #[test]
    fn asked_back_it_ends_what_is_in_flight_first_and_then_wants_again() {
        let (mut lease, now) = (Lease::default(), Instant::now());
        lease.next(true, false, now);
        lease.receive(GRANTED, now);
        lease.receive(ArbiterMessage::Revoked { epoch: 1 }, now);
        assert!(!lease.may_submit() && lease.is_contended());
        assert_eq!(lease.next(true, true, now), None);
        assert_eq!(lease.next(true, false, now), Some(HolderMessage::Release { epoch: 1, wants: true }));
        assert_eq!(lease.next(true, false, now), None);
    }

    #[test]
    fn messages_about_other_grants_change_nothing_and_a_want_is_said_again() {
        let (mut lease, now) = (Lease::default(), Instant::now());
        lease.next(true, false, now);
        assert_eq!(lease.next(true, false, now + WANT_RETRY), Some(HolderMessage::Want(0)));
        lease.receive(GRANTED, now);
        assert_eq!(lease.receive(ArbiterMessage::Revoked { epoch: 0 }, now), None);
        assert!(lease.may_submit());
        lease.next(false, false, now + IDLE_MAX);
        lease.receive(GRANTED, now);
        assert!(!lease.may_submit(), "a grant that was given back does not come again");
        assert_eq!(
            lease.receive(ArbiterMessage::Revoked { epoch: 1 }, now),
            Some(HolderMessage::Release { epoch: 1, wants: false }),
            "its return was lost"
        );
        assert_eq!(
            lease.receive(ArbiterMessage::Revoked { epoch: 2 }, now),
            Some(HolderMessage::Release { epoch: 2, wants: false }),
            "the grant was lost"
        );
        lease.receive(ArbiterMessage::Granted { epoch: 2, contended: false }, now);
        assert!(!lease.may_submit(), "a grant that was asked back before it came is over");
    }
}
