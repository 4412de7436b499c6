//! A stream of one machine, in segments: `FOLDER/NUMBER.ENDING`, each sealed one with an index of its ids.
//!
//! ```text
//!  append() ─▶ inbox (bounded) ─▶ writer thread: drop known ids ─▶ append + one sync ─▶ index ─▶ answers
//!                                        └ a full segment is sealed with its index, and the next one begins
//! ```
//!
//! A position is a segment and an offset in it. The caller makes sure that no other process uses the folder.

mod open;
mod writer;

pub use open::OpenError;

use super::{AppendError, Line, LineId, LineStream, Part, Position, StoreFuture, TEXT_BYTES_MAX, check_lines};
use crate::lines;
use crate::segments::SegmentFolder;
use crate::segments::appender::{Appender, Newest};
use crate::segments::disk::Disk;
use crate::segments::index::{ENDING, SealedSegment};
use crate::wait::blocking;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;
use writer::{Request, Writer};

/// A segment with this many lines is sealed.
const SEGMENT_LINES: usize = 200_000;
/// Most appends, and bytes of them, that wait for the writer.
const WAITING_APPENDS_MAX: usize = 16_384;
const WAITING_BYTES_MAX: usize = 512 << 20;
/// A scan returns about this many bytes at once.
const PART_BYTES: usize = 4 << 20;
/// How many bytes a lookup reads first. Most lines are shorter.
const LOOKUP_BYTES: usize = 2048;

/// What a stream's files look like.
#[derive(Debug, Clone, Copy)]
pub struct StreamForm {
    /// Ending of the names of segments, without its dot.
    pub ending: &'static str,
    /// Reads the id of a line from its text. None if this binary does not know the text's form.
    pub id_of: fn(&[u8]) -> Option<LineId>,
}

/// What tests change.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) segment_lines: usize,
    pub(super) disk: Disk,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_lines: SEGMENT_LINES, disk: Disk::default() }
    }
}

/// Where lines are.
#[derive(Debug)]
pub(super) struct StreamIndex {
    /// Offsets of the lines in the open segment.
    pub(super) open: HashMap<LineId, u64>,
    /// The other segments that have lines, by number.
    pub(super) sealed: BTreeMap<u64, Arc<SealedSegment>>,
}

impl StreamIndex {
    /// Returns the sealed segments that may have a line, the newest first. Ids mostly grow, so there is seldom one.
    fn candidates(&self, id: LineId) -> Vec<(u64, Arc<SealedSegment>)> {
        let candidates = self.sealed.iter().rev().filter(|(_, segment)| segment.may_have(id));
        candidates.map(|(number, segment)| (*number, Arc::clone(segment))).collect()
    }
}

/// What the writer shares with readers.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) segments: SegmentFolder,
    pub(super) form: StreamForm,
    state: Mutex<(StreamIndex, Newest)>,
    pub(super) waiting_bytes: AtomicUsize,
}

/// A line that was found.
pub(super) struct Found {
    pub(super) text: Vec<u8>,
    pub(super) behind: Position,
}

/// The stream; see the module. When it is dropped, what waits is still written.
#[derive(Debug)]
pub struct LocalStream {
    shared: Arc<Shared>,
    inbox: Option<SyncSender<Request>>,
    writer: Option<JoinHandle<()>>,
}

impl LocalStream {
    /// Opens the stream in a folder, which exists. Lines up to `kept_to` were acknowledged, as somebody knows who keeps
    /// this position elsewhere.
    pub fn open(folder: &Path, form: StreamForm, kept_to: Position) -> Result<Self, OpenError> {
        Self::open_with(folder, form, kept_to, Options::default())
    }

