//! Tenants, keys and limits: `tenant`, `key`, `limits`, `audit`.

use crate::cli::client::Client;
use crate::cli::read::{ListArgs, show, show_fields, text};
use crate::cli::release::json_headers;
use crate::cli::{Connection, Failure, Outcome, printer};
use clap::{Args, Subcommand};
use gannet_base::scopes::ScopeName;
use serde_json::{Map, Value, json};

#[derive(Debug, Args)]
pub(super) struct TenantArgs {
    #[command(subcommand)]
    verb: TenantVerb,
}

/// A tenant, by the operator.
#[derive(Debug, Args)]
struct OfTenant {
    #[command(flatten)]
    connection: Connection,
    /// The tenant's name
    name: String,
}

#[derive(Debug, Subcommand)]
enum TenantVerb {
    /// Make a tenant; its key is shown once
    Create {
        #[command(flatten)]
        of: OfTenant,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// List the tenants
    List(ListArgs),
    /// Show a tenant's limits, or set some, as in functions=10 gpu_weight=2; an empty value brings the server's back
    Limits {
        #[command(flatten)]
        of: OfTenant,
        /// Limits and values
        limits: Vec<String>,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Let nothing of a tenant run any more, at once
    Suspend(OfTenant),
    /// Let a tenant run again
    Resume(OfTenant),
    /// Delete a tenant and everything that is its own; its usage and its audit log stay
    Delete {
        #[command(flatten)]
        of: OfTenant,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    verb: KeyVerb,
}

#[derive(Debug, Subcommand)]
enum KeyVerb {
    /// Make a key; it is shown once
    Create {
        #[command(flatten)]
        connection: Connection,
        /// The tenant
        tenant_name: String,
        /// What it may do; may be repeated [default: everything]
        #[arg(long = "scope")]
        scopes: Vec<ScopeName>,
        /// The only function that it is for
        #[arg(long)]
        function: Option<String>,
        /// How long it is valid, as in 90d, 12h, 30m or 45s
        #[arg(long)]
        expires: Option<String>,
        /// Requests that it may send in a second
        #[arg(long)]
        requests_per_s: Option<u64>,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// List a tenant's keys
    List {
        #[command(flatten)]
        connection: Connection,
        /// The tenant
        tenant_name: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// End a key at once
    Revoke {
        #[command(flatten)]
        connection: Connection,
        /// The tenant
        tenant_name: String,
        /// The key's id
        id: String,
    },
    /// Make a key in place of another
    Rotate {
        #[command(flatten)]
        connection: Connection,
        /// The tenant
        tenant_name: String,
        /// The key's id
        id: String,
        /// How long the old one is still valid, as in 1d
        #[arg(long, default_value = "1d")]
        overlap: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    #[command(flatten)]
    connection: Connection,
    /// How many entries
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Seconds in a text as 90d, 12h, 30m or 45s.
fn seconds(text: &str) -> Result<u64, Failure> {
    let wrong = || Failure::usage(format!("{text:?} is no span of time, as in 90d, 12h, 30m or 45s"));
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

fn show_key(answer: &Value, what: &str, as_json: bool) {
    if as_json {
        printer::json(answer);
    } else {
        printer::line(&text(answer, "key"));
        printer::note(&format!("{what}; the key above is not shown again"));
    }
}

pub(super) fn tenant(arguments: &TenantArgs) -> Outcome {
    match &arguments.verb {
        TenantVerb::Create { of: OfTenant { connection, name }, json: as_json } => {
            let body = json!({ "name": name }).to_string();
            let answer = Client::new(connection)?.control("POST", "tenants", &json_headers(), body.as_str())?;
            show_key(&answer, &format!("tenant {name} was made"), *as_json);
        }
        TenantVerb::List(list) => {
            let answer = Client::new(&list.connection)?.pages("tenants", "tenants")?;
            let columns = ["name", "created", "functions", "suspended", "in_flight"];
            show(&answer, list.json, "tenants", &["NAME", "CREATED", "FUNCTIONS", "SUSPENDED", "IN FLIGHT"], &columns);
        }
        TenantVerb::Limits { of: OfTenant { connection, name }, limits, json: as_json } => {
            let (client, path) = (Client::new(connection)?, format!("tenants/{name}/limits"));
            let answer = if limits.is_empty() {
                client.get(&path)?
            } else {
                let body = Value::Object(patch(limits)?).to_string();
                client.control("PATCH", &path, &json_headers(), body.as_str())?
            };
            show_limits(&answer, *as_json);
        }
        TenantVerb::Suspend(of) => set(of, "suspend")?,
        TenantVerb::Resume(of) => set(of, "resume")?,
        TenantVerb::Delete { of: OfTenant { connection, name }, yes } => {
            if !yes {
                return Err(Failure::usage(format!("this deletes every function, key and secret of {name}"))
                    .hint("say --yes if that is meant"));
            }
            Client::new(connection)?.control("DELETE", &format!("tenants/{name}"), &[], ())?;
            printer::note(&format!("tenant {name} was deleted"));
        }
    }
    Ok(())
}

fn set(of: &OfTenant, what: &str) -> Outcome {
    let OfTenant { connection, name } = of;
    Client::new(connection)?.control("POST", &format!("tenants/{name}/{what}"), &[], ())?;
    printer::note(&format!("tenant {name}: {what}"));
    Ok(())
}

fn patch(limits: &[String]) -> Result<Map<String, Value>, Failure> {
    let wrong = |pair: &String| Failure::usage(format!("{pair:?} is no limit and value, as in functions=10"));
    let parse = |pair: &String| {
        let (name, value) = pair.split_once('=').ok_or_else(|| wrong(pair))?;
        let value = if value.is_empty() { Value::Null } else { value.parse::<u64>().map_err(|_| wrong(pair))?.into() };
        Ok((name.to_owned(), value))
    };
    limits.iter().map(parse).collect()
}

fn show_limits(answer: &Value, as_json: bool) {
    if as_json {
        printer::json(answer);
        return;
    }
    let of = |part: &str, name: &str| match answer.get(part).and_then(|part| part.get(name)) {
        Some(Value::Null) | None => String::new(),
        Some(value) => value.to_string(),
    };
    let names = answer.get("limits").and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name);
    let rows: Vec<Vec<String>> = names
        .map(|name| {
            let own = if of("own", name).is_empty() { "server" } else { "tenant" };
            vec![name.clone(), of("limits", name), of("used", name), own.to_owned()]
        })
        .collect();
    printer::table(&["LIMIT", "VALUE", "USED", "SET BY"], &rows);
}

pub(super) fn limits(arguments: &ListArgs) -> Outcome {
    show_limits(&Client::new(&arguments.connection)?.get("limits")?, arguments.json);
    Ok(())
}

pub(super) fn key(arguments: &KeyArgs) -> Outcome {
    match &arguments.verb {
        KeyVerb::Create { connection, tenant_name, scopes, function, expires, requests_per_s, json: as_json } => {
            let expires = expires.as_deref().map(seconds).transpose()?;
            let body = json!({
                "scopes": scopes, "function": function, "expires_in_s": expires, "requests_per_s": requests_per_s,
            })
            .to_string();
            let path = format!("tenants/{tenant_name}/keys");
            let answer = Client::new(connection)?.control("POST", &path, &json_headers(), body.as_str())?;
            show_key(&answer, &format!("key {} of {tenant_name} was made", text(&answer, "id")), *as_json);
        }
        KeyVerb::List { connection, tenant_name, json: as_json } => {
            let answer = Client::new(connection)?.get(&format!("tenants/{tenant_name}/keys"))?;
            let columns = ["id", "scopes", "function", "created", "expires", "last_used"];
            show(&answer, *as_json, "keys", &["ID", "SCOPES", "FUNCTION", "CREATED", "EXPIRES", "LAST USED"], &columns);
        }
        KeyVerb::Revoke { connection, tenant_name, id } => {
            Client::new(connection)?.control("DELETE", &format!("tenants/{tenant_name}/keys/{id}"), &[], ())?;
            printer::note(&format!("key {id} was revoked"));
        }
        KeyVerb::Rotate { connection, tenant_name, id, overlap, json: as_json } => {
            let body = json!({ "overlap_s": seconds(overlap)? }).to_string();
            let path = format!("tenants/{tenant_name}/keys/{id}/rotate");
            let answer = Client::new(connection)?.control("POST", &path, &json_headers(), body.as_str())?;
            show_key(&answer, &format!("key {} is in place of {id}", text(&answer, "id")), *as_json);
        }
    }
    Ok(())
}

pub(super) fn audit(arguments: &AuditArgs) -> Outcome {
    let answer = Client::new(&arguments.connection)?.get(&format!("audit?limit={}", arguments.limit))?;
    if arguments.json {
        show_fields(&answer, true);
        return Ok(());
    }
    let columns = ["time", "actor", "address", "action", "path", "status"];
    show(&answer, false, "entries", &["TIME", "ACTOR", "ADDRESS", "ACTION", "PATH", "STATUS"], &columns);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn spans_are_read() {
        let read = |text| seconds(text).ok();
        assert_eq!(
            (read("90d"), read("12h"), read("1m"), read("45s")),
            (Some(7_776_000), Some(43_200), Some(60), Some(45))
        );
        assert!(["", "d", "5", "5w", "-1d", "99999999999999999999d"].into_iter().all(|text| read(text).is_none()));
    }
}
