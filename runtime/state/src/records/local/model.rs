//! Tests of the store in files: against a map, with crashes, damage, compaction and disks that fail.

#![allow(clippy::unwrap_used)]

use super::segment::segments;
use super::{HistoryLimits, LocalStore, Options};
use crate::records::{Change, CommitError, Expect, RecordStore, Revision, Watched};
use crate::segments::disk::Disk;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

type Model = BTreeMap<String, (Revision, Vec<u8>)>;

fn options(segment_bytes: u64) -> Options {
    Options { segment_bytes, ..Options::default() }
}

fn open(folder: &Path, segment_bytes: u64) -> LocalStore {
    LocalStore::open_with(folder, options(segment_bytes)).unwrap()
}

fn put(key: &str, value: &[u8]) -> Change {
    Change::Put { key: key.to_owned(), value: value.to_vec(), expect: Expect::Any }
}

fn delete(key: &str) -> Change {
    Change::Delete { key: key.to_owned(), expect: Expect::Any }
}

fn apply(model: &mut Model, changes: &[Change], revision: Revision) {
    for change in changes {
        match change {
            Change::Put { key, value, .. } => drop(model.insert(key.clone(), (revision, value.clone()))),
            Change::Delete { key, .. } => drop(model.remove(key)),
            Change::Check { .. } => {}
        }
    }
}

/// Reads all records, by pages and by key.
async fn all(store: &LocalStore) -> Model {
    let (mut found, mut after) = (Model::new(), None);
    loop {
        let page = store.page("", after.as_deref(), 3).await.unwrap();
        for entry in page.entries {
            assert_eq!(store.get(&entry.key).await.unwrap().as_ref(), Some(&entry));
            after = Some(entry.key.clone());
            found.insert(entry.key, (entry.revision, entry.value));
        }
        if !page.more {
            return found;
        }
    }
}

/// Returns the newest segment and its length.
fn newest(folder: &Path) -> (std::path::PathBuf, u64) {
    let path = segments(folder).path(*segments(folder).numbers().unwrap().last().unwrap());
    let bytes = path.metadata().unwrap().len();
    (path, bytes)
}

fn cut(path: &Path, bytes: u64) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Change>),
    Reopen,
    /// Commits, then loses the end of what that wrote.
    Crash(Vec<Change>, prop::sample::Index),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let value = prop_oneof![
        Just(br#"{"state":"queued"}"#.to_vec()),
        proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\\'), any::<u8>()], 0..120),
    ];
    let change = prop_oneof![3 => value.prop_map(Some), 1 => Just(None)];
    proptest::collection::btree_map(0..8_u8, change, 1..4).prop_map(|changes| {
        let change = |(key, value): (u8, Option<Vec<u8>>)| match value {
            Some(value) => put(&format!("k/{key}"), &value),
            None => delete(&format!("k/{key}")),
        };
        changes.into_iter().map(change).collect()
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => changes().prop_map(Step::Commit),
        1 => Just(Step::Reopen),
        1 => (changes(), any::<prop::sample::Index>()).prop_map(|(changes, at)| Step::Crash(changes, at)),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_acknowledged_stays_and_nothing_else_appears(steps in steps(), segment_bytes in prop_oneof![Just(1), Just(300), Just(1_500)]) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let mut store = open(folder.path(), segment_bytes);
            let (mut model, mut last) = (Model::new(), 0);
            for step in steps {
                match step {
                    Step::Commit(changes) => {
                        let revision = store.commit(changes.clone()).await.unwrap();
                        assert!(revision > last);
                        last = revision;
                        apply(&mut model, &changes, revision);
                    }
                    Step::Reopen => {
                        drop(store);
                        store = open(folder.path(), segment_bytes);
                    }
                    Step::Crash(changes, at) => {
                        drop(store);
                        // With segments without a limit, so that the commit is the last thing that is written.
                        let store_before = open(folder.path(), u64::MAX);
                        let (path, before) = newest(folder.path());
                        let numbers = segments(folder.path()).numbers().unwrap();
                        let revision = store_before.commit(changes.clone()).await.unwrap();
                        drop(store_before);
                        let (same, after) = newest(folder.path());
                        // Compaction may already have acted on the commit, because it is on disk. Then it stays.
                        let text = std::fs::read(&same).unwrap();
                        let line = text[before as usize..].iter().position(|byte| *byte == b'\n').unwrap() as u64 + 1;
                        if numbers == segments(folder.path()).numbers().unwrap() && before + line == after {
                            let end = before + at.index(line as usize + 1) as u64;
                            cut(&path, end);
                            // Without its line feed a line is whole, but a crash may have taken that.
                            if end == after {
                                apply(&mut model, &changes, revision);
                                last = revision;
                            }
                        } else {
                            apply(&mut model, &changes, revision);
                            last = revision;
                        }
                        store = open(folder.path(), segment_bytes);
                    }
                }
                assert_eq!(store.findings(), []);
                assert_eq!(all(&store).await, model);
            }
            drop(store);
            assert_eq!(LocalStore::check(folder.path()).unwrap(), []);
        });
    }

    #[test]
    fn of_commits_that_were_written_together_a_crash_leaves_the_first_ones(count in 1..30_usize, at in any::<prop::sample::Index>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let store = open(folder.path(), u64::MAX);
            let (path, start) = newest(folder.path());
            let commits: Vec<_> = (0..count)
                .map(|n| store.commit(vec![put(&format!("a/{n:02}"), b"\n"), put(&format!("b/{n:02}"), b"{}")]))
                .collect();
            for commit in commits {
                commit.await.unwrap();
            }
            drop(store);
            let (_, end) = newest(folder.path());
            cut(&path, start + at.index((end - start) as usize + 1) as u64);
            let found = all(&open(folder.path(), u64::MAX)).await;
            let left = found.len() / 2;
            let expected = ["a", "b"].iter().flat_map(|half| (0..left).map(move |n| format!("{half}/{n:02}")));
            assert_eq!(found.into_keys().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        });
    }

    #[test]
    fn a_flipped_bit_costs_one_commit_or_two_and_is_told(bit in any::<prop::sample::Index>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let store = open(folder.path(), u64::MAX);
            let (path, start) = newest(folder.path());
            for n in 0..5 {
                store.commit(vec![put(&format!("k/{n}"), b"{}")]).await.unwrap();
            }
            drop(store);
            let mut bytes = std::fs::read(&path).unwrap();
            let bit = start as usize * 8 + bit.index((bytes.len() - start as usize) * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            let told = LocalStore::check(folder.path()).unwrap().len();
            let store = open(folder.path(), u64::MAX);
            let left = all(&store).await;
            // Only the line feed of the last line can be put back.
            let is_last = bit / 8 == bytes.len() - 1;
            assert_eq!((told, store.findings().len()), if is_last { (0, 0) } else { (1, 1) });
            assert!(left.len() >= if is_last { 5 } else { 3 } && (is_last || left.len() < 5));
            let revision = store.commit(vec![put("k/9", b"{}")]).await.unwrap();
            drop(store);
            assert_eq!(all(&open(folder.path(), u64::MAX)).await.get("k/9"), Some(&(revision, b"{}".to_vec())));
        });
    }
}

