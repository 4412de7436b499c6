//! `gannet logs`: prints what a function wrote to stdout and stderr, so far or continuously.

use crate::answer::{field, items};
use crate::client::{Client, problem};
use crate::connection::Connection;
use crate::failure::{Failure, Outcome};
use crate::printer;
use clap::Args;
use serde_json::Value;
use std::io::{BufRead, BufReader};

#[derive(Debug, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    connection: Connection,
    /// Name of the function
    name: String,
    /// Keep running and print new lines as they arrive
    #[arg(short, long)]
    follow: bool,
    /// ID of a request; print only its lines
    #[arg(long)]
    request: Option<String>,
    /// Print each line as a JSON object
    #[arg(long)]
    json: bool,
}

fn log_line(line: &Value, json: bool) {
    if json {
        printer::line(&line.to_string());
        return;
    }
    if let Some(lost) = line.get("lost").and_then(Value::as_u64) {
        printer::note(&format!("({lost} lines were lost here)"));
    }
    printer::line(&format!("{} {} {}", field(line, "time"), field(line, "stream"), field(line, "text")));
}

pub fn run(arguments: &LogsArgs) -> Outcome {
    let client = Client::new(&arguments.connection)?;
    let mut query = Vec::new();
    if arguments.follow {
        query.push("follow=true".to_owned());
    }
    if let Some(request) = &arguments.request {
        query.push(format!("request={request}"));
    }
    let path = format!("functions/{}/logs?{}", arguments.name, query.join("&"));
    if !arguments.follow {
        let answer = client.get(&path)?;
        for line in items(&answer, "lines") {
            log_line(line, arguments.json);
        }
        return Ok(());
    }
    let mut response = client.send("GET", &format!("/api/v1/{path}"), &[], ())?;
    if !response.status().is_success() {
        return Err(problem(&mut response));
    }
    for event in BufReader::new(response.body_mut().as_reader()).lines() {
        let event = event.map_err(|error| Failure::server("the log broke off").because(error))?;
        if let Some(data) = event.strip_prefix("data: ") {
            let line =
                serde_json::from_str(data).map_err(|error| Failure::server("a log line is not JSON").because(error))?;
            log_line(&line, arguments.json);
        } else if let Some(comment) = event.strip_prefix(": ").filter(|comment| *comment != "still here") {
            printer::note(comment);
        }
    }
    Ok(())
}
