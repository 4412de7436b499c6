//! Waits for the end of a job, or prints its output part by part.
//!
//! A wait goes on when the server is restarted, as the job does.

use super::show::state_line;
use crate::failure::{Failure, Outcome};
use crate::job_api::{CallError, JobApi, JobView, Sent, State, of_job};
use crate::printer;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::time::{Duration, Instant};

/// How long the server may hold one request of a wait.
const POLL_MS_MAX: u64 = 30_000;
/// The same where the state is shown: it is seen to change only with each response.
const SHOWN_POLL_MS_MAX: u64 = 1_000;
/// The shortest time for which the server holds a request.
const POLL_MS_MIN: u64 = 1_000;
/// How often in a row a call may fail. The pause after each doubles, to half a minute in all.
const FAILURES_MAX: u32 = 7;

/// The parts of a job's output since the last call.
#[derive(Debug, Deserialize)]
struct StreamView {
    status: State,
    stream: Vec<Part>,
}

#[derive(Debug, Deserialize)]
struct Part {
    output: Box<RawValue>,
}

/// Calls that failed in a row.
#[derive(Debug, Default)]
struct Failures(u32);

impl Failures {
    /// Returns the pause before the next try. None: there is none.
    fn pause(&mut self) -> Option<Duration> {
        let pause = Duration::from_millis(500 << self.0);
        self.0 += 1;
        (self.0 < FAILURES_MAX).then_some(pause)
    }
}

/// Returns how long the server may hold the next request.
fn poll_ms(left: Option<Duration>, is_shown: bool) -> u64 {
    let most = if is_shown { SHOWN_POLL_MS_MAX } else { POLL_MS_MAX };
    let left = left.map_or(most, |left| u64::try_from(left.as_millis()).unwrap_or(most));
    left.clamp(POLL_MS_MIN, most)
}

/// Says how to wait for a job.
pub fn how_to_wait(name: &str, id: &str) -> String {
    format!("to wait for its output: gannet job wait {name} {id}")
}

/// Waits until a job has ended, or until the time is over. Returns the last response, whatever state it tells.
pub fn wait(api: &JobApi, id: &str, limit: Option<Duration>) -> Result<Sent<JobView>, Failure> {
    let (line, mut failures) = (printer::spinner(), Failures::default());
    let outcome = poll(api, id, limit, &mut failures, &line);
    line.finish_and_clear();
    outcome
}

fn poll(
    api: &JobApi,
    id: &str,
    limit: Option<Duration>,
    failures: &mut Failures,
    line: &indicatif::ProgressBar,
) -> Result<Sent<JobView>, Failure> {
    let (began, call) = (Instant::now(), of_job("status-sync", id));
    line.set_message(format!("job {id}"));
    loop {
        let left = || limit.map(|limit| limit.saturating_sub(began.elapsed()));
        let wait_ms = poll_ms(left(), !line.is_hidden()).to_string();
        match api.get::<JobView>(&call, &[("wait", &wait_ms)]) {
            Ok(sent) => {
                let job = sent.view()?;
                if job.status.is_terminal() || left().is_some_and(|left| left.is_zero()) {
                    return Ok(sent);
                }
                *failures = Failures::default();
                line.set_message(state_line(&job));
            }
            Err(CallError::NotNow(failure) | CallError::NoResponse(failure)) => {
                let Some(pause) = failures.pause().filter(|pause| left().is_none_or(|left| left > *pause)) else {
                    return Err(failure.hint(how_to_wait(&api.name, id)));
                };
                line.set_message("the server does not answer; trying again");
                std::thread::sleep(pause);
            }
            Err(CallError::Final(failure)) => return Err(failure),
        }
    }
}

/// Prints the output of a job.
///
/// # Errors
/// It is not COMPLETED.
pub fn print_end(name: &str, sent: &Sent<JobView>, as_json: bool) -> Outcome {
    if as_json {
        sent.print_json();
    }
    let job = sent.view()?;
    if job.status != State::Completed {
        return Err(not_completed(name, &job));
    }
    if !as_json {
        // A null is read as no output.
        printer::line(job.output.as_ref().map_or("null", |output| output.get()));
    }
    Ok(())
}

