//! A stream for tests, in memory: a seed decides what it loses in a crash, how late it answers, and what becomes of
//! appends that it answers with "unknown". Faults are those of the simulated records.
//!
//! Invariant: what was acknowledged or seen survives every crash, and what survives is a prefix of what was decided.

use super::{AppendError, Line, LineId, LineStream, Part, Position, StoreFuture, check_lines};
use crate::faults::{Chance, Fault, FaultPlan};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

/// Most lines of a part, so that tests meet more than one.
const PART_LINES: usize = 16;

#[derive(Debug)]
struct State {
    chance: Chance,
    /// All lines that were decided, in order, each with the time at which it was.
    lines: Vec<(Line, jiff::Timestamp)>,
    /// So many of them were trimmed.
    trimmed: usize,
    /// So many of them are durable.
    durable: usize,
    /// Appends that may be done later.
    limbo: Vec<Vec<Line>>,
    plan: FaultPlan,
    crashed: bool,
}

/// The stream; see the module.
#[derive(Debug)]
pub struct SimulatedStream {
    state: Arc<Mutex<State>>,
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn crashed() -> io::Error {
    io::Error::other("the simulated stream has crashed")
}

fn behind(index: usize) -> Position {
    Position { segment: 1, offset: index as u64 + 1 }
}

impl State {
    fn position_of(&self, id: LineId) -> Option<usize> {
        self.lines.iter().position(|(line, _)| line.id == id)
    }

    /// Puts lines behind all others, without those whose ids are known.
    fn decide(&mut self, lines: Vec<Line>) -> Vec<Position> {
        let mut positions = Vec::with_capacity(lines.len());
        for line in lines {
            let at = self.position_of(line.id).unwrap_or_else(|| {
                self.lines.push((line, jiff::Timestamp::now()));
                self.lines.len() - 1
            });
            positions.push(behind(at));
        }
        positions
    }

    /// Does what may have happened meanwhile. Every call begins with it.
    fn meanwhile(&mut self) -> io::Result<()> {
        if self.crashed {
            return Err(crashed());
        }
        if !self.limbo.is_empty() && self.chance.below(4) == 0 {
            let at = self.chance.below(self.limbo.len());
            let late = self.limbo.swap_remove(at);
            self.decide(late);
        }
        if self.chance.below(4) == 0 {
            self.durable = self.lines.len();
        }
        Ok(())
    }

    fn append(&mut self, mut lines: Vec<Line>) -> (usize, Result<Vec<Position>, AppendError>) {
        if let Err(error) = check_lines(&lines) {
            return (0, Err(error));
        }
        if let Err(error) = self.meanwhile() {
            return (0, Err(AppendError::Unavailable(error.to_string())));
        }
        let polls = self.plan.polls(&mut self.chance);
        let unknown = || Err(AppendError::Unknown("the simulated answer was lost".to_owned()));
        let result = match self.plan.fault(&mut self.chance) {
            None => Ok(self.decide(lines)),
            Some(Fault::Unavailable) => Err(AppendError::Unavailable("a simulated failure".to_owned())),
            Some(Fault::Full) => Err(AppendError::Full),
            Some(Fault::UnknownDone) => {
                // A part of an append may be stored.
                lines.truncate(self.chance.below(lines.len() + 1));
                self.decide(lines);
                unknown()
            }
            Some(Fault::UnknownNotDone) => unknown(),
            Some(Fault::UnknownLater) => {
                self.limbo.push(lines);
                unknown()
            }
        };
        if self.plan.polls_max == 0 {
            self.durable = self.lines.len();
        }
        (polls, result)
    }
}

impl SimulatedStream {
    /// Makes an empty stream without faults, which answers at once. Equal seeds and calls have equal results.
    pub fn new(seed: u64) -> Self {
        Self::with(Chance::new(seed), Vec::new(), 0)
    }

