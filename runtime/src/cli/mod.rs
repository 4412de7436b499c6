//! The command line. Data goes to stdout, all else to stderr; exit codes: 0 done, 1 the request or
//! the function failed, 2 wrong usage, 3 the server cannot be reached or is at fault.

mod client;
mod deploy;
mod doctor;
mod invoke;
pub mod printer;
mod read;
mod serve;

use clap::{Args, Parser, Subcommand};
use std::process::ExitCode;

/// A self-hosted serverless GPU: WebAssembly components over HTTP, sharing a GPU.
#[derive(Debug, Parser)]
#[command(name = "gannet", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the server
    Serve(serve::ServeArgs),
    /// Deploy a function from a folder with gannet.toml, or from a component
    Deploy(deploy::DeployArgs),
    /// Call a function; the response goes to stdout, the receipt to stderr
    Invoke(invoke::InvokeArgs),
    /// List the functions
    #[command(visible_alias = "ls")]
    List(read::ListArgs),
    /// List the versions of a function
    Versions(read::VersionsArgs),
    /// Delete a function and all its versions
    #[command(visible_alias = "rm")]
    Delete(read::DeleteArgs),
    /// Show what a function wrote to stdout and stderr
    #[command(visible_alias = "tail")]
    Logs(read::LogsArgs),
    /// Show what a request took
    Receipt(read::ReceiptArgs),
    /// Say whose key this is
    Whoami(read::WhoamiArgs),
    /// Look at the server's GPUs
    Gpu(read::GpuArgs),
    /// Look at a function's kernels, as they run
    Kernel(read::KernelArgs),
    /// Make and list tenants (operator)
    Tenant(read::TenantArgs),
    /// Check this machine: GPU drivers, confinement, data folder
    Doctor(doctor::DoctorArgs),
}

/// Which server, and who asks.
#[derive(Debug, Clone, Args)]
struct Connection {
    /// The server's URL
    #[arg(long, env = "GANNET_SERVER", default_value = "http://127.0.0.1:7070")]
    server: String,
    /// The key
    #[arg(long, env = "GANNET_KEY", hide_env_values = true)]
    key: Option<String>,
    /// The tenant to act for (operator only)
    #[arg(long)]
    tenant: Option<String>,
}

/// Why a verb failed, with its exit code.
#[derive(Debug)]
struct Failure {
    code: u8,
    what: String,
    causes: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    fn new(code: u8, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), causes: Vec::new(), hint: None }
    }
    /// The request or the function failed.
    fn failed(what: impl Into<String>) -> Self {
        Self::new(1, what)
    }
    /// Wrong usage.
    fn usage(what: impl Into<String>) -> Self {
        Self::new(2, what)
    }
    /// The server cannot be reached or is at fault.
    fn server(what: impl Into<String>) -> Self {
        Self::new(3, what)
    }
    fn because(mut self, cause: impl ToString) -> Self {
        self.causes.push(cause.to_string());
        self
    }
    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

type Outcome = Result<(), Failure>;

/// Runs the command line.
pub fn run() -> ExitCode {
    let verb = match Cli::try_parse() {
        Ok(cli) => cli.verb,
        Err(error) => {
            // Help and version are not errors and go to stdout.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let outcome = match verb {
        Verb::Serve(arguments) => serve::run(arguments),
        Verb::Deploy(arguments) => deploy::run(&arguments),
        Verb::Invoke(arguments) => invoke::run(&arguments),
        Verb::List(arguments) => read::list(&arguments),
        Verb::Versions(arguments) => read::versions(&arguments),
        Verb::Delete(arguments) => read::delete(&arguments),
        Verb::Logs(arguments) => read::logs(&arguments),
        Verb::Receipt(arguments) => read::receipt(&arguments),
        Verb::Whoami(arguments) => read::whoami(&arguments),
        Verb::Gpu(arguments) => read::gpu(&arguments),
        Verb::Kernel(arguments) => read::kernel(&arguments),
        Verb::Tenant(arguments) => read::tenant(&arguments),
        Verb::Doctor(arguments) => doctor::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            printer::error(&failure.what, &failure.causes, failure.hint.as_deref());
            ExitCode::from(failure.code)
        }
    }
}
