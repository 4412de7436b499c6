//! `gannet usage` and `prices`: show usage, cost and prices.

use crate::client::{Client, read_body, with_query};
use crate::connection::{Connection, ReadArgs};
use crate::failure::Outcome;
use crate::printer;
use clap::{Args, ValueEnum};
use gannet_api::{ClassPrice, Prices, Usage, UsageRow};

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
fn decimal(micro: u64) -> String {
    format!("{}.{:06}", micro / 1_000_000, micro % 1_000_000)
}

/// The name of a row: its day, its version, or its function.
fn row_name(row: &UsageRow) -> String {
    let function = row.function.as_deref().unwrap_or_default();
    match (&row.day, row.version) {
        (Some(day), _) => day.clone(),
        (None, Some(version)) => format!("{function} v{version}"),
        (None, None) => function.to_owned(),
    }
}

fn cells(name: String, row: &UsageRow) -> Vec<String> {
    let numbers = [row.sums.requests, row.sums.errors, row.sums.gpu_ms, row.sums.cpu_ms];
    let numbers = numbers.iter().map(ToString::to_string);
    std::iter::once(name).chain(numbers).chain([decimal(row.micro_units)]).collect()
}

pub fn usage(arguments: &UsageArgs) -> Outcome {
    let by = arguments.by.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let mut query = vec![("by", by.as_str())];
    query.extend(arguments.from.iter().map(|day| ("from", day.as_str())));
    query.extend(arguments.to.iter().map(|day| ("to", day.as_str())));
    let path = with_query("usage", &query);
    let client = Client::new(&arguments.connection)?;
    if arguments.csv {
        let headers = [("accept".to_owned(), "text/csv".to_owned())];
        let mut response = client.successful("GET", &format!("/api/v1/{path}"), &headers, ())?;
        printer::bytes(&read_body(&mut response)?);
        return Ok(());
    }
    client.get(&path)?.print(arguments.json, |usage: Usage| {
        let mut rows: Vec<_> = usage.rows.iter().map(|row| cells(row_name(row), row)).collect();
        rows.push(cells("total".into(), &usage.total));
        let head = [&by.to_ascii_uppercase(), "REQUESTS", "ERRORS", "GPU MS", "CPU MS", &usage.currency];
        printer::table(&head, &rows);
    })
}

pub fn prices(arguments: &ReadArgs) -> Outcome {
    Client::new(&arguments.connection)?.get("prices")?.print(arguments.json, |prices: Prices| {
        let row = |ClassPrice { class, price }: ClassPrice| {
            let (gpu, cpu) = (decimal(price.gpu_micro_units_per_s), decimal(price.cpu_micro_units_per_s));
            vec![class, gpu, cpu, decimal(price.resident_micro_units_per_gib_s)]
        };
        let rows: Vec<_> = prices.prices.into_iter().map(row).collect();
        printer::table(&["CLASS", "GPU SECOND", "CPU SECOND", "GIB SECOND KEPT"], &rows);
        printer::note(&format!("in {}; each started millisecond of work is charged", prices.currency));
    })
}
