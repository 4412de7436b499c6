//! The thread that owns the files: it checks, writes, syncs and publishes commits, in the order in which they came.
//!
//! ```text
//!  inbox ─▶ group: all that wait ─▶ plan: check each against those before it, encode ─▶ append + one sync
//!                                                                                          │ ok ─▶ index, watches, answers
//!                            the appender cuts it back; see crate::segments ◀─────────────┘ failed
//! ```
//!
//! Groups arise because commits wait while the group before them is synced, and because threads that would send more are
//! let run before; nothing waits by the clock for more to come. Between groups it compacts, in small steps: see
//! [`super::compact`].
//!
//! Invariant: nothing is acknowledged or published before it is synced, and nothing is written behind bytes whose fate
//! is not known.

use super::format;
use super::index::{Index, Location, Segment};
use super::segment::{self, Compaction, short};
use super::{Options, Shared};
use crate::lines;
use crate::records::feed::{Committed, Publisher};
use crate::records::{Change, CommitError, Revision, check_expected};
use crate::segments::appender::{AppendFailure, Appender, is_full};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;
use tokio::sync::oneshot;

/// Most bytes of the keys and values in a group, not counting its last commit.
const GROUP_BYTES_MAX: usize = 16 << 20;
/// Most commits in a group.
const GROUP_COMMITS_MAX: usize = 16_384;
/// How often a group lets other threads run before it is written.
const GATHER_YIELDS: usize = 3;
/// Size of the buffer that is kept between groups.
const BUFFER_BYTES_KEPT: usize = 4 << 20;
/// Longest segment. Locations have 32 bits, and a group follows what is there.
const SEGMENT_BYTES_LONGEST: u64 = 1 << 31;

/// A commit that waits.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) changes: Vec<Change>,
    /// Bytes of its keys and values.
    pub(super) bytes: usize,
    pub(super) answer: oneshot::Sender<Result<Revision, CommitError>>,
}

/// A commit that is accepted, and where each of its changes is. None if the change has no effect.
struct Planned {
    revision: Revision,
    places: Vec<Option<Place>>,
}

enum Place {
    Put(Location),
    Delete,
}

