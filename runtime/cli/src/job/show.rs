//! Shows a job, or a list of jobs, to people.

use crate::failure::{Failure, Outcome};
use crate::job_api::{JobApi, JobView, State, explained};
use crate::printer;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Jobs that one request for a list returns at most.
const PAGE_MAX: u64 = 1_000;
/// Characters of a text that share a line with something else.
const CHARACTERS_MAX: usize = 60;

/// A page of a list of jobs, as the server sent it.
#[derive(Debug, Deserialize)]
struct Page {
    jobs: Vec<Value>,
    cursor: Option<String>,
}

/// Shortens a text to a part of a line.
fn shortened(text: &str) -> String {
    let mut characters = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut line: String = characters.by_ref().take(CHARACTERS_MAX).collect();
    if characters.next().is_some() {
        line.push('…');
    }
    line
}

/// Formats a span of time for people.
fn span(ms: u64) -> String {
    let (s, min, h) = (ms / 1_000, ms / 60_000, ms / 3_600_000);
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{s}.{} s", ms % 1_000 / 100),
        60_000..3_600_000 => format!("{min} min {} s", s % 60),
        3_600_000..86_400_000 => format!("{h} h {} min", min % 60),
        _ => format!("{} d {} h", h / 24, h % 24),
    }
}

/// Returns the error of a job with its code.
fn error_of(job: &JobView) -> Option<String> {
    match (&job.error_code, &job.error) {
        (Some(code), Some(error)) => Some(format!("{code}: {error}")),
        (code, error) => error.clone().or_else(|| code.clone()),
    }
}

/// Returns the state of a job that has not ended, on one line: with the reason for which it waits, or its progress.
pub fn state_line(job: &JobView) -> String {
    let JobView { id, status, .. } = job;
    let waits = job.wait_reason.as_deref().map(explained);
    let progress = job.output.as_ref().filter(|_| *status == State::InProgress).map(|told| shortened(told.get()));
    match waits.or(progress) {
        Some(more) => format!("job {id}: {status}, {more}"),
        None => format!("job {id}: {status}"),
    }
}

/// Returns what is known of a job, as names and values.
fn fields(job: &JobView) -> Vec<(&'static str, String)> {
    let mut fields = vec![("id", job.id.clone()), ("state", job.status.to_string())];
    let mut add = |name, value: Option<String>| fields.extend(value.map(|value| (name, value)));
    add("waits because", job.wait_reason.as_deref().map(explained));
    add("attempt", (job.attempt > 0).then(|| job.attempt.to_string()));
    add("waited", job.delay_time.map(span));
    add("ran", job.execution_time.map(span));
    add("request", job.request_id.clone());
    add("error", error_of(job));
    fields
}

/// Indents JSON.
fn indented(json: &str) -> String {
    let read = serde_json::from_str::<Value>(json);
    // JSON that is nested too deeply to be parsed is printed as the server sent it.
    read.and_then(|value| serde_json::to_string_pretty(&value)).unwrap_or_else(|_| json.to_owned())
}

/// Prints what is known of a job, its output last.
pub fn print(job: &JobView) {
    for (name, value) in fields(job) {
        printer::line(&format!("{name:14} {value}"));
    }
    if let Some(output) = &job.output {
        printer::line(if job.status == State::InProgress { "progress" } else { "output" });
        printer::line(&indented(output.get()));
    }
}

/// Returns when a job was submitted, in milliseconds since 1970: its ID is a UUIDv7, which begins with that.
fn submitted_ms(id: &str) -> Option<u64> {
    let digits: String = id.chars().filter(|c| *c != '-').take(12).collect();
    u64::from_str_radix(&digits, 16).ok()
}

fn row(job: JobView, now_ms: u64) -> Vec<String> {
    let age = submitted_ms(&job.id).map_or_else(|| "-".to_owned(), |submitted| span(now_ms.saturating_sub(submitted)));
    // A job that is tried again has both. Why it waits can change; the error stays in `gannet job status`.
    let reason = job.wait_reason.clone().or_else(|| error_of(&job)).map(|text| shortened(&text));
    vec![job.id, job.status.to_string(), age, job.attempt.to_string(), reason.unwrap_or_default()]
}

