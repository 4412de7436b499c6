//! What goes wrong in the simulated stores of records and of lines: faults that a test orders or a seed chooses, and
//! late answers.

use std::collections::VecDeque;

/// What a write can meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is refused; nothing is done.
    Unavailable,
    /// It is refused; nothing is done.
    Full,
    /// It is done, but the answer is `Unknown`.
    UnknownDone,
    /// It is not done, and the answer is `Unknown`.
    UnknownNotDone,
    /// The answer is `Unknown`, and it is decided at some later call, unless a crash comes before that.
    UnknownLater,
}

/// All faults.
pub(crate) const FAULTS: [Fault; 5] =
    [Fault::Unavailable, Fault::Full, Fault::UnknownDone, Fault::UnknownNotDone, Fault::UnknownLater];

/// Xorshift64*, as in Vigna, "An experimental exploration of Marsaglia's xorshift generators".
#[derive(Debug, Clone)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    /// Begins with a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed ^ 0x9E37_79B9_7F4A_7C15 | 1)
    }

    /// Returns the next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    /// Returns a number below `limit`, which is not 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or(0)
    }
}

/// Which faults the next writes meet, and how late they are answered. None, and at once, by default.
#[derive(Debug, Default)]
pub(crate) struct FaultPlan {
    /// Faults of the next writes, in order.
    pub(crate) next: VecDeque<Fault>,
    /// So many of a thousand writes meet some fault.
    pub(crate) permille: usize,
    /// How often a write is pending at most before it is answered.
    pub(crate) polls_max: usize,
}

impl FaultPlan {
    /// Returns the fault of this write, if it meets one.
    pub(crate) fn fault(&mut self, chance: &mut Chance) -> Option<Fault> {
        if let Some(fault) = self.next.pop_front() {
            return Some(fault);
        }
        if self.permille == 0 || chance.below(1_000) >= self.permille {
            return None;
        }
        FAULTS.get(chance.below(FAULTS.len())).copied()
    }

    /// Returns how often this write is pending before it is answered.
    pub(crate) fn polls(&self, chance: &mut Chance) -> usize {
        if self.polls_max == 0 { 0 } else { chance.below(self.polls_max + 1) }
    }
}
