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
use gannet_base::bill::price::Price;
use gannet_base::bill::usage::{Rollup, Sums, UsageKey};
use gannet_base::names::{FunctionName, TenantName};
use gannet_base::time::Day;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Number of days whose sums are read at start: a month, and some that a wrong clock made.
const DAYS: usize = 64;

const WATERMARK: &[u8] = b"w";

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
    fn sums(&self, key: &str) -> Result<Sums, StoreError> {
        let found = self.db.get(key)?;
        found.map_or(Ok(Sums::default()), |value| parse(key.as_bytes(), &value))
    }

    /// Adds `rollup` to the stored sums and stores the watermark, in one change. Blocks.
    pub fn settle(&self, rollup: &Rollup, watermark: Watermark) -> Result<(), StoreError> {
        let mut change = WriteBatch::new().put(WATERMARK.to_vec(), &watermark)?;
        let mut days: BTreeMap<String, Sums> = BTreeMap::new();
        for (key, more) in rollup.rows() {
            let row = row_key(key);
            let mut sums = self.sums(&row)?;
            sums.add(more);
            change = change.put(row.into_bytes(), &sums)?;
            days.entry(day_key(key.day, &key.tenant)).or_default().add(more);
        }
        for (key, more) in days {
            let mut sums = self.sums(&key)?;
            sums.add(&more);
            change = change.put(key.into_bytes(), &sums)?;
        }
        self.commit_blocking(change)
    }

    /// Returns the stored watermark.
    pub fn watermark(&self) -> Result<Watermark, StoreError> {
        let found = self.db.get(WATERMARK)?;
        found.map_or(Ok(Watermark::default()), |value| parse(WATERMARK, &value))
    }

    /// Returns the settled sums of a tenant, by row.
    pub fn usage(
        &self,
        tenant: &TenantName,
        days: RangeInclusive<Day>,
    ) -> Result<BTreeMap<UsageKey, Sums>, StoreError> {
        let (from, to) = (*days.start(), *days.end());
        let range = format!("l/{tenant}/{:08}/", from.clamp(0, 99_999_999))
            ..format!("l/{tenant}/{:08}0", to.clamp(0, 99_999_999));
        let mut rows = BTreeMap::new();
        for entry in self.db.range(range) {
            let (key, value) = entry?;
            if let Some(row) = std::str::from_utf8(&key).ok().and_then(parse_row) {
                rows.insert(row, parse(&key, &value)?);
            }
        }
        Ok(rows)
    }

    /// Returns the settled sums of the last 64 days on which anything was used.
    pub fn usage_by_day(&self) -> Result<BTreeMap<(Day, TenantName), Sums>, StoreError> {
        let mut sums = BTreeMap::new();
        let mut days = std::collections::BTreeSet::new();
        for entry in self.db.scan_prefix("y/").rev() {
            let (key, value) = entry?;
            let mut parts = std::str::from_utf8(&key).unwrap_or_default().split('/').skip(1);
            let (day, tenant) = (parts.next().and_then(|day| day.parse().ok()), parts.next());
            let Some((day, tenant)) = day.zip(tenant.and_then(|name| TenantName::new(name).ok())) else { continue };
            days.insert(day);
            if days.len() > DAYS {
                break;
            }
            sums.insert((day, tenant), parse(&key, &value)?);
        }
        Ok(sums)
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
                    WriteBatch::new()
                        .put(row_key(&key(day)).into_bytes(), &Sums { requests: 1, ..Sums::default() })
                        .unwrap(),
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
