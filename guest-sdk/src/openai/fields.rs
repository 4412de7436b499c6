//! The fields of a request, read one by one, so that a refusal names the invalid field.

use super::refusal::Refusal;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// The fields of a request's JSON object. Methods that read a field return a refusal that names it if its value is
/// invalid.
///
/// ```
/// # use gannet_sdk::openai::Fields;
/// let fields = Fields::parse(br#"{"temperature": 3}"#)?;
/// let refusal = fields.number("temperature", 0.0..=2.0).unwrap_err();
/// assert_eq!(refusal.to_string(), "temperature is 3; it may be 0 to 2");
/// # Ok::<(), gannet_sdk::openai::Refusal>(())
/// ```
#[derive(Debug, Clone)]
pub struct Fields {
    fields: Map<String, Value>,
    /// Prefix of the fields' names: the path of their object and a dot, or empty for the body itself.
    within: String,
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

impl Fields {
    /// Parses a body, which must be a JSON object in UTF-8.
    ///
    /// ```
    /// # use gannet_sdk::openai::Fields;
    /// assert!(Fields::parse(b"[]").is_err());
    /// ```
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        if let Err(error) = std::str::from_utf8(body) {
            let at = error.valid_up_to();
            return Err(Refusal::invalid("body", format!("the body is not UTF-8 from byte {at} on")));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self { fields, within: String::new() }),
            Ok(_) => Err(Refusal::invalid("body", "the body is no JSON object")),
            Err(error) => Err(Refusal::invalid("body", format!("the body is not JSON: {error}"))),
        }
    }

    /// The value of a field; `None` if it is missing or null.
    ///
    /// ```
    /// # use gannet_sdk::openai::Fields;
    /// assert!(Fields::parse(br#"{"seed": null}"#)?.get("seed").is_none());
    /// # Ok::<(), gannet_sdk::openai::Refusal>(())
    /// ```
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// A number within a range; `None` if the field is missing or null.
    ///
    /// ```
    /// # use gannet_sdk::openai::Fields;
    /// assert_eq!(Fields::parse(br#"{"top_p": 0.5}"#)?.number("top_p", 0.0..=1.0)?, Some(0.5));
    /// # Ok::<(), gannet_sdk::openai::Refusal>(())
    /// ```
    pub fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_f64().filter(|number| range.contains(number));
        let may_be = format_args!("it may be {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| self.wrong(name, value, may_be))
    }

    /// A whole number within a range; `None` if the field is missing or null.
    ///
    /// ```
    /// # use gannet_sdk::openai::Fields;
    /// assert_eq!(Fields::parse(br#"{"n": 1}"#)?.integer("n", 1..=1)?, Some(1));
    /// # Ok::<(), gannet_sdk::openai::Refusal>(())
    /// ```
    pub fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_i64().filter(|number| range.contains(number));
        let may_be = format_args!("it may be {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| self.wrong(name, value, may_be))
    }

    /// A Boolean; false if the field is missing or null.
    ///
    /// ```
    /// # use gannet_sdk::openai::Fields;
    /// assert!(Fields::parse(br#"{"stream": true}"#)?.flag("stream")?);
    /// # Ok::<(), gannet_sdk::openai::Refusal>(())
    /// ```
    pub fn flag(&self, name: &str) -> Result<bool, Refusal> {
        let Some(value) = self.get(name) else { return Ok(false) };
        value.as_bool().ok_or_else(|| self.wrong(name, value, format_args!("it may be true or false")))
    }

    /// A text; `None` if the field is missing or null.
    ///
    /// ```
    /// # use gannet_sdk::openai::Fields;
    /// assert_eq!(Fields::parse(br#"{"model": "chat"}"#)?.text("model")?, Some("chat"));
    /// # Ok::<(), gannet_sdk::openai::Refusal>(())
    /// ```
    pub fn text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(name, value, format_args!("it is a text")))
    }

    /// The fields of an object; `None` if the field is missing or null.
    ///
    /// ```
    /// # use gannet_sdk::openai::Fields;
    /// let fields = Fields::parse(br#"{"stream_options": {"include_usage": 5}}"#)?;
    /// let options = fields.object("stream_options")?.unwrap();
    /// let refusal = options.flag("include_usage").unwrap_err();
    /// assert_eq!(refusal.to_string(), "stream_options.include_usage is 5; it may be true or false");
    /// # Ok::<(), gannet_sdk::openai::Refusal>(())
    /// ```
    pub fn object(&self, name: &str) -> Result<Option<Self>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let fields = value.as_object().cloned();
        let object = fields.map(|fields| Some(Self { fields, within: format!("{}{name}.", self.within) }));
        object.ok_or_else(|| self.wrong(name, value, format_args!("it is an object")))
    }

    fn wrong(&self, name: &str, value: &Value, may_be: std::fmt::Arguments<'_>) -> Refusal {
        let name = format!("{}{name}", self.within);
        Refusal::invalid(&name, format!("{name} is {}; {may_be}", shown(value)))
    }

    /// A text, or a list of at most `most` texts; empty if the field is missing or null.
    ///
    /// ```
    /// # use gannet_sdk::openai::Fields;
    /// assert_eq!(Fields::parse(br#"{"stop": "end"}"#)?.texts("stop", 4)?, ["end"]);
    /// # Ok::<(), gannet_sdk::openai::Refusal>(())
    /// ```
    pub fn texts(&self, name: &str, most: usize) -> Result<Vec<String>, Refusal> {
        let wrong = |value: &Value| self.wrong(name, value, format_args!("it is a text, or a list of at most {most}"));
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(value @ Value::Array(items)) if items.len() <= most => {
                items.iter().map(|item| item.as_str().map(ToOwned::to_owned).ok_or_else(|| wrong(value))).collect()
            }
            Some(other) => Err(wrong(other)),
        }
    }

    /// Refuses the fields `names`, which are known but not supported, because of `why`. Values that ask for nothing are
    /// accepted: null, false, 0, and an empty list or object.
    ///
    /// ```
    /// # use gannet_sdk::openai::Fields;
    /// let fields = Fields::parse(br#"{"tools": [{}], "audio": null}"#)?;
    /// assert!(fields.refuse(&["audio"], "it makes text only").is_ok());
    /// assert!(fields.refuse(&["tools"], "it calls none").is_err());
    /// # Ok::<(), gannet_sdk::openai::Refusal>(())
    /// ```
    pub fn refuse(&self, names: &[&str], why: &str) -> Result<(), Refusal> {
        let asks = |value: &Value| match value {
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            Value::Bool(asked) => *asked,
            Value::Number(number) => number.as_f64() != Some(0.0),
            _ => true,
        };
        match names.iter().find(|name| self.get(name).is_some_and(asks)) {
            Some(name) => Err(Refusal::unsupported(name, why)),
            None => Ok(()),
        }
    }
}
