//! The start: reads the deliveries that an earlier run left into the index.

use crate::delivery::index::Stage;
use crate::delivery::record::{DeadLetter, Pending};
use crate::job::JobId;
use crate::keys;
use crate::runner::Runner;
use crate::service::shared::Shared;
use std::io;

/// Records that are read at once.
const PAGE: usize = 1_000;

/// Reads all deliveries. It comes before the jobs are read: the record of a job with one is kept.
pub(in crate::service) async fn load<R: Runner>(shared: &Shared<R>) -> io::Result<()> {
    let pending = |value: &[u8]| {
        serde_json::from_slice(value).map(|found: Pending| (Stage::Due(found.due(shared.clock.now())), found))
    };
    read(shared, keys::DELIVERIES, pending).await?;
    let dead =
        |value: &[u8]| serde_json::from_slice(value).map(|DeadLetter { pending, died }| (Stage::Dead(died), pending));
    read(shared, keys::DEAD_LETTERS, dead).await
}

async fn read<R: Runner>(
    shared: &Shared<R>,
    prefix: &str,
    parse: impl Fn(&[u8]) -> serde_json::Result<(Stage, Pending)>,
) -> io::Result<()> {
    let mut after: Option<String> = None;
    loop {
        let page = shared.records.page(prefix, after.as_deref(), PAGE).await?;
        for entry in &page.entries {
            let id = entry.key.strip_prefix(prefix).and_then(JobId::parse);
            match (id, parse(&entry.value)) {
                (Some(id), Ok((stage, of))) => shared.state().deliveries.set((&of.tenant, &of.function), id, stage),
                (_, found) => {
                    tracing::error!(key = entry.key, error = ?found.err(), "the record of a delivery cannot be read")
                }
            }
        }
        after = page.entries.last().map(|entry| entry.key.clone());
        if !page.more || after.is_none() {
            return Ok(());
        }
    }
}
