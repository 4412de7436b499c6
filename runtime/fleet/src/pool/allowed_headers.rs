//! Decides which headers and trailers of a function may pass to its clients. Pure.

use crate::admitted::AddressingStyle;
use http::HeaderName;

/// Whether a header or a trailer of a function may pass to the client.
pub(super) fn may_pass(name: &HeaderName, style: AddressingStyle) -> bool {
    let name = name.as_str();
    let is_shared = style == AddressingStyle::Path && !is_about_one_response(name);
    !is_shared && !is_for_proxies(name) && !name.starts_with("x-gannet-")
}

/// Whether a proxy in front of the server would act on the header: send a file, or another page of the server.
fn is_for_proxies(name: &str) -> bool {
    name.starts_with("x-accel-") || matches!(name, "x-sendfile" | "x-lighttpd-send-file" | "x-reproxy-url")
}

/// Whether the header is only about its own response. Browsers and proxies act on others for the whole origin, which
/// functions that are addressed by path share with those of other tenants, and new ones appear every year. So only
/// headers that are known to be harmless pass, and names for private use, which begin with `x-`.
fn is_about_one_response(name: &str) -> bool {
    name.starts_with("x-")
        || name.starts_with("access-control-")
        || name.starts_with("content-")
        || name.starts_with("grpc-")
        || matches!(
            name,
            "accept-patch"
                | "accept-post"
                | "accept-ranges"
                | "age"
                | "allow"
                | "cache-control"
                | "cross-origin-resource-policy"
                | "date"
                | "deprecation"
                | "etag"
                | "expires"
                | "last-modified"
                | "link"
                | "location"
                | "preference-applied"
                | "ratelimit"
                | "ratelimit-policy"
                | "referrer-policy"
                | "repr-digest"
                | "retry-after"
                | "sunset"
                | "timing-allow-origin"
                | "vary"
        )
}
