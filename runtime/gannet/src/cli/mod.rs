//! The command line. Data goes to stdout, all else to stderr; exit codes: 0 done, 1 the request or
//! the function failed, 2 wrong usage, 3 the server cannot be reached or is at fault.

mod account;
mod asset;
mod client;
mod config;
mod deploy;
mod doctor;
mod invoke;
mod login;
pub mod printer;
mod read;
mod release;
mod serve;
mod tenant;

use clap::{Args, CommandFactory, Parser, Subcommand};
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
    /// Give all requests to an earlier version
    Rollback(release::RollbackArgs),
    /// Split requests among versions, as in v3=90 v4=10
    Traffic(release::TrafficArgs),
    /// Give a version a tag of its own, or remove one
    Tag(release::TagArgs),
    /// Change settings of a function, without an upload
    Configure(release::ConfigureArgs),
    /// Delete a function and all its versions
    #[command(visible_alias = "rm")]
    Delete(read::DeleteArgs),
    /// Show what a function wrote to stdout and stderr
    #[command(visible_alias = "tail")]
    Logs(read::LogsArgs),
    /// Show what a request took
    Receipt(read::ReceiptArgs),
    /// Show what was used and what it costs
    Usage(account::UsageArgs),
    /// Show what work costs
    Prices(read::ListArgs),
    /// Show the tenant's limits, and what is used of them
    Limits(read::ListArgs),
    /// Show what was done through the API
    Audit(tenant::AuditArgs),
    /// Put, list and delete assets: weights and tables that functions find on the GPU
    Asset(asset::AssetArgs),
    /// Set, list and delete secrets
    Secret(account::SecretArgs),
    /// Keep a server and a key for later calls
    Login(login::LoginArgs),
    /// Forget them
    Logout(login::LogoutArgs),
    /// Say whose key this is
    Whoami(read::WhoamiArgs),
    /// Look at the server's GPUs
    Gpu(read::GpuArgs),
    /// Look at a function's kernels, as they run
    Kernel(read::KernelArgs),
    /// Make, limit, suspend and delete tenants (operator)
    Tenant(tenant::TenantArgs),
    /// Make, list, rotate and revoke keys
    Key(tenant::KeyArgs),
    /// Check a server's file
    Config(config::ConfigArgs),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Check this machine: GPU drivers, confinement, data folder
    Doctor(doctor::DoctorArgs),
}

/// Which server, and who asks.
#[derive(Debug, Clone, Args)]
struct Connection {
    /// The server's URL [default: the one of `gannet login`, or http://127.0.0.1:7070]
    #[arg(long, env = "GANNET_SERVER")]
    server: Option<String>,
    /// The key
    #[arg(long, env = "GANNET_KEY", hide_env_values = true)]
    key: Option<String>,
    /// The tenant to act for (operator only)
    #[arg(long)]
    tenant: Option<String>,
    /// Certificates, in PEM, to trust in place of the usual ones
    #[arg(long, env = "GANNET_CA_FILE", value_name = "FILE")]
    ca_file: Option<std::path::PathBuf>,
}

impl Connection {
    /// What was said, over what `gannet login` has kept. Another server gets no key that was kept for the first.
    fn resolved(&self) -> Self {
        let stored = login::stored();
        let same = self.server.is_none() || self.server == stored.server;
        let kept = |value: Option<String>| value.filter(|_| same);
        Self {
            server: self.server.clone().or(stored.server),
            key: self.key.clone().or_else(|| kept(stored.key)),
            tenant: self.tenant.clone().or_else(|| kept(stored.tenant).filter(|_| self.key.is_none())),
            ca_file: self.ca_file.clone(),
        }
    }

    fn url(&self) -> String {
        self.server.clone().unwrap_or_else(|| "http://127.0.0.1:7070".into())
    }
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
        Verb::Rollback(arguments) => release::rollback(&arguments),
        Verb::Traffic(arguments) => release::traffic(&arguments),
        Verb::Tag(arguments) => release::tag(&arguments),
        Verb::Configure(arguments) => release::configure(&arguments),
        Verb::Usage(arguments) => account::usage(&arguments),
        Verb::Prices(arguments) => account::prices(&arguments),
        Verb::Limits(arguments) => tenant::limits(&arguments),
        Verb::Audit(arguments) => tenant::audit(&arguments),
        Verb::Asset(arguments) => asset::run(&arguments),
        Verb::Secret(arguments) => account::secret(&arguments),
        Verb::Login(arguments) => login::login(&arguments),
        Verb::Logout(arguments) => login::logout(&arguments),
        Verb::Tenant(arguments) => tenant::tenant(&arguments),
        Verb::Key(arguments) => tenant::key(&arguments),
        Verb::Config(arguments) => config::run(&arguments),
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "gannet", &mut std::io::stdout());
            Ok(())
        }
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