/// Says why there is no output.
fn not_completed(name: &str, job: &JobView) -> Failure {
    let id = &job.id;
    if !job.status.is_terminal() {
        let reason = job.wait_reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
        let failure = Failure::failed(format!("job {id} is still {}{reason}", job.status));
        return failure.hint(how_to_wait(name, id));
    }
    let mut what = format!("job {id} is {}", job.status);
    if let Some(error) = &job.error {
        what.push_str(": ");
        what.push_str(error);
    }
    if let Some(code) = &job.error_code {
        what.push_str(&format!(" ({code})"));
    }
    let failure = Failure::failed(what);
    match (job.status, &job.request_id) {
        (State::Cancelled, _) | (_, None) => failure,
        _ => failure.hint(format!(
            "`gannet job logs {name} {id}` shows what it wrote, and `gannet job retry {name} {id}` tries it again"
        )),
    }
}

/// Puts JSON on one line.
fn on_one_line(json: &str) -> String {
    // A line break in JSON is only ever between its values.
    json.replace(['\r', '\n'], " ")
}

/// Prints the parts of a job's output until it has ended.
pub fn stream(api: &JobApi, id: &str) -> Outcome {
    let (call, mut failures) = (of_job("stream", id), Failures::default());
    loop {
        let read = match api.get::<StreamView>(&call, &[]) {
            Ok(sent) => sent.view()?,
            Err(CallError::NotNow(failure)) => {
                let Some(pause) = failures.pause() else { return Err(failure) };
                std::thread::sleep(pause);
                continue;
            }
            // The server gives each part once, so those of a response that did not arrive are gone.
            Err(CallError::NoResponse(failure)) => {
                return Err(
                    failure.hint(format!("parts may be missing; `gannet job wait {} {id}` prints all", api.name))
                );
            }
            Err(CallError::Final(failure)) => return Err(failure),
        };
        failures = Failures::default();
        for part in &read.stream {
            printer::line(&on_one_line(part.output.get()));
        }
        if read.status == State::Completed {
            return Ok(());
        }
        if read.status.is_terminal() {
            return Err(not_completed(&api.name, &api.status(id)?.view()?));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_held_no_longer_than_is_left_and_long_enough_for_the_server() {
        let left = |ms| Some(Duration::from_millis(ms));
        assert_eq!((poll_ms(None, false), poll_ms(None, true)), (30_000, 1_000));
        assert_eq!((poll_ms(left(5_000), false), poll_ms(left(5_000), true)), (5_000, 1_000));
        assert_eq!((poll_ms(left(1), false), poll_ms(left(u64::MAX), false)), (1_000, 30_000));
    }

    #[test]
    fn a_failing_call_is_repeated_a_few_times() {
        let mut failures = Failures::default();
        let pauses: Vec<_> = std::iter::from_fn(|| failures.pause()).map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 8_000, 16_000]);
    }

    #[test]
    fn a_part_is_one_line_and_the_same_json() {
        let part = "{\"a\":\r\n \"x\\n\"}";
        let line = on_one_line(part);
        assert!(!line.contains('\n'), "{line}");
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&line), read(part));
    }

    #[test]
    fn a_job_without_output_says_why_and_what_to_do() {
        let told = |json: &str| format!("{:?}", not_completed("task", &serde_json::from_str(json).unwrap()));
        let failed = told(
            r#"{"id":"j","status":"FAILED","error":"because","errorCode":"function_error","attempt":1,"requestId":"r"}"#,
        );
        assert!(failed.contains("job j is FAILED: because (function_error)"), "{failed}");
        assert!(failed.contains("gannet job logs task j") && failed.contains("gannet job retry task j"), "{failed}");
        let waits = told(r#"{"id":"j","status":"IN_QUEUE","waitReason":"paused"}"#);
        assert!(waits.contains("still IN_QUEUE (paused)") && waits.contains("gannet job wait task j"), "{waits}");
        let cancelled = told(r#"{"id":"j","status":"CANCELLED","attempt":1,"requestId":"r"}"#);
        assert!(cancelled.contains("job j is CANCELLED\"") && cancelled.contains("hint: None"), "{cancelled}");
    }
}
