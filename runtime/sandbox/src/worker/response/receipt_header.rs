//! The receipt in the head of a response: one header, in JSON.

use gannet_base::hop::{WorkReport, header};
use http::{HeaderMap, HeaderValue};

/// Adds the receipt to the head of a response.
pub(super) fn add_receipt(headers: &mut HeaderMap, work: &WorkReport) {
    let value = serde_json::to_string(work).ok().and_then(|text| HeaderValue::from_str(&escape(&text)).ok());
    if let Some(value) = value {
        headers.insert(header::WORK, value);
    }
}

/// Makes JSON valid as a header's value. Characters that are not printable ASCII occur only in JSON's strings, where an
/// escape can replace them.
fn escape(json: &str) -> String {
    if json.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return json.to_owned();
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for unit in json.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if (0x20..0x7f).contains(&byte) => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("\\u{unit:04x}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use gannet_base::hop::{Fault, FaultCode};

    #[test]
    fn any_detail_fits_a_header_and_comes_back() {
        let work = WorkReport {
            fault: Some(Fault { code: FaultCode::FunctionTrapped, detail: "zeile\n\"ü\" 🦀 \u{7f}".into() }),
            ..WorkReport::default()
        };
        let mut headers = HeaderMap::new();
        add_receipt(&mut headers, &work);
        let value = headers.get(header::WORK).and_then(|value| value.to_str().ok());
        assert_eq!(value.and_then(|text| serde_json::from_str(text).ok()), Some(work));
    }
}
