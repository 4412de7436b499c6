//! `gannet batch submit`: sends a file in calls of at most 5,000 inputs, and waits for the end of the batch.
//!
//! ```text
//!  first call: POST batches ─▶ each further one: POST batches/{id}/items ─▶ POST batches/{id}/close
//! ```
//!
//! Each call has an idempotency key, so one whose response was lost is repeated and adds nothing twice. While the tenant
//! may have no more jobs in its queue, a call is repeated too: items end meanwhile.

use super::lines::Lines;
use super::show::BatchView;
use super::watch::{self, insist};
use crate::connection::Connection;
use crate::failure::{Failure, Outcome};
use crate::job_api::{JobApi, Sent, of_job};
use crate::printer;
use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Debug, Args)]
pub struct SubmitArgs {
    #[command(flatten)]
    connection: Connection,
    /// Name of the function
    name: String,
    /// File with an input on each line, as JSON; - is standard input
    file: PathBuf,
    /// Wait until all items have ended; exits with 1 if one of them is not COMPLETED
    #[arg(long)]
    wait: bool,
    /// URL to which the state of the batch is posted when all its items have ended
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// Name of the batch, for people
    #[arg(long = "label", value_name = "TEXT")]
    label: Option<String>,
    /// Time of one attempt of an item, in seconds [default: `timeout_s` of the function]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Time from now within which an item must end, in seconds [default: `ttl_s` of the function]
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u64>,
    /// Text of your choice: submitting the same file again with the same key makes no second batch
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Print the server's last response as it is, which is JSON, instead of the ID
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Body<'a> {
    inputs: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Policy>,
    more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_timeout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
}

impl SubmitArgs {
    fn open(&self) -> Result<(Box<dyn BufRead>, u64), Failure> {
        if self.file.as_os_str() == "-" {
            return Ok((Box::new(BufReader::new(std::io::stdin())), 0));
        }
        let cannot = |error| Failure::usage(format!("cannot read {}", self.file.display())).because(error);
        let file = File::open(&self.file).map_err(cannot)?;
        let length = file.metadata().map_err(cannot)?.len();
        Ok((Box::new(BufReader::new(file)), length))
    }

    /// Writes the body of a call.
    fn body(&self, inputs: &str, is_first: bool, more: bool) -> Result<String, Failure> {
        let ms = |seconds: Option<u64>| seconds.map(|seconds| seconds.saturating_mul(1000));
        let policy = Policy { execution_timeout: ms(self.timeout), ttl: ms(self.ttl) };
        let has_policy = is_first && (self.timeout.is_some() || self.ttl.is_some());
        let written = serde_json::from_str(inputs).and_then(|inputs| {
            let name = self.label.as_deref().filter(|_| is_first);
            let webhook = self.webhook.as_deref().filter(|_| is_first);
            serde_json::to_string(&Body { inputs, name, policy: has_policy.then_some(policy), more, webhook })
        });
        written.map_err(|error| Failure::usage("the inputs cannot be written as JSON").because(error))
    }

    fn key(&self) -> String {
        self.idempotency_key.clone().unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
            format!("{}-{}", now.as_nanos(), std::process::id())
        })
    }
}

/// Sends all inputs. Returns the last response.
fn send(arguments: &SubmitArgs, api: &JobApi) -> Result<Sent<BatchView>, Failure> {
    let (read, length) = arguments.open()?;
    let bar = printer::progress(length, "submitting");
    let (mut lines, key) = (Lines::new(read), arguments.key());
    let mut next = lines.next_call()?;
    if next.is_none() {
        return Err(Failure::usage(format!("{} has no input", arguments.file.display())));
    }
    let (mut number, mut batch) = (0_u32, None);
    while let Some(inputs) = next {
        bar.set_position(lines.bytes);
        next = lines.next_call()?;
        let headers = [("idempotency-key".to_owned(), format!("{key}-{number}"))];
        let call = batch.as_ref().map_or_else(|| "batches".to_owned(), |id: &String| of_batch(id, "items"));
        let body = arguments.body(&inputs, batch.is_none(), batch.is_none() && next.is_some())?;
        drop(inputs);
        let sent = insist(|| api.try_post_json(&call, &[], &headers, &body)).map_err(|failure| match &batch {
            Some(id) => failure.hint(format!("batch {id} has the inputs before; `gannet batch cancel` cancels it")),
            None => failure,
        })?;
        if next.is_none() && batch.is_none() {
            bar.finish_and_clear();
            return Ok(sent);
        }
        batch = Some(sent.view()?.id);
        number += 1;
    }
    bar.finish_and_clear();
    let id = batch.unwrap_or_default();
    insist(|| api.try_post_json(&of_batch(&id, "close"), &[], &[], "{}"))
}

fn of_batch(id: &str, call: &str) -> String {
    format!("{}/{call}", of_job("batches", id))
}

pub fn run(arguments: &SubmitArgs) -> Outcome {
    let api = JobApi::new(&arguments.connection, &arguments.name)?;
    let sent = send(arguments, &api)?;
    if !arguments.wait {
        return sent.print(arguments.json, |batch| {
            printer::line(&batch.id);
            printer::note(&format!("to wait for its end: gannet batch wait {} {}", api.name, batch.id));
        });
    }
    let id = sent.view()?.id;
    if !arguments.json {
        printer::line(&id);
    }
    watch::print_end(&api.name, &watch::wait(&api, &id)?, arguments.json)
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

    #[test]
    fn only_the_first_call_says_what_is_asked_for() {
        let webhook = ["--webhook", "https://example.org/"];
        let line = [&["submit", "task", "in.jsonl", "--timeout", "5", "--label", "night"], &webhook[..]].concat();
        let arguments = Line::try_parse_from(line).unwrap_or_else(|error| panic!("{error}")).submit;
        assert_eq!(
            arguments.body("[1.0]", true, true).unwrap(),
            r#"{"inputs":[1.0],"name":"night","policy":{"executionTimeout":5000},"more":true,"webhook":"https://example.org/"}"#
        );
        assert_eq!(arguments.body("[1]", false, false).unwrap(), r#"{"inputs":[1],"more":false}"#);
        assert_ne!(arguments.key(), "");
    }
}
