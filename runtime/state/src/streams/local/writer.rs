//! The thread that owns a stream's files: it drops lines that are known, writes and syncs the others together, and seals
//! full segments.
//!
//! Invariant: nothing is acknowledged or found before it is synced.

use super::Shared;
use crate::lines;
use crate::segments::appender::{AppendFailure, Appender, is_full};
use crate::segments::index::{self, ENDING, SealedSegment};
use crate::streams::{AppendError, Line, LineId, Position};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use tokio::sync::oneshot;

/// Most bytes of the texts in a group, not counting its last append.
const GROUP_BYTES_MAX: usize = 16 << 20;
/// Size of the buffer that is kept between groups.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// An append that waits.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) lines: Vec<Line>,
    /// Bytes of their texts.
    pub(super) bytes: usize,
    pub(super) answer: oneshot::Sender<Result<Vec<Position>, AppendError>>,
}

/// State of the thread.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    appender: Appender,
    segment_lines: usize,
}

fn told(error: &io::Error) -> AppendError {
    if is_full(error) { AppendError::Full } else { AppendError::Unavailable(error.to_string()) }
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, appender: Appender, segment_lines: usize) -> Self {
        Self { shared, appender, segment_lines: segment_lines.max(1) }
    }

    /// Works until the stream is dropped and nothing waits any more.
    pub(super) fn run(mut self, inbox: &Receiver<Request>) {
        let mut buffer = Vec::new();
        while let Ok(first) = inbox.recv() {
            let (mut bytes, mut group) = (first.bytes, vec![first]);
            while bytes < GROUP_BYTES_MAX {
                let Ok(request) = inbox.try_recv() else { break };
                bytes += request.bytes;
                group.push(request);
            }
            // The buffer is kept: fresh pages for every group cost more than writing the lines into them.
            buffer.clear();
            buffer.shrink_to(BUFFER_BYTES_KEPT);
            let result = self.write(&group, &mut buffer);
            self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            match result {
                Ok(positions) => {
                    for (request, positions) in group.into_iter().zip(positions) {
                        // Who does not wait for the answer any more does not get one.
                        let _ = request.answer.send(Ok(positions));
                    }
                }
                Err(error) => group.into_iter().for_each(|request| drop(request.answer.send(Err(error.clone())))),
            }
        }
    }

    /// Writes a group, and returns the position behind each line of each append.
    fn write(&mut self, group: &[Request], buffer: &mut Vec<u8>) -> Result<Vec<Vec<Position>>, AppendError> {
        self.ready().map_err(|error| told(&error))?;
        let (segment, start) = (self.appender.newest().number, self.appender.newest().end);
        let mut fresh: HashMap<LineId, (u64, Position)> = HashMap::new();
        let mut positions = Vec::with_capacity(group.len());
        for request in group {
            let mut behind = Vec::with_capacity(request.lines.len());
            for line in &request.lines {
                if let Some((_, position)) = fresh.get(&line.id) {
                    behind.push(*position);
                    continue;
                }
                if let Some(known) = self.shared.find(line.id).map_err(|error| told(&error))? {
                    behind.push(known.behind);
                    continue;
                }
                let at = buffer.len();
                buffer.extend_from_slice(&line.text);
                lines::seal(buffer, at).map_err(|error| told(&error))?;
                let position = Position { segment, offset: start + buffer.len() as u64 };
                fresh.insert(line.id, (start + at as u64, position));
                behind.push(position);
            }
            positions.push(behind);
        }
        if !buffer.is_empty() {
            self.appender.append(buffer).map_err(|failure| match failure {
                AppendFailure::Full => AppendError::Full,
                AppendFailure::Failed(why) => AppendError::Unavailable(why),
                AppendFailure::Unknown(why) => AppendError::Unknown(why),
            })?;
            let mut state = self.shared.lock();
            state.0.open.extend(fresh.into_iter().map(|(id, (at, _))| (id, at)));
            state.1 = self.appender.newest().clone();
        }
        Ok(positions)
    }

    /// Makes the newest segment ready for a write: repairs what an earlier failure left, and seals it if it is full.
    fn ready(&mut self) -> io::Result<()> {
        let is_needed = self.appender.settle()?;
        let full = self.shared.lock().0.open.len() >= self.segment_lines;
        if !is_needed && !full {
            return Ok(());
        }
        match self.seal() {
            Err(error) if !is_needed => {
                tracing::error!(%error, "a segment of a stream could not be sealed; it is used on");
                Ok(())
            }
            sealed => sealed,
        }
    }

    fn seal(&mut self) -> io::Result<()> {
        let number = self.appender.newest().number;
        let segments = self.appender.segments().clone();
        let entries: Vec<(LineId, u64)> = self.shared.lock().0.open.iter().map(|(id, at)| (*id, *at)).collect();
        index::write(&segments, number, entries)?;
        // Without the next segment this one stays open, and an open one has no index.
        let undo = |_: &io::Error| drop(std::fs::remove_file(segments.with_ending(number, ENDING)));
        let sealed = SealedSegment::open(&segments, number, self.shared.form.id_of).inspect_err(undo)?;
        self.appender.begin(b"").inspect_err(undo)?;
        let mut state = self.shared.lock();
        state.0.sealed.extend(sealed.map(|sealed| (number, Arc::new(sealed))));
        state.0.open.clear();
        state.1 = self.appender.newest().clone();
        Ok(())
    }
}
