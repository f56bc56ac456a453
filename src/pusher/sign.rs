//! The signature of a request, as <https://pusher.com/docs/channels/library_auth_reference/rest-api/>
//! has it: HMAC-SHA256 over method, path and sorted query, with the MD5 of the exact body bytes in
//! the query.
//!
//! Pure: the time is an argument, and every attempt is signed anew, since endpoints refuse a
//! timestamp that is more than 600 s off.

use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::Md5;
use sha2::{Digest as _, Sha256};

/// The signed query string of a request, without the leading `?`.
///
/// `path` is the signed path (`/apps/{app_id}/events`); `query` holds further parameters, already
/// in the form in which they are to be sent; `unix_seconds` is the time of this attempt.
pub fn signed_query(
    method: &str,
    path: &str,
    key: &str,
    secret: &str,
    query: &[(&str, &str)],
    body: &[u8],
    unix_seconds: i64,
) -> String {
    let mut parameters: Vec<(String, String)> = vec![
        ("auth_key".into(), key.into()),
        ("auth_timestamp".into(), unix_seconds.to_string()),
        ("auth_version".into(), "1.0".into()),
    ];
    // A body_md5 on a request without a body is refused by Sockudo with 401.
    if !body.is_empty() {
        parameters.push(("body_md5".into(), hex(&Md5::digest(body))));
    }
    parameters.extend(query.iter().map(|&(name, value)| (name.to_lowercase(), value.into())));
    parameters.sort();
    let joined = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
    let signature = hmac_sha256(secret.as_bytes(), format!("{method}\n{path}\n{joined}").as_bytes());
    format!("{joined}&auth_signature={signature}")
}

/// The key under which an endpoint may recognise a repeated request: a hash of the body and of what it carries (the ids
/// of its deliveries). One key never stands for two payloads, nor for two events with the same payload: Sockudo would
/// answer the second from its cache of the first, and publish nothing.
pub fn idempotency_key(body: &[u8], carries: &[u8]) -> String {
    hex(&Sha256::new_with_prefix(body).chain_update([0]).chain_update(carries).finalize())
}

fn hmac_sha256(secret: &[u8], message: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    mac.update(message);
    hex(&mac.finalize().into_bytes())
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked example of Pusher's own documentation.
    #[test]
    fn reproduces_the_published_vector() {
        let body = br#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
        let query =
            signed_query("POST", "/apps/3/events", "278d425bdf160c739803", "7ad3773142a6692b25b8", &[], body, 1_353_088_179);
        assert_eq!(
            query,
            "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0\
             &body_md5=ec365a775a4cd0599faeb73354201b6f\
             &auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"
        );
    }

    #[test]
    fn a_request_without_a_body_has_no_md5_and_sorts_its_parameters() {
        let query = signed_query("GET", "/apps/3/channels", "k", "s", &[("Filter_By_Prefix", "presence-")], b"", 1);
        assert!(query.starts_with("auth_key=k&auth_timestamp=1&auth_version=1.0&filter_by_prefix=presence-&auth_signature="));
        assert!(!query.contains("body_md5"));
    }

    #[test]
    fn one_key_per_body() {
        assert_eq!(idempotency_key(b"a", b"1"), idempotency_key(b"a", b"1"));
        assert_ne!(idempotency_key(b"a", b"1"), idempotency_key(b"b", b"1"));
        assert_ne!(idempotency_key(b"a", b"1"), idempotency_key(b"a", b"2"), "two events may have the same bytes");
        assert_eq!(idempotency_key(b"", b"").len(), 64);
    }
}
