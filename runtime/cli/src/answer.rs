//! Prints the server's JSON: a list as a table, an object as one line for each field, or either as JSON.

use crate::printer;
use serde_json::Value;

/// Returns a field that is text, empty if there is none.
pub fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Returns a field as a table shows it, `-` if it is missing or null. A list becomes its items, joined by commas.
pub fn field(object: &Value, name: &str) -> String {
    match object.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".into(),
        Some(Value::Array(items)) => {
            let items = items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), ToOwned::to_owned));
            items.collect::<Vec<_>>().join(",")
        }
        Some(other) => other.to_string(),
    }
}

/// Returns the objects in the list `list` of a response.
pub fn items<'a>(answer: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    answer.get(list).and_then(Value::as_array).into_iter().flatten()
}

/// Prints the response as JSON, or its list `list` as a table with the fields `columns` under `head`.
pub fn print_list(answer: &Value, json: bool, list: &str, head: &[&str], columns: &[&str]) {
    if json {
        printer::json(answer);
        return;
    }
    let row = |item: &Value| columns.iter().map(|column| field(item, column)).collect();
    let rows: Vec<Vec<String>> = items(answer, list).map(row).collect();
    printer::table(head, &rows);
}

/// Prints an object as JSON, or as one line for each field.
pub fn print_fields(answer: &Value, json: bool) {
    if json {
        printer::json(answer);
        return;
    }
    for (name, _) in answer.as_object().into_iter().flatten() {
        printer::line(&format!("{name:22} {}", field(answer, name)));
    }
}
