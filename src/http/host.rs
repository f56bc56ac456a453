//! To which name the status page answers.
//!
//! A page of another site can make a browser ask any address, under a name of that site which it lets point here
//! ("DNS rebinding"), and then read the answer as if it were its own. It cannot do so with an address in digits, nor with a name
//! that is not its own. Pure.

use std::net::{IpAddr, Ipv6Addr};

/// Whether a `Host` header names this server in a way that no other site can bring about: an address, `localhost`, or the
/// name of this machine.
pub(super) fn is_ours(host: &str, machine: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok());
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return false;
    }
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || name.eq_ignore_ascii_case(machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_this_machine_are_ours_and_no_other_name() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9786",
            "10.1.2.3:80",
            "[::1]:9786",
            "[::1]",
            "localhost",
            "LocalHost:9786",
            "a.localhost",
            "db1",
            "DB1:9786",
            "db1.",
        ] {
            assert!(is_ours(host, "db1"), "{host}");
        }
        for host in [
            "",
            ":9786",
            ".",
            "evil.example",
            "evil.example:9786",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "db1.evil.example",
            "[evil]",
            "[::1",
        ] {
            assert!(!is_ours(host, "db1"), "{host}");
        }
        assert!(!is_ours("", ""), "a machine without a name is nobody");
    }
}
