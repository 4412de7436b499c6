//! The list of the client's commands, in the order of `gannet --help`, and the function that runs each.

use crate::connection::ReadArgs;
use crate::failure::Outcome;
use crate::{
    asset, audit, configure, deploy, function, gpu, invoke, kernel, key, login, logs, receipt, secret, tenant, traffic,
    usage,
};
use clap::Subcommand;

/// The commands that talk to a server. The doc comments of the variants are their help texts.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Deploy a function from a folder with gannet.toml, or from a component
    Deploy(deploy::DeployArgs),
    /// Call a function; the response goes to stdout, the receipt to stderr
    Invoke(invoke::InvokeArgs),
    /// List the functions
    #[command(visible_alias = "ls")]
    List(ReadArgs),
    /// List the versions of a function
    Versions(function::VersionsArgs),
    /// Give all requests to an earlier version
    Rollback(traffic::RollbackArgs),
    /// Split requests among versions, as in v3=90 v4=10
    Traffic(traffic::TrafficArgs),
    /// Give a version a tag of its own, or remove one
    Tag(traffic::TagArgs),
    /// Change settings of a function, without an upload
    Configure(configure::ConfigureArgs),
    /// Delete a function and all its versions
    #[command(visible_alias = "rm")]
    Delete(function::DeleteArgs),
    /// Show what a function wrote to stdout and stderr
    #[command(visible_alias = "tail")]
    Logs(logs::LogsArgs),
    /// Show what a request took
    Receipt(receipt::ReceiptArgs),
    /// Show what was used and what it costs
    Usage(usage::UsageArgs),
    /// Show what work costs
    Prices(ReadArgs),
    /// Show the tenant's limits, and what is used of them
    Limits(ReadArgs),
    /// Show what was done through the API
    Audit(audit::AuditArgs),
    /// Put, list and delete assets: weights and tables that functions find on the GPU
    Asset(asset::AssetArgs),
    /// Set, list and delete secrets
    Secret(secret::SecretArgs),
    /// Keep a server and a key for later calls
    Login(login::LoginArgs),
    /// Forget them
    Logout(login::LogoutArgs),
    /// Say whose key this is
    Whoami(ReadArgs),
    /// Look at the server's GPUs
    Gpu(gpu::GpuArgs),
    /// Look at a function's kernels, as they run
    Kernel(kernel::KernelArgs),
    /// Make, limit, suspend and delete tenants (operator)
    Tenant(tenant::TenantArgs),
    /// Make, list, rotate and revoke keys
    Key(key::KeyArgs),
}

impl ClientCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// The failure says what to print and with which code to exit.
    pub fn run(&self) -> Outcome {
        match self {
            Self::Deploy(arguments) => deploy::run(arguments),
            Self::Invoke(arguments) => invoke::run(arguments),
            Self::List(arguments) => function::list(arguments),
            Self::Versions(arguments) => function::versions(arguments),
            Self::Rollback(arguments) => traffic::rollback(arguments),
            Self::Traffic(arguments) => traffic::traffic(arguments),
            Self::Tag(arguments) => traffic::tag(arguments),
            Self::Configure(arguments) => configure::run(arguments),
            Self::Delete(arguments) => function::delete(arguments),
            Self::Logs(arguments) => logs::run(arguments),
            Self::Receipt(arguments) => receipt::run(arguments),
            Self::Usage(arguments) => usage::usage(arguments),
            Self::Prices(arguments) => usage::prices(arguments),
            Self::Limits(arguments) => tenant::limits(arguments),
            Self::Audit(arguments) => audit::run(arguments),
            Self::Asset(arguments) => asset::run(arguments),
            Self::Secret(arguments) => secret::run(arguments),
            Self::Login(arguments) => login::login(arguments),
            Self::Logout(arguments) => login::logout(arguments),
            Self::Whoami(arguments) => login::whoami(arguments),
            Self::Gpu(arguments) => gpu::run(arguments),
            Self::Kernel(arguments) => kernel::run(arguments),
            Self::Tenant(arguments) => tenant::run(arguments),
            Self::Key(arguments) => key::run(arguments),
        }
    }
}
