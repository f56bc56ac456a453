//! What an endpoint answers: the status in the first line, the Retry-After (and Date) in the second, and
//! then the body.
#![no_main]

use std::collections::BTreeMap;

use items_listen::pusher::classify::{Answer, Verdict, classify, date, effective_status, retry_after};
use items_listen::retry::Retry;
use jiff::Timestamp;
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::value::RawValue;

fuzz_target!(|bytes: &[u8]| -> Corpus {
    // The client, too, makes text of whatever it has read.
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (status, header, body) = (line(), line(), line());
    let Ok(status) = status.parse::<u16>() else { return Corpus::Reject };

    let times = [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX].map(Timestamp::as_second);
    let waits = times.map(|now| retry_after(header, now));
    assert!(waits.iter().all(|wait| wait.is_some() == waits[0].is_some()), "the clock decides what can be read");
    for wait in waits {
        let retry = Retry::default();
        assert!(retry.delay(1, 0.5, wait) <= retry.max, "a Retry-After beyond the longest delay");
    }

    let effective = effective_status(status, body);
    let skew = date(header);
    let verdict = classify(&Answer::Http { status, body: body.to_owned(), retry_after: waits[1], skew });
    let refused = error_code(body).is_some_and(|code| code >= 400.0);
    match (200..300).contains(&status) {
        false => assert_eq!(effective, status, "only a 2xx is overruled by its body"),
        true => assert_eq!(effective == status, !refused, "status {effective} of {body}"),
    }
    assert_eq!(verdict == Verdict::Delivered, (200..300).contains(&status) && !refused, "{status}, {body}");
    Corpus::Keep
});

/// The code of an object that has `error` and a `code` that is a number, read in another way than the program's.
fn error_code(body: &str) -> Option<f64> {
    let object: BTreeMap<String, Box<RawValue>> = serde_json::from_str(body).ok()?;
    object.get("error")?;
    serde_json::from_str(object.get("code")?.get()).ok()
}
