//! The payload of a NOTIFY: anything that may send one to the database can write it.
#![no_main]

use items_listen::source::payload;
use items_listen::watch::{KEY_BYTES_MAX, Key};
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::Value;

/// No column, one, several, one that has the name of the payload's own field, and one that is no ASCII.
const COLUMNS: [&[&str]; 5] = [&[], &["tenant_id"], &["a", "b"], &["key", "count", "a b"], &["größe"]];

fuzz_target!(|bytes: &[u8]| -> Corpus {
    // PostgreSQL gives text, in UTF-8.
    let Ok(text) = std::str::from_utf8(bytes) else { return Corpus::Reject };
    for columns in COLUMNS {
        let columns: Vec<String> = columns.iter().map(|&column| column.to_owned()).collect();
        let parsed = payload::parse(text, &columns);
        assert_eq!(parsed, payload::parse(text, &columns), "the same text, another reading");
        let Ok((key, _)) = parsed else { continue };
        let values: Vec<Value> = serde_json::from_str(&key.text).expect("a key's text is a JSON array");
        assert_eq!(values.len(), columns.len(), "{}", key.text);
        assert!(key.text.len() <= KEY_BYTES_MAX, "the database could not index it");
        assert!(key.object.iter().eq(columns.iter().zip(&values)), "{key:?}");
        // The database keeps the text alone, and the event's object is made of it again.
        assert_eq!(Key::from_text(&columns, &key.text), key);
        assert_eq!(Key::from_object(&columns, &key.object), Ok(key));
    }
    Corpus::Keep
});
