//! Reads the ledger's files: what was billed, line by line, whatever the server says of it.

use serde_json::Value;
use std::path::Path;

/// Returns the receipts in the ledger of a data folder. Nobody may write to it meanwhile.
pub fn receipts(data: &Path) -> Vec<Value> {
    let mut all = Vec::new();
    for file in std::fs::read_dir(data.join("ledger")).unwrap().flatten() {
        if file.path().extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        for line in std::fs::read_to_string(file.path()).unwrap().lines() {
            let text = line.rsplit_once('\t').unwrap().0;
            let mut value: Value = serde_json::from_str(text).unwrap();
            let receipt = if value["request"].is_object() { value["request"].take() } else { value };
            if receipt["request"].is_string() {
                all.push(receipt);
            }
        }
    }
    all
}

/// Counts the ledger's lines of a request.
pub fn lines_of(data: &Path, request: &Value) -> usize {
    receipts(data).iter().filter(|receipt| receipt["request"] == *request).count()
}
