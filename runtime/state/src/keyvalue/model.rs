//! The whole service over a simulated store that fails, answers "unknown" and crashes, beside a map that does not.

use super::{Edit, KeyValueError, KeyValueLimits, KeyValueUse, KeyValues, LimitReached, Write, name};
use crate::records::RecordStore;
use crate::records::simulated::{Fault, SimulatedStore};
use gannet_base::names::TenantName;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinSet;

const LIMITS: KeyValueLimits = KeyValueLimits { keys: 4, bytes: 2_000 };
const WIDE: KeyValueLimits = KeyValueLimits { keys: 10_000, bytes: 1 << 30 };

fn tenant() -> TenantName {
    TenantName::new("acme").unwrap()
}

async fn start(store: &Arc<SimulatedStore>) -> Arc<KeyValues> {
    let records: Arc<dyn RecordStore> = Arc::<SimulatedStore>::clone(store);
    KeyValues::start(records, |_| true).await.unwrap()
}

fn write_of(limits: KeyValueLimits, edits: &[(&str, Edit)]) -> Write {
    let edits = edits.iter().map(|(key, edit)| ((*key).to_owned(), edit.clone())).collect();
    Write { tenant: tenant(), limits, bucket: "b".into(), edits, held: Box::new(()) }
}

async fn set(values: &Arc<KeyValues>, key: &str, value: &str) -> Result<(), KeyValueError> {
    values.write(write_of(WIDE, &[(key, Edit::Set(value.into()))])).await.map(drop)
}

async fn get(values: &KeyValues, key: &str) -> Option<String> {
    let found = values.get(&tenant(), "b", &[key.to_owned()], 1 << 20).await.unwrap();
    found[0].as_ref().map(|value| String::from_utf8(value.clone()).unwrap())
}

async fn all_keys(values: &KeyValues) -> Vec<String> {
    let (mut keys, mut cursor) = (Vec::new(), None);
    loop {
        let page = values.keys(&tenant(), "b", cursor).await.unwrap();
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            keys.sort();
            return keys;
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(Vec<(usize, Edit)>),
    Fault(Fault),
    Crash,
    /// A write during which the store crashes.
    Torn(Vec<(usize, Edit)>),
}

const KEYS: [&str; 5] = ["a", "b", "doc/1", "\u{1F980}", "e"];

fn edits() -> impl Strategy<Value = Vec<(usize, Edit)>> {
    let edit = prop_oneof![
        (0_usize..900).prop_map(|length| Edit::Set(vec![b'1'; length])),
        (0_u64..100).prop_map(|number| Edit::Set(number.to_string().into_bytes())),
        Just(Edit::Delete),
        (0_u64..5).prop_map(Edit::Add),
    ];
    prop::collection::vec((0..KEYS.len(), edit), 1..4)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fault = prop_oneof![
        Just(Fault::Unavailable),
        Just(Fault::Full),
        Just(Fault::UnknownDone),
        Just(Fault::UnknownNotDone),
        Just(Fault::UnknownLater),
    ];
    let step = prop_oneof![
        6 => edits().prop_map(Step::Write),
        3 => fault.prop_map(Step::Fault),
        1 => Just(Step::Crash),
        1 => edits().prop_map(Step::Torn),
    ];
    prop::collection::vec(step, 1..40)
}

type Map = BTreeMap<&'static str, Vec<u8>>;

/// What a write makes of the map. None if it must be refused for its numbers.
fn applied(map: &Map, edits: &[(usize, Edit)]) -> Option<Map> {
    let mut next = map.clone();
    // The last change of a key counts, and each is made to what was there before.
    let last: BTreeMap<usize, &Edit> = edits.iter().map(|(key, edit)| (*key, edit)).collect();
    for (key, edit) in last {
        let key = KEYS[key];
        match edit {
            Edit::Set(value) => drop(next.insert(key, value.clone())),
            Edit::Delete => drop(next.remove(key)),
            Edit::Add(by) => {
                let before = map.get(key).map_or(Some(0), |value| std::str::from_utf8(value).ok()?.parse().ok())?;
                let sum: u64 = u64::checked_add(before, *by)?;
                next.insert(key, sum.to_string().into_bytes());
            }
        }
    }
    Some(next)
}

fn used(map: &Map) -> KeyValueUse {
    let bytes = map.iter().map(|(key, value)| 128 + key.len() as u64 + value.len() as u64).sum();
    KeyValueUse { keys: map.len() as u64, bytes }
}

async fn read_all(values: &KeyValues) -> Map {
    let mut map = Map::new();
    for key in KEYS {
        if let Some(value) = get(values, key).await {
            map.insert(key, value.into_bytes());
        }
    }
    map
}

fn named(edits: &[(usize, Edit)]) -> Vec<(&'static str, Edit)> {
    edits.iter().map(|(key, edit)| (KEYS[*key], edit.clone())).collect()
}

/// Checks the answer of a write, and returns the map that follows.
fn after(map: Map, edits: &[(usize, Edit)], answer: Result<Option<u64>, KeyValueError>) -> Map {
    let next = applied(&map, edits);
    let (before, wanted) = (used(&map), next.as_ref().map(used));
    match answer {
        Ok(_) => {
            let next = next.unwrap();
            let is_over = |now: u64, before: u64, limit: u64| now > before && now > limit;
            let now = used(&next);
            assert!(!is_over(now.keys, before.keys, LIMITS.keys) && !is_over(now.bytes, before.bytes, LIMITS.bytes));
            next
        }
        Err(KeyValueError::Limit(reached)) => {
            let wanted = wanted.unwrap();
            match reached {
                LimitReached::Keys { limit, .. } => assert!(wanted.keys > limit),
                LimitReached::Bytes { limit, .. } => assert!(wanted.bytes > limit),
            }
            map
        }
        Err(KeyValueError::NoNumber | KeyValueError::Overflow) => {
            assert!(next.is_none());
            map
        }
        Err(KeyValueError::Full | KeyValueError::Unavailable(_)) => map,
        Err(error) => panic!("{error}"),
    }
}

async fn run(steps: Vec<Step>, seed: u64) {
    let mut store = Arc::new(SimulatedStore::new(seed));
    let mut values = start(&store).await;
    let mut map = Map::new();
    for step in steps {
        match step {
            Step::Fault(fault) => store.fail_next(fault),
            Step::Write(edits) => {
                let answer = values.write(write_of(LIMITS, &named(&edits))).await;
                map = after(map, &edits, answer);
            }
            Step::Crash => {
                store = Arc::new(store.crash());
                values = start(&store).await;
            }
            Step::Torn(edits) => {
                store.answer_late(3);
                let task = tokio::spawn({
                    let (values, write) = (Arc::clone(&values), write_of(LIMITS, &named(&edits)));
                    async move { values.write(write).await }
                });
                for _ in 0..seed % 7 {
                    tokio::task::yield_now().await;
                }
                store = Arc::new(store.crash());
                task.abort();
                values = start(&store).await;
                let found = read_all(&values).await;
                assert!(found == map || Some(&found) == applied(&map, &edits).as_ref(), "all of it or nothing");
                map = found;
            }
        }
        assert_eq!(read_all(&values).await, map);
        assert_eq!(values.used(&tenant()), used(&map));
        let mut keys: Vec<String> = map.keys().map(ToString::to_string).collect();
        keys.sort();
        assert_eq!(all_keys(&values).await, keys);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// After each step the service says what the map says, and uses what the map uses.
    #[test]
    fn the_service_is_the_map_whatever_the_store_does(steps in steps(), seed in 1_u64..) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(run(steps, seed));
    }
}

#[tokio::test]
async fn increments_at_once_add_up_whatever_the_store_answers() {
    let store = Arc::new(SimulatedStore::new(7));
    let values = start(&store).await;
    store.fail_at_random(300);
    store.answer_late(3);
    let mut tasks = JoinSet::new();
    for _ in 0..200 {
        let values = Arc::clone(&values);
        tasks.spawn(async move { values.write(write_of(WIDE, &[("n", Edit::Add(3))])).await });
    }
    let answers = tasks.join_all().await;
    let mut numbers: Vec<u64> = answers.iter().filter_map(|answer| answer.as_ref().ok().copied().flatten()).collect();
    let failed = answers.iter().filter(|answer| answer.is_err()).count();
    assert!(failed > 0 && !numbers.is_empty(), "{failed} of 200");
    store.fail_at_random(0);
    let total = 3 * numbers.len() as u64;
    assert_eq!(get(&values, "n").await, Some(total.to_string()));
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=numbers.len() as u64).map(|n| 3 * n).collect::<Vec<_>>(), "each number once");
}

