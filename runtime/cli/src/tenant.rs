//! `gannet tenant`, for the operator, and `gannet limits`, for the tenant itself.

use crate::answer::Answer;
use crate::client::{Client, segment};
use crate::connection::{Connection, ReadArgs};
use crate::failure::{Failure, Outcome};
use crate::key::print_key;
use crate::printer;
use clap::{Args, Subcommand};
use gannet_api::{Limits, NewTenant, TenantMade, TenantView, Tenants};
use gannet_base::limits::LimitsChoice;
use serde_json::{Map, Value};

#[derive(Debug, Args)]
pub struct TenantArgs {
    #[command(subcommand)]
    command: TenantCommand,
}

#[derive(Debug, Args)]
struct NamedTenant {
    #[command(flatten)]
    connection: Connection,
    /// Name of the tenant
    name: String,
}

#[derive(Debug, Subcommand)]
enum TenantCommand {
    /// Create a tenant and print its first key; the key cannot be shown again
    Create {
        #[command(flatten)]
        of: NamedTenant,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// List the tenants
    List(ReadArgs),
    /// Show or change the limits of a tenant
    Limits {
        #[command(flatten)]
        of: NamedTenant,
        /// Limits to set, as in functions=10 gpu_weight=2; an empty value, as in functions=, restores the default of
        /// the server. Without any, all limits are shown
        limits: Vec<String>,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Suspend a tenant at once: end its running requests and refuse new ones
    Suspend(NamedTenant),
    /// Resume a suspended tenant
    Resume(NamedTenant),
    /// Delete a tenant with its functions, keys, secrets and assets; its usage and its audit log stay
    Delete {
        #[command(flatten)]
        of: NamedTenant,
        /// Confirm the deletion; without it, nothing is deleted
        #[arg(long)]
        yes: bool,
    },
}

pub fn run(arguments: &TenantArgs) -> Outcome {
    match &arguments.command {
        TenantCommand::Create { of: NamedTenant { connection, name }, json: as_json } => {
            let body = NewTenant { name: name.clone(), limits: LimitsChoice::default() };
            let answer = Client::new(connection)?.send_json("POST", "tenants", &body)?;
            answer.print(*as_json, |made: TenantMade| print_key(&made.key, &format!("tenant {name} was made")))?;
        }
        TenantCommand::List(list) => {
            Client::new(&list.connection)?.get_all_pages("tenants", "tenants")?.print(list.json, |list: Tenants| {
                let row = |tenant: TenantView| {
                    let TenantView { name, created, functions, suspended, in_flight } = tenant;
                    vec![name, created, functions.to_string(), suspended.to_string(), in_flight.to_string()]
                };
                let rows: Vec<_> = list.tenants.into_iter().map(row).collect();
                printer::table(&["NAME", "CREATED", "FUNCTIONS", "SUSPENDED", "IN FLIGHT"], &rows);
            })?;
        }
        TenantCommand::Limits { of: NamedTenant { connection, name }, limits, json: as_json } => {
            let (client, path) = (Client::new(connection)?, format!("tenants/{}/limits", segment(name)));
            let answer = if limits.is_empty() {
                client.get(&path)?
            } else {
                client.send_json("PATCH", &path, &parse_limits(limits)?)?
            };
            print_limits(&answer, *as_json)?;
        }
        TenantCommand::Suspend(of) => change_state(of, "suspend")?,
        TenantCommand::Resume(of) => change_state(of, "resume")?,
        TenantCommand::Delete { of: NamedTenant { connection, name }, yes } => {
            if !yes {
                return Err(Failure::usage(format!("this deletes every function, key and secret of {name}"))
                    .hint("add --yes to confirm"));
            }
            Client::new(connection)?.delete(&format!("tenants/{}", segment(name)))?;
            printer::note(&format!("tenant {name} was deleted"));
        }
    }
    Ok(())
}

fn change_state(of: &NamedTenant, what: &str) -> Outcome {
    let NamedTenant { connection, name } = of;
    Client::new(connection)?.post_empty(&format!("tenants/{}/{what}", segment(name)))?;
    printer::note(&format!("tenant {name}: {what}"));
    Ok(())
}

fn parse_limits(limits: &[String]) -> Result<Map<String, Value>, Failure> {
    let wrong = |pair: &String| Failure::usage(format!("{pair:?} is not a limit and a value, as in functions=10"));
    let parse = |pair: &String| {
        let (name, value) = pair.split_once('=').ok_or_else(|| wrong(pair))?;
        let value = if value.is_empty() { Value::Null } else { value.parse::<u64>().map_err(|_| wrong(pair))?.into() };
        Ok((name.to_owned(), value))
    };
    limits.iter().map(parse).collect()
}

fn print_limits(answer: &Answer<Limits>, as_json: bool) -> Outcome {
    answer.print(as_json, |Limits { limits, own, used, .. }| {
        let row = |(name, value): (String, u64)| {
            let used = used.get(&name).map(|used| used.to_string()).unwrap_or_default();
            let set_by = if own.contains_key(&name) { "tenant" } else { "server" };
            vec![name, value.to_string(), used, set_by.to_owned()]
        };
        let rows: Vec<_> = limits.into_iter().map(row).collect();
        printer::table(&["LIMIT", "VALUE", "USED", "SET BY"], &rows);
    })
}

pub fn limits(arguments: &ReadArgs) -> Outcome {
    print_limits(&Client::new(&arguments.connection)?.get("limits")?, arguments.json)
}
