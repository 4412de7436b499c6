//! What is used and what it costs, and secrets: `usage`, `prices`, `secret`.

use crate::cli::client::{Client, problem, read};
use crate::cli::login::read_hidden;
use crate::cli::read::{ListArgs, show};
use crate::cli::{Connection, Outcome, printer};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

/// By what rows are told apart.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    Day,
    Function,
    Version,
}

#[derive(Debug, Args)]
pub(super) struct UsageArgs {
    #[command(flatten)]
    connection: Connection,
    /// By what rows are told apart
    #[arg(long, value_enum, default_value_t = By::Function)]
    by: By,
    /// The first day, as in 2026-11-01 [default: the first of the month]
    #[arg(long)]
    from: Option<String>,
    /// The last day [default: today, UTC]
    #[arg(long)]
    to: Option<String>,
    /// Print as JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print as CSV in FOCUS columns
    #[arg(long)]
    csv: bool,
}

#[derive(Debug, Args)]
pub(super) struct SecretArgs {
    #[command(subcommand)]
    verb: SecretVerb,
}

#[derive(Debug, Subcommand)]
enum SecretVerb {
    /// Set a secret; its value is read from standard input
    Set {
        #[command(flatten)]
        connection: Connection,
        /// Its name
        name: String,
    },
    /// List the names of the secrets
    List(ListArgs),
    /// Delete a secret
    Delete {
        #[command(flatten)]
        connection: Connection,
        /// Its name
        name: String,
    },
}

/// Millionths as a decimal number.
fn decimal(value: Option<&Value>) -> String {
    let micro = value.and_then(Value::as_u64).unwrap_or(0);
    format!("{}.{:06}", micro / 1_000_000, micro % 1_000_000)
}

fn row(value: &Value, name: String) -> Vec<String> {
    let number = |field: &str| value.get(field).and_then(Value::as_u64).unwrap_or(0).to_string();
    let numbers = ["requests", "errors", "gpu_ms", "cpu_ms"].into_iter().map(number);
    std::iter::once(name).chain(numbers).chain([decimal(value.get("micro_units"))]).collect()
}

pub(super) fn usage(arguments: &UsageArgs) -> Outcome {
    let by = arguments.by.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let mut path = format!("usage?by={by}");
    for (name, day) in [("from", &arguments.from), ("to", &arguments.to)] {
        if let Some(day) = day {
            path.push_str(&format!("&{name}={day}"));
        }
    }
    let client = Client::new(&arguments.connection)?;
    if arguments.csv {
        let headers = [("accept".to_owned(), "text/csv".to_owned())];
        let mut response = client.send("GET", &format!("/api/v1/{path}"), &headers, ())?;
        if !response.status().is_success() {
            return Err(problem(&mut response));
        }
        // A closed pipe ends the reader's interest.
        let _ = printer::bytes(&read(&mut response)?);
        return Ok(());
    }
    let answer = client.get(&path)?;
    if arguments.json {
        printer::json(&answer);
        return Ok(());
    }
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = |value: &Value| match (value.get("day"), value.get("version").and_then(Value::as_u64)) {
        (Some(Value::String(day)), _) => day.clone(),
        (_, Some(version)) => format!("{} v{version}", text(value, "function")),
        _ => text(value, "function"),
    };
    let mut rows: Vec<Vec<String>> = answer
        .get("rows")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|value| row(value, name(value)))
        .collect();
    rows.extend(answer.get("total").map(|total| row(total, "total".into())));
    let currency = text(&answer, "currency");
    printer::table(&[&by.to_ascii_uppercase(), "REQUESTS", "ERRORS", "GPU MS", "CPU MS", &currency], &rows);
    Ok(())
}

pub(super) fn prices(arguments: &ListArgs) -> Outcome {
    let answer = Client::new(&arguments.connection)?.get("prices")?;
    if arguments.json {
        printer::json(&answer);
        return Ok(());
    }
    let price = |value: &Value, name: &str| decimal(value.get("price").and_then(|price| price.get(name)));
    let prices = answer.get("prices").and_then(Value::as_array).into_iter().flatten();
    let rows: Vec<Vec<String>> = prices
        .map(|value| {
            let class = value.get("class").and_then(Value::as_str).unwrap_or_default().to_owned();
            let names =
                ["gpu_micro_units_per_s", "cpu_micro_units_per_s", "resident_micro_units_per_gib_s"].into_iter();
            std::iter::once(class).chain(names.map(|name| price(value, name))).collect()
        })
        .collect();
    let currency = answer.get("currency").and_then(Value::as_str).unwrap_or_default();
    printer::table(&["CLASS", "GPU SECOND", "CPU SECOND", "GIB SECOND KEPT"], &rows);
    printer::note(&format!("in {currency}; time is charged by the started millisecond of work"));
    Ok(())
}

pub(super) fn secret(arguments: &SecretArgs) -> Outcome {
    match &arguments.verb {
        SecretVerb::Set { connection, name } => {
            let client = Client::new(connection)?;
            let value = read_hidden("the secret's value")?;
            let headers = [("content-type".to_owned(), "text/plain".to_owned())];
            client.control("PUT", &format!("secrets/{name}"), &headers, value.as_str())?;
            printer::note(&format!("the secret {name} was set"));
        }
        SecretVerb::List(list) => {
            let answer = Client::new(&list.connection)?.get("secrets")?;
            show(&answer, list.json, "secrets", &["NAME", "SET", "FUNCTIONS"], &["name", "set", "functions"]);
        }
        SecretVerb::Delete { connection, name } => {
            Client::new(connection)?.control("DELETE", &format!("secrets/{name}"), &[], ())?;
            printer::note(&format!("the secret {name} was deleted"));
        }
    }
    Ok(())
}
