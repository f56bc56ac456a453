//! The watches: whether they can be what the configuration says, whether schema and triggers match it, and what `install`
//! would change.

use tokio_postgres::Client;

use super::database::Place;
use super::finding::{Findings, Id};
use super::locked::{self, Patience};
use super::privileges::{self, Rights};
use super::progress::told;
use super::report::Seen;
use super::safety;
use super::steps::steps;
use crate::config::Install;
use crate::error::Error;
use crate::journal::definition::{Before, Definition};
use crate::journal::recount::{self, Compared};
use crate::journal::{functions, install, retire, trigger};
use crate::source::sweep;
use crate::watch::{Source, Watch};

/// Looks at all of them; `installed` is whether the schema can be asked about them.
pub(super) async fn look(
    client: &mut Client,
    place: &Place<'_>,
    installed: bool,
    findings: &mut Findings,
    seen: &mut Seen,
) -> Result<(), Error> {
    let temporary = privileges::of_temporary(client, place, findings).await?;
    let mut patience = Patience::default();
    for watch in &place.config.watches {
        let what = format!("looking at the watch {}", watch.name);
        let mut one = One { place, watch, subject: format!("watch {}", watch.name), installed, temporary, findings, seen };
        match told(&what, Box::pin(one.look_again(client, &mut patience))).await {
            Err(error) if error.is_about_the_server() => return Err(error),
            Err(error) if error.is_locked() => locked::found(client, &one.subject, Some(watch), &error, one.findings).await?,
            Err(error) => one.wrong(&error, "see the message; then check again"),
            Ok(()) => {}
        }
    }
    if installed {
        removed(client, place, findings, seen).await?;
    }
    Ok(())
}

/// A watch that is being looked at.
struct One<'a, 'b> {
    place: &'a Place<'b>,
    watch: &'a Watch,
    subject: String,
    installed: bool,
    temporary: bool,
    findings: &'a mut Findings,
    seen: &'a mut Seen,
}

/// A watch as it stands in the database.
struct Found {
    installed: install::Installed,
    before: Before,
    policy: String,
    error: Option<String>,
}

impl One<'_, '_> {
    fn wrong(&mut self, error: &Error, remedy: &str) {
        self.findings.error(Id::WatchDefinition, &self.subject, error.to_string(), remedy);
    }

    /// Looks, and looks again for a while where something is locked: what was found half-way is found anew.
    async fn look_again(&mut self, client: &mut Client, patience: &mut Patience) -> Result<(), Error> {
        let (found, seen) = (self.findings.all.len(), *self.seen);
        loop {
            match self.look(client).await {
                Err(error) if error.is_locked() && patience.lasts(&self.subject).await => {
                    self.findings.all.truncate(found);
                    *self.seen = seen;
                }
                looked => return looked,
            }
        }
    }

    async fn look(&mut self, client: &mut Client) -> Result<(), Error> {
        self.lookup(client).await?;
        match &self.watch.source {
            Source::Notify { .. } => {
                self.findings.ok(Id::Watch, &self.subject, "an application's NOTIFY");
                self.degraded(client).await
            }
            Source::Query { sql, .. } => self.query(client, sql).await,
            Source::Table { .. } => Box::pin(self.table(client)).await,
        }
    }

    async fn lookup(&mut self, client: &Client) -> Result<(), Error> {
        let Some(lookup) = &self.watch.lookup else { return Ok(()) };
        if let Err(error) = install::prove_lookup(client, self.watch).await
            && !error.to_string().contains("SQLSTATE 42501")
        {
            if error.is_locked() {
                return Err(error);
            }
            self.findings.error(Id::Lookup, &self.subject, error.to_string(), "correct lookup in the configuration");
            return Ok(());
        }
        let parameters = lookup.parameters.len();
        let question = lookup.statement();
        privileges::of_question(self.place, &self.subject, "lookup", (&lookup.sql, &question), parameters, self.findings).await?;
        if self.temporary {
            safety::of_question(client, self.place, &self.subject, "lookup", &lookup.sql, self.findings).await?;
        }
        Ok(())
    }

    async fn query(&mut self, client: &Client, sql: &str) -> Result<(), Error> {
        let question = format!("SELECT FROM (\n{sql}\n) AS items_listen_question");
        if !privileges::of_question(self.place, &self.subject, "query", (sql, &question), 0, self.findings).await? {
            return Ok(());
        }
        let Source::Query { every, .. } = &self.watch.source else { return Ok(()) };
        match sweep::Sweep::of(client, self.place.schema, self.watch, sql).await {
            Ok(_) => self.findings.ok(Id::Watch, &self.subject, format!("a query, asked every {every:?}")),
            Err(error) if error.is_locked() => return Err(error),
            Err(error) => self.wrong(&error, "correct query, key, sum or value in the configuration"),
        }
        if self.temporary {
            safety::of_question(client, self.place, &self.subject, "query", sql, self.findings).await?;
        }
        self.degraded(client).await
    }

