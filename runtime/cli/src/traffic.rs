//! `gannet rollback`, `traffic` and `tag`: choose the versions that requests go to.

use crate::answer::Answer;
use crate::client::{Client, segment};
use crate::connection::Connection;
use crate::failure::{Failure, Outcome};
use crate::printer;
use clap::Args;
use gannet_api::{RollBack, TagChoice, Traffic, TrafficChoice};
use gannet_base::records::Sticky;
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Debug, Args)]
pub struct RollbackArgs {
    #[command(flatten)]
    connection: Connection,
    /// Name of the function
    name: String,
    /// Version to go back to, as in 3 or v3 [default: the one that was current before]
    version: Option<String>,
    /// Print the server's response as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct TrafficArgs {
    #[command(flatten)]
    connection: Connection,
    /// Name of the function
    name: String,
    /// Versions and their weights, as in v3=90 v4=10. Each weight is 0 to 10000, and they need not add up to 100.
    /// Without any, the current weights are shown
    weights: Vec<String>,
    /// Name of a header: requests with the same value of it go to the same version [default: the version is chosen
    /// anew for each request]
    #[arg(long, conflicts_with = "sticky_cookie")]
    sticky_header: Option<String>,
    /// Name of a cookie: requests with the same value of it go to the same version [default: the version is chosen
    /// anew for each request]
    #[arg(long)]
    sticky_cookie: Option<String>,
    /// Print the server's response as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct TagArgs {
    #[command(flatten)]
    connection: Connection,
    /// Name of the function
    name: String,
    /// Tag of the version: 1 to 32 of a-z, 0-9 and dashes, starting with a letter
    tag: String,
    /// Version that gets the tag, as in 3 or v3; without one, the tag is removed
    version: Option<String>,
}

/// Parses the number of a version, as in 3 or v3.
fn version_number(text: &str) -> Result<u32, Failure> {
    let digits = text.strip_prefix('v').unwrap_or(text);
    digits.parse().map_err(|_| Failure::usage(format!("{text:?} is not a version, as in v3")))
}

fn print_traffic(answer: &Answer<Traffic>, name: &str, as_json: bool) -> Outcome {
    answer.print(as_json, |traffic| {
        for (version, weight) in traffic.traffic {
            printer::line(&format!("{name} {version}={weight}"));
        }
    })
}

pub fn rollback(arguments: &RollbackArgs) -> Outcome {
    let RollbackArgs { connection, name, version, json: as_json } = arguments;
    let body = RollBack { version: version.as_deref().map(version_number).transpose()? };
    let path = format!("functions/{}/rollback", segment(name));
    let answer = Client::new(connection)?.send_json("POST", &path, &body)?;
    print_traffic(&answer, name, *as_json)
}

pub fn traffic(arguments: &TrafficArgs) -> Outcome {
    let TrafficArgs { connection, name, weights, sticky_header, sticky_cookie, json: as_json } = arguments;
    let (client, path) = (Client::new(connection)?, format!("functions/{}/traffic", segment(name)));
    if weights.is_empty() {
        return print_traffic(&client.get(&path)?, name, *as_json);
    }
    let mut traffic = BTreeMap::new();
    for pair in weights {
        let parsed = pair.split_once('=').and_then(|(version, weight)| Some((version, weight.parse::<u32>().ok()?)));
        let (version, weight) =
            parsed.ok_or_else(|| Failure::usage(format!("{pair:?} is not a version and a weight, as in v3=90")))?;
        traffic.insert(format!("v{}", version_number(version)?), weight);
    }
    let sticky = match (sticky_header, sticky_cookie) {
        (Some(header), _) => Some(Sticky::Header(header.to_ascii_lowercase())),
        (None, Some(cookie)) => Some(Sticky::Cookie(cookie.clone())),
        (None, None) => None,
    };
    let body = TrafficChoice { traffic, sticky };
    print_traffic(&client.send_json("PUT", &path, &body)?, name, *as_json)
}

pub fn tag(arguments: &TagArgs) -> Outcome {
    let TagArgs { connection, name, tag, version } = arguments;
    let (client, path) = (Client::new(connection)?, format!("functions/{}/tags/{}", segment(name), segment(tag)));
    match version {
        Some(version) => {
            let version = version_number(version)?;
            client.send_json::<Value>("PUT", &path, &TagChoice { version })?;
            printer::note(&format!("{name}@{tag} is version {version}"));
        }
        None => {
            client.delete(&path)?;
            printer::note(&format!("{name}@{tag} was removed"));
        }
    }
    Ok(())
}
