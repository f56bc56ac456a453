//! A configuration for rule tests: nothing is sent, so no endpoint is needed, and no secret is read from its file.
//!
//! The daemon's own configuration is never read this way: what is filled in here is missing there.

use super::document::{Entry, Node, Origin, Value};

/// Keys that name a file with a secret; the key that each stands for, and what is as good as the secret where nothing is
/// sent: an address, a secret, 32 bytes in base64.
const SECRET_FILES: [(&str, &str, &str); 3] = [
    ("url_file", "url", "log:"),
    ("secret_file", "secret", "secret"),
    ("encryption_key_file", "encryption_key", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
];

/// Makes the endpoint `main` where there is none, and takes the place of what stands in files of secrets.
pub(super) fn rehearse(root: &mut Node) {
    let Value::Table(entries) = &mut root.value else { return };
    if let Some(database) = table_of(entries, "database") {
        database.retain(|entry| entry.key != "url_file");
    }
    if let Some(http) = table_of(entries, "http") {
        http.retain(|entry| entry.key != "token_file");
    }
    for endpoint in table_of(entries, "endpoints").into_iter().flatten() {
        without_files(&mut endpoint.node);
    }
    if table_of(entries, "endpoints").is_none_or(|endpoints| endpoints.is_empty()) {
        entries.retain(|entry| entry.key != "endpoints" || !matches!(entry.node.value, Value::Table(_)));
        let main = table("main", vec![text("url", "log:")]);
        entries.push(table("endpoints", vec![main]));
    }
}

fn table_of<'a>(entries: &'a mut [Entry], key: &str) -> Option<&'a mut Vec<Entry>> {
    match &mut entries.iter_mut().find(|entry| entry.key == key)?.node.value {
        Value::Table(entries) => Some(entries),
        _ => None,
    }
}

fn without_files(endpoint: &mut Node) {
    let Value::Table(entries) = &mut endpoint.value else { return };
    entries.retain(|entry| entry.key != "ca_file" || !matches!(entry.node.value, Value::String(_)));
    for (file, key, value) in SECRET_FILES {
        for entry in entries.iter_mut().filter(|entry| entry.key == file && matches!(entry.node.value, Value::String(_))) {
            key.clone_into(&mut entry.key);
            entry.node.value = Value::String(value.to_owned());
        }
    }
}

fn table(key: &str, entries: Vec<Entry>) -> Entry {
    entry(key, Value::Table(entries))
}

fn text(key: &str, value: &str) -> Entry {
    entry(key, Value::String(value.to_owned()))
}

fn entry(key: &str, value: Value) -> Entry {
    let origin = Origin::Variable("a rule test".to_owned());
    Entry { key: key.to_owned(), origin: origin.clone(), node: Node { value, origin } }
}
