//! The target of an outbound call. Pure.

use http::Uri;

/// Scheme, host and port of a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct CallTarget {
    pub(super) https: bool,
    pub(super) host: String,
    pub(super) port: u16,
}

/// Reads the target from a call's URI. Returns None for what is ambiguous or neither `http` nor `https`.
pub(super) fn destination(uri: &Uri) -> Option<CallTarget> {
    let https = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let authority = uri.authority()?;
    // An authority with a user name or an invalid port is ambiguous.
    let bare = authority.as_str().rsplit_once(']').map_or(authority.as_str(), |(_, rest)| rest);
    if authority.as_str().contains('@') || (bare.contains(':') && authority.port_u16().is_none()) {
        return None;
    }
    let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
    Some(CallTarget { https, host: authority.host().to_owned(), port })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_can_be_read_in_one_way_only() {
        let to = |text: &str| destination(&text.parse().unwrap()).map(|to| (to.https, to.host, to.port));
        assert_eq!(to("https://api.example.com/x"), Some((true, "api.example.com".into(), 443)));
        assert_eq!(to("http://[::1]:8080/x"), Some((false, "[::1]".into(), 8080)));
        for bad in ["https://user@api.example.com/", "ftp://api.example.com/", "/x"] {
            assert_eq!(to(bad), None, "{bad}");
        }
    }
}
