//! `gannet job`: submits background jobs of a function, follows, lists and cancels them.
//!
//! A job's output goes to stdout as the function wrote it. The exit code of `wait`, and of a `submit` that waits, is 0
//! only if the job is COMPLETED.

mod submit;
mod show;
mod watch;

use crate::connection::Connection;
use crate::failure::{Failure, Outcome};
use crate::job_api::{JobApi, JobView, State, of_job};
use crate::{logs, printer};
use clap::{Args, Subcommand, value_parser};
use std::time::Duration;

#[derive(Debug, Args)]
pub struct JobArgs {
    #[command(subcommand)]
    command: JobCommand,
}

#[derive(Debug, Args)]
struct OneJob {
    #[command(flatten)]
    connection: Connection,
    /// Name of the function
    name: String,
    /// ID of the job, as `gannet job submit` prints it
    id: String,
}

#[derive(Debug, Subcommand)]
enum JobCommand {
    /// Submit a job and print its ID; the function gets it as soon as there is room
    #[command(after_help = "Examples:\n  \
        gannet job submit task -d '{\"say\": \"hello\"}'\n  \
        gannet job submit task -d @input.json --wait > output.json\n  \
        gannet job submit task -d @input.json --webhook https://example.org/results")]
    Submit(submit::SubmitArgs),
    /// Show the state of a job, and its output
    #[command(after_help = "Example:\n  gannet job status task 019a1c2e-7b1f-7c3a-9d55-0b9e6f2a4c11")]
    Status {
        #[command(flatten)]
        of: OneJob,
        /// Print the server's response as it is, which is JSON
        #[arg(long)]
        json: bool,
    },
    /// Wait until a job has ended, and print its output; exits with 1 if it is not COMPLETED
    #[command(after_help = "Example:\n  gannet job wait task 019a1c2e-7b1f-7c3a-9d55-0b9e6f2a4c11 > output.json")]
    Wait {
        #[command(flatten)]
        of: OneJob,
        /// Wait at most this long; the job goes on [default: until it has ended]
        #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..))]
        timeout: Option<u64>,
        /// Print the server's last response as it is, which is JSON, instead of the output
        #[arg(long)]
        json: bool,
    },
    /// Print the parts of a job's output as they arrive, each as a line of JSON; a part is given out only once
    #[command(after_help = "Example:\n  gannet job stream task 019a1c2e-7b1f-7c3a-9d55-0b9e6f2a4c11")]
    Stream(OneJob),
    /// Cancel a job, also one that runs
    #[command(after_help = "Example:\n  gannet job cancel task 019a1c2e-7b1f-7c3a-9d55-0b9e6f2a4c11")]
    Cancel {
        #[command(flatten)]
        of: OneJob,
        /// Print the server's response as JSON
        #[arg(long)]
        json: bool,
    },
    /// Put a job that is FAILED or TIMED_OUT into the queue again
    #[command(after_help = "Example:\n  gannet job retry task 019a1c2e-7b1f-7c3a-9d55-0b9e6f2a4c11")]
    Retry {
        #[command(flatten)]
        of: OneJob,
        /// Print the server's response as JSON
        #[arg(long)]
        json: bool,
    },
    /// List the jobs of a function, oldest first
    #[command(visible_alias = "ls", after_help = "Example:\n  gannet job list task --status FAILED")]
    List {
        #[command(flatten)]
        connection: Connection,
        /// Name of the function
        name: String,
        /// List only jobs in this state
        #[arg(long, value_name = "STATE", value_enum, ignore_case = true)]
        status: Option<State>,
        /// List at most this many jobs
        #[arg(long, default_value_t = 100, value_parser = value_parser!(u64).range(1..))]
        limit: u64,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the lines that all attempts of a job wrote to stdout and stderr
    #[command(after_help = "Example:\n  gannet job logs task 019a1c2e-7b1f-7c3a-9d55-0b9e6f2a4c11")]
    Logs {
        #[command(flatten)]
        of: OneJob,
        /// Print each line as a JSON object
        #[arg(long)]
        json: bool,
    },
}

impl OneJob {
    fn api(&self) -> Result<JobApi, Failure> {
        JobApi::new(&self.connection, &self.name)
    }
}

pub fn run(arguments: &JobArgs) -> Outcome {
    match &arguments.command {
        JobCommand::Submit(arguments) => submit::run(arguments),
        JobCommand::Status { of, json } => of.api()?.status(&of.id)?.print(*json, |job| show::print(&job)),
        JobCommand::Wait { of, timeout, json } => {
            let api = of.api()?;
            let ended = watch::wait(&api, &of.id, timeout.map(Duration::from_secs))?;
            watch::print_end(&api.name, &ended, *json)
        }
        JobCommand::Stream(of) => watch::stream(&of.api()?, &of.id),
        JobCommand::Cancel { of, json } => cancel(of, *json),
        JobCommand::Retry { of, json } => of.api()?.post::<JobView>(&of_job("retry", &of.id))?.print(*json, |job| {
            printer::note(&format!("job {} is {} again", job.id, job.status));
            printer::note(&watch::how_to_wait(&of.name, &job.id));
        }),
        JobCommand::List { connection, name, status, limit, json } => {
            show::list(&JobApi::new(connection, name)?, *status, *limit, *json)
        }
        JobCommand::Logs { of, json } => print_logs(of, *json),
    }
}

fn cancel(of: &OneJob, as_json: bool) -> Outcome {
    of.api()?.post::<JobView>(&of_job("cancel", &of.id))?.print(as_json, |job| {
        let had_ended = if job.status == State::Cancelled { "" } else { "; it had ended before" };
        printer::note(&format!("job {} is {}{had_ended}", job.id, job.status));
    })
}

fn print_logs(of: &OneJob, as_json: bool) -> Outcome {
    let job = of.api()?.status(&of.id)?.view()?;
    if job.request_id.is_none() {
        let why = format!("job {} is {} and has had no attempt, so it has no log", of.id, job.status);
        return Err(Failure::failed(why));
    }
    let log: logs::Lines = of.api()?.get(&format!("{}/logs", of_job("jobs", &of.id)), &[])?.view()?;
    logs::print_lines(&log, as_json)
}
