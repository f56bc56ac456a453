//! What is taken out of answers that are not to tell everything (`[http] hide`). Pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::config::Hide;

/// In the place of a text in which a key may stand.
const HIDDEN: &str = "(hidden)";

/// A text in which a key may stand, such as an error of the database.
pub(super) fn text(hide: Hide, text: &str) -> String {
    if hide.keys { HIDDEN.to_owned() } else { text.to_owned() }
}

/// `/api/status`.
pub(super) fn status(hide: Hide, status: &mut Value) {
    for watch in list(status, "watches") {
        if hide.keys {
            hide_text(watch, "error");
        }
        if hide.counts {
            watch["keys"] = Value::Null;
            watch["open"] = Value::Null;
        }
    }
    if hide.keys {
        list(status, "endpoints").iter_mut().for_each(|endpoint| hide_text(endpoint, "last_error"));
    }
}

/// The document of the page.
pub(super) fn document(hide: Hide, document: &mut Value) {
    if hide == Hide::default() {
        return;
    }
    if hide.keys {
        hide_text(document, "error");
        let reason = document["process"]["reason"].as_str().unwrap_or_default();
        if reason.starts_with("database: ") {
            document["process"]["reason"] = json!(format!("database: {HIDDEN}"));
        }
    }
    if hide.counts {
        process(&mut document["process"]);
    }
    let state = &mut document["state"];
    if !state.is_object() {
        return;
    }
    list(state, "watches").iter_mut().for_each(|watch| self::watch(hide, watch));
    if hide.keys {
        list(state, "endpoints").iter_mut().for_each(|endpoint| hide_text(endpoint, "last_error"));
    }
    if hide.counts
        && let Some(alerts) = state.get_mut("alerts").and_then(Value::as_array_mut)
    {
        // How many there are of a watch tells how many of its keys are open. The newest stand first.
        let mut seen = BTreeSet::new();
        alerts.retain(|alert| seen.insert(alert["watch"].to_string()));
    }
    list(state, "alerts").iter_mut().for_each(|alert| self::alert(hide, alert));
}

/// Rows of the journal are changes of what is counted.
fn process(process: &mut Value) {
    for name in ["rows_per_second", "rows_folded"] {
        process[name] = Value::Null;
    }
    if let Some(fold) = process.get_mut("last_fold").filter(|fold| fold.is_object()) {
        fold["rows"] = Value::Null;
    }
}

fn watch(hide: Hide, watch: &mut Value) {
    if hide.keys {
        hide_text(watch, "error");
        // An SQL condition may name somebody.
        hide_text(watch, "what");
        for (number, key) in list(watch, "shown").iter_mut().enumerate() {
            key["key"] = json!({ "key": format!("#{}", number + 1) });
        }
    }
    if hide.counts {
        watch["keys"] = Value::Null;
        watch["open"] = Value::Null;
        watch["dirty"] = Value::Null;
        watch["shown"] = json!([]);
    }
}

fn alert(hide: Hide, alert: &mut Value) {
    hide_text(alert, "message");
    if hide.keys {
        alert["key"] = json!({});
        for delivery in list(alert, "deliveries") {
            delivery["event"] = json!(HIDDEN);
            delivery["channels"] = json!([HIDDEN]);
            delivery["more_channels"] = json!(0);
        }
    }
    if hide.counts {
        alert["count"] = Value::Null;
        alert["threshold"] = Value::Null;
    }
}

fn list<'v>(value: &'v mut Value, name: &str) -> &'v mut [Value] {
    value.get_mut(name).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

fn hide_text(value: &mut Value, name: &str) {
    if let Some(text) = value.get_mut(name).filter(|text| !text.is_null()) {
        *text = json!(HIDDEN);
    }
}
