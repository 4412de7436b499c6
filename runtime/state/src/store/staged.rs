//! Changes that are too large for one commit, made as a whole: they are written aside first, and one small commit decides.
//!
//! ```text
//!  STAGED/{number}  parts of the changes            not decided yet: a start removes them
//!  STAGED           how many parts: guarded commit  decided
//!    └▶ the changes, 900 at a time, guarded ─▶ STAGED and its parts are removed
//! ```
//!
//! What a crash or a failure leaves behind the decision is finished by the next commit or start, before anything else.

use super::error::StoreError;
use super::guard::Guard;
use crate::records::{Change, Expect, RecordStore, VALUE_BYTES_MAX};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Name of the record that decides, and how those of the parts begin.
pub(super) const STAGED: &str = "staged";
pub(super) const PARTS: &str = "staged/";
/// Most changes, and bytes of them, that are committed at once. The number of the guard comes on top.
pub(super) const CHANGES_AT_ONCE: usize = 900;
pub(super) const BYTES_AT_ONCE: usize = 8 << 20;
/// Most bytes of the changes in a part.
const PART_BYTES: usize = VALUE_BYTES_MAX / 2;

/// A change, as a part has it.
#[derive(Debug, Serialize, Deserialize)]
struct StagedChange {
    key: String,
    /// The value in base64. None if the record is removed.
    value: Option<String>,
}

/// Splits changes into groups of at most this many changes and bytes. A larger change is a group of its own.
fn groups(changes: Vec<Change>, changes_max: usize, bytes_max: usize) -> Vec<Vec<Change>> {
    let (mut groups, mut group, mut bytes) = (Vec::new(), Vec::new(), 0);
    for change in changes {
        if !group.is_empty() && (group.len() >= changes_max || bytes + change.bytes() > bytes_max) {
            groups.push(std::mem::take(&mut group));
            bytes = 0;
        }
        bytes += change.bytes();
        group.push(change);
    }
    groups.extend(Some(group).filter(|group| !group.is_empty()));
    groups
}

fn put(key: String, value: Vec<u8>) -> Change {
    Change::Put { key, value, expect: Expect::Any }
}

fn encoded(changes: Vec<Change>) -> Result<Vec<u8>, StoreError> {
    let staged = |change: Change| match change {
        Change::Put { key, value, .. } => StagedChange { key, value: Some(STANDARD.encode(value)) },
        Change::Delete { key, .. } | Change::Check { key, .. } => StagedChange { key, value: None },
    };
    let changes: Vec<StagedChange> = changes.into_iter().map(staged).collect();
    serde_json::to_vec(&changes).map_err(|error| StoreError::Io(error.to_string()))
}

fn decoded(key: &str, bytes: &[u8]) -> Result<Vec<Change>, StoreError> {
    let corrupt = |cause: String| StoreError::Corrupt { record: key.to_owned(), cause };
    let staged: Vec<StagedChange> = serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
    let change = |StagedChange { key, value }| match value {
        Some(value) => Ok(put(key, STANDARD.decode(value).map_err(|error| corrupt(error.to_string()))?)),
        None => Ok(Change::Delete { key, expect: Expect::Any }),
    };
    staged.into_iter().map(change).collect()
}

fn part_key(number: usize) -> String {
    format!("{PARTS}{number:06}")
}

/// Whether changes fit into one commit with the guard's number.
pub(super) fn fits(changes: &[Change]) -> bool {
    changes.len() <= CHANGES_AT_ONCE && changes.iter().map(Change::bytes).sum::<usize>() <= BYTES_AT_ONCE
}

/// Decides changes that do not fit into one commit. When it returns `Ok`, they will be made, whatever happens.
pub(super) async fn decide(guard: &Guard, changes: Vec<Change>) -> Result<(), StoreError> {
    let parts = groups(changes, usize::MAX, PART_BYTES);
    let count = parts.len();
    for (number, part) in parts.into_iter().enumerate() {
        // Parts are only applied after the last commit below. A part that is left without it changes nothing.
        guard.commit(vec![put(part_key(number), encoded(part)?)]).await.map_err(StoreError::of_another)?;
    }
    guard.commit(vec![put(STAGED.to_owned(), count.to_string().into_bytes())]).await
}

