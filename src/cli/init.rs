//! `items-listen init`: a first configuration, and the next command.

use std::collections::BTreeMap;

use crate::config::Location;
use crate::config::environment::{Variables, read_env_file};
use crate::error::Error;
use crate::watch::Relation;

/// Prints a configuration made of what the environment already says. It holds no secret: what comes from
/// the environment is left there.
pub(super) fn run(location: &Location, table: Option<&str>) -> Result<u8, Error> {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let borrowed = location.env_file.as_deref().map(read_env_file).transpose()?.unwrap_or_default();
    let variables = Variables::new(&environment, &borrowed);
    let table = table.unwrap_or("public.items");
    let relation = Relation::parse(table).map_err(|what| Error::Usage(format!("--table: {what}")))?;
    super::print(configuration(&variables, table, &relation).trim_end());
    let env_file = location.env_file.as_deref().map_or(String::new(), |path| format!(" --env-file {}", path.display()));
    eprintln!(
        "\nSave this as config.toml (items-listen init{env_file} > config.toml), then run:\n  chmod 600 config.toml\n  \
         items-listen{env_file} check"
    );
    Ok(0)
}

fn configuration(variables: &Variables<'_>, table: &str, relation: &Relation) -> String {
    let database = if variables.database_url().is_some() {
        "[database]\n# url comes from the environment (DATABASE_URL, DB_URL, DB_* or PG*)".to_owned()
    } else {
        "[database]\nurl = \"postgres://app@localhost/app\"      # a password may stand in a file of its own: url_file = \"…\""
            .to_owned()
    };
    let endpoint = match variables.broadcasting() {
        Some((name, _)) => format!("# The endpoint \"main\" comes from the environment ({name} and what belongs to it)."),
        None => "[endpoints.main]\nurl = \"http://127.0.0.1:8080\"              # Reverb, Soketi, Sockudo; or cluster = \"eu\"; or url = \"log:\"\n\
                 app_id = \"app-id\"\nkey = \"app-key\"\nsecret = \"app-secret\"                     # or secret_file = \"…\""
            .to_owned(),
    };
    let name: String =
        relation.name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' }).collect();
    let table = toml::Value::String(table.to_owned());
    format!(
        "{database}\n\n{endpoint}\n\n[[watch]]\nname = \"{name}\"\ntable = {table}\n\
         # key = [\"tenant_id\"]                      # one count, one alert per value\n\
         # where = \"status = 'open'\"                # count these rows only\n\
         threshold = 20                            # warning from 100 %, high from 120 %, critical from 150 %\n\n\
         [[watch.publish]]\nchannels = [\"{name}-alerts\"]\nevent = \"{name}.alert\"                  # Echo: .listen('.{name}.alert', …)\n"
    )
}
