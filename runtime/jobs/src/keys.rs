//! The keys of records that belong to jobs.
//!
//! ```text
//!  j/{job}                        the record of a job
//!  i/{job}, o/{job}               its input and output, if they fit into a record
//!  l/{job}                        the log lines of its attempts
//!  k/{tenant}/{function}/{hash}   the job of an idempotency key
//!  p/{tenant}/{function}          a function whose queue is paused; p/{tenant} for all of a tenant
//!  a/{tenant}/{function}/{name}   a schedule that was made by API
//!  s/{tenant}/{function}/{name}   what became of the times of a schedule
//!  w/{job}, d/{job}               the delivery of its webhook, if it is pending, or was given up
//!  b/{batch}                      the record of a batch
//!  h/{tenant}                     the secret that a tenant's webhooks are signed with
//!  u/{tenant}/{function}/{name}   a hook: a source that posts events to a URL of its own
//! ```

use crate::job::JobId;
use gannet_base::names::{FunctionName, HookName, ScheduleName, TenantName};
use sha2::{Digest, Sha256};

/// The prefix of the records of jobs.
pub const JOBS: &str = "j/";
/// The prefix of idempotency keys.
pub const IDEMPOTENCY: &str = "k/";
/// The prefix of the logs of jobs.
pub const LOGS: &str = "l/";
/// The prefix of paused queues.
pub const PAUSED: &str = "p/";

/// The prefix of the records of batches.
pub const BATCHES: &str = "b/";

/// Returns the key of a batch's record.
pub fn batch(id: JobId) -> String {
    format!("{BATCHES}{id}")
}

/// The prefix of deliveries that are pending.
pub const DELIVERIES: &str = "w/";
/// The prefix of deliveries that were given up.
pub const DEAD_LETTERS: &str = "d/";

/// Returns the key of the delivery of a job's webhook.
pub fn delivery(id: JobId) -> String {
    format!("{DELIVERIES}{id}")
}

/// Returns the key of the delivery of a job's webhook that was given up.
pub fn dead_letter(id: JobId) -> String {
    format!("{DEAD_LETTERS}{id}")
}

/// Returns the key of the secret that a tenant's webhooks are signed with.
pub fn webhook_secret(tenant: &TenantName) -> String {
    format!("h/{tenant}")
}

/// Returns the key of a job's record.
pub fn job(id: JobId) -> String {
    format!("{JOBS}{id}")
}

/// Returns the id of the job whose record has this key.
pub fn job_of(key: &str) -> Option<JobId> {
    key.strip_prefix(JOBS).and_then(JobId::parse)
}

/// Returns the key of a job's input.
pub fn input(id: JobId) -> String {
    format!("i/{id}")
}

/// Returns the key of a job's output.
pub fn output(id: JobId) -> String {
    format!("o/{id}")
}

/// Returns the key of a job's log.
pub fn log(id: JobId) -> String {
    format!("{LOGS}{id}")
}

/// Returns the key for an idempotency key of a client, which may have any length and any characters.
pub fn idempotency(tenant: &TenantName, function: &FunctionName, key: &str) -> String {
    let hash = Sha256::digest(key.as_bytes());
    let short: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{IDEMPOTENCY}{tenant}/{function}/{short}")
}

/// Returns the key of a pause. Without a function, all of the tenant's are paused.
pub fn paused(tenant: &TenantName, function: Option<&FunctionName>) -> String {
    match function {
        Some(function) => format!("{PAUSED}{tenant}/{function}"),
        None => format!("{PAUSED}{tenant}"),
    }
}

/// The prefix of the schedules that were made by API.
pub const SCHEDULES: &str = "a/";
/// The prefix of the records of what became of schedules.
pub const FIRED: &str = "s/";

/// Returns the part of a key that names a schedule.
fn of_schedule(tenant: &TenantName, function: &FunctionName, name: &ScheduleName) -> String {
    format!("{tenant}/{function}/{name}")
}

/// Returns the key of a schedule that was made by API.
pub fn schedule(tenant: &TenantName, function: &FunctionName, name: &ScheduleName) -> String {
    format!("{SCHEDULES}{}", of_schedule(tenant, function, name))
}

/// Returns the key of what became of a schedule.
pub fn fired(tenant: &TenantName, function: &FunctionName, name: &ScheduleName) -> String {
    format!("{FIRED}{}", of_schedule(tenant, function, name))
}

/// Returns the names in the key of a schedule or of what became of it.
pub fn schedule_of(key: &str) -> Option<(TenantName, FunctionName, ScheduleName)> {
    let names = key.strip_prefix(SCHEDULES).or_else(|| key.strip_prefix(FIRED))?;
    let mut names = names.split('/');
    let (tenant, function, name) = (names.next()?, names.next()?, names.next()?);
    Some((TenantName::new(tenant).ok()?, FunctionName::new(function).ok()?, ScheduleName::new(name).ok()?))
}

/// The prefix of hooks.
pub const HOOKS: &str = "u/";

/// Returns the key of a hook.
pub fn hook(tenant: &TenantName, function: &FunctionName, name: &HookName) -> String {
    format!("{HOOKS}{tenant}/{function}/{name}")
}

/// Returns the names of the tenant and the function in the key of a hook.
pub fn hook_of(key: &str) -> Option<(TenantName, FunctionName)> {
    let mut names = key.strip_prefix(HOOKS)?.split('/');
    let (tenant, function) = (names.next()?, names.next()?);
    Some((TenantName::new(tenant).ok()?, FunctionName::new(function).ok()?))
}
