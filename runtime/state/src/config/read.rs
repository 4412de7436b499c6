//! Reads the server file and collects all errors in it: a key that is unknown or has an invalid value is reported and
//! removed, and the rest is parsed again.

use crate::config::{ConfigError, ServerConfig};
use serde_path_to_error::{Path as KeyPath, Segment};
use std::path::Path;
use toml::{Table, Value};

/// Parsing stops after this many errors.
const ERRORS_MAX: usize = 100;

/// Reads and checks the server file at `path`.
pub fn read(path: &Path) -> Result<ServerConfig, ConfigError> {
    let failed = |cause: String| ConfigError::Read { path: path.to_owned(), cause };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    parse(&text).map_err(|error| error.in_file(Some(path)))
}

/// Parses and checks the text of a server file.
pub(super) fn parse(text: &str) -> Result<ServerConfig, ConfigError> {
    let mut table: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Key {
        key: error.span().map_or_else(|| "the file".to_owned(), |span| format!("line {}", line_of(text, span.start))),
        cause: error.message().to_owned(),
    })?;
    let mut errors = Vec::new();
    let file = loop {
        match serde_path_to_error::deserialize::<_, ServerConfig>(Value::Table(table.clone())) {
            Ok(file) => break file,
            Err(error) => {
                let key = error.path().to_string();
                let removed = remove(&mut table, error.path());
                errors.push(ConfigError::Key { key, cause: explain(error.inner().message()) });
                if !removed || errors.len() >= ERRORS_MAX {
                    return Err(ConfigError::from_list(errors).err().unwrap_or(ConfigError::Many(Vec::new())));
                }
            }
        }
    };
    errors.extend(file.check());
    ConfigError::from_list(errors).map(|()| file)
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// Removes the value at `path`. Returns whether there was one.
fn remove(table: &mut Table, path: &KeyPath) -> bool {
    let segments: Vec<&Segment> = path.iter().collect();
    let Some((last, above)) = segments.split_last() else { return false };
    let Some((Segment::Map { key: first }, rest)) = above.split_first() else {
        return matches!(last, Segment::Map { key } if table.remove(key).is_some());
    };
    let mut at = match table.get_mut(first) {
        Some(value) => value,
        None => return false,
    };
    for segment in rest {
        let next = match (segment, at) {
            (Segment::Map { key }, Value::Table(table)) => table.get_mut(key),
            (Segment::Seq { index }, Value::Array(list)) => list.get_mut(*index),
            _ => None,
        };
        at = match next {
            Some(value) => value,
            None => return false,
        };
    }
    match (last, at) {
        (Segment::Map { key }, Value::Table(table)) => table.remove(key).is_some(),
        (Segment::Seq { index }, Value::Array(list)) if *index < list.len() => {
            list.remove(*index);
            true
        }
        _ => false,
    }
}

/// Shortens serde's message about an unknown key: it lists all known keys, this names only the nearest.
fn explain(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !message.starts_with("unknown field") {
        return message.trim().to_owned();
    }
    let unknown = quoted.next().unwrap_or_default();
    match gannet_base::names::similar(unknown, quoted) {
        Some(known) => format!("unknown key `{unknown}`; the nearest known one is `{known}`"),
        None => format!("unknown key `{unknown}`"),
    }
}
