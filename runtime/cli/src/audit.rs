//! `gannet audit`: shows the audit log.

use crate::answer::optional;
use crate::client::Client;
use crate::connection::Connection;
use crate::failure::Outcome;
use crate::printer;
use clap::Args;
use gannet_api::Audit;
use gannet_base::records::AuditRecord;

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
    let client = Client::new(&arguments.connection)?;
    client.get(&format!("audit?limit={}", arguments.limit))?.print(arguments.json, |audit: Audit| {
        let row = |entry: AuditRecord| {
            let AuditRecord { time, actor, address, action, path, status, .. } = entry;
            vec![time.to_string(), actor, address, action, path, optional(status)]
        };
        let rows: Vec<_> = audit.entries.into_iter().map(row).collect();
        printer::table(&["TIME", "ACTOR", "ADDRESS", "ACTION", "PATH", "STATUS"], &rows);
    })
}