/// Makes changes that were decided, and removes what was written aside.
pub(super) async fn finish(guard: &Guard, records: &dyn RecordStore) -> Result<(), StoreError> {
    if let Some(decided) = records.get(STAGED).await? {
        let count = std::str::from_utf8(&decided.value).ok().and_then(|text| text.parse().ok());
        let corrupt = |cause: &str| StoreError::Corrupt { record: STAGED.to_owned(), cause: cause.to_owned() };
        for number in 0..count.ok_or_else(|| corrupt("it is no number"))? {
            let key = part_key(number);
            let part = records.get(&key).await?.ok_or_else(|| corrupt("a part is missing"))?;
            for group in groups(decoded(&key, &part.value)?, CHANGES_AT_ONCE, BYTES_AT_ONCE) {
                guard.commit(group).await?;
            }
        }
        guard.commit(vec![Change::Delete { key: STAGED.to_owned(), expect: Expect::Any }]).await?;
    }
    loop {
        let page = records.page(PARTS, None, CHANGES_AT_ONCE).await?;
        let gone = page.entries.into_iter().map(|entry| Change::Delete { key: entry.key, expect: Expect::Any });
        guard.commit(gone.collect()).await?;
        if !page.more {
            return Ok(());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::records::simulated::SimulatedStore;
    use proptest::prelude::*;
    use std::sync::Arc;

    /// All records but those of the guard and of what is written aside.
    async fn kept(store: &dyn RecordStore) -> usize {
        store.page("k/", None, 10_000).await.unwrap().entries.len()
    }

    fn many(count: usize) -> Vec<Change> {
        (0..count).map(|n| put(format!("k/{n:05}"), vec![b'\n'; 1_000])).collect()
    }

    #[tokio::test]
    async fn any_number_of_changes_is_made() {
        let store = Arc::new(SimulatedStore::new(1));
        let guard = Guard::open(store.clone()).await.unwrap();
        assert!(!fits(&many(2_000)));
        decide(&guard, many(2_000)).await.unwrap();
        assert_eq!(kept(&*store).await, 0);
        finish(&guard, &*store).await.unwrap();
        assert_eq!(kept(&*store).await, 2_000);
        assert!(store.page(STAGED, None, 10).await.unwrap().entries.is_empty());
        let gone =
            many(2_000).into_iter().map(|change| Change::Delete { key: change.key().to_owned(), expect: Expect::Any });
        decide(&guard, gone.collect()).await.unwrap();
        finish(&guard, &*store).await.unwrap();
        assert_eq!(kept(&*store).await, 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// A crash anywhere, and answers that are lost: all or nothing, and all if it was decided.
        #[test]
        fn a_crash_anywhere_leaves_all_or_nothing(seed in any::<u64>(), permille in 0..400_usize) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let store = Arc::new(SimulatedStore::new(seed));
                let guard = Guard::open(store.clone()).await.unwrap();
                store.fail_at_random(permille);
                store.answer_late(2);
                let decided = decide(&guard, many(1_500)).await;
                if decided.is_ok() {
                    let _ = finish(&guard, &*store).await;
                }
                let after = Arc::new(store.crash());
                let guard = Guard::open(after.clone()).await.unwrap();
                finish(&guard, &*after).await.unwrap();
                let found = kept(&*after).await;
                match decided {
                    Ok(()) => assert_eq!(found, 1_500),
                    Err(StoreError::Unknown { .. }) => assert!(found == 0 || found == 1_500),
                    Err(_) => assert_eq!(found, 0),
                }
                assert!(after.page(STAGED, None, 10).await.unwrap().entries.is_empty());
            });
        }
    }
}
