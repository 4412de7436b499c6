//! `gannet schedule`: adds, lists, runs and deletes the schedules of a function. Those of its manifest change with a
//! deploy.

use crate::answer::optional;
use crate::connection::Connection;
use crate::data::read_data;
use crate::failure::{Failure, Outcome};
use crate::job_api::JobApi;
use crate::printer;
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

#[derive(Debug, Args)]
pub struct ScheduleArgs {
    #[command(subcommand)]
    command: ScheduleCommand,
}

#[derive(Debug, Args)]
struct OneSchedule {
    #[command(flatten)]
    connection: Connection,
    /// Name of the function
    name: String,
    /// Name of the schedule
    schedule: String,
    /// Print the server's response as it is, which is JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum ScheduleCommand {
    /// Make a job of a function at certain times, or change when an added schedule does
    #[command(
        after_help = "Example:\n  gannet schedule add task nightly --cron '30 2 * * *' --timezone Europe/Berlin --input @input.json"
    )]
    Add(Box<AddArgs>),
    /// List the schedules of a function, those of its manifest and those that were added
    #[command(visible_alias = "ls", after_help = "Example:\n  gannet schedule list task")]
    List {
        #[command(flatten)]
        connection: Connection,
        /// Name of the function
        name: String,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Make the job of a schedule now, once
    #[command(after_help = "Example:\n  gannet schedule run task nightly")]
    Run(OneSchedule),
    /// Delete a schedule that was added
    #[command(visible_alias = "rm", after_help = "Example:\n  gannet schedule delete task nightly")]
    Delete(OneSchedule),
}

#[derive(Debug, Args)]
struct AddArgs {
    #[command(flatten)]
    of: OneSchedule,
    /// When: minute, hour, day of the month, month and day of the week, or a name such as @hourly
    #[arg(long, value_name = "PATTERN")]
    cron: String,
    /// IANA name of the time zone of the pattern [default: UTC]
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// Input of the jobs as JSON, @FILE for the contents of a file, or @- for standard input [default: {}]
    #[arg(long, value_name = "JSON")]
    input: Option<String>,
    /// Path at which the function gets the jobs [default: /]
    #[arg(long)]
    path: Option<String>,
    /// What happens to times at which the server was down: one is made up for (default), or none
    #[arg(long, value_enum)]
    missed: Option<Missed>,
    /// What happens if the previous job has not ended: the time is skipped (default), the job waits, or both run
    #[arg(long, value_enum)]
    overlap: Option<Overlap>,
}

#[derive(Debug, Clone, Copy, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum Missed {
    One,
    None,
}

#[derive(Debug, Clone, Copy, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum Overlap {
    Skip,
    Queue,
    Allow,
}

/// The body of a request that creates a schedule. The server has a default for each field that is None.
#[derive(Debug, Serialize)]
struct NewSchedule<'a> {
    name: &'a str,
    cron: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    timezone: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<Missed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overlap: Option<Overlap>,
}

#[derive(Debug, Deserialize)]
struct Schedule {
    name: String,
    source: String,
    cron: String,
    timezone: String,
    path: String,
    next: Option<String>,
    last_fired: Option<String>,
    last_job: Option<String>,
    last_skipped: Option<Skipped>,
}

