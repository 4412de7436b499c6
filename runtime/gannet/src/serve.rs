//! `gannet serve`: starts the server on a runtime of its own and prints the URL that it listens on.

use crate::logging::log_to_stderr;
use clap::Args;
use gannet_cli::failure::{Failure, Outcome};
use gannet_cli::printer;
use gannet_door::serve::{DEV_KEY, DEV_TENANT, ServeError, ServeOptions, serve};
use gannet_state::ledger::LedgerError;
use gannet_state::store::StoreError;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address and port to listen on; port 0 picks a free one [default: `listen` of the configuration file, or
    /// 127.0.0.1:7070]
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Folder for all data of the server; it is created if missing
    #[arg(long, default_value = "./gannet-data")]
    data: PathBuf,
    /// Configuration file of the server; without this option, no file is read and all settings have their defaults
    #[arg(long)]
    config: Option<PathBuf>,
    /// Run a development server: reached from this machine only, with the tenant `dev` and its key `gnt_dev_local`
    #[arg(long)]
    dev: bool,
    /// Serve even if this machine cannot confine workers completely (`gannet doctor` shows what is missing); --dev
    /// implies this
    #[arg(long)]
    allow_unconfined: bool,
}

/// Returns the name of the engine that components are compiled for. It is passed to the front door, which must not know
/// wasmtime.
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
        .map_err(|error| Failure::server("the async runtime could not be started").because(error))?;
    let folder = data.display().to_string();
    let options = ServeOptions { listen, data, config, dev, allow_unconfined, engine_name };
    let served = runtime.block_on(serve(options, |url| {
        printer::note(&format!("listening on {url}"));
        if dev {
            printer::note(&format!("development server: tenant {DEV_TENANT}, key {DEV_KEY}"));
        }
    }));
    // The tasks that still run have nothing to complete, so the process does not wait for them.
    runtime.shutdown_background();
    served.map_err(|error| match &error {
        ServeError::Config(_) => Failure::usage(error.to_string()),
        ServeError::Unconfined { .. } => Failure::server(error.to_string())
            .hint("`gannet doctor` says which layers are missing; --allow-unconfined serves without them"),
        ServeError::Store(StoreError::Damaged { .. } | StoreError::Corrupt { .. })
        | ServeError::Ledger(LedgerError::Lost { .. }) => Failure::server(error.to_string()).hint(format!(
            "`gannet check {folder}` lists all that is wrong; `gannet repair {folder}` restores what can be restored"
        )),
        _ => Failure::server(error.to_string()),
    })
}
