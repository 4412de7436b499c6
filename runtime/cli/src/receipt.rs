//! `gannet receipt`: shows the receipt of a request.

use crate::answer::print_fields;
use crate::client::Client;
use crate::connection::Connection;
use crate::failure::Outcome;
use clap::Args;

#[derive(Debug, Args)]
pub struct ReceiptArgs {
    #[command(flatten)]
    connection: Connection,
    /// ID of the request, from the response header x-request-id
    id: String,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &ReceiptArgs) -> Outcome {
    let answer = Client::new(&arguments.connection)?.get(&format!("requests/{}", arguments.id))?;
    print_fields(&answer, arguments.json);
    Ok(())
}
