//! Chooses the proxy for a server, as curl does: by the scheme of the server's URL. A server on this machine has none.

use crate::failure::Failure;
use std::net::IpAddr;
use ureq::http::Uri;
use ureq::{Proxy, ProxyProtocol};

/// Returns the proxy for a server, from the environment.
pub(crate) fn for_server(url: &str) -> Result<Option<Proxy>, Failure> {
    let Ok(url) = url.parse::<Uri>() else { return Ok(None) };
    let text = choose(&url, |name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    let proxy = text.map(|text| {
        let wrong = |error| Failure::usage(format!("the proxy {text:?} cannot be used")).because(error);
        let proxy = Proxy::new(&text).map_err(wrong)?;
        if !matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https) {
            return Err(Failure::usage(format!("the proxy {text:?} speaks SOCKS, which is not supported")));
        }
        Ok(proxy)
    });
    proxy.transpose()
}

/// Whether a host is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Returns the proxy's URL. `variable` looks an environment variable up.
fn choose(url: &Uri, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let host = url.host()?.trim_matches(['[', ']']).to_ascii_lowercase();
    let excluded = variable("no_proxy").or_else(|| variable("NO_PROXY")).unwrap_or_default();
    let is_excluded = excluded.trim() == "*"
        || excluded.split(',').map(|entry| entry.trim().trim_start_matches('*').trim_start_matches('.')).any(|entry| {
            let entry = entry.to_ascii_lowercase();
            entry == host || (!entry.is_empty() && host.ends_with(&format!(".{entry}")))
        });
    if is_loopback(&host) || is_excluded {
        return None;
    }
    let names = match url.scheme_str() {
        Some("https") => ["https_proxy", "HTTPS_PROXY"],
        _ => ["http_proxy", "HTTP_PROXY"],
    };
    names.into_iter().chain(["all_proxy", "ALL_PROXY"]).find_map(variable)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_chosen_by_scheme_and_never_for_this_machine() {
        let environment = [
            ("http_proxy", "http://plain:1"),
            ("HTTPS_PROXY", "http://secure:2"),
            ("no_proxy", "internal.example, .corp ,10.0.0.7,*.wild.example"),
        ];
        let of = |url: &str| {
            let value = |name: &str| Some(environment.iter().find(|(known, _)| *known == name)?.1.to_owned());
            choose(&url.parse().unwrap(), value)
        };
        assert_eq!(of("http://gpu.example").as_deref(), Some("http://plain:1"));
        assert_eq!(of("https://gpu.example:8443").as_deref(), Some("http://secure:2"));
        for own in ["http://127.0.0.1:7070", "https://localhost", "http://[::1]:7070", "http://fn.localhost"] {
            assert_eq!(of(own), None, "{own}");
        }
        for excluded in [
            "https://internal.example",
            "https://a.internal.example",
            "http://gpu.corp",
            "http://10.0.0.7",
            "http://x.wild.example",
        ] {
            assert_eq!(of(excluded), None, "{excluded}");
        }
        assert_eq!(of("https://notinternal.example").as_deref(), Some("http://secure:2"));
        assert_eq!(
            choose(&"http://x.example".parse().unwrap(), |name| (name == "ALL_PROXY").then(|| "p".into())),
            Some("p".into())
        );
    }
}
