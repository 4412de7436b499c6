//! `gannet batch`: submits many background jobs of a function at once, follows, lists and cancels them.
//!
//! Results go to stdout, or to a file, as lines of JSON in the order of the inputs. The exit code of `wait`, and of a
//! `submit` that waits, is 0 only if all items are COMPLETED.

mod lines;
mod show;
mod submit;
mod watch;

use crate::connection::Connection;
use crate::failure::{Failure, Outcome};
use crate::job_api::{JobApi, of_job};
use crate::printer;
use clap::{Args, Subcommand, value_parser};
use show::BatchView;
use std::fs::File;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct BatchArgs {
    #[command(subcommand)]
    command: BatchCommand,
}

#[derive(Debug, Args)]
struct OneBatch {
    #[command(flatten)]
    connection: Connection,
    /// Name of the function
    name: String,
    /// ID of the batch, as `gannet batch submit` prints it
    id: String,
}

#[derive(Debug, Subcommand)]
enum BatchCommand {
    /// Submit a job for each line of a file, and print the ID of their batch
    #[command(after_help = "Examples:\n  \
        gannet batch submit task inputs.jsonl\n  \
        gannet batch submit task inputs.jsonl --wait\n  \
        gannet batch submit task inputs.jsonl --webhook https://example.org/results")]
    Submit(submit::SubmitArgs),
    /// Show the state of a batch, and how many of its items are in each state
    #[command(after_help = "Example:\n  gannet batch status task 019a1c2e-7b1f-7c3a-9d55-0b9e6f2a4c11")]
    Status {
        #[command(flatten)]
        of: OneBatch,
        /// Print the server's response as it is, which is JSON
        #[arg(long)]
        json: bool,
    },
    /// Wait until all items of a batch have ended; exits with 1 if one of them is not COMPLETED
    #[command(after_help = "Example:\n  gannet batch wait task 019a1c2e-7b1f-7c3a-9d55-0b9e6f2a4c11")]
    Wait {
        #[command(flatten)]
        of: OneBatch,
        /// Print the server's last response as it is, which is JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the results of a batch as lines of JSON, in the order of the inputs; of those items that have ended
    #[command(
        after_help = "Example:\n  gannet batch results task 019a1c2e-7b1f-7c3a-9d55-0b9e6f2a4c11 -o results.jsonl"
    )]
    Results {
        #[command(flatten)]
        of: OneBatch,
        /// Write to this file [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Begin with this item; the first is 0
        #[arg(long, value_name = "INDEX", default_value_t = 0)]
        from: u32,
    },
    /// Cancel the items of a batch that wait; those that run go on
    #[command(after_help = "Example:\n  gannet batch cancel task 019a1c2e-7b1f-7c3a-9d55-0b9e6f2a4c11")]
    Cancel {
        #[command(flatten)]
        of: OneBatch,
        /// Print the server's response as JSON
        #[arg(long)]
        json: bool,
    },
    /// Put the items of a batch that are FAILED or TIMED_OUT into the queue again
    #[command(after_help = "Example:\n  gannet batch retry task 019a1c2e-7b1f-7c3a-9d55-0b9e6f2a4c11")]
    Retry {
        #[command(flatten)]
        of: OneBatch,
        /// Print the server's response as JSON
        #[arg(long)]
        json: bool,
    },
    /// List the batches of a function, oldest first
    #[command(visible_alias = "ls", after_help = "Example:\n  gannet batch list task")]
    List {
        #[command(flatten)]
        connection: Connection,
        /// Name of the function
        name: String,
        /// List at most this many batches
        #[arg(long, default_value_t = 100, value_parser = value_parser!(u64).range(1..=1_000))]
        limit: u64,
        /// Print the server's response as it is, which is JSON
        #[arg(long)]
        json: bool,
    },
}

impl OneBatch {
    fn api(&self) -> Result<JobApi, Failure> {
        JobApi::new(&self.connection, &self.name)
    }

    /// Returns a call about the batch.
    fn call(&self, call: &str) -> String {
        format!("{}/{call}", of_job("batches", &self.id))
    }
}

pub fn run(arguments: &BatchArgs) -> Outcome {
    match &arguments.command {
        BatchCommand::Submit(arguments) => submit::run(arguments),
        BatchCommand::Status { of, json } => {
            let sent = of.api()?.get::<BatchView>(&of_job("batches", &of.id), &[]).map_err(Failure::from)?;
            sent.print(*json, |batch| show::print(&batch))
        }
        BatchCommand::Wait { of, json } => {
            let api = of.api()?;
            watch::print_end(&api.name, &watch::wait(&api, &of.id)?, *json)
        }
        BatchCommand::Results { of, output, from } => results(of, output.as_ref(), *from),
        BatchCommand::Cancel { of, json } => of.api()?.post::<BatchView>(&of.call("cancel"))?.print(*json, |batch| {
            printer::note(&format!("batch {} is {}: {}", batch.id, batch.status, batch.counts));
        }),
        BatchCommand::Retry { of, json } => of.api()?.post::<show::Retried>(&of.call("retry"))?.print(*json, |told| {
            printer::note(&format!("{} items of batch {} are in the queue again", told.retried, of.id));
        }),
        BatchCommand::List { connection, name, limit, json } => {
            let api = JobApi::new(connection, name)?;
            let sent = api.get::<show::Listed>("batches", &[("limit", &limit.to_string())]).map_err(Failure::from)?;
            sent.print(*json, show::list)
        }
    }
}

fn results(of: &OneBatch, output: Option<&PathBuf>, from: u32) -> Outcome {
    let (api, from) = (of.api()?, from.to_string());
    let query = [("from", from.as_str())];
    let Some(path) = output else {
        return api.copy(&of.call("results"), &query, &mut printer::Stdout);
    };
    let file = File::create(path);
    let mut file = file.map_err(|error| Failure::usage(format!("cannot write {}", path.display())).because(error))?;
    api.copy(&of.call("results"), &query, &mut file)
}