    async fn table(&mut self, client: &mut Client) -> Result<(), Error> {
        let Some(relation) = self.watch.source.relation() else { return Ok(()) };
        let rights = privileges::of_table(client, self.place, self.watch, relation, self.findings).await?;
        if rights.as_ref().is_some_and(|rights| !rights.readable) {
            return Ok(());
        }
        let definition = match Definition::of_installed(client, self.place.schema, self.watch).await {
            Ok(Some(definition)) => definition,
            Ok(None) => return Ok(()),
            Err(error) if error.is_about_the_server() || error.is_locked() => return Err(error),
            Err(error) => {
                self.wrong(&error, "correct table and key in the configuration");
                return Ok(());
            }
        };
        if self.temporary
            && let Err(error) = definition.prove_immutable(client, self.place.schema).await
        {
            if error.is_locked() {
                return Err(error);
            }
            if error.to_string().contains("(SQLSTATE 42501)") {
                let grant = privileges::grant_for(client, self.place, &error).await?;
                self.findings.error(Id::Privileges, &self.subject, error.to_string(), grant);
            } else {
                self.wrong(&error, "correct where, sum or value in the configuration");
            }
            return Ok(());
        }
        if self.temporary {
            safety::of_definition(client, self.place, &self.subject, &definition, self.findings).await?;
        }
        let Some(rights) = rights else { return Ok(()) };
        let found = if self.installed { self.found(client).await? } else { None };
        match found {
            None => self.would_be_installed(&definition, &rights),
            Some(found) => self.compare(client, &definition, &rights, found).await?,
        }
        Ok(())
    }

    async fn found(&self, client: &Client) -> Result<Option<Found>, Error> {
        let sql = self.place.schema.sql(
            "SELECT id, generation, relation, key_columns, key_types, definition, policy, error
             FROM items_listen.watch WHERE name = $1 AND definition <> ''",
        );
        Ok(client.query_opt(sql.as_str(), &[&self.watch.name]).await?.map(|row| Found {
            installed: install::Installed { id: row.get(0), generation: row.get(1) },
            before: Before { relation: row.get(2), key: row.get(3), types: row.get(4), text: row.get(5) },
            policy: row.get(6),
            error: row.get(7),
        }))
    }

    /// What the daemon noted of a watch without triggers.
    async fn degraded(&mut self, client: &Client) -> Result<(), Error> {
        if self.installed
            && let Some(found) = self.found(client).await?
        {
            self.noted(&found);
        }
        Ok(())
    }

    fn noted(&mut self, found: &Found) {
        if let Some(error) = &found.error {
            self.findings.warn(
                Id::WatchDegraded,
                &self.subject,
                format!("a daemon found: {error}"),
                "mend it; a running daemon tries again by itself, another at its start",
            );
        }
    }

    /// Nothing stands in the database yet.
    fn would_be_installed(&mut self, definition: &Definition, rights: &Rights) {
        self.seen.to_install = true;
        let partitions = match rights.tree.len() {
            0 | 1 => String::new(),
            2 => " and its partition".to_owned(),
            more => format!(" and each of its {} partitions", more - 1),
        };
        let counted = match rights.rows {
            _ if !definition.counts => String::new(),
            0 => ", then its rows are counted".to_owned(),
            rows => format!(", then about {rows} rows are counted"),
        };
        let what = format!(
            "{} will be watched once it is installed: {} triggers on it{partitions}{counted}",
            definition.relation.replace('"', ""),
            definition.events().len(),
        );
        self.announce(Id::Watch, what);
    }

    /// What `install` does: the daemon by itself, or somebody.
    fn announce(&mut self, id: Id, what: String) {
        match self.place.database.install {
            Install::Auto => self.findings.info(id, &self.subject, what, None),
            Install::Manual => self.findings.warn(id, &self.subject, what, AS_OWNER),
        }
    }

    async fn compare(&mut self, client: &Client, definition: &Definition, rights: &Rights, found: Found) -> Result<(), Error> {
        self.noted(&found);
        let differ = definition.differences(self.watch.key(), &found.before);
        if !differ.is_empty() {
            self.seen.to_install = true;
            self.changed(definition, rights, &differ);
            return Ok(());
        }
        if !found.policy.is_empty() && found.policy != self.watch.policy_hash() {
            self.findings.info(
                Id::Policy,
                &self.subject,
                "threshold, bands or times are others than those in force: all keys are judged anew when the daemon starts",
                None,
            );
        }
        // With install = "manual" it is not this role that does so.
        if !rights.owns && self.place.database.install == Install::Auto {
            let what = "this role may put triggers on the table, but not take them away or change their definition under a lock";
            let remedy =
                "for that let the table's owner run items-listen install and uninstall, or make this role a member of it";
            self.findings.info(Id::Ownership, &self.subject, what, Some(remedy.to_owned()));
        }
        self.functions(client, definition, &found.installed).await?;
        let coverage = install::findings(client, self.place.schema, found.installed.id).await?;
        let relation = definition.relation.replace('"', "");
        if coverage.is_empty() {
            let partitions =
                if rights.tree.len() > 1 { format!(" and {} partitions", rights.tree.len() - 1) } else { String::new() };
            self.findings.ok(Id::Triggers, &self.subject, format!("{relation}{partitions}, triggers in place"));
            return self.drift(definition, &found.installed).await;
        }
        self.seen.to_install = true;
        for (what, remedy) in steps(self.place, found.installed.id, &coverage) {
            let remedy = remedy.unwrap_or_else(|| self.by_itself());
            self.findings.warn(Id::Triggers, &self.subject, what, remedy);
        }
        Ok(())
    }

