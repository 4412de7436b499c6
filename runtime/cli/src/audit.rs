//! `gannet audit`: shows the audit log.

use crate::answer::print_list;
use crate::client::Client;
use crate::connection::Connection;
use crate::failure::Outcome;
use clap::Args;

#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(flatten)]
    connection: Connection,
    /// Number of entries to show, newest first, 1 to 1000
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &AuditArgs) -> Outcome {
    let answer = Client::new(&arguments.connection)?.get(&format!("audit?limit={}", arguments.limit))?;
    let columns = ["time", "actor", "address", "action", "path", "status"];
    print_list(&answer, arguments.json, "entries", &["TIME", "ACTOR", "ADDRESS", "ACTION", "PATH", "STATUS"], &columns);
    Ok(())
}
