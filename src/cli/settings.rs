//! `items-listen config`: what is in force, and where each value comes from.

use std::path::Path;

use clap::Subcommand;
use serde_json::{Value as Json, json};

use crate::config::effective::{Group, Setting, Source};
use crate::config::{self, Config, Effective, Location, reference, schema};
use crate::error::Error;

/// What `config` may be asked for besides.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// The JSON Schema of the file, for editors
    Schema,
    /// docs/configuration.md, as `make docs` writes it
    #[command(hide = true)]
    Reference,
}

/// A line that is longer does not push the others' sources away.
const ALIGNED_CHARS_MAX: usize = 48;

pub(super) fn run(location: &Location, command: Option<ConfigCommand>, as_json: bool) -> Result<u8, Error> {
    match command {
        Some(ConfigCommand::Schema) => super::print(&format!("{:#}", schema::schema())),
        Some(ConfigCommand::Reference) => super::print(reference::page().trim_end()),
        None => {
            let (config, effective) = config::load_effective(location)?;
            let text = if as_json { format!("{:#}", document(&config, &effective)) } else { file(&config, &effective) };
            super::print(text.trim_end());
        }
    }
    Ok(0)
}

/// A configuration file that says everything, with the source of each value behind it.
fn file(config: &Config, effective: &Effective) -> String {
    let mut text = format!("# {}\n# hash {}\n", super::plain(&config.file), config.hash);
    for group in &effective.groups {
        text.push_str(&table(group, &config.file));
    }
    text
}

fn table(group: &Group, file: &str) -> String {
    let lines: Vec<(String, String)> = group
        .settings
        .iter()
        .filter_map(|setting| {
            let value = setting.value.as_ref()?;
            // What is not shown whole must not be taken for the value.
            let comment = if setting.hidden { "# " } else { "" };
            Some((format!("{comment}{} = {value}", setting.key.name), source(setting, file)))
        })
        .collect();
    let chars = |line: &str| line.chars().count();
    let width = lines.iter().map(|(line, _)| chars(line)).filter(|width| *width <= ALIGNED_CHARS_MAX).max().unwrap_or(0);
    let mut text = format!("\n{}\n", group.header);
    for (line, source) in lines {
        let padding = " ".repeat(width.saturating_sub(chars(&line)));
        text.push_str(&format!("{line}{padding}  # {source}\n"));
    }
    text
}

fn source(setting: &Setting, file: &str) -> String {
    match &setting.source {
        Source::File { line, .. } => {
            let name = Path::new(file).file_name().map_or_else(|| file.into(), |name| name.to_string_lossy());
            super::plain(&format!("{name}:{line}"))
        }
        Source::Variable { name, borrowed: false } => super::plain(&format!("${name}")),
        Source::Variable { name, borrowed: true } => super::plain(&format!("${name} of --env-file")),
        Source::Default => "default".to_owned(),
    }
}

fn document(config: &Config, effective: &Effective) -> Json {
    let values: Vec<Json> =
        effective.groups.iter().flat_map(|group| group.settings.iter().map(|setting| value(group, setting, config))).collect();
    json!({ "file": config.file, "hash": config.hash, "values": values })
}

fn value(group: &Group, setting: &Setting, config: &Config) -> Json {
    let source = match &setting.source {
        Source::File { line, column } => json!({ "kind": "file", "file": config.file, "line": line, "column": column }),
        Source::Variable { name, borrowed } => json!({ "kind": "variable", "name": name, "env_file": borrowed }),
        Source::Default => json!({ "kind": "default" }),
    };
    json!({
        "key": format!("{}.{}", group.path, setting.key.name),
        "value": setting.value,
        "hidden": setting.hidden,
        "source": source,
    })
}
