//! The list of the client's commands, in the order of `gannet --help`, and the function that runs each.

use crate::connection::ReadArgs;
use crate::failure::Outcome;
use crate::{
    asset, audit, batch, configure, deploy, function, gpu, hook, invoke, job, key, login, logs, queue, receipt,
    schedule, secret, tenant, traffic, usage, webhook,
};
use clap::Subcommand;

/// The commands that talk to a server. The doc comments of the variants are their help texts.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Deploy a function from a folder with gannet.toml, or from a WebAssembly component file
    Deploy(deploy::DeployArgs),
    /// Call a function; print the response to stdout, and the ID and the times of the request to stderr
    Invoke(invoke::InvokeArgs),
    /// List the functions of the tenant
    #[command(visible_alias = "ls")]
    List(ReadArgs),
    /// List the versions of a function
    Versions(function::VersionsArgs),
    /// Send all requests of a function to an earlier version
    Rollback(traffic::RollbackArgs),
    /// Split the requests of a function among its versions by weight, or show the weights
    Traffic(traffic::TrafficArgs),
    /// Give a version a tag by which it can be called, or remove a tag
    Tag(traffic::TagArgs),
    /// Change settings of a function without uploading it again; this makes a new version
    Configure(configure::ConfigureArgs),
    /// Delete a function and all its versions
    #[command(visible_alias = "rm")]
    Delete(function::DeleteArgs),
    /// Show the latest lines that a function wrote to stdout and stderr
    #[command(visible_alias = "tail")]
    Logs(logs::LogsArgs),
    /// Show the receipt of a request: its timings, GPU time, memory, cost and errors
    Receipt(receipt::ReceiptArgs),
    /// Submit background jobs of a function, wait for them, list, cancel and retry them
    #[command(visible_alias = "jobs")]
    Job(job::JobArgs),
    /// Submit many background jobs of a function at once, from a file with an input on each line
    #[command(visible_alias = "batches")]
    Batch(batch::BatchArgs),
    /// Pause, resume, count and cancel the jobs of a function that wait
    Queue(queue::QueueArgs),
    /// Add, list, run and delete the schedules of a function, which make its jobs at certain times
    #[command(visible_alias = "schedules")]
    Schedule(schedule::ScheduleArgs),
    /// Add, list, rotate and delete the hooks of a function: URLs at which others post events that become jobs
    #[command(visible_alias = "hooks")]
    Hook(hook::HookArgs),
    /// List and repeat the deliveries of results, give them up, and show the secret that they are signed with
    #[command(visible_alias = "webhooks")]
    Webhook(webhook::WebhookArgs),
    /// Show what the tenant used in a span of days, and what it cost
    Usage(usage::UsageArgs),
    /// Show the prices of GPU time, CPU time and GPU memory
    Prices(ReadArgs),
    /// Show the limits of the tenant, and how much of each is used
    Limits(ReadArgs),
    /// Show the audit log: the changes that were made, or tried, through the control API
    Audit(audit::AuditArgs),
    /// Upload, list and delete assets: files such as model weights that functions use on the GPU
    Asset(asset::AssetArgs),
    /// Set, list and delete secrets, which functions read as environment variables
    Secret(secret::SecretArgs),
    /// Save the URL of a server and a key for later commands; without --key, it asks for the key
    Login(login::LoginArgs),
    /// Remove the URL and the key that `gannet login` saved
    Logout(login::LogoutArgs),
    /// Show the tenant and the permissions of the key
    Whoami(ReadArgs),
    /// Show the GPUs of the server
    Gpu(gpu::GpuArgs),
    /// Create, limit, suspend and delete tenants (needs the operator's key)
    Tenant(tenant::TenantArgs),
    /// Create, list, rotate and revoke API keys
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
            Self::Job(arguments) => job::run(arguments),
            Self::Batch(arguments) => batch::run(arguments),
            Self::Queue(arguments) => queue::run(arguments),
            Self::Schedule(arguments) => schedule::run(arguments),
            Self::Hook(arguments) => hook::run(arguments),
            Self::Webhook(arguments) => webhook::run(arguments),
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
            Self::Tenant(arguments) => tenant::run(arguments),
            Self::Key(arguments) => key::run(arguments),
        }
    }
}