#[tokio::test]
async fn compaction_gives_space_back_and_keeps_revisions() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 2_000);
    let kept = store.commit(vec![put("kept", b"{}"), put("gone", b"{}")]).await.unwrap();
    store.commit(vec![delete("gone")]).await.unwrap();
    let mut last = 0;
    for n in 0..2_000 {
        last = store.commit(vec![put("busy", n.to_string().as_bytes())]).await.unwrap();
    }
    drop(store);
    let bytes: u64 = segments(folder.path())
        .numbers()
        .unwrap()
        .iter()
        .map(|number| segments(folder.path()).path(*number).metadata().unwrap().len())
        .sum();
    assert!(bytes < 10_000, "{bytes}");
    let store = open(folder.path(), 2_000);
    let found = all(&store).await;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["busy", "kept"]);
    assert_eq!((found["kept"].0, found["busy"].0), (kept, last));
}

#[tokio::test]
async fn revisions_are_not_repeated_when_all_segments_that_had_them_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut last = 0;
    for _ in 0..20 {
        let store = open(folder.path(), 1);
        for change in [put("a", b"{}"), delete("a")] {
            let revision = store.commit(vec![change]).await.unwrap();
            assert!(revision > last);
            last = revision;
        }
    }
    assert!(segments(folder.path()).numbers().unwrap().len() < 5);
}

#[tokio::test]
async fn a_compacted_segment_with_damage_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 200);
    store.commit(vec![put("a", b"{}")]).await.unwrap();
    drop(store);
    let path = segments(folder.path()).path(1);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 12;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let store = open(folder.path(), 200);
    assert_eq!(store.findings().len(), 1);
    assert_eq!(all(&store).await, Model::new());
    for _ in 0..20 {
        store.commit(vec![put("b", b"{}")]).await.unwrap();
    }
    drop(store);
    assert!(!path.exists() && path.with_extension("damaged").exists());
}