    fn changed(&mut self, definition: &Definition, rights: &Rights, differ: &[&str]) {
        let recount = if definition.counts { ", and count the table anew" } else { "" };
        let what = format!(
            "it is installed with another definition ({}): install would replace its triggers{recount}",
            differ.join(", ")
        );
        if rights.owns {
            self.findings.warn(Id::WatchChanged, &self.subject, what, "items-listen install, or restart the daemon");
        } else {
            self.findings.warn(Id::WatchChanged, &self.subject, what, AS_OWNER);
        }
    }

    /// Whether the functions behind the triggers are this program's.
    async fn functions(&mut self, client: &Client, definition: &Definition, installed: &install::Installed) -> Result<(), Error> {
        let stale = functions::stale(client, self.place.schema, installed, definition).await?;
        if !stale.is_empty() {
            self.seen.to_install = true;
            let what = "its trigger functions are not those of this version, or were changed: they go on, and install would replace \
                        them without a lock on the table";
            let remedy = match self.place.database.install {
                Install::Manual => "items-listen install as their owner, or let a DBA run what items-listen install --print says",
                Install::Auto => "items-listen install, or restart the daemon",
            };
            self.findings.warn(Id::TriggerFunctions, &self.subject, what, remedy);
        }
        Ok(())
    }

    /// Who puts triggers in place.
    fn by_itself(&self) -> String {
        match (self.place.database.install, self.seen.daemons) {
            (Install::Manual, _) => AS_OWNER.to_owned(),
            (Install::Auto, 0) => "items-listen install, or start the daemon".to_owned(),
            (Install::Auto, _) => "the running daemon does it within a second; if it does not, its log says why".to_owned(),
        }
    }

    /// On request: whether the counts are those of the table.
    async fn drift(&mut self, definition: &Definition, installed: &install::Installed) -> Result<(), Error> {
        if !self.place.recount {
            return Ok(());
        }
        let what = format!("counting {}", definition.relation);
        let comparing = recount::compare(self.place.connector, self.place.schema, &self.watch.name, installed, definition);
        match told(&what, comparing).await? {
            Compared::Exact => self.findings.ok(Id::Drift, &self.subject, "its counts are exactly those of the table"),
            Compared::Unknown(why) => {
                self.findings.info(
                    Id::Drift,
                    &self.subject,
                    format!("not compared: {why}"),
                    Some("check --recount again".to_owned()),
                );
            }
            Compared::Drift { keys, worst } => {
                let what = format!("the counts of {keys} keys are not those of the table: {}", worst.join("; "));
                let remedy = format!("items-listen recount {}", super::file::argument(&self.watch.name));
                self.findings.warn(Id::Drift, &self.subject, what, remedy);
            }
        }
        Ok(())
    }
}

const AS_OWNER: &str = "items-listen install as the table's owner, or let a DBA run what items-listen install --print says";

/// Watches that are installed and in the configuration no more.
async fn removed(client: &Client, place: &Place<'_>, findings: &mut Findings, seen: &mut Seen) -> Result<(), Error> {
    let names: Vec<String> = place.config.watches.iter().map(|watch| watch.name.clone()).collect();
    for (id, name) in retire::strangers(client, place.schema, &names, &[]).await? {
        let triggers: Vec<String> = trigger::EVENTS.iter().map(|event| trigger::name(place.schema, id, event)).collect();
        let count = "SELECT count(*) FROM pg_trigger WHERE tgname = ANY ($1) AND NOT tgisinternal";
        let count: i64 = client.query_one(count, &[&triggers]).await?.get(0);
        let what = format!(
            "it is installed, but not in the configuration: install would take its {count} triggers away and resolve its alerts as disabled"
        );
        let subject = format!("watch {name}");
        match place.database.install {
            Install::Auto => {
                findings.info(Id::WatchRemoved, &subject, what, Some("the daemon does it at its next start".to_owned()))
            }
            Install::Manual => {
                seen.to_install = true;
                findings.warn(Id::WatchRemoved, &subject, what, AS_OWNER);
            }
        }
    }
    Ok(())
}
