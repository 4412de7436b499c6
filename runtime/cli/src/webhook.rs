//! `gannet webhook`: the deliveries of results that are pending or were given up, and the secret that they are signed
//! with.

use crate::answer::optional;
use crate::client::Client;
use crate::connection::Connection;
use crate::failure::{Failure, Outcome};
use crate::job_api::{JobApi, of_job};
use crate::printer;
use clap::{Args, Subcommand, ValueEnum};
use gannet_api::WebhookSecret;
use serde::Deserialize;

#[derive(Debug, Args)]
pub struct WebhookArgs {
    #[command(subcommand)]
    command: WebhookCommand,
}

#[derive(Debug, Args)]
struct OneDelivery {
    #[command(flatten)]
    connection: Connection,
    /// Name of the function
    name: String,
    /// ID of the job or of the batch
    id: String,
    /// Print the server's response as it is, which is JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Pending,
    Dead,
}

#[derive(Debug, Subcommand)]
enum WebhookCommand {
    /// List the deliveries of a function that are pending or were given up (dead)
    #[command(visible_alias = "ls", after_help = "Example:\n  gannet webhook list task --status dead")]
    List {
        #[command(flatten)]
        connection: Connection,
        /// Name of the function
        name: String,
        /// Only those that are pending, or dead
        #[arg(long, value_enum)]
        status: Option<Status>,
        /// Number of deliveries to show, 1 to 1000
        #[arg(long, default_value_t = 100)]
        limit: u16,
        /// Show the deliveries after these: the cursor of an earlier list
        #[arg(long)]
        cursor: Option<String>,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Deliver a result now, also one that was given up or delivered, as long as it is kept
    #[command(after_help = "Example:\n  gannet webhook redeliver task 019a1c2e-7b1f-7c3a-9d55-0b9e6f2a4c11")]
    Redeliver(OneDelivery),
    /// Give up a delivery for good: it is neither tried again nor kept
    #[command(after_help = "Example:\n  gannet webhook drop task 019a1c2e-7b1f-7c3a-9d55-0b9e6f2a4c11")]
    Drop(OneDelivery),
    /// Print the secret that results are signed with; it is made when it is first needed
    #[command(after_help = "Examples:\n  gannet webhook secret\n  gannet webhook secret --rotate")]
    Secret {
        #[command(flatten)]
        connection: Connection,
        /// Replace it; the one before signs too for a day
        #[arg(long)]
        rotate: bool,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Delivery {
    job: Option<String>,
    batch: Option<String>,
    status: String,
    url: String,
    tries: u32,
    next_at: Option<String>,
    died_at: Option<String>,
    last_error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Deliveries {
    webhooks: Vec<Delivery>,
    cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Dropped {
    dropped: bool,
}

pub fn run(arguments: &WebhookArgs) -> Outcome {
    match &arguments.command {
        WebhookCommand::List { connection, name, status, limit, cursor, json } => {
            let limit = limit.to_string();
            let mut query = vec![("limit", limit.as_str())];
            query.extend(status.map(|status| ("status", word(status))));
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let listed = JobApi::new(connection, name)?.get("webhooks", &query).map_err(Failure::from)?;
            listed.print(*json, |Deliveries { webhooks, cursor }| {
                let head = ["JOB OR BATCH", "STATUS", "TRIES", "NEXT OR DIED", "URL", "LAST ERROR"];
                printer::table(&head, &webhooks.into_iter().map(row).collect::<Vec<_>>());
                if let Some(cursor) = cursor {
                    printer::note(&format!("there may be more: --cursor {cursor}"));
                }
            })
        }
        WebhookCommand::Redeliver(of) => {
            let call = format!("{}/redeliver", of_job("webhooks", &of.id));
            JobApi::new(&of.connection, &of.name)?.post(&call)?.print(of.json, |delivery: Delivery| {
                printer::note(&format!("the result of {} is delivered to {}", of.id, delivery.url));
            })
        }
        WebhookCommand::Drop(of) => {
            let dropped = JobApi::new(&of.connection, &of.name)?.delete(&of_job("webhooks", &of.id))?;
            dropped.print(of.json, |Dropped { dropped }| {
                if dropped {
                    printer::note(&format!("the delivery of the result of {} was given up", of.id));
                }
            })
        }
        WebhookCommand::Secret { connection, rotate, json } => {
            let client = Client::new(connection)?;
            let secret = if *rotate {
                client.send_json("POST", "webhooks/secret/rotate", &())?
            } else {
                client.get("webhooks/secret")?
            };
            secret.print(*json, |secret: WebhookSecret| {
                printer::line(&secret.secret);
                if let Some(until) = secret.previous_until {
                    printer::note(&format!("the secret before signs too until {until}"));
                }
            })
        }
    }
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Pending => "pending",
        Status::Dead => "dead",
    }
}

fn row(delivery: Delivery) -> Vec<String> {
    let Delivery { job, batch, status, url, tries, next_at, died_at, last_error } = delivery;
    vec![optional(job.or(batch)), status, tries.to_string(), optional(next_at.or(died_at)), url, optional(last_error)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_of_a_job_or_a_batch_is_a_row() {
        let read = |text: &str| row(serde_json::from_str(text).unwrap());
        let dead =
            r#"{"batch": "b", "status": "dead", "url": "http://x", "tries": 3, "diedAt": "now", "lastError": "why"}"#;
        assert_eq!(read(dead), ["b", "dead", "3", "now", "http://x", "why"]);
        let pending = r#"{"job": "j", "status": "pending", "url": "http://x", "tries": 0, "nextAt": "soon", "new": 1}"#;
        assert_eq!(read(pending), ["j", "pending", "0", "soon", "http://x", "-"]);
    }
}