    pub(super) fn open_with(
        folder: &Path,
        form: StreamForm,
        kept_to: Position,
        options: Options,
    ) -> Result<Self, OpenError> {
        let segments = SegmentFolder::new(folder, form.ending);
        let (index, newest) = open::open(&segments, form, &options.disk, kept_to)?;
        let appender = Appender::new(segments.clone(), options.disk, newest.clone());
        let state = Mutex::new((index, newest));
        let shared = Arc::new(Shared { segments, form, state, waiting_bytes: AtomicUsize::new(0) });
        let (inbox, requests) = sync_channel(WAITING_APPENDS_MAX);
        let writer = Writer::new(Arc::clone(&shared), appender, options.segment_lines);
        let writer = std::thread::Builder::new().name("stream".into()).spawn(move || writer.run(&requests))?;
        Ok(Self { shared, inbox: Some(inbox), writer: Some(writer) })
    }

    fn enqueue(&self, lines: Vec<Line>) -> Result<oneshot::Receiver<Result<Vec<Position>, AppendError>>, AppendError> {
        check_lines(&lines)?;
        let bytes = lines.iter().map(|line| line.text.len()).sum::<usize>();
        let waiting = &self.shared.waiting_bytes;
        let waiting_bytes = waiting.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let refused = if waiting_bytes > WAITING_BYTES_MAX {
            format!("{waiting_bytes} bytes of lines wait; the limit is {WAITING_BYTES_MAX}")
        } else {
            let (answer, result) = oneshot::channel();
            match self.inbox.as_ref().map(|inbox| inbox.try_send(Request { lines, bytes, answer })) {
                Some(Ok(())) => return Ok(result),
                Some(Err(TrySendError::Full(_))) => format!("{WAITING_APPENDS_MAX} appends wait, which is the limit"),
                Some(Err(TrySendError::Disconnected(_))) | None => "its writer has ended".to_owned(),
            }
        };
        waiting.fetch_sub(bytes, Ordering::Relaxed);
        Err(AppendError::Unavailable(refused))
    }
}

