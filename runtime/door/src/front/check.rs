//! Checks the head of a request. Refuses heads that a client, a proxy and this server could read differently, other
//! protocols, and with `--dev` the names of other hosts.

use gannet_fleet::inbound::{RequestError, host_of};
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Method, Version};
use std::net::Ipv6Addr;

/// Most headers of a request.
pub(super) const HEADERS_MAX: usize = 128;

/// Which hosts a request may name.
#[derive(Debug, Clone, Copy)]
pub(super) enum AllowedHosts<'a> {
    /// Any.
    All,
    /// This machine, as with `--dev`, and names below the configured `domain`.
    Loopback(Option<&'a str>),
}

/// Refuses a head that is ambiguous, asks for another protocol, or names a host that is not allowed.
pub(super) fn check(parts: &Parts, hosts: AllowedHosts<'_>) -> Result<(), RequestError> {
    let headers = &parts.headers;
    // hyper checks this for HTTP/1.1 only.
    if headers.len() > HEADERS_MAX {
        return Err(RequestError::HeadTooLarge { count: headers.len(), limit: HEADERS_MAX });
    }
    if parts.method == Method::CONNECT || headers.contains_key(UPGRADE) {
        return Err(RequestError::UpgradeUnsupported);
    }
    if headers.get_all(CONTENT_LENGTH).iter().count() > 1 {
        return Err(RequestError::Malformed("the request has more than one content-length".into()));
    }
    if headers.contains_key(CONTENT_LENGTH) && headers.contains_key(TRANSFER_ENCODING) {
        return Err(RequestError::Malformed("the request has both content-length and transfer-encoding".into()));
    }
    if headers.contains_key(TRANSFER_ENCODING) && !is_chunked_only(headers) {
        return Err(RequestError::EncodingUnsupported);
    }
    if headers.get_all(HOST).iter().count() > 1 {
        return Err(RequestError::Malformed("the request has more than one host".into()));
    }
    check_host(parts)?;
    let named = (parts.uri.authority(), headers.get(HOST).and_then(|value| value.to_str().ok()));
    if let (Some(authority), Some(host)) = named
        && !authority.as_str().eq_ignore_ascii_case(host)
    {
        return Err(RequestError::Malformed("the request names two hosts".into()));
    }
    if let AllowedHosts::Loopback(domain) = hosts {
        let host =
            parts.uri.authority().map(|authority| authority.as_str()).or_else(|| headers.get(HOST)?.to_str().ok());
        let host = host.unwrap_or_default();
        if !is_loopback_host(host) && !domain.is_some_and(|domain| is_inside(host, domain)) {
            return Err(RequestError::BadHost { host: host.chars().take(128).collect() });
        }
    }
    Ok(())
}

/// Does the same for a request that no client sent, whatever host it names.
pub(crate) fn check_head(parts: &Parts) -> Result<(), RequestError> {
    check(parts, AllowedHosts::All)
}

/// Whether the body is chunked and nothing else (RFC 9112, 6.1).
fn is_chunked_only(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    codings.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked")) && codings.next().is_none()
}

/// Refuses a request without a host, or with one that is not a host and a port (RFC 9112, 3.2).
fn check_host(parts: &Parts) -> Result<(), RequestError> {
    let host = match (parts.uri.authority(), parts.headers.get(HOST)) {
        (Some(authority), None) => authority.as_str(),
        (_, Some(host)) => host.to_str().unwrap_or("\u{fffd}"),
        (None, None) if parts.version <= Version::HTTP_10 => return Ok(()),
        (None, None) => return Err(RequestError::Malformed("the request names no host".into())),
    };
    if is_host_and_port(host) {
        return Ok(());
    }
    let host: String = host.chars().take(128).collect();
    Err(RequestError::Malformed(format!("the host {host:?} is not a host name or address with an optional port")))
}

/// Whether a text is a host name or address, with or without a port.
fn is_host_and_port(text: &str) -> bool {
    let is_port =
        |port: &str| port.is_empty() || (port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else { return false };
        return address.parse::<Ipv6Addr>().is_ok() && rest.strip_prefix(':').map_or(rest.is_empty(), is_port);
    }
    let (host, port) = text.split_once(':').unwrap_or((text, ""));
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%');
    !host.is_empty() && host.bytes().all(allowed) && is_port(port)
}

/// Whether a host is below a domain, as those of functions are.
fn is_inside(host: &str, domain: &str) -> bool {
    host_of(host).strip_suffix(domain).is_some_and(|label| label.ends_with('.'))
}

fn is_loopback_host(host: &str) -> bool {
    let name = host_of(host);
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_can_be_read_in_one_way_only() {
        for good in
            ["localhost", "a.example:80", "a.example:", "[::1]", "[::1]:8080", "127.0.0.1:1", "blur--acme.fn.example"]
        {
            assert!(is_host_and_port(good), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a:b",
            "a:99999",
            "a:80:80",
            "user@a",
            "a[b]",
            "[localhost]",
            "[::1]x",
            "[::1]evil.example",
            "[::1",
            "a/b",
            "a b",
            "a,b",
            "\u{fffd}",
        ] {
            assert!(!is_host_and_port(bad), "{bad}");
        }
    }

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for good in ["localhost", "localhost:7070", "127.0.0.1:7070", "[::1]:7070", "127.1.2.3"] {
            assert!(is_loopback_host(good), "{good}");
        }
        for bad in ["", "example.org", "localhost.example.org", "127.0.0.1.nip.io", "10.0.0.1", "[fe80::1]"] {
            assert!(!is_loopback_host(bad), "{bad}");
        }
        assert!(is_inside("f--dev.fn.example:80", "fn.example") && !is_inside("evilfn.example", "fn.example"));
        assert!(!is_inside("fn.example", "fn.example") && !is_inside("fn.example.evil", "fn.example"));
    }
}
