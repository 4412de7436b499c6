//! `gannet hook`: makes, lists, rotates and deletes the hooks of a function: the URLs at which others post events, each of
//! which becomes a job.
//!
//! The URL and a secret that the server made are printed once, to stdout; the server keeps neither.

use crate::connection::Connection;
use crate::failure::{Failure, Outcome};
use crate::job_api::{JobApi, Sent, of_job};
use crate::key::parse_duration;
use crate::printer;
use crate::terminal::read_secret;
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

#[derive(Debug, Args)]
pub struct HookArgs {
    #[command(subcommand)]
    command: HookCommand,
}

#[derive(Debug, Args)]
struct OneHook {
    #[command(flatten)]
    connection: Connection,
    /// Name of the function
    name: String,
    /// Name of the hook
    hook: String,
    /// Print the server's response as it is, which is JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum HookCommand {
    /// Make a URL at which a source may post events; print it, and the secret of its signatures
    #[command(
        after_help = "Example:\n  gannet hook add task github --verify hmac-sha256 --webhook https://example.org/results"
    )]
    Add(Box<AddArgs>),
    /// List the hooks of a function, without their URLs
    #[command(visible_alias = "ls", after_help = "Example:\n  gannet hook list task")]
    List {
        #[command(flatten)]
        connection: Connection,
        /// Name of the function
        name: String,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Replace the URL of a hook, or its secret; the one before is valid too for a day
    #[command(after_help = "Example:\n  gannet hook rotate task github")]
    Rotate {
        #[command(flatten)]
        of: OneHook,
        /// Replace the secret and not the URL
        #[arg(long)]
        secret: bool,
        /// Replace the secret by the one on standard input
        #[arg(long)]
        secret_stdin: bool,
    },
    /// Delete a hook; its URL is not valid any more
    #[command(visible_alias = "rm", after_help = "Example:\n  gannet hook delete task github")]
    Delete(OneHook),
}

#[derive(Debug, Args)]
struct AddArgs {
    #[command(flatten)]
    of: OneHook,
    /// How events are verified, besides by the URL [default: url]
    #[arg(long, value_enum)]
    verify: Option<Verify>,
    /// Read the secret of the signatures from standard input [default: the server makes one]
    #[arg(long)]
    secret_stdin: bool,
    /// Header with the signature, for --verify hmac-sha256 [default: x-hub-signature-256]
    #[arg(long)]
    header: Option<String>,
    /// Header with the ID of an event [default: webhook-id, else x-github-delivery]
    #[arg(long)]
    id_header: Option<String>,
    /// How long an event without an ID is known again by its body, as in 1d, 12h, 30m or 45s
    #[arg(long, value_name = "DURATION")]
    window: Option<String>,
    /// How long the URL is valid, as in 90d, 12h, 30m or 45s [default: forever]
    #[arg(long, value_name = "DURATION")]
    expires: Option<String>,
    /// Path at which the function gets the jobs [default: /]
    #[arg(long)]
    path: Option<String>,
    /// URL to which the results of the jobs are posted
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Verify {
    /// By the URL alone
    Url,
    /// By a signature of Standard Webhooks
    Standard,
    /// By the HMAC of the body in a header, as GitHub sends it
    #[value(name = "hmac-sha256")]
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// By the HMAC of a time and the body, as Stripe sends it
    Stripe,
}

/// The body of a request that makes a hook. The server has a default for each field that is None.
#[derive(Debug, Serialize)]
struct NewHook<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    verify: Option<Verify>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_header: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<&'a str>,
}