/// State of the thread.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    publisher: Publisher,
    segment_bytes: u64,
    pub(super) appender: Appender,
    /// The newest revision that was given to a commit, also to one that failed.
    last: Revision,
    pub(super) compaction: Option<Compaction>,
    /// No compaction begins before, because one failed.
    pub(super) compact_after: Option<Instant>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, publisher: Publisher, options: &Options, appender: Appender) -> Self {
        let last = shared.read().position;
        let segment_bytes = options.segment_bytes;
        Self { shared, publisher, segment_bytes, appender, last, compaction: None, compact_after: None }
    }

    /// Works until the store is dropped and nothing waits any more.
    pub(super) fn run(mut self, inbox: &Receiver<Request>) {
        let mut buffer = Vec::new();
        self.plan_compaction();
        loop {
            let first = if self.compaction.is_some() {
                match inbox.try_recv() {
                    Ok(request) => Some(request),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => break,
                }
            } else {
                match inbox.recv() {
                    Ok(request) => Some(request),
                    Err(_) => break,
                }
            };
            let group = gather(first, inbox);
            let group_bytes = group.iter().map(|request| request.bytes).sum::<usize>();
            self.write(group, &mut buffer);
            self.shared.waiting_bytes.fetch_sub(group_bytes, Ordering::Relaxed);
            self.compact(group_bytes as u64, &mut buffer);
        }
    }

    /// Writes a group and answers it.
    fn write(&mut self, group: Vec<Request>, buffer: &mut Vec<u8>) {
        if group.is_empty() {
            return;
        }
        buffer.clear();
        buffer.shrink_to(BUFFER_BYTES_KEPT);
        let planned = self.ready().and_then(|()| self.plan(&group, buffer));
        let planned = match planned {
            Ok(planned) => planned,
            Err(error) => return refuse(group, &unavailable(&error)),
        };
        let written = if buffer.is_empty() { Ok(()) } else { self.append(buffer) };
        match written {
            Ok(()) => self.publish(group, planned),
            Err(error) => {
                for (request, planned) in group.into_iter().zip(planned) {
                    // A conflict may have been with a commit of this group, which was not kept.
                    let error = match (planned, &error) {
                        (Err(_), CommitError::Unknown(why)) => CommitError::Unavailable(why.clone()),
                        _ => error.clone(),
                    };
                    let _ = request.answer.send(Err(error));
                }
            }
        }
    }

    /// Decides which commits of a group are accepted, and encodes those.
    fn plan(&mut self, group: &[Request], buffer: &mut Vec<u8>) -> io::Result<Vec<Result<Planned, CommitError>>> {
        let (number, at) = self.place()?;
        let shared = Arc::clone(&self.shared);
        let index = shared.read();
        // What the index will be after the commits before.
        let mut ahead: HashMap<&str, Option<Revision>> = HashMap::new();
        let mut planned = Vec::with_capacity(group.len());
        for request in group {
            let revision_of = |key: &str| match ahead.get(key) {
                Some(revision) => *revision,
                None => index.get(key).map(|location| location.revision),
            };
            if let Err(conflict) = check_expected(&request.changes, revision_of) {
                planned.push(Err(conflict));
                continue;
            }
            let revision = self.last + 1;
            let start = buffer.len();
            format::begin(buffer, "commit", revision)?;
            let mut places = Vec::with_capacity(request.changes.len());
            for change in &request.changes {
                places.push(match change {
                    Change::Put { key, value, .. } => {
                        let stored = format::put(buffer, key, value)?;
                        Some(Place::Put(Location::new(revision, number, at, &stored)?))
                    }
                    Change::Delete { key, .. } if revision_of(key).is_some() => {
                        format::delete(buffer, key)?;
                        Some(Place::Delete)
                    }
                    Change::Delete { .. } | Change::Check { .. } => None,
                });
            }
            lines::seal(buffer, start)?;
            for change in &request.changes {
                match change {
                    Change::Put { key, .. } => ahead.insert(key, Some(revision)),
                    Change::Delete { key, .. } => ahead.insert(key, None),
                    Change::Check { .. } => None,
                };
            }
            // It is never given again, even if the write fails.
            self.last = revision;
            planned.push(Ok(Planned { revision, places }));
        }
        Ok(planned)
    }

    /// Shows a group that is on disk to readers and watches, and answers it.
    fn publish(&mut self, group: Vec<Request>, planned: Vec<Result<Planned, CommitError>>) {
        let mut index = self.shared.write();
        for (request, planned) in group.iter().zip(&planned) {
            let Ok(planned) = planned else { continue };
            for (change, place) in request.changes.iter().zip(&planned.places) {
                let key = change.key();
                match place {
                    Some(Place::Put(location)) => index.put(key, *location),
                    Some(Place::Delete) => index.delete(key),
                    None => {}
                }
            }
            index.position = planned.revision;
        }
        self.count_newest(&mut index);
        drop(index);
        let (mut commits, mut answers) = (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
        for (request, planned) in group.into_iter().zip(planned) {
            answers.push((request.answer, planned.as_ref().map(|planned| planned.revision).map_err(Clone::clone)));
            let Ok(Planned { revision, places }) = planned else { continue };
            let changes = request.changes.into_iter().zip(places).filter_map(|(change, place)| place.map(|_| change));
            commits.push(Committed { revision, changes: changes.collect() });
        }
        self.publisher.publish(commits);
        for (answer, result) in answers {
            // Who does not wait for the answer any more does not get one.
            let _ = answer.send(result);
        }
    }

    /// Updates the length of the newest segment in the index.
    pub(super) fn count_newest(&self, index: &mut Index) {
        let newest = self.appender.newest();
        if let Some(segment) = short(newest.number).ok().and_then(|number| index.segments.get_mut(&number)) {
            segment.bytes = newest.end;
        }
    }

    /// Returns the newest segment, and where its next line goes.
    pub(super) fn place(&self) -> io::Result<(u32, u64)> {
        let newest = self.appender.newest();
        Ok((short(newest.number)?, newest.end))
    }

    /// Makes the newest segment ready for a write: repairs what an earlier failure left, and begins a new segment if
    /// this one is full.
    pub(super) fn ready(&mut self) -> io::Result<()> {
        let is_needed = self.appender.settle()?;
        let full = self.appender.newest().end >= self.segment_bytes;
        if !is_needed && !full {
            return Ok(());
        }
        match self.begin_segment() {
            Err(error) if !is_needed && self.appender.newest().end < SEGMENT_BYTES_LONGEST => {
                tracing::warn!(%error, "no new segment of the records could be made; the old one is used on");
                Ok(())
            }
            begun => begun,
        }
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let next = self.appender.newest().number.saturating_add(1);
        let number = short(next)?;
        self.appender.begin(&segment::first_line(self.last)?)?;
        let newest = self.appender.newest();
        let segment = Segment { file: Arc::clone(&newest.file), bytes: newest.end, live_bytes: 0, damaged: false };
        self.shared.write().segments.insert(number, segment);
        Ok(())
    }

    /// Appends and syncs lines. After an error nothing of them is kept, unless it is `Unknown`.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), CommitError> {
        self.appender.append(bytes).map_err(|failure| match failure {
            AppendFailure::Full => CommitError::Full,
            AppendFailure::Failed(why) => CommitError::Unavailable(why),
            AppendFailure::Unknown(why) => CommitError::Unknown(why),
        })
    }
}

/// Takes what waits, up to the limits of a group. When nothing waits any more, it lets other threads run a few times, as
/// long as that brings more: on a busy machine those whose commits were just answered send their next ones then, and a
/// sync costs the same for many. On an idle machine that takes a microsecond.
fn gather(first: Option<Request>, inbox: &Receiver<Request>) -> Vec<Request> {
    let mut group: Vec<Request> = first.into_iter().collect();
    let mut bytes = group.iter().map(|request| request.bytes).sum::<usize>();
    let (mut yields, mut before) = (0, 0);
    while !group.is_empty() && bytes < GROUP_BYTES_MAX && group.len() < GROUP_COMMITS_MAX {
        match inbox.try_recv() {
            Ok(request) => {
                bytes += request.bytes;
                group.push(request);
            }
            Err(_) if yields < GATHER_YIELDS && group.len() > before => {
                (yields, before) = (yields + 1, group.len());
                std::thread::yield_now();
            }
            Err(_) => break,
        }
    }
    group
}

fn refuse(group: Vec<Request>, error: &CommitError) {
    for request in group {
        let _ = request.answer.send(Err(error.clone()));
    }
}

/// Returns how a failure is answered after which nothing was kept.
fn unavailable(error: &io::Error) -> CommitError {
    if is_full(error) { CommitError::Full } else { CommitError::Unavailable(error.to_string()) }
}

impl Shared {
    /// Locks the index for reading.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the index for writing. Only the writer does.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}