#[tokio::test]
async fn a_record_that_is_damaged_while_the_store_is_open_is_an_error_and_not_absent() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 200);
    store.commit(vec![put("a", b"{\"x\":1}")]).await.unwrap();
    let path = segments(folder.path()).path(1);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 12;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    for _ in 0..40 {
        store.commit(vec![put("b", b"{}")]).await.unwrap();
        assert_eq!(store.get("a").await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
    assert!(path.exists());
}

/// Opens a store whose next calls of the disk have these results.
fn failing(folder: &Path, results: &[Option<io::ErrorKind>]) -> LocalStore {
    let disk = Disk::default();
    let store = LocalStore::open_with(folder, Options { disk: disk.clone(), ..Options::default() }).unwrap();
    disk.faults.lock().unwrap().extend(results);
    store
}

#[tokio::test]
async fn a_full_disk_keeps_nothing_and_the_store_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = failing(folder.path(), &[Some(io::ErrorKind::StorageFull), None]);
    assert_eq!(store.commit(vec![put("a", b"1")]).await, Err(CommitError::Full));
    assert_eq!(all(&store).await, Model::new());
    let revision = store.commit(vec![put("b", b"2")]).await.unwrap();
    drop(store);
    assert_eq!(all(&open(folder.path(), u64::MAX)).await, Model::from([("b".into(), (revision, b"2".to_vec()))]));
    assert_eq!(segments(folder.path()).numbers().unwrap(), [1]);
}

#[tokio::test]
async fn after_a_failed_sync_a_new_segment_begins() {
    let folder = tempfile::tempdir().unwrap();
    let store = failing(folder.path(), &[Some(io::ErrorKind::Other)]);
    let failed = store.commit(vec![put("a", b"1")]).await;
    assert!(matches!(failed, Err(CommitError::Unavailable(_))), "{failed:?}");
    let revision = store.commit(vec![put("b", b"2")]).await.unwrap();
    drop(store);
    let store = open(folder.path(), u64::MAX);
    assert_eq!(store.findings(), []);
    assert_eq!(all(&store).await, Model::from([("b".into(), (revision, b"2".to_vec()))]));
    assert_eq!(segments(folder.path()).numbers().unwrap().last(), Some(&2));
}

#[tokio::test]
async fn what_cannot_be_cut_off_is_unknown_and_nothing_follows_it() {
    let folder = tempfile::tempdir().unwrap();
    let error = Some(io::ErrorKind::Other);
    // The write, its cut, the cut again; then the cut works, and the new segment does not.
    let store = failing(folder.path(), &[error, error, error, None, error]);
    let before = store.commit(vec![put("a", b"1")]).await;
    assert!(matches!(before, Err(CommitError::Unknown(_))), "{before:?}");
    for _ in 0..2 {
        let refused = store.commit(vec![put("b", b"2")]).await;
        assert!(matches!(refused, Err(CommitError::Unavailable(_))), "{refused:?}");
    }
    assert_eq!(all(&store).await, Model::new());
    let revision = store.commit(vec![put("b", b"2")]).await.unwrap();
    drop(store);
    let store = open(folder.path(), u64::MAX);
    assert_eq!(store.findings(), []);
    assert_eq!(all(&store).await, Model::from([("b".into(), (revision, b"2".to_vec()))]));
}

#[tokio::test]
async fn an_unknown_commit_is_whole_or_absent_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let error = Some(io::ErrorKind::Other);
    let store = failing(folder.path(), &[error, error]);
    let unknown = store.commit(vec![put("a", b"1"), put("b", b"1")]).await;
    assert!(matches!(unknown, Err(CommitError::Unknown(_))), "{unknown:?}");
    drop(store);
    let found = all(&open(folder.path(), u64::MAX)).await;
    assert!(found.len() == 2 || found.is_empty());
}

#[tokio::test]
async fn a_watch_that_is_too_slow_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let history = HistoryLimits { commits_max: 3, bytes_max: 1 << 20 };
    let store = LocalStore::open_with(folder.path(), Options { history, ..Options::default() }).unwrap();
    let mut watch = store.watch("", 0);
    let mut last = 0;
    for _ in 0..10 {
        last = store.commit(vec![put("a", b"1")]).await.unwrap();
    }
    assert_eq!(watch.next().await, Some(Watched::Lagged));
    let mut recent = store.watch("", last - 2);
    for expected in [last - 1, last] {
        let Some(Watched::Put(entry)) = recent.next().await else { panic!("no record") };
        assert_eq!(entry.revision, expected);
    }
    let next = store.commit(vec![delete("a")]).await.unwrap();
    assert_eq!(watch.next().await, Some(Watched::Deleted { key: "a".into(), revision: next }));
}

#[tokio::test]
async fn files_are_for_the_server_only() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let records = folder.path().join("records");
    let store = open(&records, u64::MAX);
    store.commit(vec![put("jobs/a", br#"{"state":"queued"}"#)]).await.unwrap();
    assert_eq!(records.metadata().unwrap().mode() & 0o777, 0o700);
    let (path, _) = newest(&records);
    assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains("commit 1 put jobs/a 18 {\"state\":\"queued\"}\t"), "{text}");
}
