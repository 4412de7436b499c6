//! What every store of records and of blobs must do. One suite, which runs against each of them. What follows from it
//! alone, as leases do, is tested with it.

#![allow(clippy::unwrap_used)]

use super::blobs::{BlobStore, TenantBlobs};
use super::local::{LocalStore, blobs::LocalBlobs, tenant_blobs::LocalTenantBlobs};
use super::simulated::{SimulatedBlobs, SimulatedStore, SimulatedTenantBlobs};
use super::{
    CHANGES_MAX, COMMIT_BYTES_MAX, Change, CommitError, Entry, Expect, KEY_BYTES_MAX, RecordStore, Revision,
    VALUE_BYTES_MAX, Watch, Watched, contract_of_blobs,
};
use crate::store::Store;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A store that can be closed and opened again.
pub(super) trait Rig: Sized {
    fn new() -> Self;
    fn store(&self) -> Arc<dyn RecordStore>;
    fn blobs(&self) -> Arc<dyn BlobStore>;
    fn tenant_blobs(&self) -> Arc<dyn TenantBlobs>;
    fn reopen(self) -> Self;
}

struct Local {
    folder: TempDir,
    store: Arc<LocalStore>,
    blobs: Arc<LocalBlobs>,
}

impl Local {
    fn at(folder: TempDir) -> Self {
        let store = Arc::new(LocalStore::open(&folder.path().join("records")).unwrap());
        let blobs = Arc::new(LocalBlobs::open(&folder.path().join("blobs")).unwrap());
        for name in ["components", "assets", "incoming"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        Self { folder, store, blobs }
    }
}

impl Rig for Local {
    fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }
    fn store(&self) -> Arc<dyn RecordStore> {
        self.store.clone()
    }
    fn blobs(&self) -> Arc<dyn BlobStore> {
        self.blobs.clone()
    }
    fn tenant_blobs(&self) -> Arc<dyn TenantBlobs> {
        Arc::new(LocalTenantBlobs::new(self.folder.path()))
    }
    fn reopen(self) -> Self {
        drop(Arc::into_inner(self.store).unwrap());
        Self::at(self.folder)
    }
}

/// The rare records, in sled and its journal.
struct Sled {
    folder: TempDir,
    store: Store,
    blobs: Arc<LocalBlobs>,
}

impl Sled {
    fn at(folder: TempDir) -> Self {
        let (store, _) = Store::open(&folder.path().join("data"), "x").unwrap();
        let blobs = Arc::new(LocalBlobs::open(&folder.path().join("blobs")).unwrap());
        Self { folder, store, blobs }
    }
}

impl Rig for Sled {
    fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }
    fn store(&self) -> Arc<dyn RecordStore> {
        self.store.records()
    }
    fn blobs(&self) -> Arc<dyn BlobStore> {
        self.blobs.clone()
    }
    fn tenant_blobs(&self) -> Arc<dyn TenantBlobs> {
        self.store.tenant_blobs().clone()
    }
    fn reopen(self) -> Self {
        drop(self.store);
        Self::at(self.folder)
    }
}

struct Simulated {
    store: Arc<SimulatedStore>,
    blobs: Arc<SimulatedBlobs>,
    tenants: Arc<SimulatedTenantBlobs>,
}

impl Rig for Simulated {
    fn new() -> Self {
        Self { store: Arc::new(SimulatedStore::new(7)), blobs: Arc::default(), tenants: Arc::default() }
    }
    fn store(&self) -> Arc<dyn RecordStore> {
        self.store.clone()
    }
    fn blobs(&self) -> Arc<dyn BlobStore> {
        self.blobs.clone()
    }
    fn tenant_blobs(&self) -> Arc<dyn TenantBlobs> {
        self.tenants.clone()
    }
    fn reopen(self) -> Self {
        Self { store: Arc::new(self.store.crash()), blobs: self.blobs, tenants: self.tenants }
    }
}

/// The same without faults, but with late answers.
struct Late(Simulated);

