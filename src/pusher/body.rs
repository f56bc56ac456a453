//! The bodies of requests: made once, stored, and sent byte for byte the same on every attempt.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

#[derive(Serialize)]
struct Single<'a> {
    name: &'a str,
    // A list even for one channel: the one form that every server takes.
    channels: &'a [String],
    // A string that holds JSON: Reverb answers 422 to anything else.
    data: &'a str,
}

/// The body of `/events`, which is also what `items_listen.delivery.body` stores.
///
/// # Errors
/// None in practice: strings always serialize.
pub fn single(name: &str, channels: &[String], data: &str) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Single { name, channels, data })
}

#[derive(Deserialize)]
struct Stored<'a> {
    #[serde(borrow)]
    name: &'a RawValue,
    #[serde(borrow)]
    channels: Vec<&'a RawValue>,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Serialize)]
struct Item<'a> {
    name: &'a RawValue,
    channel: &'a RawValue,
    data: &'a RawValue,
}

#[derive(Serialize)]
struct Batch<'a> {
    batch: Vec<Item<'a>>,
}

/// The body of `/batch_events` for stored bodies of one channel each: their names and data are taken
/// over byte for byte, never parsed and written again.
///
/// # Errors
/// A stored body that is not one of ours, or has not exactly one channel.
pub fn batch<'a>(stored: impl Iterator<Item = &'a str>) -> Result<String, serde_json::Error> {
    let mut batch = Vec::new();
    for body in stored {
        let Stored { name, channels, data } = serde_json::from_str(body)?;
        let [channel] = channels[..] else {
            return Err(serde::de::Error::custom("only a body with one channel can stand in a batch"));
        };
        batch.push(Item { name, channel, data });
    }
    serde_json::to_string(&Batch { batch })
}

/// What a body of so many bytes takes in a batch, and the batch itself without any.
pub const BATCH_FRAME_BYTES: usize = r#"{"batch":[]}"#.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_takes_the_stored_bytes_over() {
        let one = single("App\\Events\\X", &["a".into()], "{\"n\":1.0,\"s\":\"\u{e9}\\u0001\"}").expect("serializes");
        let two = single("y", &["b".into()], "{}").expect("serializes");
        assert_eq!(one, r#"{"name":"App\\Events\\X","channels":["a"],"data":"{\"n\":1.0,\"s\":\"é\\u0001\"}"}"#);
        let body = batch([one.as_str(), two.as_str()].into_iter()).expect("both have one channel");
        assert_eq!(
            body,
            r#"{"batch":[{"name":"App\\Events\\X","channel":"a","data":"{\"n\":1.0,\"s\":\"é\\u0001\"}"},{"name":"y","channel":"b","data":"{}"}]}"#
        );
        assert!(body.len() <= BATCH_FRAME_BYTES + one.len() + two.len() + 1, "the estimate is an upper bound");
        let several = single("y", &["a".into(), "b".into()], "{}").expect("serializes");
        assert!(batch([several.as_str()].into_iter()).is_err());
    }
}
