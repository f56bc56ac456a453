//! What an answer, or the lack of one, means: one function, one closed set of reasons, shared by
//! retry, log, metric and database.
//!
//! Pure. The table is section 6 of the design, the evidence `facts/pusher-http.md`, sections 3 and 8.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::value::RawValue;

/// Why an attempt did not deliver. The names are stored in `items_listen.delivery.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No connection, or it broke; also 407, which a proxy says.
    Network,
    /// No answer in time; also 408.
    Timeout,
    /// 429.
    RateLimited,
    /// 5xx.
    Server,
    /// 400, 422 and 413: this one event is not acceptable.
    Rejected,
    /// 401 and 403.
    Auth,
    /// 404: no such application.
    UnknownApp,
    /// 3xx, 405, 415, any other 4xx, and what is no HTTP status at all: not the endpoint that was meant.
    Protocol,
    /// 401, and our timestamp was further from the endpoint's clock than endpoints allow.
    ClockSkew,
    /// 503 because the server still holds this very request's idempotency key: nothing is wrong with the endpoint.
    InProgress,
    /// Too old to be tried again: `give_up_after`.
    Expired,
    /// The name of a channel or event cannot be sent.
    Unsendable,
    /// A later one of its key and rule took its place while the endpoint was down.
    Superseded,
    /// `deliveries discard`.
    Discarded,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 14] = [
        Reason::Network,
        Reason::Timeout,
        Reason::RateLimited,
        Reason::Server,
        Reason::Rejected,
        Reason::Auth,
        Reason::UnknownApp,
        Reason::Protocol,
        Reason::ClockSkew,
        Reason::InProgress,
        Reason::Expired,
        Reason::Unsendable,
        Reason::Superseded,
        Reason::Discarded,
    ];

    /// The name in the database, in logs and in `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Network => "network",
            Reason::Timeout => "timeout",
            Reason::RateLimited => "rate_limited",
            Reason::Server => "server",
            Reason::Rejected => "rejected",
            Reason::Auth => "auth",
            Reason::UnknownApp => "unknown_app",
            Reason::Protocol => "protocol",
            Reason::ClockSkew => "clock_skew",
            Reason::InProgress => "in_progress",
            Reason::Expired => "expired",
            Reason::Unsendable => "unsendable",
            Reason::Superseded => "superseded",
            Reason::Discarded => "discarded",
        }
    }
}

/// What came back from one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An HTTP answer: its status, the beginning of its body, its Retry-After.
    Http {
        /// The status line's code.
        status: u16,
        /// The body, up to the limit to which it is read.
        body: String,
        /// Retry-After, if it was given and understood.
        retry_after: Option<Duration>,
        /// By how many seconds the answer's Date was ahead of the time that the request was signed for.
        skew: Option<i64>,
    },
    /// The connection could not be made, or broke.
    NoConnection(String),
    /// The time was over.
    TimedOut,
}

/// What is to be done after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was accepted.
    Delivered,
    /// It is tried again, not before the given time.
    Retry(Reason, Option<Duration>),
    /// This event can never be accepted.
    Dead(Reason),
    /// The endpoint refuses everything: keep all, and probe.
    Pause(Reason),
}

impl Verdict {
    /// Why it was not accepted, if it was not.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Verdict::Delivered => None,
            Verdict::Retry(reason, _) | Verdict::Dead(reason) | Verdict::Pause(reason) => Some(reason),
        }
    }
}

/// The status that counts: a 2xx whose JSON body carries `error` and a `code` of 400 or more is that
/// code. Soketi answers so, and a publisher that trusts the status alone loses events there.
pub fn effective_status(status: u16, body: &str) -> u16 {
    match error_code(body) {
        // What is no status at all becomes 65535, and so a Protocol error.
        Some(code) if (200..300).contains(&status) && code >= 400.0 => code as u16,
        _ => status,
    }
}

/// The `code` of a JSON object that has an `error`, whatever number it is.
fn error_code(body: &str) -> Option<f64> {
    let object: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(body).ok()?;
    object.get("error")?;
    serde_json::from_str(object.get("code")?.get()).ok()
}

/// Classifies every outcome of a request.
pub fn classify(answer: &Answer) -> Verdict {
    let (status, body, retry_after, skew) = match answer {
        Answer::NoConnection(_) => return Verdict::Retry(Reason::Network, None),
        Answer::TimedOut => return Verdict::Retry(Reason::Timeout, None),
        Answer::Http { status, body, retry_after, skew } => (effective_status(*status, body), body, *retry_after, *skew),
    };
    match status {
        200..=299 => Verdict::Delivered,
        // Only a proxy on the way says so: the endpoint was not asked.
        407 => Verdict::Retry(Reason::Network, None),
        408 => Verdict::Retry(Reason::Timeout, retry_after),
        429 => Verdict::Retry(Reason::RateLimited, retry_after),
        503 if body.contains(IN_PROGRESS) => Verdict::Retry(Reason::InProgress, retry_after),
        500..=599 => Verdict::Retry(Reason::Server, retry_after),
        400 | 413 | 422 => Verdict::Dead(Reason::Rejected),
        // The next attempt is signed by the endpoint's clock: if that is refused too, it was not the clock.
        401 if skew.is_some_and(|skew| skew.unsigned_abs() > SKEW_SECONDS_MAX) => Verdict::Retry(Reason::ClockSkew, None),
        401 | 403 => Verdict::Pause(Reason::Auth),
        404 => Verdict::Pause(Reason::UnknownApp),
        _ => Verdict::Pause(Reason::Protocol),
    }
}

