//! Sums of the ledger's settled lines, and the position in the ledger up to which lines are settled. They are read at
//! start and for usage reports, never on a request's path.
//!
//! ```text
//!  l/{tenant}/{day}/{function}/{version}/{gpu price}-{cpu price}-{memory price}/{class}    sums
//!  y/{day}/{tenant}                                                                        sums of a day
//!  w                                                                                       the watermark
//! ```

use crate::store::batch::parse;
use crate::store::watermark::Watermark;
use crate::store::{Store, StoreError, WriteBatch};
use crate::wait::wait;
use gannet_base::bill::price::Price;
use gannet_base::bill::usage::{Rollup, Sums, UsageKey};
use gannet_base::names::{FunctionName, TenantName};
use gannet_base::time::Day;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Number of days whose sums are read at start: a month, and some that a wrong clock made.
const DAYS: usize = 64;

/// Records that are read at once.
const READ_AT_ONCE: usize = 1_000;
const WATERMARK: &str = "w";

fn row_key(key: &UsageKey) -> String {
    let UsageKey { tenant, day, function, version, class, price } = key;
    let Price { gpu_micro_units_per_s: gpu, cpu_micro_units_per_s: cpu, resident_micro_units_per_gib_s: memory } =
        price;
    format!("l/{tenant}/{day:08}/{function}/{version:010}/{gpu}-{cpu}-{memory}/{class}")
}

fn parse_row(text: &str) -> Option<UsageKey> {
    let mut parts = text.splitn(7, '/').skip(1);
    let tenant = TenantName::new(parts.next()?).ok()?;
    let day = parts.next()?.parse().ok()?;
    let function = FunctionName::new(parts.next()?).ok()?;
    let version = parts.next()?.parse().ok()?;
    let mut prices = parts.next()?.split('-').map(|price| price.parse().ok());
    let price = Price {
        gpu_micro_units_per_s: prices.next()??,
        cpu_micro_units_per_s: prices.next()??,
        resident_micro_units_per_gib_s: prices.next()??,
    };
    Some(UsageKey { tenant, day, function, version, class: parts.next()?.to_owned(), price })
}

fn day_key(day: Day, tenant: &TenantName) -> String {
    format!("y/{day:08}/{tenant}")
}

impl Store {
    fn stored<T: DeserializeOwned + Default>(&self, key: &str) -> Result<T, StoreError> {
        let found = wait(self.records.get(key))?;
        found.map_or(Ok(T::default()), |entry| parse(key, &entry.value))
    }

    /// Adds `rollup` to the stored sums and stores the watermark, in one change. Blocks.
    pub fn settle(&self, rollup: &Rollup, watermark: Watermark) -> Result<(), StoreError> {
        // What an earlier change left to do may be sums.
        wait(self.finish_staged()).map_err(StoreError::of_another)?;
        let mut change = WriteBatch::new().put(WATERMARK.to_owned(), &watermark)?;
        let mut days: BTreeMap<String, Sums> = BTreeMap::new();
        for (key, more) in rollup.rows() {
            let row = row_key(key);
            let mut sums: Sums = self.stored(&row)?;
            sums.add(more);
            change = change.put(row, &sums)?;
            days.entry(day_key(key.day, &key.tenant)).or_default().add(more);
        }
        for (key, more) in days {
            let mut sums: Sums = self.stored(&key)?;
            sums.add(&more);
            change = change.put(key, &sums)?;
        }
        self.commit_blocking(change)
    }

    /// Returns the stored watermark.
    pub fn watermark(&self) -> Result<Watermark, StoreError> {
        self.stored(WATERMARK)
    }

    /// Returns the settled sums of a tenant, by row. Blocks.
    pub fn usage(
        &self,
        tenant: &TenantName,
        days: RangeInclusive<Day>,
    ) -> Result<BTreeMap<UsageKey, Sums>, StoreError> {
        let (from, to) = (*days.start(), *days.end());
        let prefix = format!("l/{tenant}/");
        let mut after = Some(format!("{prefix}{:08}/", from.clamp(0, 99_999_999)));
        let end = format!("{prefix}{:08}0", to.clamp(0, 99_999_999));
        let mut rows = BTreeMap::new();
        loop {
            let page = wait(self.records.page(&prefix, after.as_deref(), READ_AT_ONCE))?;
            for entry in &page.entries {
                if entry.key >= end {
                    return Ok(rows);
                }
                if let Some(row) = parse_row(&entry.key) {
                    rows.insert(row, parse(&entry.key, &entry.value)?);
                }
            }
            after = page.entries.into_iter().last().map(|entry| entry.key);
            if !page.more || after.is_none() {
                return Ok(rows);
            }
        }
    }

    /// Returns the settled sums of the last 64 days on which anything was used. Blocks.
    pub fn usage_by_day(&self) -> Result<BTreeMap<(Day, TenantName), Sums>, StoreError> {
        let mut sums = BTreeMap::new();
        let mut days = std::collections::BTreeSet::new();
        let mut before = None::<String>;
        loop {
            let page = wait(self.records.page_back("y/", before.as_deref(), READ_AT_ONCE))?;
            for entry in &page.entries {
                let mut parts = entry.key.split('/').skip(1);
                let (day, tenant) = (parts.next().and_then(|day| day.parse().ok()), parts.next());
                let Some((day, tenant)) = day.zip(tenant.and_then(|name| TenantName::new(name).ok())) else { continue };
                days.insert(day);
                if days.len() > DAYS {
                    return Ok(sums);
                }
                sums.insert((day, tenant), parse(&entry.key, &entry.value)?);
            }
            before = page.entries.into_iter().last().map(|entry| entry.key);
            if !page.more || before.is_none() {
                return Ok(sums);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_named_by_what_it_is_about_and_days_are_a_range() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path(), "x").unwrap();
        let key = |day| UsageKey {
            tenant: TenantName::new("acme").unwrap(),
            day,
            function: FunctionName::new("blur").unwrap(),
            version: 3,
            class: "a/b-c".into(),
            price: Price { gpu_micro_units_per_s: 1, cpu_micro_units_per_s: 2, resident_micro_units_per_gib_s: 3 },
        };
        assert_eq!(parse_row(&row_key(&key(20_000))), Some(key(20_000)));
        for day in [19_999, 20_000, 20_001] {
            store
                .commit_blocking(
                    WriteBatch::new().put(row_key(&key(day)), &Sums { requests: 1, ..Sums::default() }).unwrap(),
                )
                .unwrap();
        }
        let acme = TenantName::new("acme").unwrap();
        let days = |range| store.usage(&acme, range).unwrap().keys().map(|key| key.day).collect::<Vec<_>>();
        assert_eq!(days(20_000..=20_000), [20_000]);
        assert_eq!(days(19_999..=i64::MAX), [19_999, 20_000, 20_001]);
        assert!(store.usage(&TenantName::new("acm").unwrap(), 0..=i64::MAX).unwrap().is_empty());
    }
}