#[tokio::test]
async fn a_key_that_was_deleted_does_not_come_back_by_a_commit_that_is_made_later() {
    let store = Arc::new(SimulatedStore::new(3));
    let values = start(&store).await;
    for fault in [Fault::UnknownLater, Fault::UnknownDone, Fault::UnknownNotDone] {
        store.fail_next(fault);
        set(&values, "k", "old").await.unwrap();
        values.write(write_of(WIDE, &[("k", Edit::Delete)])).await.unwrap();
        for _ in 0..20 {
            set(&values, "other", "x").await.unwrap();
            store.settle();
            assert_eq!(get(&values, "k").await, None);
        }
        assert_eq!(values.used(&tenant()).keys, 1);
    }
    let values = start(&Arc::new(store.crash())).await;
    assert_eq!((get(&values, "k").await, all_keys(&values).await), (None, vec!["other".to_owned()]));
}

#[tokio::test]
async fn keys_are_listed_in_pages_and_each_of_them_once() {
    let store = Arc::new(SimulatedStore::new(1));
    let values = start(&store).await;
    let names: Vec<String> = (0..1_300).map(|n| format!("{n}/{}", "\u{e9}".repeat(n % 250))).collect();
    for some in names.chunks(100) {
        let edits: Vec<(&str, Edit)> = some.iter().map(|name| (name.as_str(), Edit::Set(Vec::new()))).collect();
        values.write(write_of(WIDE, &edits)).await.unwrap();
    }
    let first = values.keys(&tenant(), "b", None).await.unwrap();
    assert!(first.cursor.is_some() && first.keys.iter().map(String::len).sum::<usize>() <= 128 << 10);
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(all_keys(&values).await, sorted);
    assert_eq!(values.keys(&tenant(), "other", None).await.unwrap().keys, Vec::<String>::new());
}

#[tokio::test]
async fn a_deleted_tenant_leaves_nothing_and_writes_nothing_any_more() {
    let store = Arc::new(SimulatedStore::new(1));
    let values = start(&store).await;
    set(&values, "k", "v").await.unwrap();
    values.remove_tenant(&tenant()).await.unwrap();
    assert_eq!(set(&values, "k", "v").await, Err(KeyValueError::NoTenant));
    assert_eq!(values.used(&tenant()), KeyValueUse::default());
    assert!(store.page(name::PREFIX, None, 10).await.unwrap().entries.is_empty());
    // What a crash left of a tenant that does not exist is removed by the start.
    let store = Arc::new(SimulatedStore::new(1));
    set(&start(&store).await, "k", "v").await.unwrap();
    let records: Arc<dyn RecordStore> = Arc::<SimulatedStore>::clone(&store);
    KeyValues::start(records, |_| false).await.unwrap();
    assert!(store.page(name::PREFIX, None, 10).await.unwrap().entries.is_empty());
}
