//! What every stream must do. One suite, which runs against each of them, and tests of what only segments have.

#![allow(clippy::unwrap_used)]

use super::local::{LocalStream, OpenError, Options, StreamForm};
use super::simulated::SimulatedStream;
use super::{AppendError, Line, LineId, LineStream, Position, TEXT_BYTES_MAX};
use crate::faults::{FAULTS, Fault};
use crate::segments::SegmentFolder;
use crate::segments::disk::Disk;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// Texts of these tests begin with their ids in hex.
fn id_of(text: &[u8]) -> Option<LineId> {
    hex::decode(text.get(..32)?).ok()?.try_into().ok()
}

const FORM: StreamForm = StreamForm { ending: "lines", id_of };

fn line(number: u128) -> Line {
    let id = number.to_be_bytes();
    Line { id, text: format!("{} line {number}", hex::encode(id)).into_bytes() }
}

fn lines(numbers: impl IntoIterator<Item = u128>) -> Vec<Line> {
    numbers.into_iter().map(line).collect()
}

/// A stream that can be closed and opened again.
trait Rig: Sized {
    fn new() -> Self;
    fn stream(&self) -> Arc<dyn LineStream>;
    fn reopen(self) -> Self;
}

struct Local(TempDir, Arc<LocalStream>);

impl Local {
    fn at(folder: TempDir) -> Self {
        let options = Options { segment_lines: 5, ..Options::default() };
        let stream = LocalStream::open_with(folder.path(), FORM, Position::default(), options).unwrap();
        Self(folder, Arc::new(stream))
    }
}

impl Rig for Local {
    fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }
    fn stream(&self) -> Arc<dyn LineStream> {
        self.1.clone()
    }
    fn reopen(self) -> Self {
        drop(Arc::into_inner(self.1).unwrap());
        Self::at(self.0)
    }
}

struct Simulated(Arc<SimulatedStream>);

impl Rig for Simulated {
    fn new() -> Self {
        Self(Arc::new(SimulatedStream::new(5)))
    }
    fn stream(&self) -> Arc<dyn LineStream> {
        self.0.clone()
    }
    fn reopen(self) -> Self {
        Self(Arc::new(self.0.crash()))
    }
}

/// The same with late answers.
struct Late(Simulated);

impl Rig for Late {
    fn new() -> Self {
        let rig = Simulated::new();
        rig.0.answer_late(3);
        Self(rig)
    }
    fn stream(&self) -> Arc<dyn LineStream> {
        self.0.stream()
    }
    fn reopen(self) -> Self {
        Self(self.0.reopen())
    }
}

