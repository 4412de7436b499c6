//! Batches as the server sends them, shown to people.

use crate::job_api::State;
use crate::printer;
use serde::Deserialize;
use std::fmt;

/// A batch.
#[derive(Debug, Deserialize)]
pub struct BatchView {
    pub id: String,
    pub status: State,
    pub name: Option<String>,
    pub counts: Counts,
    pub more: bool,
}

/// How many items are in each state.
#[derive(Debug, Default, Deserialize)]
pub struct Counts {
    pub total: u64,
    pub in_queue: u64,
    pub in_progress: u64,
    pub completed: u64,
    pub failed: u64,
    pub cancelled: u64,
    pub timed_out: u64,
}

/// What a retry changed.
#[derive(Debug, Deserialize)]
pub struct Retried {
    pub retried: u64,
}

/// A page of the batches of a function.
#[derive(Debug, Deserialize)]
pub struct Listed {
    batches: Vec<BatchView>,
    cursor: Option<String>,
}

impl BatchView {
    /// Whether all its items have ended and no more can be added.
    pub fn is_over(&self) -> bool {
        !self.more && self.counts.in_queue + self.counts.in_progress == 0
    }
}

impl Counts {
    /// Returns how many items have ended.
    pub fn ended(&self) -> u64 {
        self.completed + self.failed + self.cancelled + self.timed_out
    }

    /// Returns the states with their names, in the order of a job's life.
    fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("in queue", self.in_queue),
            ("in progress", self.in_progress),
            ("completed", self.completed),
            ("failed", self.failed),
            ("cancelled", self.cancelled),
            ("timed out", self.timed_out),
        ]
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} items", self.total)?;
        let mut some = self.named().into_iter().filter(|(_, count)| *count > 0);
        some.try_for_each(|(name, count)| write!(f, ", {count} {name}"))
    }
}

/// Prints what is known of a batch.
pub fn print(batch: &BatchView) {
    let mut fields = vec![("id", batch.id.clone()), ("state", batch.status.to_string())];
    fields.extend(batch.name.clone().map(|name| ("name", name)));
    fields.push(("items", batch.counts.total.to_string()));
    fields.extend(batch.counts.named().map(|(name, count)| (name, count.to_string())));
    if batch.more {
        fields.push(("open", "items may be added".into()));
    }
    for (name, value) in fields {
        printer::line(&format!("{name:14} {value}"));
    }
}

/// Prints a table of batches.
pub fn list(listed: Listed) {
    let is_cut = listed.cursor.is_some();
    let row = |batch: BatchView| {
        let ended = format!("{}/{}", batch.counts.ended(), batch.counts.total);
        let failed = (batch.counts.failed + batch.counts.timed_out).to_string();
        vec![batch.id, batch.status.to_string(), ended, failed, batch.name.unwrap_or_default()]
    };
    let rows: Vec<_> = listed.batches.into_iter().map(row).collect();
    printer::table(&["ID", "STATE", "ENDED", "FAILED", "NAME"], &rows);
    if is_cut {
        printer::note("there are more; a larger --limit may show them");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_over_when_its_items_have_ended_and_no_more_can_be_added() {
        let is_over = |in_progress, more| {
            let counts = Counts { total: 2, in_progress, completed: 2 - in_progress, ..Counts::default() };
            BatchView { id: "b".into(), status: State::Cancelled, name: None, counts, more }.is_over()
        };
        assert_eq!([is_over(0, false), is_over(1, false), is_over(0, true)], [true, false, false]);
    }

    #[test]
    fn counts_are_told_without_what_is_zero() {
        let counts = Counts { total: 5, completed: 3, timed_out: 2, ..Counts::default() };
        assert_eq!((counts.to_string().as_str(), counts.ended()), ("5 items, 3 completed, 2 timed out", 5));
    }
}