/// The last time for which a schedule made no job.
#[derive(Debug, Deserialize)]
struct Skipped {
    time: Option<String>,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Schedules {
    schedules: Vec<Schedule>,
}

#[derive(Debug, Deserialize)]
struct Started {
    id: String,
}

#[derive(Debug, Deserialize)]
struct Deleted {
    deleted: String,
}

pub fn run(arguments: &ScheduleArgs) -> Outcome {
    match &arguments.command {
        ScheduleCommand::Add(arguments) => add(arguments),
        ScheduleCommand::List { connection, name, json } => {
            let listed = JobApi::new(connection, name)?.get("schedules", &[]).map_err(Failure::from)?;
            listed.print(*json, |listed: Schedules| {
                let head =
                    ["NAME", "FROM", "CRON", "TIMEZONE", "PATH", "NEXT", "LAST FIRED", "LAST JOB", "LAST SKIPPED"];
                printer::table(&head, &listed.schedules.into_iter().map(row).collect::<Vec<_>>());
            })
        }
        ScheduleCommand::Run(of) => {
            let call = format!("{}/run", call_of(&of.schedule));
            JobApi::new(&of.connection, &of.name)?.post(&call)?.print(of.json, |Started { id }| {
                printer::line(&id);
                printer::note(&format!("gannet job wait {} {id} waits for its end", of.name));
            })
        }
        ScheduleCommand::Delete(of) => {
            let deleted = JobApi::new(&of.connection, &of.name)?.delete(&call_of(&of.schedule))?;
            deleted.print(of.json, |Deleted { deleted }| {
                printer::note(&format!("the schedule {deleted} of {} was deleted", of.name));
            })
        }
    }
}

/// Returns the call that is about a schedule.
fn call_of(schedule: &str) -> String {
    crate::job_api::of_job("schedules", schedule)
}

fn add(arguments: &AddArgs) -> Outcome {
    let AddArgs { of, cron, timezone, input, path, missed, overlap } = arguments;
    let input = input.as_deref().map(read_input).transpose()?;
    let (timezone, path) = (timezone.as_deref(), path.as_deref());
    let (missed, overlap) = (*missed, *overlap);
    let schedule = NewSchedule { name: &of.schedule, cron, timezone, path, input, missed, overlap };
    let body = serde_json::to_string(&schedule)
        .map_err(|error| Failure::usage("the schedule cannot be sent").because(error))?;
    let made = JobApi::new(&of.connection, &of.name)?.post_json("schedules", &[], &[], &body)?;
    made.print(of.json, |made: Schedule| {
        let next = made.next.unwrap_or_else(|| "never".into());
        printer::note(&format!("the schedule {} of {} fires next at {next}", made.name, of.name));
    })
}

fn read_input(data: &str) -> Result<Box<RawValue>, Failure> {
    let bytes = read_data(data)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::usage("--input is no JSON").because(error).hint("a text is JSON only in quotes: --input '\"text\"'")
    })
}

fn row(schedule: Schedule) -> Vec<String> {
    let Schedule { name, source, cron, timezone, path, next, last_fired, last_job, last_skipped } = schedule;
    let skipped = last_skipped.map(|Skipped { time, reason }| format!("{} ({reason})", optional(time)));
    let rest = [next, last_fired, last_job, skipped].map(optional);
    [name, source, cron, timezone, path].into_iter().chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_given_is_sent_and_the_input_as_it_is_written() {
        let input = Some(read_input("{\"z\": 1.50,\"a\":1}").unwrap());
        let schedule = NewSchedule {
            name: "n",
            cron: "@daily",
            timezone: None,
            path: None,
            input,
            missed: Some(Missed::None),
            overlap: None,
        };
        let sent = serde_json::to_string(&schedule).unwrap();
        assert_eq!(sent, r#"{"name":"n","cron":"@daily","input":{"z": 1.50,"a":1},"missed":"none"}"#);
        assert!(read_input("text").is_err());
        assert_eq!(call_of("a/b"), "schedules/a%2Fb");
    }

    #[test]
    fn a_schedule_is_a_row_with_dashes_for_what_never_happened() {
        let text = r#"{"name": "n", "source": "api", "cron": "@daily", "timezone": "UTC", "path": "/", "next": null,
            "last_fired": null, "last_job": null, "new": 1}"#;
        let row_of = |text: &str| row(serde_json::from_str(text).unwrap());
        assert_eq!(row_of(text), ["n", "api", "@daily", "UTC", "/", "-", "-", "-", "-"]);
        let text =
            text.replace("\"new\": 1", r#""last_skipped": {"time": "2026-11-24T01:30:00Z", "reason": "overlap"}"#);
        assert_eq!(row_of(&text)[8], "2026-11-24T01:30:00Z (overlap)");
    }
}
