//! The way to an endpoint: straight, or through the proxy that the environment names.

use axum::http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use url::{Host, Url};

/// The proxy that requests to this endpoint go through, by `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`: its
/// scheme, host and port, and never its user and password. The HTTP client reads the same variables with the same code.
pub fn proxy(endpoint: &Url) -> Option<String> {
    if is_loopback(endpoint) {
        return None;
    }
    let destination = endpoint.as_str().parse().ok()?;
    let proxy = Matcher::from_system().intercept(&destination)?;
    Some(place(proxy.uri()))
}

/// Scheme, host and port. A user and password in which something is not percent-encoded are taken for host and port.
fn place(proxy: &Uri) -> String {
    let (scheme, host) = (proxy.scheme_str().unwrap_or("http"), proxy.host().unwrap_or_default());
    match proxy.authority().map(|authority| authority.as_str().strip_prefix(host).unwrap_or("?")) {
        Some("") => format!("{scheme}://{host}"),
        Some(_) if let Some(port) = proxy.port_u16() => format!("{scheme}://{host}:{port}"),
        _ => "an address that cannot be read: in its user and password, @ / ? # and : are written as %40 %2F %3F %23 %3A"
            .to_owned(),
    }
}

/// Whether it is on this machine: what goes there does not go through a proxy.
pub fn is_loopback(endpoint: &Url) -> bool {
    match endpoint.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether it is on this machine or in a network of its own: an address that is not routed in the Internet, or a name
/// without a dot or in a domain that is never public.
pub fn is_private(endpoint: &Url) -> bool {
    match endpoint.host() {
        Some(Host::Ipv4(address)) => address.is_loopback() || address.is_private() || address.is_link_local(),
        Some(Host::Ipv6(address)) => address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local(),
        Some(Host::Domain(name)) => {
            !name.contains('.')
                || [".localhost", ".internal", ".local", ".lan", ".home.arpa"].iter().any(|end| name.ends_with(end))
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        for (url, loopback, private) in [
            ("http://127.0.0.1:8080", true, true),
            ("http://localhost", true, true),
            ("http://[::1]:1", true, true),
            ("http://10.1.2.3", false, true),
            ("http://[fd00::1]", false, true),
            ("http://reverb:8080", false, true),
            ("http://push.svc.cluster.local", false, true),
            ("http://push.example.org", false, false),
            ("http://93.184.215.14", false, false),
            ("http://localhost.example.org", false, false),
        ] {
            let url = Url::parse(url).expect("a URL");
            assert_eq!((is_loopback(&url), is_private(&url)), (loopback, private), "{url}");
        }
    }

    #[test]
    fn nothing_of_a_password_is_shown_with_a_proxy() {
        for (uri, shown) in [
            ("http://proxy.example.org:3128", "http://proxy.example.org:3128"),
            ("http://proxy.example.org/", "http://proxy.example.org"),
            ("https://[::1]:3128", "https://[::1]:3128"),
        ] {
            assert_eq!(place(&uri.parse().expect("a URI")), shown);
        }
        // What is left of http://user:CANARY#x@proxy
        for uri in ["http://user:CANARY", "http://user:CANARY@proxy:3128"] {
            let Ok(uri) = uri.parse() else { continue };
            assert!(!place(&uri).contains("CANARY"), "{}", place(&uri));
        }
    }
}
