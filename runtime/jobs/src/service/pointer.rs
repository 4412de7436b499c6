//! Finds the part of a JSON text that a JSON pointer (RFC 6901) names, without making a tree of it: a tree of numbers takes
//! some sixteen times the text.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// A text in which nothing can be looked for.
#[derive(Debug)]
pub(super) struct Unreadable;

/// Returns the text of what a pointer names, if there is something.
pub(super) fn pointed_at<'a>(pointer: &str, json: &'a [u8]) -> Result<Option<&'a str>, Unreadable> {
    let mut part = std::str::from_utf8(json).map_err(|_| Unreadable)?;
    for step in pointer.strip_prefix('/').ok_or(Unreadable)?.split('/') {
        if !part.trim_start().starts_with(['{', '[']) {
            return Ok(None);
        }
        let name = step.replace("~1", "/").replace("~0", "~");
        let mut text = serde_json::Deserializer::from_str(part);
        match Step(&name).deserialize(&mut text).map_err(|_| Unreadable)? {
            Some(found) => part = found.get(),
            None => return Ok(None),
        }
    }
    Ok(Some(part))
}

/// One step of a pointer: the name of a member, or the number of an element.
struct Step<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        // The last of several members with one name counts, as in a tree.
        while let Some(name) = map.next_key::<String>()? {
            if name == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let is_number = self.0 == "0" || !self.0.starts_with(['0', '+']);
        let wanted: Option<usize> = self.0.parse().ok().filter(|_| is_number);
        let (mut at, mut found) = (0, None);
        loop {
            if Some(at) == wanted {
                match elements.next_element()? {
                    Some(element) => found = Some(element),
                    None => return Ok(found),
                }
            } else if elements.next_element::<IgnoredAny>()?.is_none() {
                return Ok(found);
            }
            at += 1;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn json() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), any::<i32>().prop_map(Value::from), "[a/~0-9]{0,3}".prop_map(Value::from)];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a/~0-9]{0,2}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn what_a_tree_refuses_is_read_too() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        for other in [deep.as_str(), "1e999", "\"\\ud800\""] {
            let text = format!("{{\"x\":{other},\"user\":\"u\"}}");
            assert_eq!(pointed_at("/user", text.as_bytes()).unwrap(), Some("\"u\""), "{other}");
        }
    }

    proptest! {
        #[test]
        fn it_finds_what_a_tree_would_find(json in json(), pointer in "(/([a0-9]|~0|~1){0,2}){1,3}") {
            let text = json.to_string();
            let found = pointed_at(&pointer, text.as_bytes()).unwrap().map(|part| serde_json::from_str::<Value>(part).unwrap());
            prop_assert_eq!(found.as_ref(), json.pointer(&pointer));
        }

        #[test]
        fn any_bytes_are_read_or_refused(text: Vec<u8>, pointer in "(/.{0,3}){0,3}") {
            let _ = pointed_at(&pointer, &text);
        }
    }
}
