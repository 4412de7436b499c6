//! Which call a path and a method make, about what a function has by name: schedules and hooks.

use crate::access::AccessError;
use http::Method;

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NamedCall<'a> {
    List,
    Make,
    Delete(&'a str),
    /// The one other call about a name.
    Act(&'a str),
}

impl<'a> NamedCall<'a> {
    /// Returns the call that the rest of a path and a method make. `action` is the last part of the path of
    /// [`NamedCall::Act`].
    pub(super) fn find(rest: &'a str, method: &Method, action: &str) -> Result<Self, AccessError> {
        let not_allowed =
            |allowed: &str| AccessError::MethodNotAllowed { method: method.to_string(), allowed: allowed.into() };
        let (name, call) = rest.split_once('/').map_or((rest, None), |(name, call)| (name, Some(call)));
        match (name, call) {
            ("", None) => match *method {
                Method::GET | Method::HEAD => Ok(Self::List),
                Method::POST => Ok(Self::Make),
                _ => Err(not_allowed("GET, HEAD, POST")),
            },
            ("", Some(_)) => Err(AccessError::NotFound),
            (name, None) if *method == Method::DELETE => Ok(Self::Delete(name)),
            (_, None) => Err(not_allowed("DELETE")),
            (_, Some(call)) if call != action => Err(AccessError::NotFound),
            (name, Some(_)) if *method == Method::POST => Ok(Self::Act(name)),
            (_, Some(_)) => Err(not_allowed("POST")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gannet_base::refusal::Refusal;

    #[test]
    fn calls_are_found_by_path_and_method() {
        let find = |method: Method, rest| {
            let found = NamedCall::find(rest, &method, "run");
            found.map_err(|error| Refusal::from(error).code).map(|call| format!("{call:?}"))
        };
        for (method, rest, found) in [
            (Method::GET, "", Ok("List")),
            (Method::POST, "", Ok("Make")),
            (Method::DELETE, "nightly", Ok("Delete(\"nightly\")")),
            (Method::POST, "nightly/run", Ok("Act(\"nightly\")")),
            (Method::PUT, "", Err("method_not_allowed")),
            (Method::DELETE, "", Err("method_not_allowed")),
            (Method::GET, "nightly", Err("method_not_allowed")),
            (Method::GET, "nightly/run", Err("method_not_allowed")),
            (Method::POST, "nightly/stop", Err("not_found")),
            (Method::POST, "nightly/run/x", Err("not_found")),
            (Method::POST, "/run", Err("not_found")),
        ] {
            assert_eq!(find(method, rest), found.map(str::to_owned), "{rest}");
        }
    }
}