impl Drop for LocalStream {
    fn drop(&mut self) {
        // The writer ends when nothing can come any more. Nobody may open the folder again before that.
        drop(self.inbox.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Shared {
    /// Locks the index and the newest segment.
    pub(super) fn lock(&self) -> MutexGuard<'_, (StreamIndex, Newest)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds a line.
    pub(super) fn find(&self, id: LineId) -> io::Result<Option<Found>> {
        let (open, sealed) = {
            let state = self.lock();
            let (index, newest) = &*state;
            let open = index.open.get(&id).map(|at| (newest.number, Arc::clone(&newest.file), *at));
            (open, index.candidates(id))
        };
        if let Some((number, file, at)) = open {
            return line_at(&file, number, at).map(Some);
        }
        for (number, segment) in sealed {
            if let Some((file, at)) = segment.find(id)? {
                return line_at(&file, number, at).map(Some);
            }
        }
        Ok(None)
    }

    fn scan(&self, from: Position) -> io::Result<Part> {
        let newest = self.lock().1.clone();
        if (from.segment, from.offset) > (newest.number, newest.end) {
            let Position { segment, offset } = from;
            return Err(io::Error::other(format!("the stream ends before byte {offset} of segment {segment}")));
        }
        let numbers = self.segments.numbers()?;
        let mut part = Part { lines: Vec::new(), next: from, more: false };
        let mut bytes = 0;
        for number in numbers.into_iter().filter(|number| (from.segment..=newest.number).contains(number)) {
            if bytes >= PART_BYTES {
                part.more = true;
                break;
            }
            let file = match File::open(self.segments.path(number)) {
                // It was trimmed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            let start = if number == from.segment { from.offset } else { 0 };
            let end = if number == newest.number { newest.end } else { file.metadata()?.len() };
            let read = self.scan_segment(&file, number, start..end, PART_BYTES - bytes, &mut part)?;
            bytes += read.0;
            if read.1 {
                part.more = true;
                break;
            }
        }
        Ok(part)
    }

    /// Appends lines of a segment to a part, until they have `bytes_max` bytes. Returns their bytes, and whether there
    /// is more behind them.
    fn scan_segment(
        &self,
        file: &File,
        number: u64,
        range: std::ops::Range<u64>,
        bytes_max: usize,
        part: &mut Part,
    ) -> io::Result<(usize, bool)> {
        let mut reader = BufReader::with_capacity(1 << 18, file);
        reader.seek(SeekFrom::Start(range.start))?;
        let (mut at, mut bytes, mut line) = (range.start, 0, Vec::new());
        while at < range.end && bytes < bytes_max {
            line.clear();
            let longest = lines::LINE_BYTES_MAX.min(range.end - at);
            let read = io::BufRead::read_until(&mut io::Read::take(&mut reader, longest), b'\n', &mut line)? as u64;
            if read == 0 {
                break;
            }
            at += read;
            let behind = Position { segment: number, offset: at };
            if let Some(text) = line.strip_suffix(b"\n").and_then(lines::unseal) {
                match (self.form.id_of)(text) {
                    Some(id) => part.lines.push((behind, Line { id, text: text.to_vec() })),
                    None => tracing::error!(segment = number, at, "a line of a stream has an unknown form"),
                }
            }
            bytes += line.len();
        }
        part.next = Position { segment: number, offset: at };
        Ok((bytes, at < range.end))
    }

    fn trim(&self, before: jiff::Timestamp) -> io::Result<()> {
        let numbers: Vec<u64> = self.lock().0.sealed.keys().copied().collect();
        let before = Duration::from_secs(u64::try_from(before.as_second()).unwrap_or(0));
        for number in numbers {
            let place = self.segments.path(number);
            let stored = std::fs::metadata(&place)?.modified()?.duration_since(SystemTime::UNIX_EPOCH);
            if stored.unwrap_or_default() >= before {
                break;
            }
            self.lock().0.sealed.remove(&number);
            std::fs::remove_file(&place)?;
            std::fs::remove_file(self.segments.with_ending(number, ENDING))?;
        }
        Ok(())
    }
}

/// Reads the line at an offset.
fn line_at(file: &File, segment: u64, at: u64) -> io::Result<Found> {
    let (mut text, mut have) = (vec![0; LOOKUP_BYTES], 0);
    loop {
        let read = file.read_at(text.get_mut(have..).unwrap_or_default(), at + have as u64)?;
        let fresh = text.get(have..have + read).unwrap_or_default();
        if let Some(end) = fresh.iter().position(|byte| *byte == b'\n').map(|end| have + end) {
            let found = text.get(..end).and_then(lines::unseal).map(<[u8]>::to_vec);
            let behind = Position { segment, offset: at + end as u64 + 1 };
            let damaged = || io::Error::other(format!("the line at byte {at} of segment {segment} cannot be read"));
            return found.map(|text| Found { text, behind }).ok_or_else(damaged);
        }
        have += read;
        if read == 0 || have > TEXT_BYTES_MAX * 2 {
            return Err(io::Error::other(format!("the line at byte {at} of segment {segment} has no end")));
        }
        if have == text.len() {
            text.resize(have * 2, 0);
        }
    }
}

impl LineStream for LocalStream {
    fn append(&self, lines: Vec<Line>) -> StoreFuture<'static, Result<Vec<Position>, AppendError>> {
        let queued = self.enqueue(lines);
        Box::pin(async move {
            let lost = |_| Err(AppendError::Unknown("the writer of the stream ended".to_owned()));
            queued?.await.unwrap_or_else(lost)
        })
    }

    fn scan(&self, from: Position) -> StoreFuture<'_, io::Result<Part>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(blocking(move || shared.scan(from)))
    }

    fn get(&self, id: LineId) -> StoreFuture<'_, io::Result<Option<Vec<u8>>>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(blocking(move || Ok(shared.find(id)?.map(|found| found.text))))
    }

    fn trim(&self, before: jiff::Timestamp) -> StoreFuture<'_, io::Result<()>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(blocking(move || shared.trim(before)))
    }
}
