//! Which version gets the requests: `rollback`, `traffic`, `tag`, `configure`.

use crate::cli::client::Client;
use crate::cli::read::{show_fields, text};
use crate::cli::{Connection, Failure, Outcome, printer};
use clap::Args;
use serde_json::{Map, Value, json};

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    #[command(flatten)]
    connection: Connection,
    /// The function
    name: String,
    /// The version to go back to, as in 3 or v3 [default: the one that was current before]
    version: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TrafficArgs {
    #[command(flatten)]
    connection: Connection,
    /// The function
    name: String,
    /// Versions and weights, as in v3=90 v4=10; without any, how it is now
    weights: Vec<String>,
    /// Requests with the same value of this header stay with one version
    #[arg(long, conflicts_with = "sticky_cookie")]
    sticky_header: Option<String>,
    /// Requests with the same value of this cookie stay with one version
    #[arg(long)]
    sticky_cookie: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TagArgs {
    #[command(flatten)]
    connection: Connection,
    /// The function
    name: String,
    /// The tag
    tag: String,
    /// The version, as in 3 or v3; without one the tag is removed
    version: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ConfigureArgs {
    #[command(flatten)]
    connection: Connection,
    /// The function
    name: String,
    /// Settings of gannet.toml, as in limits.cpu_ms=500 env.MODE=fast scale.min=1; an empty value takes one away
    #[arg(required = true)]
    settings: Vec<String>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

fn number(text: &str) -> Result<u32, Failure> {
    let digits = text.strip_prefix('v').unwrap_or(text);
    digits.parse().map_err(|_| Failure::usage(format!("{text:?} is no version, as in v3")))
}

pub(super) fn json_headers() -> [(String, String); 1] {
    [("content-type".to_owned(), "application/json".to_owned())]
}

fn show(answer: &Value, name: &str, as_json: bool) {
    if as_json {
        printer::json(answer);
        return;
    }
    for (version, weight) in answer.get("traffic").and_then(Value::as_object).into_iter().flatten() {
        printer::line(&format!("{name} {version}={weight}"));
    }
}

pub(super) fn rollback(arguments: &RollbackArgs) -> Outcome {
    let RollbackArgs { connection, name, version, json: as_json } = arguments;
    let body = match version {
        Some(version) => json!({ "version": number(version)? }),
        None => json!({}),
    };
    let path = format!("functions/{name}/rollback");
    let answer = Client::new(connection)?.control("POST", &path, &json_headers(), body.to_string().as_str())?;
    show(&answer, name, *as_json);
    Ok(())
}

pub(super) fn traffic(arguments: &TrafficArgs) -> Outcome {
    let TrafficArgs { connection, name, weights, sticky_header, sticky_cookie, json: as_json } = arguments;
    let (client, path) = (Client::new(connection)?, format!("functions/{name}/traffic"));
    if weights.is_empty() {
        show(&client.get(&path)?, name, *as_json);
        return Ok(());
    }
    let mut traffic = Map::new();
    for pair in weights {
        let parsed = pair.split_once('=').and_then(|(version, weight)| Some((version, weight.parse::<u32>().ok()?)));
        let (version, weight) =
            parsed.ok_or_else(|| Failure::usage(format!("{pair:?} is no version and weight, as in v3=90")))?;
        traffic.insert(format!("v{}", number(version)?), weight.into());
    }
    let sticky = match (sticky_header, sticky_cookie) {
        (Some(header), _) => json!({ "header": header.to_ascii_lowercase() }),
        (None, Some(cookie)) => json!({ "cookie": cookie }),
        (None, None) => Value::Null,
    };
    let body = json!({ "traffic": traffic, "sticky": sticky }).to_string();
    show(&client.control("PUT", &path, &json_headers(), body.as_str())?, name, *as_json);
    Ok(())
}

pub(super) fn tag(arguments: &TagArgs) -> Outcome {
    let TagArgs { connection, name, tag, version } = arguments;
    let (client, path) = (Client::new(connection)?, format!("functions/{name}/tags/{tag}"));
    match version {
        Some(version) => {
            let body = json!({ "version": number(version)? }).to_string();
            client.control("PUT", &path, &json_headers(), body.as_str())?;
            printer::note(&format!("{name}@{tag} is version {}", number(version)?));
        }
        None => {
            client.control("DELETE", &path, &[], ())?;
            printer::note(&format!("{name}@{tag} is gone"));
        }
    }
    Ok(())
}

/// The value of a setting: a number, yes or no, a list in brackets, else text.
fn value_of(text: &str, is_text: bool) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    if is_text {
        return text.into();
    }
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

pub(super) fn configure(arguments: &ConfigureArgs) -> Outcome {
    let mut patch: Map<String, Value> = Map::new();
    for setting in &arguments.settings {
        let parts = setting.split_once('=').and_then(|(key, value)| Some((key.split_once('.')?, value)));
        let ((section, key), value) =
            parts.ok_or_else(|| Failure::usage(format!("{setting:?} is no setting, as in limits.cpu_ms=500")))?;
        let fields = patch.entry(section).or_insert_with(|| json!({}));
        if let Some(fields) = fields.as_object_mut() {
            fields.insert(key.to_owned(), value_of(value, section == "env"));
        }
    }
    let query = if arguments.dry_run { "?dry_run=true" } else { "" };
    let (client, path) = (Client::new(&arguments.connection)?, format!("functions/{}{query}", arguments.name));
    let body = Value::Object(patch).to_string();
    let answer = client.control("PATCH", &path, &json_headers(), body.as_str())?;
    if arguments.json {
        show_fields(&answer, true);
    } else {
        printer::line(&format!("{} version {}", text(&answer, "name"), text(&answer, "version")));
    }
    Ok(())
}
