//! `gannet key`: creates, lists, revokes and rotates keys.

use crate::answer::{joined, optional};
use crate::client::{Client, segment};
use crate::connection::Connection;
use crate::failure::{Failure, Outcome};
use crate::printer;
use clap::{Args, Subcommand};
use gannet_api::{KeyMade, KeyView, Keys, NewKey, Rotate};
use gannet_base::scopes::ScopeName;

#[derive(Debug, Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Create a key and print it; it cannot be shown again
    Create {
        #[command(flatten)]
        connection: Connection,
        /// Name of the tenant
        tenant_name: String,
        /// What the key allows; can be repeated [default: all of them]
        #[arg(long = "scope")]
        scopes: Vec<ScopeName>,
        /// Name of the only function that the key is valid for [default: the key is valid for all functions]
        #[arg(long)]
        function: Option<String>,
        /// How long the key is valid, as in 90d, 12h, 30m or 45s [default: forever]
        #[arg(long)]
        expires: Option<String>,
        /// Maximum number of requests per second with this key [default: only the limits of the tenant apply]
        #[arg(long)]
        requests_per_s: Option<u64>,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// List the keys of a tenant
    List {
        #[command(flatten)]
        connection: Connection,
        /// Name of the tenant
        tenant_name: String,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key at once
    Revoke {
        #[command(flatten)]
        connection: Connection,
        /// Name of the tenant
        tenant_name: String,
        /// ID of the key, as `gannet key list` shows it
        id: String,
    },
    /// Replace a key: create a new one with the same permissions, and let the old one expire
    Rotate {
        #[command(flatten)]
        connection: Connection,
        /// Name of the tenant
        tenant_name: String,
        /// ID of the key, as `gannet key list` shows it
        id: String,
        /// How long the old key stays valid, as in 1d, 12h, 30m or 45s
        #[arg(long, default_value = "1d")]
        overlap: String,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Parses a duration, as in 90d, 12h, 30m or 45s. Returns seconds.
pub fn parse_duration(text: &str) -> Result<u64, Failure> {
    let wrong = || Failure::usage(format!("{text:?} is not a duration, as in 90d, 12h, 30m or 45s"));
    let (at, unit) = text.char_indices().last().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let count: u64 = text.get(..at).and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
    count.checked_mul(factor).ok_or_else(wrong)
}

/// Prints a new key. The server does not show it again.
pub fn print_key(key: &str, what: &str) {
    printer::line(key);
    printer::note(&format!("{what}; the key above is not shown again"));
}

pub fn run(arguments: &KeyArgs) -> Outcome {
    match &arguments.command {
        KeyCommand::Create { connection, tenant_name, scopes, function, expires, requests_per_s, json: as_json } => {
            let body = NewKey {
                scopes: scopes.clone(),
                function: function.clone(),
                expires_in_s: expires.as_deref().map(parse_duration).transpose()?,
                requests_per_s: *requests_per_s,
            };
            let path = format!("tenants/{}/keys", segment(tenant_name));
            let answer = Client::new(connection)?.send_json("POST", &path, &body)?;
            answer.print(*as_json, |KeyMade { id, key }| {
                print_key(&key, &format!("key {id} of {tenant_name} was made"));
            })?;
        }
        KeyCommand::List { connection, tenant_name, json: as_json } => {
            Client::new(connection)?.get(&format!("tenants/{}/keys", segment(tenant_name)))?.print(
                *as_json,
                |list: Keys| {
                    let row = |key: KeyView| {
                        let KeyView { id, scopes, function, created, expires, last_used, .. } = key;
                        vec![id, joined(&scopes), optional(function), created, optional(expires), optional(last_used)]
                    };
                    let rows: Vec<_> = list.keys.into_iter().map(row).collect();
                    printer::table(&["ID", "SCOPES", "FUNCTION", "CREATED", "EXPIRES", "LAST USED"], &rows);
                },
            )?;
        }
        KeyCommand::Revoke { connection, tenant_name, id } => {
            Client::new(connection)?.delete(&format!("tenants/{}/keys/{}", segment(tenant_name), segment(id)))?;
            printer::note(&format!("key {id} was revoked"));
        }
        KeyCommand::Rotate { connection, tenant_name, id, overlap, json: as_json } => {
            let body = Rotate { overlap_s: parse_duration(overlap)? };
            let path = format!("tenants/{}/keys/{}/rotate", segment(tenant_name), segment(id));
            let answer = Client::new(connection)?.send_json("POST", &path, &body)?;
            answer.print(*as_json, |made: KeyMade| print_key(&made.key, &format!("key {} replaces {id}", made.id)))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::parse_duration;

    #[test]
    fn spans_are_read() {
        let read = |text| parse_duration(text).ok();
        assert_eq!(
            (read("90d"), read("12h"), read("1m"), read("45s")),
            (Some(7_776_000), Some(43_200), Some(60), Some(45))
        );
        assert!(["", "d", "5", "5w", "-1d", "99999999999999999999d"].into_iter().all(|text| read(text).is_none()));
    }
}
