//! `gannet receipt`: shows the receipt of a request.

use crate::client::{Client, segment};
use crate::connection::Connection;
use crate::failure::Outcome;
use clap::Args;
use gannet_api::ReceiptView;

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
    let client = Client::new(&arguments.connection)?;
    client.get::<ReceiptView>(&format!("requests/{}", segment(&arguments.id)))?.print_fields(arguments.json);
    Ok(())
}
