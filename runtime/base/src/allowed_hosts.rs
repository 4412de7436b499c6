//! The hosts that a function may send outbound requests to, as its manifest lists them. Pure.

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost {
    https: bool,
    /// A host name or address in lower case. With a wildcard, the part after `*`, including its dot.
    host: String,
    wildcard: bool,
    port: u16,
}

impl AllowedHost {
    /// Parses an entry: scheme, host and an optional port, without a path.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (https, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some(_) => return Err("the scheme must be http or https"),
            None => return Err("it needs a scheme, as in https://api.example.com"),
        };
        if rest.contains(['/', '?', '#', '@']) {
            return Err("it may have only a scheme, a host and a port");
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !rest.ends_with(']') => (host, port.parse().map_err(|_| "its port is not a number")?),
            _ => (rest, if https { 443 } else { 80 }),
        };
        let (wildcard, host) = match host.strip_prefix('*') {
            Some(rest) if rest.starts_with('.') && rest.len() > 1 => (true, rest),
            Some(_) => return Err("a * may only stand for the first labels of a name, as in *.example.com"),
            None => (false, host),
        };
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let six = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let fine = match six {
            Some(six) => six.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.len() <= 253 && host.bytes().all(allowed),
        };
        if !fine {
            return Err("its host is neither a name nor an address");
        }
        Ok(Self { https, host: host.to_ascii_lowercase(), wildcard, port })
    }

    /// Returns whether the entry allows a request to this destination. `host` is written as in a URI.
    pub fn allows(&self, https: bool, host: &str, port: u16) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let named =
            if self.wildcard { host.len() > self.host.len() && host.ends_with(&self.host) } else { host == self.host };
        self.https == https && self.port == port && named
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn scheme_host_and_port_must_all_agree() {
        let one = AllowedHost::parse("https://API.example.com").unwrap();
        assert!(one.allows(true, "api.example.com", 443) && one.allows(true, "api.example.com.", 443));
        assert!(!one.allows(false, "api.example.com", 443) && !one.allows(true, "api.example.com", 8443));
        assert!(!one.allows(true, "x.api.example.com", 443) && !one.allows(true, "api.example.com.evil.org", 443));
        let many = AllowedHost::parse("http://*.example.com:8080").unwrap();
        assert!(many.allows(false, "a.b.example.com", 8080) && !many.allows(false, "example.com", 8080));
        assert!(!many.allows(false, "evilexample.com", 8080));
        assert!(AllowedHost::parse("http://[::1]:80").unwrap().allows(false, "[::1]", 80));
        for bad in [
            "example.com",
            "ftp://x",
            "https://",
            "https://a/b",
            "https://u@h",
            "https://*",
            "http://h:x",
            "https://a b",
        ] {
            assert!(AllowedHost::parse(bad).is_err(), "{bad}");
        }
    }
}
