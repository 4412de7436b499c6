//! `gannet job submit`: the arguments, and the request that they make.

use super::watch;
use crate::connection::Connection;
use crate::data::read_data;
use crate::failure::{Failure, Outcome};
use crate::job_api::{JobApi, JobView, Sent};
use crate::printer;
use clap::{Args, value_parser};
use serde::Serialize;
use serde_json::value::RawValue;
use std::time::Duration;

/// How long `--sync` waits unless told otherwise, in seconds. As the server does.
const SYNC_WAIT_S: u64 = 90;
/// How long `--sync` can wait, in seconds. The server's limit.
const SYNC_WAIT_S_MAX: u64 = 300;

#[derive(Debug, Args)]
pub struct SubmitArgs {
    #[command(flatten)]
    connection: Connection,
    /// Name of the function
    name: String,
    /// Input of the job as JSON: a text, @FILE for the contents of a file, or @- for standard input [default: {}]
    #[arg(short = 'd', long = "data", value_name = "INPUT", allow_negative_numbers = true)]
    data: Option<String>,
    /// Submit and wait in one request, and print the output; the server keeps it only for a minute
    #[arg(long)]
    sync: bool,
    /// Wait until the job has ended, at most SECONDS, and print the output; exits with 1 if it is not COMPLETED
    /// [default: until it has ended, or 90 with --sync]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, value_parser = value_parser!(u64).range(1..))]
    #[expect(clippy::option_option, reason = "no --wait, --wait, and --wait with a value are three things")]
    wait: Option<Option<u64>>,
    /// Time of one attempt, in seconds [default: `timeout_s` of the function]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Time from now within which the job must end, in seconds [default: `ttl_s` of the function]
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u64>,
    /// Time from now before which the job does not begin, in seconds
    #[arg(long, value_name = "SECONDS")]
    delay: Option<u64>,
    /// Let other jobs of the function go first
    #[arg(long)]
    low_priority: bool,
    /// URL to which the job's result is posted when it has ended
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// Text of your choice: submitting again with the same key and the same input makes no second job
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Print the server's response as it is, which is JSON, instead of the ID or the output
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct NewJob<'a> {
    input: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<&'a str>,
    policy: Policy,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_timeout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    low_priority: bool,
}

impl SubmitArgs {
    /// Writes the body of the request. The input stays as it is.
    fn body(&self, input: &[u8]) -> Result<String, Failure> {
        let input: &RawValue = serde_json::from_slice(input).map_err(|error| {
            Failure::usage("the input is not JSON")
                .because(error)
                .hint("-d '{\"key\": 1}', or for a text -d '\"text\"'")
        })?;
        let ms = |seconds: Option<u64>| seconds.map(|seconds| seconds.saturating_mul(1000));
        let policy = Policy {
            execution_timeout: ms(self.timeout),
            ttl: ms(self.ttl),
            delay: ms(self.delay),
            low_priority: self.low_priority,
        };
        serde_json::to_string(&NewJob { input, webhook: self.webhook.as_deref(), policy })
            .map_err(|error| Failure::usage("the job cannot be written as JSON").because(error))
    }

    /// Returns how long `--sync` waits, in seconds.
    fn sync_wait_s(&self) -> Result<u64, Failure> {
        match self.wait.flatten().unwrap_or(SYNC_WAIT_S) {
            seconds @ 1..=SYNC_WAIT_S_MAX => Ok(seconds),
            seconds => Err(Failure::usage(format!("--wait {seconds}: with --sync it may be 1 to {SYNC_WAIT_S_MAX}"))
                .hint("without --sync it may be any time")),
        }
    }
}

pub fn run(arguments: &SubmitArgs) -> Outcome {
    let input = arguments.data.as_deref().map_or_else(|| Ok(b"{}".to_vec()), read_data)?;
    let body = arguments.body(&input)?;
    drop(input);
    let sync_wait_s = if arguments.sync { Some(arguments.sync_wait_s()?) } else { None };
    let key = arguments.idempotency_key.iter().map(|key| ("idempotency-key".to_owned(), key.clone()));
    let headers: Vec<_> = key.collect();
    let api = JobApi::new(&arguments.connection, &arguments.name)?;
    if let Some(seconds) = sync_wait_s {
        let wait_ms = (seconds * 1000).to_string();
        let line = printer::spinner();
        line.set_message("the job runs");
        let sent: Result<Sent<JobView>, _> = api.post_json("runsync", &[("wait", &wait_ms)], &headers, &body);
        line.finish_and_clear();
        return watch::print_end(&api.name, &sent?, arguments.json);
    }
    let submitted: Sent<JobView> = api.post_json("run", &[], &headers, &body)?;
    drop(body);
    let Some(limit) = arguments.wait else {
        return submitted.print(arguments.json, |job| {
            printer::line(&job.id);
            printer::note(&watch::how_to_wait(&api.name, &job.id));
        });
    };
    let id = submitted.view()?.id;
    printer::note(&format!("job {id} was submitted"));
    let ended = watch::wait(&api, &id, limit.map(Duration::from_secs))?;
    watch::print_end(&api.name, &ended, arguments.json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        submit: SubmitArgs,
    }

    fn read(arguments: &[&str]) -> SubmitArgs {
        Line::try_parse_from([&["submit", "task"], arguments].concat()).unwrap_or_else(|error| panic!("{error}")).submit
    }

    fn body(input: &str, arguments: &[&str]) -> String {
        read(arguments).body(input.as_bytes()).unwrap()
    }

    #[test]
    fn the_input_is_sent_byte_for_byte_and_times_in_milliseconds() {
        assert_eq!(body("{}", &[]), r#"{"input":{},"policy":{}}"#);
        assert_eq!(body("{\"b\" : 1.0,\n\"a\":1e400}", &[]), "{\"input\":{\"b\" : 1.0,\n\"a\":1e400},\"policy\":{}}");
        assert_eq!(
            body("\"x\"", &["--timeout", "5", "--ttl", "60", "--delay", "30", "--low-priority"]),
            r#"{"input":"x","policy":{"executionTimeout":5000,"ttl":60000,"delay":30000,"lowPriority":true}}"#
        );
        assert_eq!(
            body("1", &["--webhook", "https://example.org/?a=\"b\""]),
            r#"{"input":1,"webhook":"https://example.org/?a=\"b\"","policy":{}}"#
        );
        assert!(body("1", &["--ttl", &u64::MAX.to_string()]).contains(&u64::MAX.to_string()), "too long is not short");
        assert_eq!(read(&["-d", "-5"]).data.as_deref(), Some("-5"));
    }

    #[test]
    fn an_input_that_is_no_json_is_not_sent() {
        for wrong in ["", "text", "{\"a\": }", "{} {}", "{'a': 1}", "\u{feff}{}"] {
            assert!(read(&[]).body(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(read(&[]).body(b"\"\xff\"").is_err());
    }

    #[test]
    fn how_long_to_wait_may_be_left_out() {
        assert_eq!(read(&[]).wait, None);
        assert_eq!(read(&["--wait"]).wait, Some(None));
        assert_eq!(read(&["--wait", "7", "-d", "1"]).wait, Some(Some(7)));
        assert!(Line::try_parse_from(["submit", "task", "--wait", "0"]).is_err());
        let sync = |arguments: &[&str]| read(&[&["--sync"], arguments].concat()).sync_wait_s().ok();
        assert_eq!((sync(&[]), sync(&["--wait"]), sync(&["--wait", "300"])), (Some(90), Some(90), Some(300)));
        assert_eq!(sync(&["--wait", "301"]), None);
    }
}