    fn with(chance: Chance, lines: Vec<(Line, jiff::Timestamp)>, trimmed: usize) -> Self {
        let durable = lines.len();
        let state =
            State { chance, lines, trimmed, durable, limbo: Vec::new(), plan: FaultPlan::default(), crashed: false };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Adds a fault that one of the next appends meets: the first call is for the next append, and so on.
    pub fn fail_next(&self, fault: Fault) {
        locked(&self.state).plan.next.push_back(fault);
    }

    /// Lets this many of a thousand appends meet some fault.
    pub fn fail_at_random(&self, permille: usize) {
        locked(&self.state).plan.permille = permille;
    }

    /// Lets appends be pending at most this many times before they answer. 0 makes them durable at once.
    pub fn answer_late(&self, polls_max: usize) {
        locked(&self.state).plan.polls_max = polls_max;
    }

    /// Crashes: returns a stream with what survived. This one refuses all from now on, and appends that were not
    /// answered are answered with `Unknown`. The new stream has no faults and answers at once.
    pub fn crash(&self) -> Self {
        let mut state = locked(&self.state);
        state.crashed = true;
        if state.chance.below(2) == 0 {
            for late in std::mem::take(&mut state.limbo) {
                state.decide(late);
            }
        }
        let (durable, trimmed) = (state.durable, state.trimmed);
        let pending = state.lines.len() - durable;
        let survive = durable + state.chance.below(pending + 1);
        let mut lines = std::mem::take(&mut state.lines);
        lines.truncate(survive);
        Self::with(Chance::new(state.chance.next()), lines, trimmed)
    }
}

/// An append that was decided, until it is answered.
struct Answer {
    state: Arc<Mutex<State>>,
    polls_left: usize,
    result: Result<Vec<Position>, AppendError>,
}

impl Future for Answer {
    type Output = Result<Vec<Position>, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polls_left > 0 {
            self.polls_left -= 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut state = locked(&self.state);
        if let Ok(positions) = &self.result {
            if state.crashed {
                return Poll::Ready(Err(AppendError::Unknown(crashed().to_string())));
            }
            let newest = positions.iter().map(|position| position.offset).max().unwrap_or(0);
            state.durable = state.durable.max(usize::try_from(newest).unwrap_or(usize::MAX)).min(state.lines.len());
        }
        drop(state);
        Poll::Ready(self.result.clone())
    }
}

impl LineStream for SimulatedStream {
    fn append(&self, lines: Vec<Line>) -> StoreFuture<'static, Result<Vec<Position>, AppendError>> {
        let (polls_left, result) = locked(&self.state).append(lines);
        Box::pin(Answer { state: Arc::clone(&self.state), polls_left, result })
    }

    fn scan(&self, from: Position) -> StoreFuture<'_, io::Result<Part>> {
        Box::pin(async move {
            let mut state = locked(&self.state);
            state.meanwhile()?;
            let start = usize::try_from(from.offset).map_err(io::Error::other)?;
            if start > state.durable {
                return Err(io::Error::other(format!("the stream ends before its line {start}")));
            }
            let start = start.max(state.trimmed);
            let end = state.durable.min(start + PART_LINES);
            let lines = state.lines.get(start..end).unwrap_or_default();
            let lines = lines.iter().enumerate().map(|(at, (line, _))| (behind(start + at), line.clone())).collect();
            let next = Position { segment: 1, offset: end as u64 };
            Ok(Part { lines, next, more: end < state.durable })
        })
    }

    fn get(&self, id: LineId) -> StoreFuture<'_, io::Result<Option<Vec<u8>>>> {
        Box::pin(async move {
            let mut state = locked(&self.state);
            state.meanwhile()?;
            let known = state.position_of(id).filter(|at| (state.trimmed..state.durable).contains(at));
            Ok(known.and_then(|at| state.lines.get(at)).map(|(line, _)| line.text.clone()))
        })
    }

    fn trim(&self, before: jiff::Timestamp) -> StoreFuture<'_, io::Result<()>> {
        Box::pin(async move {
            let mut state = locked(&self.state);
            state.meanwhile()?;
            let old = state.lines.iter().take(state.durable).take_while(|(_, stored)| *stored < before).count();
            // The last line stays, as the last segment of files does.
            state.trimmed = state.trimmed.max(old.min(state.durable.saturating_sub(1)));
            Ok(())
        })
    }
}