impl Rig for Late {
    fn new() -> Self {
        let rig = Simulated::new();
        rig.store.answer_late(3);
        Self(rig)
    }
    fn store(&self) -> Arc<dyn RecordStore> {
        self.0.store()
    }
    fn blobs(&self) -> Arc<dyn BlobStore> {
        self.0.blobs()
    }
    fn tenant_blobs(&self) -> Arc<dyn TenantBlobs> {
        self.0.tenant_blobs()
    }
    fn reopen(self) -> Self {
        Self(self.0.reopen())
    }
}

/// Runs the suite against one implementation.
async fn all_hold<R: Rig>() {
    a_record_is_written_read_and_removed(R::new()).await;
    values_are_any_bytes(R::new()).await;
    expectations_are_checked_and_name_the_key(R::new()).await;
    a_commit_is_done_as_a_whole_or_not_at_all(R::new()).await;
    the_limits_hold_at_their_exact_sizes(R::new()).await;
    pages_are_in_order_and_continue(R::new()).await;
    pages_go_backwards_too(R::new()).await;
    a_check_changes_nothing_and_must_hold(R::new()).await;
    revisions_grow_and_are_never_repeated(R::new()).await;
    commits_are_ordered_when_they_are_called(R::new()).await;
    a_watch_continues_a_page_without_gap_or_repetition(R::new()).await;
    a_watch_of_what_is_forgotten_says_so(R::new()).await;
    a_watch_ends_with_the_store(R::new()).await;
    concurrent_counters_count_exactly(R::new()).await;
    contract_of_blobs::all_hold::<R>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_records_in_segments_keep_the_contract() {
    all_hold::<Local>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_records_in_sled_keep_the_contract() {
    all_hold::<Sled>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulated_records_keep_the_contract() {
    all_hold::<Simulated>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulated_records_that_answer_late_keep_the_contract() {
    all_hold::<Late>().await;
}

fn put(key: &str, value: impl AsRef<[u8]>, expect: Expect) -> Change {
    Change::Put { key: key.to_owned(), value: value.as_ref().to_vec(), expect }
}

fn delete(key: &str, expect: Expect) -> Change {
    Change::Delete { key: key.to_owned(), expect }
}

fn entry(key: &str, revision: Revision, value: &str) -> Entry {
    Entry { key: key.to_owned(), revision, value: value.as_bytes().to_vec() }
}

async fn next(watch: &mut Box<dyn Watch>) -> Option<Watched> {
    tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap()
}

async fn a_record_is_written_read_and_removed(rig: impl Rig) {
    let store = rig.store();
    assert_eq!(store.get("a").await.unwrap(), None);
    let first = store.commit(vec![put("a", "1", Expect::Any)]).await.unwrap();
    assert_eq!(store.get("a").await.unwrap(), Some(entry("a", first, "1")));
    let second = store.commit(vec![put("a", "2", Expect::Any)]).await.unwrap();
    assert_eq!(store.get("a").await.unwrap(), Some(entry("a", second, "2")));
    store.commit(vec![delete("a", Expect::Any), delete("never", Expect::Any)]).await.unwrap();
    assert_eq!(store.get("a").await.unwrap(), None);
}

async fn values_are_any_bytes(rig: impl Rig) {
    let values: [&[u8]; 5] = [b"", b"\n", b"a\\n\nb", &[0, 255, 10, 92, 10], b"\t00000000\n"];
    for (at, value) in values.iter().enumerate() {
        rig.store().commit(vec![put(&format!("k{at}"), value, Expect::Absent)]).await.unwrap();
    }
    let rig = rig.reopen();
    for (at, value) in values.iter().enumerate() {
        assert_eq!(rig.store().get(&format!("k{at}")).await.unwrap().unwrap().value, *value);
    }
}

async fn expectations_are_checked_and_name_the_key(rig: impl Rig) {
    let store = rig.store();
    let conflict = |key: &str| Err(CommitError::Conflict { key: key.to_owned() });
    let one = store.commit(vec![put("a", "1", Expect::Absent)]).await.unwrap();
    assert_eq!(store.commit(vec![put("a", "2", Expect::Absent)]).await, conflict("a"));
    assert_eq!(store.commit(vec![put("b", "2", Expect::Revision(one))]).await, conflict("b"));
    assert_eq!(store.commit(vec![delete("b", Expect::Revision(one))]).await, conflict("b"));
    let two = store.commit(vec![put("a", "2", Expect::Revision(one))]).await.unwrap();
    assert_eq!(store.commit(vec![delete("a", Expect::Revision(one))]).await, conflict("a"));
    assert_eq!(store.commit(vec![delete("a", Expect::Absent)]).await, conflict("a"));
    store.commit(vec![delete("a", Expect::Revision(two)), delete("c", Expect::Absent)]).await.unwrap();
    store.commit(vec![put("a", "3", Expect::Absent)]).await.unwrap();
}

async fn a_commit_is_done_as_a_whole_or_not_at_all(rig: impl Rig) {
    let store = rig.store();
    let one = store.commit(vec![put("a", "1", Expect::Any), put("b", "1", Expect::Any)]).await.unwrap();
    let failing = vec![put("a", "2", Expect::Any), delete("b", Expect::Any), put("c", "2", Expect::Revision(9))];
    assert_eq!(store.commit(failing).await, Err(CommitError::Conflict { key: "c".into() }));
    drop(store);
    let rig = rig.reopen();
    let page = rig.store().page("", None, 10).await.unwrap();
    assert_eq!(page.entries, [entry("a", one, "1"), entry("b", one, "1")]);
}

async fn the_limits_hold_at_their_exact_sizes(rig: impl Rig) {
    let store = rig.store();
    let refused = |result| matches!(result, Err(CommitError::Invalid(_)));
    let (key, value) = ("k".repeat(KEY_BYTES_MAX), vec![b'\n'; VALUE_BYTES_MAX]);
    store.commit(vec![put(&key, &value, Expect::Any)]).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap().unwrap().value, value);
    assert!(refused(store.commit(vec![put(&format!("{key}k"), "", Expect::Any)]).await));
    for bad in ["", "a b", "a\n", "ä"] {
        assert!(refused(store.commit(vec![put(bad, "", Expect::Any)]).await), "{bad:?}");
    }
    assert!(refused(store.commit(vec![put("k", [value.as_slice(), b"1"].concat(), Expect::Any)]).await));
    let many = |count: usize| (0..count).map(|n| put(&format!("many/{n}"), "", Expect::Any)).collect::<Vec<_>>();
    store.commit(many(CHANGES_MAX)).await.unwrap();
    assert!(refused(store.commit(many(CHANGES_MAX + 1)).await));
    assert!(refused(store.commit(vec![put("k", "1", Expect::Any), delete("k", Expect::Any)]).await));
    // 16 keys of 2 bytes, and values that fill the rest.
    let filled = |bytes: usize| -> Vec<Change> {
        let mut left = bytes - 32;
        let mut next = |n: u8| {
            let length = left.min(VALUE_BYTES_MAX);
            left -= length;
            put(std::str::from_utf8(&[b'f', b'a' + n]).unwrap(), vec![b'x'; length], Expect::Any)
        };
        (0..16).map(&mut next).collect()
    };
    let largest = filled(COMMIT_BYTES_MAX);
    store.commit(largest).await.unwrap();
    let mut larger = filled(COMMIT_BYTES_MAX);
    larger.push(delete("z", Expect::Any));
    assert!(refused(store.commit(larger).await));
    store.commit(Vec::new()).await.unwrap();
    let page = store.page("f", None, 100).await.unwrap();
    assert!(page.entries.len() == 16 || page.more, "a page that ends early says so");
}

async fn pages_are_in_order_and_continue(rig: impl Rig) {
    let store = rig.store();
    let keys = ["a/1", "a/10", "a/2", "a0", "b/1"];
    let mut position = 0;
    for key in keys.iter().rev() {
        position = store.commit(vec![put(key, key, Expect::Any)]).await.unwrap();
    }
    let page = async |prefix: &str, after: Option<&str>, limit| {
        let page = store.page(prefix, after, limit).await.unwrap();
        assert_eq!(page.position, position);
        let keys: Vec<String> = page.entries.into_iter().map(|entry| entry.key).collect();
        (keys.join(" "), page.more)
    };
    let found = |keys: &str, more| (keys.to_owned(), more);
    assert_eq!(page("", None, 10).await, found("a/1 a/10 a/2 a0 b/1", false));
    assert_eq!(page("a/", None, 2).await, found("a/1 a/10", true));
    assert_eq!(page("a/", Some("a/10"), 2).await, found("a/2", false));
    assert_eq!(page("a/", None, 3).await, found("a/1 a/10 a/2", false));
    assert_eq!(page("a/", Some("a/15"), 3).await, found("a/2", false));
    assert_eq!(page("a/", Some("A"), 1).await, found("a/1", true));
    assert_eq!(page("a/", Some("z"), 1).await, found("", false));
    assert_eq!(page("a/", None, 0).await, found("", true));
    assert_eq!(page("c", None, 5).await, found("", false));
}

async fn pages_go_backwards_too(rig: impl Rig) {
    let store = rig.store();
    for key in ["a/1", "a/10", "a/2", "a0", "b/1"] {
        store.commit(vec![put(key, key, Expect::Any)]).await.unwrap();
    }
    let page = async |prefix: &str, before: Option<&str>, limit| {
        let page = store.page_back(prefix, before, limit).await.unwrap();
        let keys: Vec<String> = page.entries.into_iter().map(|entry| entry.key).collect();
        (keys.join(" "), page.more)
    };
    let found = |keys: &str, more| (keys.to_owned(), more);
    assert_eq!(page("", None, 10).await, found("b/1 a0 a/2 a/10 a/1", false));
    assert_eq!(page("a/", None, 2).await, found("a/2 a/10", true));
    assert_eq!(page("a/", Some("a/10"), 2).await, found("a/1", false));
    assert_eq!(page("a/", Some("a/15"), 2).await, found("a/10 a/1", false));
    assert_eq!(page("a/", Some("z"), 1).await, found("a/2", true));
    assert_eq!(page("a/", Some("A"), 1).await, found("", false));
    assert_eq!(page("c", None, 5).await, found("", false));
}

async fn a_check_changes_nothing_and_must_hold(rig: impl Rig) {
    let store = rig.store();
    let check = |key: &str, expect| Change::Check { key: key.to_owned(), expect };
    let conflict = |key: &str| Err(CommitError::Conflict { key: key.to_owned() });
    let one = store.commit(vec![put("lease", "1", Expect::Absent)]).await.unwrap();
    let mut watch = store.watch("", one);
    let two = store.commit(vec![check("lease", Expect::Revision(one)), put("a", "2", Expect::Any)]).await.unwrap();
    assert_eq!(
        store.commit(vec![check("lease", Expect::Revision(two)), delete("a", Expect::Any)]).await,
        conflict("lease")
    );
    assert_eq!(store.commit(vec![check("lease", Expect::Absent)]).await, conflict("lease"));
    store.commit(vec![check("other", Expect::Absent), check("lease", Expect::Any)]).await.unwrap();
    assert!(matches!(
        store.commit(vec![check("a", Expect::Any), put("a", "3", Expect::Any)]).await,
        Err(CommitError::Invalid(_))
    ));
    assert_eq!(store.get("lease").await.unwrap(), Some(entry("lease", one, "1")));
    assert_eq!(store.get("a").await.unwrap(), Some(entry("a", two, "2")));
    let three = store.commit(vec![put("b", "3", Expect::Any)]).await.unwrap();
    assert_eq!(next(&mut watch).await, Some(Watched::Put(entry("a", two, "2"))));
    assert_eq!(next(&mut watch).await, Some(Watched::Put(entry("b", three, "3"))));
}

async fn revisions_grow_and_are_never_repeated(rig: impl Rig) {
    let (mut rig, mut last) = (rig, 0);
    for _ in 0..4 {
        for expect in [Expect::Any, Expect::Any] {
            let revision = rig.store().commit(vec![put("a", "1", expect)]).await.unwrap();
            assert!(revision > last);
            last = revision;
        }
        let revision = rig.store().commit(vec![delete("a", Expect::Revision(last))]).await.unwrap();
        assert!(revision > last);
        last = revision;
        rig = rig.reopen();
        assert_eq!(rig.store().page("", None, 1).await.unwrap().position, last);
    }
}

async fn commits_are_ordered_when_they_are_called(rig: impl Rig) {
    let store = rig.store();
    let futures: Vec<_> = (0..50)
        .map(|n| store.commit(vec![put("a", n.to_string(), if n == 0 { Expect::Absent } else { Expect::Any })]))
        .collect();
    let mut revisions = Vec::new();
    // They are awaited in another order.
    for future in futures.into_iter().rev() {
        revisions.push(future.await.unwrap());
    }
    assert!(revisions.is_sorted_by(|a, b| a > b));
    assert_eq!(store.get("a").await.unwrap().unwrap().value, b"49");
    // One that nobody waits for is made as well.
    drop(store.commit(vec![put("b", "1", Expect::Any)]));
    store.commit(vec![delete("a", Expect::Any)]).await.unwrap();
    assert_eq!(store.get("b").await.unwrap().unwrap().value, b"1");
}

async fn a_watch_continues_a_page_without_gap_or_repetition(rig: impl Rig) {
    let store = rig.store();
    store.commit(vec![put("w/old", "0", Expect::Any)]).await.unwrap();
    let position = store.page("w/", None, 10).await.unwrap().position;
    let mut early = store.watch("w/", position);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in 0..50 {
                    let other = put(&format!("other/{writer}"), "x", Expect::Any);
                    let change = put(&format!("w/{writer}"), n.to_string(), Expect::Any);
                    store.commit(vec![other, change]).await.unwrap();
                }
            })
        })
        .collect();
    let (mut seen, mut newest) = ([0; 4], position);
    for _ in 0..200 {
        let Some(Watched::Put(entry)) = next(&mut early).await else { panic!("no record") };
        let writer: usize = entry.key.strip_prefix("w/").unwrap().parse().unwrap();
        assert_eq!(entry.value, seen[writer].to_string().as_bytes());
        assert!(entry.revision > newest);
        (seen[writer], newest) = (seen[writer] + 1, entry.revision);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    // One that begins later sees the same, and removals, but not those of records that do not exist.
    let gone = store.commit(vec![delete("w/never", Expect::Any), delete("w/0", Expect::Any)]).await.unwrap();
    let mut late = store.watch("w/", position);
    for _ in 0..200 {
        assert!(matches!(next(&mut late).await, Some(Watched::Put(_))));
    }
    let removed = Some(Watched::Deleted { key: "w/0".into(), revision: gone });
    assert_eq!(next(&mut late).await, removed);
    assert_eq!(next(&mut early).await, removed);
}

