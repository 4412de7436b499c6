//! `gannet audit`: what was done through the API.

use crate::answer::print_list;
use crate::client::Client;
use crate::connection::Connection;
use crate::failure::Outcome;
use clap::Args;

#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(flatten)]
    connection: Connection,
    /// How many entries
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &AuditArgs) -> Outcome {
    let answer = Client::new(&arguments.connection)?.get(&format!("audit?limit={}", arguments.limit))?;
    let columns = ["time", "actor", "address", "action", "path", "status"];
    print_list(&answer, arguments.json, "entries", &["TIME", "ACTOR", "ADDRESS", "ACTION", "PATH", "STATUS"], &columns);
    Ok(())
}
