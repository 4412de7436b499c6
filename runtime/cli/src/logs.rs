//! `gannet logs`: prints what a function wrote to stdout and stderr, so far or continuously.

use crate::client::{Client, segment, with_query};
use crate::connection::Connection;
use crate::failure::{Failure, Outcome};
use crate::printer;
use clap::Args;
use gannet_base::hop::LogStream;
use gannet_base::log_line::LogLine;
use serde::Deserialize;
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

/// The lines of a log, as the server sent them.
#[derive(Debug, Deserialize)]
pub struct Lines {
    lines: Vec<Value>,
}

fn print_line(line: &Value, json: bool) -> Outcome {
    if json {
        printer::line(&line.to_string());
        return Ok(());
    }
    let line = LogLine::deserialize(line).map_err(|error| {
        let failure = Failure::server("a log line has an unknown form").because(error);
        failure.hint("--json prints the lines as they are")
    })?;
    if let Some(lost) = line.lost {
        printer::note(&format!("({lost} lines were lost here)"));
    }
    let stream = match line.stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
    };
    printer::line(&format!("{} {stream} {}", line.time, line.text));
    Ok(())
}

/// Prints the lines at a path of the control API.
fn print_so_far(client: &Client, path: &str, json: bool) -> Outcome {
    print_lines(&client.get(path)?.view()?, json)
}

/// Prints the lines of a log.
pub fn print_lines(log: &Lines, json: bool) -> Outcome {
    log.lines.iter().try_for_each(|line| print_line(line, json))
}

pub fn run(arguments: &LogsArgs) -> Outcome {
    let client = Client::new(&arguments.connection)?;
    let mut query = Vec::new();
    if arguments.follow {
        query.push(("follow", "true"));
    }
    if let Some(request) = &arguments.request {
        query.push(("request", request));
    }
    let path = with_query(&format!("functions/{}/logs", segment(&arguments.name)), &query);
    if !arguments.follow {
        return print_so_far(&client, &path, arguments.json);
    }
    let mut response = client.successful("GET", &format!("/api/v1/{path}"), &[], ())?;
    for event in BufReader::new(response.body_mut().as_reader()).lines() {
        let event = event.map_err(|error| Failure::server("the log broke off").because(error))?;
        if let Some(data) = event.strip_prefix("data: ") {
            let line =
                serde_json::from_str(data).map_err(|error| Failure::server("a log line is not JSON").because(error))?;
            print_line(&line, arguments.json)?;
        } else if let Some(comment) = event.strip_prefix(": ").filter(|comment| *comment != "still here") {
            printer::note(comment);
        }
    }
    Ok(())
}
