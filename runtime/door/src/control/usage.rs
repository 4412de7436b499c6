//! `/api/v1/usage` and `/api/v1/prices`: prices, and sums of the ledger's acknowledged lines, as JSON or as CSV in
//! FOCUS columns.

use crate::control::authorize::TenantGrant;
use crate::control::call::{ApiCall, CallResult};
use crate::control::error::ControlError;
use crate::control::{Control, focus};
use crate::respond::{ReplyStatus, json, raw};
use gannet_api::{ClassPrice, Prices, Usage, UsageRow};
use gannet_base::bill::price::Price;
use gannet_base::bill::usage::{Sums, UsageKey};
use gannet_base::time::{Day, day_of, day_text, month_start};
use http::header::ACCEPT;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most days in one response.
const SPAN_MAX: Day = 366;

/// What rows are grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Day,
    Function,
    Version,
}

impl Control {
    pub(super) async fn usage(&self, call: ApiCall, grant: TenantGrant) -> CallResult {
        let today = day_of(Timestamp::now());
        let to = call.query.day("to")?.unwrap_or(today);
        let from = call.query.day("from")?.unwrap_or_else(|| month_start(to));
        if from > to || to - from >= SPAN_MAX {
            let (from, to) = (day_text(from), day_text(to));
            let message =
                format!("from {from} to {to}; a span must be 1 to {SPAN_MAX} days, with the earlier day first");
            return Err(ControlError::Invalid(message).into());
        }
        let by = match call.query.get("by") {
            Some("day") => By::Day,
            Some("version") => By::Version,
            _ => By::Function,
        };
        let (ledger, tenant) = (Arc::clone(&self.ledger), grant.tenant.clone());
        let rows = tokio::task::spawn_blocking(move || ledger.usage(&tenant, from..=to)).await;
        let mut rows = rows.map_err(|error| ControlError::Internal(error.to_string()))?.map_err(ControlError::from)?;
        if let Some(only) = &grant.only {
            rows.retain(|key, _| key.function == *only);
        }
        let currency = self.live.load().prices.currency.clone();
        let accepts = call.inbound.parts.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if accepts.split(',').any(|part| part.split(';').next().unwrap_or_default().trim() == "text/csv") {
            let text = focus::csv(&rows, &currency).map_err(ControlError::Internal)?;
            return Ok(raw(ReplyStatus::Ok, "text/csv; charset=utf-8", text.into()));
        }
        let mut total = Sums::default();
        rows.values().for_each(|sums| total.add(sums));
        let body = Usage {
            tenant: grant.tenant.to_string(),
            from: day_text(from),
            to: day_text(to),
            currency,
            rows: grouped(&rows, by),
            total: row(None, None, None, total),
        };
        Ok(json(ReplyStatus::Ok, &body))
    }

    pub(super) fn prices(&self) -> Prices {
        let file = self.live.load();
        let mut prices: BTreeMap<&str, Price> = BTreeMap::new();
        for gpu_slot in self.slots.iter() {
            let own = file.gpus.get(gpu_slot.slot).and_then(|gpu| gpu.micro_units_per_s);
            let price = Price {
                gpu_micro_units_per_s: own.unwrap_or(file.prices.gpu_micro_units_per_s),
                cpu_micro_units_per_s: file.prices.cpu_micro_units_per_s,
                resident_micro_units_per_gib_s: file.prices.resident_micro_units_per_gib_s,
            };
            prices.entry(&gpu_slot.class).or_insert(price);
        }
        let prices = prices.into_iter().map(|(class, price)| ClassPrice { class: class.to_owned(), price }).collect();
        Prices { currency: file.prices.currency.clone(), prices }
    }
}

fn row(day: Option<String>, function: Option<String>, version: Option<u32>, sums: Sums) -> UsageRow {
    UsageRow { day, function, version, micro_units: sums.micro_units(), sums }
}

/// The key of a group of rows. A part that rows are not grouped by is None.
type Group = (Option<Day>, Option<String>, Option<u32>);

fn grouped(rows: &BTreeMap<UsageKey, Sums>, by: By) -> Vec<UsageRow> {
    let mut groups: BTreeMap<Group, Sums> = BTreeMap::new();
    for (key, sums) in rows {
        let function = key.function.to_string();
        let group = match by {
            By::Day => (Some(key.day), None, None),
            By::Function => (None, Some(function), None),
            By::Version => (None, Some(function), Some(key.version)),
        };
        groups.entry(group).or_default().add(sums);
    }
    groups.into_iter().map(|((day, function, version), sums)| row(day.map(day_text), function, version, sums)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_begins_on_its_first_day() {
        let day = |text: &str| day_of(text.parse().unwrap_or_default());
        for (within, first) in
            [("2026-11-24", "2026-11-01"), ("2026-03-31", "2026-03-01"), ("2024-02-29", "2024-02-01")]
        {
            let start = month_start(day(&format!("{within}T00:00:00Z")));
            assert_eq!(day_text(start), first);
            assert_eq!(month_start(start), start);
        }
    }
}
