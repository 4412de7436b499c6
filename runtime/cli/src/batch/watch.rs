//! Waits until the items of a batch have ended, and says how. Calls that fail for a while are repeated.
//!
//! stdout: with `--json` the last response. Everything else goes to stderr. The exit code is 0 only if every item is
//! COMPLETED.

use super::show::BatchView;
use crate::failure::{Failure, Outcome};
use crate::job_api::{CallError, JobApi, Sent, of_job};
use crate::printer;
use std::time::Duration;

/// How often a call that the server refuses for now is repeated: for half an hour.
const REFUSALS_MAX: u32 = 900;
/// How often in a row the server may not answer.
const SILENCES_MAX: u32 = 15;
/// Pause before a call is repeated.
const PAUSE: Duration = Duration::from_secs(2);
/// Pause between two looks at a batch.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// Makes a call until it succeeds or fails for good.
pub fn insist(mut call: impl FnMut() -> Result<Sent<BatchView>, CallError>) -> Result<Sent<BatchView>, Failure> {
    let (mut refusals, mut silences) = (0, 0);
    loop {
        match call() {
            Ok(sent) => return Ok(sent),
            Err(CallError::NotNow(_)) if refusals < REFUSALS_MAX => (refusals, silences) = (refusals + 1, 0),
            Err(CallError::NoResponse(_)) if silences < SILENCES_MAX => silences += 1,
            Err(error) => return Err(error.into()),
        }
        std::thread::sleep(PAUSE);
    }
}

/// Waits until all items of a batch have ended and no more can be added. Shows meanwhile how many have ended.
pub fn wait(api: &JobApi, id: &str) -> Result<Sent<BatchView>, Failure> {
    let bar = printer::counter(0, "");
    let waited = loop {
        let looked = insist(|| api.get(&of_job("batches", id), &[]));
        let batch = match looked.as_ref().map(Sent::view) {
            Ok(Ok(batch)) => batch,
            Ok(Err(failure)) => break Err(failure),
            Err(_) => break looked,
        };
        bar.set_length(batch.counts.total);
        bar.set_position(batch.counts.ended());
        bar.set_message(batch.counts.to_string());
        if batch.is_over() {
            break looked;
        }
        std::thread::sleep(LOOK_PAUSE);
    };
    bar.finish_and_clear();
    waited
}

/// Says how a batch ended. Fails if an item of it is not COMPLETED.
pub fn print_end(function: &str, ended: &Sent<BatchView>, as_json: bool) -> Outcome {
    if as_json {
        ended.print_json();
    }
    let batch = ended.view()?;
    let told = format!("batch {} is {}: {}", batch.id, batch.status, batch.counts);
    let hint = format!("`gannet batch results {function} {}` prints the results", batch.id);
    if batch.counts.completed < batch.counts.total {
        return Err(Failure::failed(told).hint(hint));
    }
    printer::note(&told);
    printer::note(&hint);
    Ok(())
}