#[derive(Debug, Deserialize)]
struct Made {
    name: String,
    url: Option<String>,
    secret: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Hook {
    name: String,
    verify: String,
    path: String,
    webhook: Option<String>,
    created: String,
    expires: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Hooks {
    hooks: Vec<Hook>,
}

#[derive(Debug, Deserialize)]
struct Deleted {
    deleted: String,
}

pub fn run(arguments: &HookArgs) -> Outcome {
    match &arguments.command {
        HookCommand::Add(arguments) => add(arguments),
        HookCommand::List { connection, name, json } => {
            let listed = JobApi::new(connection, name)?.get("hooks", &[]).map_err(Failure::from)?;
            listed.print(*json, |listed: Hooks| {
                let head = ["NAME", "VERIFY", "PATH", "RESULTS TO", "CREATED", "EXPIRES"];
                printer::table(&head, &listed.hooks.into_iter().map(row).collect::<Vec<_>>());
            })
        }
        HookCommand::Rotate { of, secret, secret_stdin } => rotate(of, *secret, *secret_stdin),
        HookCommand::Delete(of) => {
            let deleted = JobApi::new(&of.connection, &of.name)?.delete(&of_job("hooks", &of.hook))?;
            deleted.print(of.json, |Deleted { deleted }| {
                printer::note(&format!("the hook {deleted} of {} was deleted", of.name));
            })
        }
    }
}

fn add(arguments: &AddArgs) -> Outcome {
    let AddArgs { of, verify, secret_stdin, header, id_header, window, expires, path, webhook } = arguments;
    let seconds = |text: &Option<String>| text.as_deref().map(parse_duration).transpose();
    let hook = NewHook {
        name: &of.hook,
        verify: *verify,
        secret: if *secret_stdin { Some(given_secret()?) } else { None },
        header: header.as_deref(),
        id_header: id_header.as_deref(),
        window_s: seconds(window)?,
        expires_s: seconds(expires)?,
        path: path.as_deref(),
        webhook: webhook.as_deref(),
    };
    let body =
        serde_json::to_string(&hook).map_err(|error| Failure::usage("the hook cannot be sent").because(error))?;
    show(of, &JobApi::new(&of.connection, &of.name)?.post_json("hooks", &[], &[], &body)?)
}

fn rotate(of: &OneHook, secret: bool, secret_stdin: bool) -> Outcome {
    let body = if secret_stdin {
        serde_json::json!({ "secret": given_secret()? })
    } else {
        serde_json::json!({ "secret": secret })
    };
    let call = format!("{}/rotate", of_job("hooks", &of.hook));
    show(of, &JobApi::new(&of.connection, &of.name)?.post_json(&call, &[], &[], &body.to_string())?)
}

fn show(of: &OneHook, made: &Sent<Made>) -> Outcome {
    made.print(of.json, |Made { name, url, secret }| {
        url.iter().chain(&secret).for_each(|text| printer::line(text));
        let what = match (url.is_some(), secret.is_some()) {
            (true, true) => "its URL and its secret are shown only this once",
            (true, false) => "its URL is shown only this once",
            (false, true) => "its secret is shown only this once",
            (false, false) => "the secret was replaced",
        };
        printer::note(&format!("hook {name} of {}: {what}", of.name));
    })
}

/// Reads a secret from standard input, without the line break at its end.
fn given_secret() -> Result<String, Failure> {
    let text = read_secret("the secret of the signatures")?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn row(hook: Hook) -> Vec<String> {
    let Hook { name, verify, path, webhook, created, expires } = hook;
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    vec![name, verify, path, or_dash(webhook), created, or_dash(expires)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_given_is_sent() {
        let hook = NewHook {
            name: "n",
            verify: Some(Verify::HmacSha256),
            secret: None,
            header: None,
            id_header: None,
            window_s: Some(0),
            expires_s: None,
            path: None,
            webhook: None,
        };
        let sent = serde_json::to_string(&hook).unwrap();
        assert_eq!(sent, r#"{"name":"n","verify":"hmac-sha256","window_s":0}"#);
        let words: Vec<String> =
            Verify::value_variants().iter().map(|verify| serde_json::to_string(verify).unwrap()).collect();
        assert_eq!(words, ["\"url\"", "\"standard\"", "\"hmac-sha256\"", "\"stripe\""]);
    }
}
