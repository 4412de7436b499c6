//! A response of the control API: the server's JSON, and the type with which a command reads it.
//!
//! `--json` prints what the server sent, with fields that this version of the command does not know.

use crate::failure::{Failure, Outcome};
use crate::printer;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Display;
use std::marker::PhantomData;

/// A successful response whose body is a `T`.
#[derive(Debug)]
pub struct Answer<T> {
    json: Value,
    view: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Answer<T> {
    pub fn new(json: Value) -> Self {
        Self { json, view: PhantomData }
    }

    /// Reads the response.
    ///
    /// # Errors
    /// The server is of another version, and its response has other fields.
    pub fn view(&self) -> Result<T, Failure> {
        T::deserialize(&self.json)
            .map_err(|error| Failure::server("the server's response has an unknown form").because(error))
    }

    /// Prints the response as JSON, or shows what it says.
    pub fn print(&self, as_json: bool, show: impl FnOnce(T)) -> Outcome {
        if as_json {
            printer::json(&self.json);
        } else {
            show(self.view().map_err(|failure| failure.hint("--json prints the response as it is"))?);
        }
        Ok(())
    }

    /// Prints the response as JSON, or as one line for each of its fields.
    pub fn print_fields(&self, as_json: bool) {
        if as_json {
            printer::json(&self.json);
            return;
        }
        for (name, value) in self.json.as_object().into_iter().flatten() {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Null => optional::<&str>(None),
                other => other.to_string(),
            };
            printer::line(&format!("{name:22} {value}"));
        }
    }
}

/// Formats a value for a table, `-` if there is none.
pub fn optional<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

/// Formats a list for a table.
pub fn joined<T: Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
