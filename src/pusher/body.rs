//! The bodies of requests: made once, stored, and sent byte for byte the same on every attempt.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::encrypt::{self, Key};

/// What is published.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Body<'a> {
    /// The event's name.
    pub name: &'a str,
    /// A list even for one channel: the one form that every server takes.
    pub channels: &'a [String],
    /// A string that holds JSON: Reverb answers 422 to anything else.
    pub data: &'a str,
    /// The connection that is to hear nothing of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_id: Option<&'a str>,
}

/// The body of `/events`, which is also what `items_listen.delivery.body` stores. What goes to an encrypted channel, which
/// must be the only one, is encrypted: once, since every attempt sends the same bytes.
///
/// # Errors
/// It is to be encrypted, and there is no key: it is never sent in clear.
pub fn sealed(body: &Body<'_>, key: Option<&Key>) -> Result<String, String> {
    let Some(channel) = body.channels.iter().find(|channel| encrypt::is_encrypted(channel)) else { return single(body) };
    if body.channels.len() > 1 {
        return Err(format!("{channel} is encrypted, and must be the only channel of its event"));
    }
    let key =
        key.ok_or_else(|| format!("{channel} is encrypted, and the endpoint has no encryption_key; it is not sent in clear"))?;
    let data = key.seal(channel, body.data, rand::random())?;
    single(&Body { data: &data, ..*body })
}

fn single(body: &Body<'_>) -> Result<String, String> {
    serde_json::to_string(body).map_err(|error| error.to_string())
}

/// A stored body, taken apart: name, channel, data in clear, and the connection left out.
#[derive(Debug, Deserialize)]
pub struct Opened {
    /// The event's name.
    pub name: String,
    /// Where it goes.
    pub channels: Vec<String>,
    /// JSON text, in clear.
    pub data: String,
    /// The connection that is to hear nothing of it.
    pub socket_id: Option<String>,
}

/// Takes a stored body apart; `None` where it cannot be read, or was encrypted with another key.
pub fn opened(body: &str, key: Option<&Key>) -> Option<Opened> {
    let mut opened: Opened = serde_json::from_str(body).ok()?;
    if let Some(channel) = opened.channels.iter().find(|channel| encrypt::is_encrypted(channel)) {
        opened.data = key?.open(channel, &opened.data)?;
    }
    Some(opened)
}

#[derive(Deserialize)]
struct Stored<'a> {
    #[serde(borrow)]
    name: &'a RawValue,
    #[serde(borrow)]
    channels: Vec<&'a RawValue>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow, default)]
    socket_id: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Item<'a> {
    name: &'a RawValue,
    channel: &'a RawValue,
    data: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket_id: Option<&'a RawValue>,
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
        let Stored { name, channels, data, socket_id } = serde_json::from_str(body)?;
        let [channel] = channels[..] else {
            return Err(serde::de::Error::custom("only a body with one channel can stand in a batch"));
        };
        batch.push(Item { name, channel, data, socket_id });
    }
    serde_json::to_string(&Batch { batch })
}

/// What a body of so many bytes takes in a batch, and the batch itself without any.
pub const BATCH_FRAME_BYTES: usize = r#"{"batch":[]}"#.len();

#[cfg(test)]
mod tests {
    use super::*;

    fn body(name: &str, channels: &[String], data: &str) -> Result<String, String> {
        sealed(&Body { name, channels, data, socket_id: None }, None)
    }

    #[test]
    fn what_is_to_be_encrypted_is_never_sent_in_clear() {
        let channels = ["private-encrypted-a".to_owned()];
        let secret = Body { name: "n", channels: &channels, data: r#"{"s":"canary"}"#, socket_id: Some("1.2") };
        assert!(sealed(&secret, None).is_err());
        let key = Key::from_base64("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=").expect("a key");
        let body = sealed(&secret, Some(&key)).expect("encrypted");
        assert!(!body.contains("canary") && body.contains(r#""socket_id":"1.2""#), "{body}");
        let opened = opened(&body, Some(&key)).expect("opens");
        assert_eq!((opened.data.as_str(), opened.socket_id.as_deref()), (secret.data, Some("1.2")));
        let two = ["private-encrypted-a".to_owned(), "b".to_owned()];
        assert!(sealed(&Body { channels: &two, ..secret }, Some(&key)).is_err());
        let batch = batch([body.as_str()].into_iter()).expect("a batch");
        assert!(batch.contains(r#""channel":"private-encrypted-a""#) && batch.contains(r#""socket_id":"1.2""#), "{batch}");
    }

    #[test]
    fn a_batch_takes_the_stored_bytes_over() {
        let one = body("App\\Events\\X", &["a".into()], "{\"n\":1.0,\"s\":\"\u{e9}\\u0001\"}").expect("serializes");
        let two = body("y", &["b".into()], "{}").expect("serializes");
        assert_eq!(one, r#"{"name":"App\\Events\\X","channels":["a"],"data":"{\"n\":1.0,\"s\":\"é\\u0001\"}"}"#);
        let both = batch([one.as_str(), two.as_str()].into_iter()).expect("both have one channel");
        assert_eq!(
            both,
            r#"{"batch":[{"name":"App\\Events\\X","channel":"a","data":"{\"n\":1.0,\"s\":\"é\\u0001\"}"},{"name":"y","channel":"b","data":"{}"}]}"#
        );
        assert!(both.len() <= BATCH_FRAME_BYTES + one.len() + two.len() + 1, "the estimate is an upper bound");
        let several = body("y", &["a".into(), "b".into()], "{}").expect("serializes");
        assert!(batch([several.as_str()].into_iter()).is_err());
    }
}
