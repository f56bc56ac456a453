//! The JSON Schema of the configuration, for editors.
//!
//! It is written in what drafts 7 and 2020-12 have in common, since editors for TOML differ in what they know.

use serde_json::{Map, Value as Json, json};

use super::keys::{Fallback, Key, Kind, ROOT, Table};

/// The whole schema.
pub fn schema() -> Json {
    let mut schema = table(&ROOT);
    let head = [
        ("$schema", json!("https://json-schema.org/draft/2020-12/schema")),
        ("title", json!("items-listen")),
        ("description", json!("The configuration of items-listen, usually /etc/items-listen/config.toml.")),
    ];
    let Json::Object(rest) = &mut schema else { return schema };
    let mut whole: Map<String, Json> = head.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    whole.append(rest);
    Json::Object(whole)
}

fn table(table: &Table) -> Json {
    let properties: Map<String, Json> = table.keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    let required: Vec<&str> = table.keys.iter().filter(|key| is_required(key, table)).map(|key| key.name).collect();
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// What another key, or the environment, may stand for is left to the program itself.
fn is_required(key: &Key, table: &Table) -> bool {
    let is_endpoint = table.keys.iter().any(|key| key.name == "app_id");
    matches!(key.fallback, Fallback::Required) && !is_endpoint
}

fn property(key: &Key) -> Json {
    let mut schema = of_kind(key.kind);
    let about = match key.fallback {
        Fallback::Required | Fallback::Value(_) => key.about.to_owned(),
        Fallback::Depends(words) | Fallback::Unset(words) => format!("{}\n\nDefault: {words}.", key.about),
    };
    schema["description"] = Json::from(about);
    if let Fallback::Value(text) = key.fallback
        && let Ok(value) = toml::from_str::<Map<String, Json>>(&format!("value = {text}"))
    {
        schema["default"] = value["value"].clone();
    }
    schema
}

fn of_kind(kind: Kind) -> Json {
    match kind {
        Kind::Text | Kind::Address | Kind::Secret | Kind::SecretFile | Kind::File => json!({ "type": "string" }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Integer(i64::MIN, i64::MAX) => json!({ "type": "integer" }),
        Kind::Integer(min, max) => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Duration(..) => json!({ "type": "string", "pattern": r"^\s*[0-9]+\s*(ms|s|m|h|d)\s*$" }),
        Kind::Word(words) => json!({ "type": "string", "enum": words }),
        Kind::Words(words) => {
            let word = json!({ "type": "string", "enum": words });
            json!({ "anyOf": [word, { "type": "array", "minItems": 1, "items": word }] })
        }
        Kind::Texts => json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] }),
        Kind::Data => json!({ "anyOf": [
            { "type": "string", "enum": ["full", "thin"] },
            { "type": "string", "pattern": r"^\s*\{\{" },
            { "type": "object" },
        ] }),
        Kind::Overrides => json!({ "type": "array", "items": {
            "type": "object",
            "properties": { "threshold": { "type": "integer" } },
            "required": ["threshold"],
        } }),
        Kind::Table(inner) => table(inner),
        Kind::Named(inner) => json!({ "type": "object", "additionalProperties": table(inner) }),
        Kind::Tables(inner) => json!({ "type": "array", "items": table(inner) }),
    }
}