/// Prints the oldest jobs of a function, up to a limit.
pub fn list(api: &JobApi, state: Option<State>, limit: u64, as_json: bool) -> Outcome {
    let state = state.map(|state| state.to_string());
    let (mut jobs, mut cursor) = (Vec::new(), None);
    loop {
        let page = limit.saturating_sub(jobs.len() as u64).min(PAGE_MAX).to_string();
        let mut query = vec![("limit", page.as_str())];
        query.extend(state.iter().map(|state| ("status", state.as_str())));
        query.extend(cursor.iter().map(|cursor: &String| ("cursor", cursor.as_str())));
        let page: Page = api.get("jobs", &query).map_err(Failure::from)?.view()?;
        jobs.extend(page.jobs);
        cursor = page.cursor;
        if cursor.is_none() || jobs.len() as u64 >= limit {
            break;
        }
    }
    if as_json {
        let mut list = json!({ "jobs": jobs });
        if let (Some(list), Some(cursor)) = (list.as_object_mut(), cursor) {
            list.insert("cursor".into(), cursor.into());
        }
        printer::json(&list);
        return Ok(());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis();
    let now = u64::try_from(now).unwrap_or(u64::MAX);
    let rows = jobs.into_iter().map(|job| Ok(row(serde_json::from_value(job)?, now)));
    let rows = rows.collect::<Result<Vec<_>, serde_json::Error>>().map_err(|error| {
        let failure = Failure::server("the server's response has an unknown form").because(error);
        failure.hint("--json prints the response as it is")
    })?;
    printer::table(&["ID", "STATE", "AGE", "ATTEMPT", "WAITS BECAUSE / ERROR"], &rows);
    if cursor.is_some() {
        printer::note(&format!("these are the {limit} oldest; a larger --limit may show more"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(json: &str) -> JobView {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn spans_are_short() {
        let told: Vec<_> =
            [0, 999, 1_000, 59_999, 60_000, 3_599_999, 3_600_000, 86_399_999, 90_000_000].map(span).into();
        let expected =
            ["0 ms", "999 ms", "1.0 s", "59.9 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "23 h 59 min", "1 d 1 h"];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_job_is_shown_with_what_is_known_of_it() {
        let told =
            |json| fields(&job(json)).into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
        assert_eq!(
            told(r#"{"id":"j","status":"IN_QUEUE","waitReason":"paused"}"#),
            ["id=j", "state=IN_QUEUE", "waits because=paused: the queue is paused, or the tenant is suspended"]
        );
        let failed = r#"{"id":"j","status":"FAILED","delayTime":12,"executionTime":1500,"attempt":3,"requestId":"r",
            "error":"why","errorCode":"function_error"}"#;
        assert_eq!(
            told(failed),
            [
                "id=j",
                "state=FAILED",
                "attempt=3",
                "waited=12 ms",
                "ran=1.5 s",
                "request=r",
                "error=function_error: why"
            ]
        );
        assert_eq!(told(r#"{"id":"j","status":"CANCELLED","waitReason":"new"}"#)[2], "waits because=new");
    }

    #[test]
    fn a_state_is_told_with_its_reason_or_progress() {
        let told = |json| state_line(&job(json));
        assert_eq!(told(r#"{"id":"j","status":"IN_QUEUE"}"#), "job j: IN_QUEUE");
        let waits = told(r#"{"id":"j","status":"IN_QUEUE","waitReason":"loading"}"#);
        assert_eq!(waits, "job j: IN_QUEUE, loading: the function is being loaded");
        let runs = told("{\"id\":\"j\",\"status\":\"IN_PROGRESS\",\"output\":{\n\"done\": 7}}");
        assert_eq!(runs, "job j: IN_PROGRESS, { \"done\": 7}");
    }

    #[test]
    fn a_row_of_the_list_has_one_short_line() {
        let id = "019a1c2e-7b1f-7c3a-9d55-0b9e6f2a4c11";
        let submitted = submitted_ms(id).unwrap();
        assert_eq!(submitted, 0x019a_1c2e_7b1f);
        let of = |rest: &str| row(job(&format!("{{\"id\":\"{id}\",{rest}}}")), submitted + 5_000);
        assert_eq!(of(r#""status":"COMPLETED","attempt":1"#), [id, "COMPLETED", "5.0 s", "1", ""]);
        let long = of(&format!("\"status\":\"FAILED\",\"errorCode\":\"x\",\"error\":\"a\\nb{}\"", "c".repeat(99)));
        assert!(long[4].starts_with("x: a bc") && long[4].ends_with('…') && long[4].chars().count() == 61, "{long:?}");
        let again = of(r#""status":"IN_QUEUE","attempt":2,"error":"e","waitReason":"capacity""#);
        assert_eq!(again[4], "capacity");
        assert_eq!(row(job(r#"{"id":"none","status":"FAILED"}"#), 0)[2], "-");
    }

    #[test]
    fn an_output_is_indented_and_one_that_is_too_deep_is_kept() {
        assert_eq!(indented("{\"a\":[1]}"), "{\n  \"a\": [\n    1\n  ]\n}");
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        assert_eq!(indented(&deep), deep);
    }
}