/// Runs the suite against one implementation.
async fn all_hold<R: Rig>() {
    lines_are_scanned_in_their_order_and_found_by_id(R::new()).await;
    a_scan_continues_where_the_last_one_ended(R::new()).await;
    a_line_that_is_appended_again_is_stored_once(R::new()).await;
    what_no_stream_accepts_is_refused_as_a_whole(R::new()).await;
    appends_are_ordered_when_they_are_called(R::new()).await;
    a_position_that_the_stream_never_reached_is_told(R::new()).await;
    concurrent_appends_of_the_same_lines_store_each_once(R::new()).await;
    what_is_trimmed_is_the_oldest_and_the_rest_stays(R::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_in_segments_keeps_the_contract() {
    all_hold::<Local>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulated_stream_keeps_the_contract() {
    all_hold::<Simulated>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulated_stream_that_answers_late_keeps_the_contract() {
    all_hold::<Late>().await;
}

/// Returns all lines from a position on, and the position behind them.
async fn all(stream: &dyn LineStream, from: Position) -> (Vec<Line>, Position) {
    let (mut found, mut next) = (Vec::new(), from);
    loop {
        let part = stream.scan(next).await.unwrap();
        assert!(part.lines.iter().all(|(behind, _)| *behind > next && *behind <= part.next));
        found.extend(part.lines.into_iter().map(|(_, line)| line));
        next = part.next;
        if !part.more {
            return (found, next);
        }
    }
}

async fn lines_are_scanned_in_their_order_and_found_by_id(rig: impl Rig) {
    let stream = rig.stream();
    assert_eq!(stream.get([7; 16]).await.unwrap(), None);
    // Ids need not grow.
    let numbers: Vec<u128> = (0..60).map(|n| n * 37 % 61).collect();
    for some in numbers.chunks(7) {
        let positions = stream.append(lines(some.iter().copied())).await.unwrap();
        assert!(positions.is_sorted_by(|a, b| a < b));
    }
    stream.append(Vec::new()).await.unwrap();
    drop(stream);
    for rig in [rig.reopen()] {
        let stream = rig.stream();
        assert_eq!(all(&*stream, Position::default()).await.0, lines(numbers.iter().copied()));
        for number in &numbers {
            assert_eq!(stream.get(line(*number).id).await.unwrap(), Some(line(*number).text));
        }
        assert_eq!(stream.get([7; 16]).await.unwrap(), None);
    }
}

async fn a_scan_continues_where_the_last_one_ended(rig: impl Rig) {
    let mut rig = rig;
    let (mut next, mut seen) = (Position::default(), Vec::new());
    for round in 0..8_u128 {
        let stream = rig.stream();
        let positions = stream.append(lines(round * 10..round * 10 + 6)).await.unwrap();
        // From the middle of the append, too.
        let (rest, _) = all(&*stream, positions[2]).await;
        assert_eq!(rest, lines(round * 10 + 3..round * 10 + 6));
        let (found, end) = all(&*stream, next).await;
        seen.extend(found);
        next = end;
        assert_eq!(all(&*stream, next).await, (Vec::new(), next));
        drop(stream);
        rig = rig.reopen();
    }
    assert_eq!(seen, lines((0..8).flat_map(|round| round * 10..round * 10 + 6)));
}

async fn a_line_that_is_appended_again_is_stored_once(rig: impl Rig) {
    let stream = rig.stream();
    let first = stream.append(lines(0..8)).await.unwrap();
    let again = stream.append(lines([3, 20, 20, 5])).await.unwrap();
    assert_eq!((again[0], again[3]), (first[3], first[5]));
    assert_eq!(again[1], again[2]);
    let other = Line { id: line(3).id, text: [line(3).text, b"!".to_vec()].concat() };
    assert_eq!(stream.append(vec![other]).await.unwrap(), [first[3]]);
    drop(stream);
    let rig = rig.reopen();
    let stream = rig.stream();
    stream.append(lines(0..8)).await.unwrap();
    assert_eq!(all(&*stream, Position::default()).await.0, lines((0..8).chain([20])));
}

async fn what_no_stream_accepts_is_refused_as_a_whole(rig: impl Rig) {
    let stream = rig.stream();
    let longest = |bytes: usize| {
        let mut long = line(1);
        long.text.resize(bytes, b'x');
        long
    };
    for bad in [Line { text: b"a\nb".to_vec(), ..line(9) }, longest(TEXT_BYTES_MAX + 1)] {
        let refused = stream.append(vec![line(0), bad]).await;
        assert!(matches!(refused, Err(AppendError::Invalid(_))), "{refused:?}");
    }
    assert_eq!(all(&*stream, Position::default()).await.0, []);
    stream.append(vec![longest(TEXT_BYTES_MAX)]).await.unwrap();
    assert_eq!(stream.get(line(1).id).await.unwrap(), Some(longest(TEXT_BYTES_MAX).text));
}

async fn appends_are_ordered_when_they_are_called(rig: impl Rig) {
    let stream = rig.stream();
    let futures: Vec<_> = (0..30).map(|n| stream.append(lines([n]))).collect();
    for future in futures.into_iter().rev() {
        future.await.unwrap();
    }
    assert_eq!(all(&*stream, Position::default()).await.0, lines(0..30));
    // One that nobody waits for is made as well.
    drop(stream.append(lines([100])));
    stream.append(lines([101])).await.unwrap();
    assert_eq!(stream.get(line(100).id).await.unwrap(), Some(line(100).text));
}

async fn a_position_that_the_stream_never_reached_is_told(rig: impl Rig) {
    let stream = rig.stream();
    let behind = stream.append(lines([1])).await.unwrap()[0];
    assert!(stream.scan(Position { offset: behind.offset + 1, ..behind }).await.is_err());
}

async fn concurrent_appends_of_the_same_lines_store_each_once(rig: impl Rig) {
    let tasks: Vec<_> = (0..8_u128)
        .map(|task| {
            let stream = rig.stream();
            tokio::spawn(async move {
                for n in 0..20 {
                    stream.append(lines([n, 100 + task])).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let rig = rig.reopen();
    let (found, _) = all(&*rig.stream(), Position::default()).await;
    let ids: HashSet<LineId> = found.iter().map(|line| line.id).collect();
    assert_eq!((found.len(), ids.len()), (28, 28));
}

async fn what_is_trimmed_is_the_oldest_and_the_rest_stays(rig: impl Rig) {
    let stream = rig.stream();
    for n in 0..23 {
        stream.append(lines([n])).await.unwrap();
    }
    stream.trim("2000-01-01T00:00:00Z".parse().unwrap()).await.unwrap();
    assert_eq!(all(&*stream, Position::default()).await.0.len(), 23);
    stream.trim("2200-01-01T00:00:00Z".parse().unwrap()).await.unwrap();
    let (left, _) = all(&*stream, Position::default()).await;
    assert!(left.len() < 23 && left.ends_with(&lines([22])), "{}", left.len());
    assert_eq!(stream.get(line(0).id).await.unwrap(), None);
    stream.append(lines([50])).await.unwrap();
    drop(stream);
    let rig = rig.reopen();
    assert!(all(&*rig.stream(), Position::default()).await.0.ends_with(&lines([22, 50])));
}

/// Appends each line until it is acknowledged, as the ledger does.
async fn append_surely(stream: &dyn LineStream, some: &[Line]) {
    while stream.append(some.to_vec()).await.is_err() {}
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is answered and lost: each acknowledged line is there once, and in its order among the acknowledged.
    #[test]
    fn faults_and_crashes_lose_no_acknowledged_line_and_repeat_none(seed in any::<u64>(), rounds in 1..6_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut stream = SimulatedStream::new(seed);
            let (mut number, mut acknowledged) = (0, Vec::new());
            for _ in 0..rounds {
                stream.fail_at_random(400);
                stream.answer_late(2);
                for _ in 0..10 {
                    let some = lines(number..number + 3);
                    number += 3;
                    append_surely(&stream, &some).await;
                    acknowledged.extend(some);
                }
                // One that nobody waits for, before the crash.
                drop(stream.append(lines(number..number + 3)));
                stream = stream.crash();
                append_surely(&stream, &lines(number..number + 3)).await;
                acknowledged.extend(lines(number..number + 3));
                number += 3;
            }
            assert_eq!(all(&stream, Position::default()).await.0, acknowledged);
        });
    }

    /// A crash of files leaves the beginning of what was being written: it is cut off anywhere.
    #[test]
    fn a_torn_segment_keeps_its_whole_lines(cut in any::<prop::sample::Index>(), garbage in "[ -~]{0,20}") {
        let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let stream = open(folder.path(), &[]).unwrap();
            stream.append(lines(0..10)).await.unwrap();
            drop(stream);
            let path = SegmentFolder::new(folder.path(), "lines").path(1);
            let mut bytes = std::fs::read(&path).unwrap();
            let cut = cut.index(bytes.len());
            bytes.truncate(cut);
            let whole = bytes.iter().filter(|byte| **byte == b'\n').count() as u128;
            if bytes.last().is_none_or(|byte| *byte == b'\n') {
                bytes.extend_from_slice(garbage.as_bytes());
            }
            std::fs::write(&path, bytes).unwrap();
            let stream = open(folder.path(), &[]).unwrap();
            assert_eq!(all(&stream, Position::default()).await.0, lines(0..whole));
            stream.append(lines(0..12)).await.unwrap();
            drop(stream);
            let stream = open(folder.path(), &[]).unwrap();
            assert_eq!(all(&stream, Position::default()).await.0, lines(0..12));
        });
    }
}

/// Opens a stream whose disk fails as told.
fn open(folder: &Path, faults: &[Option<io::ErrorKind>]) -> Result<LocalStream, OpenError> {
    let disk = Disk::default();
    disk.faults.lock().unwrap().extend(faults);
    LocalStream::open_with(folder, FORM, Position::default(), Options { segment_lines: 1_000, disk })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_of_the_disk_is_told_as_what_it_is_and_the_stream_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (full, broken) = (Some(io::ErrorKind::StorageFull), Some(io::ErrorKind::Other));
    // A full disk; a failed sync; then one whose rest cannot be cut off, twice.
    let faults = [full, None, broken, None, None, broken, broken, broken, None, None];
    let stream = open(folder.path(), &faults).unwrap();
    assert_eq!(stream.append(lines([1])).await, Err(AppendError::Full));
    assert!(matches!(stream.append(lines([1])).await, Err(AppendError::Unavailable(_))));
    // A new segment begins; then the write fails.
    assert!(matches!(stream.append(lines([1, 2])).await, Err(AppendError::Unknown(_))));
    assert!(matches!(stream.append(lines([1, 2])).await, Err(AppendError::Unavailable(_))));
    assert_eq!(all(&stream, Position::default()).await.0, []);
    stream.append(lines([1, 2])).await.unwrap();
    drop(stream);
    let stream = open(folder.path(), &[]).unwrap();
    assert_eq!(all(&stream, Position::default()).await.0, lines([1, 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_missing_is_made_and_one_of_the_open_segment_is_dropped() {
    let mut rig = Local::new();
    for n in 0..12 {
        rig.stream().append(lines([n])).await.unwrap();
    }
    let segments = SegmentFolder::new(rig.0.path(), "lines");
    assert_eq!(segments.numbers().unwrap(), [1, 2, 3]);
    let first = std::fs::read(segments.with_ending(1, "idx")).unwrap();
    std::fs::remove_file(segments.with_ending(1, "idx")).unwrap();
    std::fs::write(segments.with_ending(3, "idx"), "old").unwrap();
    rig = rig.reopen();
    assert_eq!(std::fs::read(segments.with_ending(1, "idx")).unwrap(), first);
    assert!(!segments.with_ending(3, "idx").exists());
    for n in 0..12 {
        assert_eq!(rig.stream().get(line(n).id).await.unwrap(), Some(line(n).text));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_lines_that_are_gone_stop_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let stream = open(folder.path(), &[]).unwrap();
    let behind = *stream.append(lines([1, 2])).await.unwrap().last().unwrap();
    drop(stream);
    let path = SegmentFolder::new(folder.path(), "lines").path(1);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 2]).unwrap();
    let lost = LocalStream::open(folder.path(), FORM, behind).unwrap_err();
    assert!(matches!(lost, OpenError::Lost { segment: 1, kept_to, .. } if kept_to == behind.offset), "{lost:?}");
    // Without that knowledge it can only be a write that a crash interrupted.
    let stream = LocalStream::open(folder.path(), FORM, Position::default()).unwrap();
    assert_eq!(all(&stream, Position::default()).await.0, lines([1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_costs_its_own_line_and_a_damaged_line_feed_none() {
    let folder = tempfile::tempdir().unwrap();
    let stream = open(folder.path(), &[]).unwrap();
    let positions = stream.append(lines(0..5)).await.unwrap();
    drop(stream);
    let path = SegmentFolder::new(folder.path(), "lines").path(1);
    let mut bytes = std::fs::read(&path).unwrap();
    // In the third line, and the last line feed.
    bytes[positions[1].offset as usize + 20] ^= 4;
    let last = bytes.len() - 1;
    bytes[last] ^= 4;
    std::fs::write(&path, &bytes).unwrap();
    for _ in 0..2 {
        let stream = open(folder.path(), &[]).unwrap();
        let (found, end) = all(&stream, Position::default()).await;
        assert_eq!((found, end.offset), (lines([0, 1, 3, 4]), bytes.len() as u64));
        assert_eq!(stream.get(line(2).id).await.unwrap(), None);
        assert_eq!(stream.get(line(4).id).await.unwrap(), Some(line(4).text));
        assert_eq!(std::fs::read(&path).unwrap().len(), bytes.len(), "damaged bytes stay");
    }
}

#[tokio::test]
async fn each_simulated_fault_does_what_its_name_says() {
    let mut found = BTreeMap::new();
    for (n, fault) in FAULTS.into_iter().enumerate() {
        let stream = SimulatedStream::new(1);
        stream.fail_next(fault);
        let error = stream.append(lines([n as u128])).await.unwrap_err();
        let stored = stream.get(line(n as u128).id).await.unwrap().is_some();
        found.insert(format!("{fault:?}"), (error, stored));
    }
    assert_eq!(found["Full"], (AppendError::Full, false));
    assert!(matches!(found["Unavailable"], (AppendError::Unavailable(_), false)));
    assert!(matches!(found["UnknownNotDone"], (AppendError::Unknown(_), false)));
    assert!(matches!(found[&format!("{:?}", Fault::UnknownDone)], (AppendError::Unknown(_), _)));
}
