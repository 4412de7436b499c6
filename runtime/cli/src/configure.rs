//! `gannet configure`: changes settings of a function without an upload.

use crate::client::{Client, segment};
use crate::connection::Connection;
use crate::failure::{Failure, Outcome};
use crate::printer;
use clap::Args;
use gannet_api::Deployed;
use serde_json::{Map, Value, json};

#[derive(Debug, Args)]
pub struct ConfigureArgs {
    #[command(flatten)]
    connection: Connection,
    /// Name of the function
    name: String,
    /// Settings of gannet.toml, as in limits.cpu_ms=500 env.MODE=fast scale.min=1; an empty value, as in env.MODE=
    /// or limits.cpu_ms=, removes the setting, so that its default applies
    #[arg(required = true)]
    settings: Vec<String>,
    /// Only check the settings and show what would happen; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the server's response as JSON
    #[arg(long)]
    json: bool,
}

/// Parses the value of a setting: as JSON if it is valid JSON, else as text. With `is_text`, always as text. An empty
/// value is null, which removes the setting.
fn setting_value(text: &str, is_text: bool) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    if is_text {
        return text.into();
    }
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

pub fn run(arguments: &ConfigureArgs) -> Outcome {
    let mut patch: Map<String, Value> = Map::new();
    for setting in &arguments.settings {
        let parts = setting.split_once('=').and_then(|(key, value)| Some((key.split_once('.')?, value)));
        let ((section, key), value) =
            parts.ok_or_else(|| Failure::usage(format!("{setting:?} is not a setting, as in limits.cpu_ms=500")))?;
        let fields = patch.entry(section).or_insert_with(|| json!({}));
        if let Some(fields) = fields.as_object_mut() {
            fields.insert(key.to_owned(), setting_value(value, section == "env"));
        }
    }
    let query = if arguments.dry_run { "?dry_run=true" } else { "" };
    let (client, path) =
        (Client::new(&arguments.connection)?, format!("functions/{}{query}", segment(&arguments.name)));
    client.send_json("PATCH", &path, &patch)?.print(arguments.json, |deployed: Deployed| {
        printer::line(&format!("{} version {}", deployed.name, deployed.version));
    })
}