/// Endpoints refuse a signature whose time is further away than this from theirs
/// (<https://pusher.com/docs/channels/library_auth_reference/rest-api/>; Sockudo too).
pub const SKEW_SECONDS_MAX: u64 = 600;

/// What Sockudo says of a key whose first request has not ended, or has failed: it keeps the claim for 120 s.
const IN_PROGRESS: &str = "publish is still in progress";

/// The Date header of an answer, in unix seconds.
pub fn date(value: &str) -> Option<i64> {
    Some(jiff::fmt::rfc2822::parse(value.trim()).ok()?.timestamp().as_second())
}

/// A Retry-After header: seconds, or an HTTP date counted from `now` (unix seconds).
pub fn retry_after(value: &str, now: i64) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    Some(Duration::from_secs(u64::try_from(date(value)?.saturating_sub(now)).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(status: u16, body: &str) -> Verdict {
        classify(&Answer::Http { status, body: body.into(), retry_after: None, skew: None })
    }

    #[test]
    fn a_refusal_by_a_clock_that_is_far_from_ours_is_not_about_the_secret() {
        let refused = |skew| classify(&Answer::Http { status: 401, body: String::new(), retry_after: None, skew });
        for skew in [Some(601), Some(-601), Some(i64::MIN), Some(i64::MAX)] {
            assert_eq!(refused(skew), Verdict::Retry(Reason::ClockSkew, None));
        }
        for skew in [None, Some(0), Some(600), Some(-600)] {
            assert_eq!(refused(skew), Verdict::Pause(Reason::Auth));
        }
    }

    #[test]
    fn a_claimed_idempotency_key_is_no_fault_of_the_endpoint() {
        let sockudo = r#"{"error":"Idempotent publish is still in progress","code":"backpressure","status":503}"#;
        assert_eq!(http(503, sockudo), Verdict::Retry(Reason::InProgress, None));
    }

    #[test]
    fn no_two_reasons_have_one_name() {
        let names: std::collections::HashSet<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
    }

    #[test]
    fn every_status_has_the_verdict_of_the_design() {
        for status in [200, 201, 202, 204] {
            assert_eq!(http(status, "{}"), Verdict::Delivered);
        }
        assert_eq!(http(408, ""), Verdict::Retry(Reason::Timeout, None));
        assert_eq!(http(429, ""), Verdict::Retry(Reason::RateLimited, None));
        for status in [500, 502, 503, 504, 599] {
            assert_eq!(http(status, ""), Verdict::Retry(Reason::Server, None));
        }
        for status in [400, 413, 422] {
            assert_eq!(http(status, ""), Verdict::Dead(Reason::Rejected));
        }
        assert_eq!(http(401, ""), Verdict::Pause(Reason::Auth));
        assert_eq!(http(403, ""), Verdict::Pause(Reason::Auth));
        assert_eq!(http(404, ""), Verdict::Pause(Reason::UnknownApp));
        for status in [100, 301, 302, 307, 402, 405, 415, 418, 600, 0] {
            assert_eq!(http(status, ""), Verdict::Pause(Reason::Protocol), "{status}");
        }
        assert_eq!(classify(&Answer::TimedOut), Verdict::Retry(Reason::Timeout, None));
        assert_eq!(classify(&Answer::NoConnection("refused".into())), Verdict::Retry(Reason::Network, None));
    }

    #[test]
    fn soketi_says_the_status_in_the_body() {
        assert_eq!(http(200, r#"{"error":"bad","code":401}"#), Verdict::Pause(Reason::Auth));
        assert_eq!(http(200, r#"{"error":"bad","code":413}"#), Verdict::Dead(Reason::Rejected));
        for body in [r#"{"error":1,"error":2,"code":4e2}"#, r#"{"error":"bad","code":400.5}"#] {
            assert_eq!(http(200, body), Verdict::Dead(Reason::Rejected), "{body}");
        }
        assert_eq!(http(200, r#"{"error":"bad","code":70000}"#), Verdict::Pause(Reason::Protocol));
        for body in [
            "",
            "[0,400]",
            "{}",
            r#"{"ok":true}"#,
            r#"{"batch":{}}"#,
            r#"{"code":401}"#,
            r#"{"error":"x","code":"401"}"#,
            "[1]",
            "nonsense",
        ] {
            assert_eq!(http(200, body), Verdict::Delivered, "{body}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after("120", 0), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT", 1_445_412_470), Some(Duration::from_secs(10)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT", 1_445_500_000), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", 0), None);
        assert_eq!(retry_after("-5", 0), None);
    }
}
