//! `gannet queue`: pauses, resumes and empties the queue of a function's jobs, and counts them.

use crate::client::Client;
use crate::connection::Connection;
use crate::failure::{Failure, Outcome};
use crate::job_api::{JobApi, explained};
use crate::printer;
use crate::terminal::confirm;
use clap::{Args, Subcommand};
use gannet_api::QueuesPaused;
use serde::Deserialize;

#[derive(Debug, Args)]
pub struct QueueArgs {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, Args)]
struct OneQueue {
    #[command(flatten)]
    connection: Connection,
    /// Name of the function
    name: String,
    /// Print the server's response as it is, which is JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Queues {
    #[command(flatten)]
    connection: Connection,
    /// Name of the function
    #[arg(required_unless_present = "all")]
    name: Option<String>,
    /// All functions of the tenant; a queue that was paused by itself stays paused when all are resumed
    #[arg(long, conflicts_with = "name")]
    all: bool,
    /// Print the server's response as it is, which is JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    /// Start no more jobs of a function; those that run go on, and new ones are accepted and wait
    #[command(after_help = "Examples:\n  gannet queue pause task\n  gannet queue pause --all")]
    Pause(Queues),
    /// Start the jobs of a function again after a pause
    #[command(after_help = "Examples:\n  gannet queue resume task\n  gannet queue resume --all")]
    Resume(Queues),
    /// Cancel all jobs of a function that wait; those that run go on
    #[command(after_help = "Example:\n  gannet queue purge task --yes")]
    Purge {
        #[command(flatten)]
        of: OneQueue,
        /// Do not ask first
        #[arg(long)]
        yes: bool,
    },
    /// Count the jobs of a function by state, and show why they wait and why its workers failed last
    #[command(after_help = "Example:\n  gannet queue status task")]
    Status(OneQueue),
}

#[derive(Debug, Deserialize)]
struct Paused {
    paused: bool,
}

#[derive(Debug, Deserialize)]
struct Purged {
    removed: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    jobs: Counts,
    wait_reason: Option<String>,
    /// Why the function's workers end or do not start, while that is so again and again.
    last_error: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    completed: u64,
    failed: u64,
    in_progress: u64,
    in_queue: u64,
    retried: u64,
}

pub fn run(arguments: &QueueArgs) -> Outcome {
    match &arguments.command {
        QueueCommand::Pause(of) => pause(of, "pause"),
        QueueCommand::Resume(of) => pause(of, "resume"),
        QueueCommand::Purge { of, yes } => purge(of, *yes),
        QueueCommand::Status(of) => {
            let api = JobApi::new(&of.connection, &of.name)?;
            api.get("health", &[]).map_err(Failure::from)?.print(of.json, |health: Health| {
                for (name, value) in fields(&health) {
                    printer::line(&format!("{name:14} {value}"));
                }
            })
        }
    }
}

fn pause(of: &Queues, call: &str) -> Outcome {
    let Some(name) = &of.name else {
        let answer = Client::new(&of.connection)?.post::<QueuesPaused>(&format!("queues/{call}"))?;
        return answer.print(of.json, |QueuesPaused { paused }| {
            let what = if paused { "are paused; jobs are accepted and wait" } else { "are not paused together" };
            printer::note(&format!("the queues of all functions {what}"));
        });
    };
    JobApi::new(&of.connection, name)?.post(call)?.print(of.json, |Paused { paused }| {
        let what = if paused { "is paused; its jobs are accepted and wait" } else { "is not paused" };
        printer::note(&format!("the queue of {name} {what}"));
    })
}

fn purge(of: &OneQueue, yes: bool) -> Outcome {
    let what = format!("this cancels all jobs of {} that wait", of.name);
    if !yes {
        match confirm(&what)? {
            Some(true) => {}
            Some(false) => return Err(Failure::failed("nothing was cancelled")),
            None => return Err(Failure::usage(what).hint("add --yes to confirm")),
        }
    }
    JobApi::new(&of.connection, &of.name)?.post("purge-queue")?.print(of.json, |Purged { removed }| {
        let plural = if removed == 1 { "job was" } else { "jobs were" };
        printer::note(&format!("{removed} {plural} cancelled"));
    })
}

/// Returns what is known of a queue, as names and values.
fn fields(health: &Health) -> Vec<(&'static str, String)> {
    let Counts { completed, failed, in_progress, in_queue, retried } = health.jobs;
    let counts = [("waiting", in_queue), ("running", in_progress), ("completed", completed), ("failed", failed)];
    let counts = counts.into_iter().chain([("retried", retried)]);
    let reason = health.wait_reason.as_deref().map(|reason| ("waits because", explained(reason)));
    let error = health.last_error.clone().map(|error| ("last error", error));
    counts.map(|(name, count)| (name, count.to_string())).chain(reason).chain(error).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_shown_with_its_counts_and_why_its_jobs_wait() {
        let told = |rest: &str| {
            let jobs = r#"{"completed": 5, "failed": 4, "inProgress": 2, "inQueue": 3, "retried": 1}"#;
            let health: Health =
                serde_json::from_str(&format!("{{\"jobs\": {jobs}, \"workers\": {{}}{rest}}}")).unwrap();
            fields(&health).into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        assert_eq!(told(""), ["waiting=3", "running=2", "completed=5", "failed=4", "retried=1"]);
        let waits = told(r#", "waitReason": "crash_loop", "lastError": "no worker could be started""#);
        assert_eq!(
            waits[5..],
            ["waits because=crash_loop: the function fails again and again", "last error=no worker could be started"]
        );
    }
}