async fn a_watch_of_what_is_forgotten_says_so(rig: impl Rig) {
    let first = rig.store().commit(vec![put("a", "1", Expect::Any)]).await.unwrap();
    let second = rig.store().commit(vec![put("a", "2", Expect::Any)]).await.unwrap();
    let rig = rig.reopen();
    let store = rig.store();
    let (mut forgotten, mut known) = (store.watch("a", first), store.watch("a", second));
    assert_eq!(next(&mut forgotten).await, Some(Watched::Lagged));
    let third = store.commit(vec![put("a", "3", Expect::Any)]).await.unwrap();
    assert_eq!(next(&mut forgotten).await, Some(Watched::Put(entry("a", third, "3"))));
    assert_eq!(next(&mut known).await, Some(Watched::Put(entry("a", third, "3"))));
}

async fn a_watch_ends_with_the_store(rig: impl Rig) {
    let mut watch = rig.store().watch("", 0);
    let revision = rig.store().commit(vec![put("a", "1", Expect::Any)]).await.unwrap();
    let _rig = rig.reopen();
    assert_eq!(next(&mut watch).await, Some(Watched::Put(entry("a", revision, "1"))));
    assert_eq!(next(&mut watch).await, None);
}

async fn concurrent_counters_count_exactly(rig: impl Rig) {
    let count = async |store: Arc<dyn RecordStore>| {
        for _ in 0..25 {
            loop {
                let known = store.get("n").await.unwrap();
                let n: u64 = known.as_ref().map_or(0, |e| String::from_utf8_lossy(&e.value).parse().unwrap());
                let expect = known.map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
                match store.commit(vec![put("n", (n + 1).to_string(), expect)]).await {
                    Ok(_) => break,
                    Err(CommitError::Conflict { key }) => assert_eq!(key, "n"),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    let tasks: Vec<_> = (0..8).map(|_| tokio::spawn(count(rig.store()))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    let rig = rig.reopen();
    assert_eq!(rig.store().get("n").await.unwrap().unwrap().value, b"200");
}
