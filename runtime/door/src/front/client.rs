//! The address of a request's client: the peer's, or the one that trusted proxies report. Pure.
//!
//! `x-forwarded-for` is read from its end, because each trusted proxy appends the address of its peer. The first
//! address that is not a trusted proxy's is the client's. Entries before it are ignored, because the client may have
//! made them up.

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use std::net::IpAddr;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Returns the client's address, and whether the client spoke TLS.
pub(super) fn client_of(peer: IpAddr, tls: bool, headers: &HeaderMap, trusted: &[IpNet]) -> (IpAddr, bool) {
    let is_trusted = |address: IpAddr| trusted.iter().any(|range| range.contains(&address.to_canonical()));
    let peer = peer.to_canonical();
    if !is_trusted(peer) {
        return (peer, tls);
    }
    let texts = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<&str> = texts.flat_map(|text| text.split(',')).map(str::trim).collect();
    let mut client = peer;
    for text in named.iter().rev() {
        let Ok(address) = text.parse::<IpAddr>() else { break };
        client = address.to_canonical();
        if !is_trusted(client) {
            break;
        }
    }
    let proto = headers.get_all(FORWARDED_PROTO).iter().next_back().and_then(|value| value.to_str().ok());
    (client, proto.map_or(tls, |proto| proto.trim().eq_ignore_ascii_case("https")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted: [IpNet; 1] = ["10.0.0.0/8".parse().unwrap()];
        let ask = |peer: &str, forwarded: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(FORWARDED_FOR, HeaderValue::from_static(forwarded));
            headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
            let (client, https) = client_of(peer.parse().unwrap(), false, &headers, &trusted);
            (client.to_string(), https)
        };
        assert_eq!(ask("203.0.113.7", "1.2.3.4"), ("203.0.113.7".into(), false), "a stranger says what it likes");
        assert_eq!(ask("10.0.0.1", "1.2.3.4"), ("1.2.3.4".into(), true));
        assert_eq!(ask("::ffff:10.0.0.1", "9.9.9.9, 1.2.3.4, 10.0.0.2"), ("1.2.3.4".into(), true));
        assert_eq!(ask("10.0.0.1", "1.2.3.4, nonsense"), ("10.0.0.1".into(), true));
        assert_eq!(ask("10.0.0.1", "10.0.0.3, 10.0.0.2"), ("10.0.0.3".into(), true));
    }
}
