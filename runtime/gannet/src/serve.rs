//! `gannet serve`: starts the server on a runtime of its own and tells where it listens.

use crate::logging::log_to_stderr;
use clap::Args;
use gannet_cli::failure::{Failure, Outcome};
use gannet_cli::printer;
use gannet_door::serve::{DEV_KEY, DEV_TENANT, ServeError, ServeOptions, serve};
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address to listen on; port 0 picks one [default: 127.0.0.1:7070]
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Data folder
    #[arg(long, default_value = "./gannet-data")]
    data: PathBuf,
    /// Configuration file
    #[arg(long)]
    config: Option<PathBuf>,
    /// Development server: tenant `dev` with the key `gnt_dev_local`, on loopback only
    #[arg(long)]
    dev: bool,
    /// Serve even when a layer of confinement is missing on this machine
    #[arg(long)]
    allow_unconfined: bool,
}

/// Names the engine that components are compiled for. The front door must not know wasmtime, so it is told.
fn engine_name(wasi_http_0_3: bool) -> Result<String, String> {
    gannet_sandbox::engine::compatibility(wasi_http_0_3).map_err(|error| error.to_string())
}

pub fn run(arguments: ServeArgs) -> Outcome {
    log_to_stderr();
    let ServeArgs { listen, data, config, dev, allow_unconfined } = arguments;
    // Half the cores: the workers need the others, and threads that wake each other for a request's small steps cost
    // more than they help (docs/benchmarks.md: a tenth of the requests per second, 20 µs at one connection).
    let threads = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|error| Failure::server("no runtime").because(error))?;
    let options = ServeOptions { listen, data, config, dev, allow_unconfined, engine_name };
    let served = runtime.block_on(serve(options, |url| {
        printer::note(&format!("listening on {url}"));
        if dev {
            printer::note(&format!("development server: tenant {DEV_TENANT}, key {DEV_KEY}"));
        }
    }));
    // The tasks that still run have nothing to finish, so nobody waits for them.
    runtime.shutdown_background();
    served.map_err(|error| match &error {
        ServeError::Config(_) => Failure::usage(error.to_string()),
        ServeError::Unconfined { .. } => Failure::server(error.to_string())
            .hint("`gannet doctor` says which layers are missing; --allow-unconfined serves without them"),
        _ => Failure::server(error.to_string()),
    })
}
