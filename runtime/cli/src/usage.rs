//! `gannet usage` and `prices`: show usage, cost and prices.

use crate::answer::items;
use crate::client::{Client, problem, read_body};
use crate::connection::{Connection, ReadArgs};
use crate::failure::Outcome;
use crate::printer;
use clap::{Args, ValueEnum};
use serde_json::Value;

/// What the rows of the table are.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Grouping {
    Day,
    Function,
    Version,
}

#[derive(Debug, Args)]
pub struct UsageArgs {
    #[command(flatten)]
    connection: Connection,
    /// Print one row for each of these
    #[arg(long, value_enum, default_value_t = Grouping::Function)]
    by: Grouping,
    /// First day (UTC), as in 2026-11-01 [default: the first day of the month of --to]
    #[arg(long)]
    from: Option<String>,
    /// Last day (UTC), as in 2026-11-30 [default: today]
    #[arg(long)]
    to: Option<String>,
    /// Print the result as JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print as CSV with the columns of FOCUS, the FinOps billing format
    #[arg(long)]
    csv: bool,
}

/// Formats micro-units as a decimal number.
fn decimal(value: Option<&Value>) -> String {
    let micro = value.and_then(Value::as_u64).unwrap_or(0);
    format!("{}.{:06}", micro / 1_000_000, micro % 1_000_000)
}

fn row(value: &Value, name: String) -> Vec<String> {
    let number = |field: &str| value.get(field).and_then(Value::as_u64).unwrap_or(0).to_string();
    let numbers = ["requests", "errors", "gpu_ms", "cpu_ms"].into_iter().map(number);
    std::iter::once(name).chain(numbers).chain([decimal(value.get("micro_units"))]).collect()
}

pub fn usage(arguments: &UsageArgs) -> Outcome {
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
        // The reader may have closed the pipe. That is not a failure.
        let _ = printer::bytes(&read_body(&mut response)?);
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
    let mut rows: Vec<Vec<String>> = items(&answer, "rows").map(|value| row(value, name(value))).collect();
    rows.extend(answer.get("total").map(|total| row(total, "total".into())));
    let currency = text(&answer, "currency");
    printer::table(&[&by.to_ascii_uppercase(), "REQUESTS", "ERRORS", "GPU MS", "CPU MS", &currency], &rows);
    Ok(())
}

pub fn prices(arguments: &ReadArgs) -> Outcome {
    let answer = Client::new(&arguments.connection)?.get("prices")?;
    if arguments.json {
        printer::json(&answer);
        return Ok(());
    }
    let price = |value: &Value, name: &str| decimal(value.get("price").and_then(|price| price.get(name)));
    let rows: Vec<Vec<String>> = items(&answer, "prices")
        .map(|value| {
            let class = value.get("class").and_then(Value::as_str).unwrap_or_default().to_owned();
            let names =
                ["gpu_micro_units_per_s", "cpu_micro_units_per_s", "resident_micro_units_per_gib_s"].into_iter();
            std::iter::once(class).chain(names.map(|name| price(value, name))).collect()
        })
        .collect();
    let currency = answer.get("currency").and_then(Value::as_str).unwrap_or_default();
    printer::table(&["CLASS", "GPU SECOND", "CPU SECOND", "GIB SECOND KEPT"], &rows);
    printer::note(&format!("in {currency}; each started millisecond of work is charged"));
    Ok(())
}
