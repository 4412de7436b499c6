//! The verbs that ask and show: list, versions, delete, logs, receipt, whoami, gpu, kernel.

use crate::cli::client::{Client, problem};
use crate::cli::{Connection, Failure, Outcome, printer};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::io::{BufRead, BufReader};

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    pub(super) connection: Connection,
    /// Print as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct VersionsArgs {
    #[command(flatten)]
    connection: Connection,
    /// The function
    name: String,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    connection: Connection,
    /// The function
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    #[command(flatten)]
    connection: Connection,
    /// The function
    name: String,
    /// Go on as lines come
    #[arg(short, long)]
    follow: bool,
    /// Only lines of this request
    #[arg(long)]
    request: Option<String>,
    /// Print as JSON, a line each
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReceiptArgs {
    #[command(flatten)]
    connection: Connection,
    /// The request's id, from the header x-request-id
    id: String,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct WhoamiArgs {
    #[command(flatten)]
    connection: Connection,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct GpuArgs {
    #[command(subcommand)]
    verb: GpuVerb,
}

#[derive(Debug, Subcommand)]
enum GpuVerb {
    /// List the GPUs
    List(ListArgs),
}

#[derive(Debug, Args)]
pub(super) struct KernelArgs {
    #[command(subcommand)]
    verb: KernelVerb,
}

#[derive(Debug, Subcommand)]
enum KernelVerb {
    /// List the kernels of a function
    List {
        #[command(flatten)]
        connection: Connection,
        /// The function
        function: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a kernel as it runs: with loop budgets, and ready to be cut into slices
    Show {
        #[command(flatten)]
        connection: Connection,
        /// The function
        function: String,
        /// The kernel's name; see `kernel list`
        kernel: String,
        /// Print the WGSL as it was deployed
        #[arg(long)]
        source: bool,
    },
}

pub(super) fn text(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".into(),
        Some(Value::Array(items)) => {
            let items = items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), ToOwned::to_owned));
            items.collect::<Vec<_>>().join(",")
        }
        Some(other) => other.to_string(),
    }
}

fn rows(answer: &Value, list: &str, columns: &[&str]) -> Vec<Vec<String>> {
    let items = answer.get(list).and_then(Value::as_array).into_iter().flatten();
    items.map(|item| columns.iter().map(|column| text(item, column)).collect()).collect()
}

pub(super) fn show(answer: &Value, json: bool, list: &str, head: &[&str], columns: &[&str]) {
    if json {
        printer::json(answer);
    } else {
        printer::table(head, &rows(answer, list, columns));
    }
}

pub(super) fn list(arguments: &ListArgs) -> Outcome {
    let client = Client::new(&arguments.connection)?;
    let answer = client.pages("functions", "functions")?;
    show(
        &answer,
        arguments.json,
        "functions",
        &["NAME", "VERSION", "DEPLOYED", "PUBLIC", "URL"],
        &["name", "version", "deployed", "public", "url"],
    );
    Ok(())
}

pub(super) fn versions(arguments: &VersionsArgs) -> Outcome {
    let answer = Client::new(&arguments.connection)?.get(&format!("functions/{}/versions", arguments.name))?;
    show(
        &answer,
        arguments.json,
        "versions",
        &["VERSION", "WEIGHT", "TAGS", "DEPLOYED", "SIZE", "DIGEST"],
        &["version", "weight", "tags", "deployed", "size", "digest"],
    );
    Ok(())
}

pub(super) fn delete(arguments: &DeleteArgs) -> Outcome {
    Client::new(&arguments.connection)?.control("DELETE", &format!("functions/{}", arguments.name), &[], ())?;
    printer::note(&format!("deleted {}", arguments.name));
    Ok(())
}

fn log_line(line: &Value, json: bool) {
    if json {
        printer::line(&line.to_string());
        return;
    }
    if let Some(lost) = line.get("lost").and_then(Value::as_u64) {
        printer::note(&format!("({lost} lines were lost here)"));
    }
    printer::line(&format!("{} {} {}", text(line, "time"), text(line, "stream"), text(line, "text")));
}

pub(super) fn logs(arguments: &LogsArgs) -> Outcome {
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
        for line in answer.get("lines").and_then(Value::as_array).into_iter().flatten() {
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

/// Prints an object as JSON, or as one line for each field.
pub(super) fn show_fields(answer: &Value, json: bool) {
    if json {
        printer::json(answer);
        return;
    }
    for (name, _) in answer.as_object().into_iter().flatten() {
        printer::line(&format!("{name:22} {}", text(answer, name)));
    }
}

pub(super) fn receipt(arguments: &ReceiptArgs) -> Outcome {
    let answer = Client::new(&arguments.connection)?.get(&format!("requests/{}", arguments.id))?;
    show_fields(&answer, arguments.json);
    Ok(())
}

pub(super) fn whoami(arguments: &WhoamiArgs) -> Outcome {
    let answer = Client::new(&arguments.connection)?.get("whoami")?;
    show_fields(&answer, arguments.json);
    Ok(())
}

pub(super) fn gpu(arguments: &GpuArgs) -> Outcome {
    let GpuVerb::List(list) = &arguments.verb;
    let answer = Client::new(&list.connection)?.get("gpus")?;
    show(
        &answer,
        list.json,
        "gpus",
        &["INDEX", "CLASS", "NAME", "DRIVER", "HEALTH", "MEMORY", "CONTEXT", "WORKERS", "MAX"],
        &["index", "class", "name", "driver", "health", "memory_bytes", "context_bytes", "workers", "workers_max"],
    );
    Ok(())
}

pub(super) fn kernel(arguments: &KernelArgs) -> Outcome {
    match &arguments.verb {
        KernelVerb::List { connection, function, json } => {
            let answer = Client::new(connection)?.get(&format!("functions/{function}/kernels"))?;
            show(&answer, *json, "kernels", &["NAME", "ENTRY"], &["name", "entry"]);
            Ok(())
        }
        KernelVerb::Show { connection, function, kernel, source } => {
            let answer = Client::new(connection)?.get(&format!("functions/{function}/kernels"))?;
            let kernels = answer.get("kernels").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let found = kernels.iter().find(|known| known.get("name").and_then(Value::as_str) == Some(kernel));
            let found = found.ok_or_else(|| {
                Failure::new(1, format!("function {function} has no kernel {kernel:?}"))
                    .hint(format!("gannet kernel list {function}"))
            })?;
            let wanted = if *source { "wgsl" } else { "hardened" };
            let printed = found.get(wanted).and_then(Value::as_str).ok_or_else(|| {
                Failure::new(1, format!("kernel {kernel:?} was not hardened at deploy"))
                    .hint("it has overrides without default, or the server had no gpu; see --source".to_owned())
            })?;
            printer::line(printed.trim_end());
            Ok(())
        }
    }
}
