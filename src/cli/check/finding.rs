//! What was found: a closed set of subjects, each at a depth, and how bad it is.

use serde::Serialize;

use crate::db::explain::Cause;

/// How deep one has to look for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Depth {
    File,
    Database,
    Endpoint,
}

/// How bad a finding is. What is informational needs no hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    Info,
    Warning,
    Error,
}

macro_rules! ids {
    ($($depth:ident { $($id:ident = $name:literal,)+ })+) => {
        /// What a finding is about: the names are stable, and `docs/check.md` explains each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Id {
            $($($id,)+)+
            /// No session is to be had.
            Session(Cause),
        }

        impl Id {
            /// All but the causes of a session that is not to be had.
            #[cfg(test)]
            const ALL: &[Id] = &[$($(Id::$id,)+)+];

            pub(super) fn as_str(self) -> &'static str {
                match self {
                    $($(Id::$id => $name,)+)+
                    Id::Session(cause) => cause.as_str(),
                }
            }

            pub(super) fn depth(self) -> Depth {
                match self {
                    $($(Id::$id)|+ => Depth::$depth,)+
                    Id::Session(_) => Depth::Database,
                }
            }
        }
    };
}

ids! {
    File {
        ConfigFile = "config-file",
        FileMode = "file-mode",
        HttpOpen = "http-open",
        ChannelSeparator = "channel-separator",
        RuleNeverFires = "rule-never-fires",
        EndpointUnused = "endpoint-unused",
    }
    Database {
        NoDatabase = "database-missing",
        DatabaseUrl = "database-url",
        SessionOther = "database-session",
        Pooler = "pooler",
        Server = "server",
        ServerVersion = "server-version",
        Standby = "standby",
        Listen = "listen",
        Doorbell = "doorbell",
        DatabaseTls = "database-tls",
        DatabaseClock = "database-clock",
        Headroom = "connections",
        Encoding = "encoding",
        Publication = "publication",
        ReplicationRole = "replication-role",
        NotificationQueue = "notification-queue",
        VacuumHorizon = "vacuum-horizon",
        Schema = "schema",
        SchemaVersion = "schema-version",
        SchemaPrivileges = "schema-privileges",
        Journal = "journal",
        Copy = "copied-database",
        Watch = "watch",
        WatchDefinition = "watch-definition",
        WatchChanged = "watch-changed",
        WatchRemoved = "watch-removed",
        WatchDegraded = "watch-degraded",
        Policy = "policy",
        Lookup = "lookup",
        Privileges = "privileges",
        Ownership = "ownership",
        RoleRights = "role-rights",
        FunctionRights = "function-rights",
        SchemaGrants = "schema-grants",
        ExpressionCode = "expression-code",
        RowSecurity = "row-security",
        Triggers = "triggers",
        TriggerFunctions = "trigger-functions",
        Drift = "drift",
        Locked = "locked",
        Interrupted = "interrupted",
    }
    Endpoint {
        Endpoint = "endpoint",
        EndpointSignature = "endpoint-signature",
        EndpointApplication = "endpoint-application",
        EndpointAnswer = "endpoint-answer",
        EndpointConnection = "endpoint-connection",
        EndpointTls = "endpoint-tls",
        EndpointCertificate = "endpoint-certificate",
        EndpointPlain = "endpoint-plain",
        EndpointProxy = "endpoint-proxy",
        EndpointSilent = "endpoint-silent",
        EndpointClock = "endpoint-clock",
    }
}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One finding.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) depth: Depth,
    pub(super) level: Level,
    pub(super) subject: String,
    pub(super) id: Id,
    pub(super) what: String,
    pub(super) remedy: Option<String>,
}

/// What was found, in the order in which it was looked at.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) all: Vec<Finding>,
    /// Something that is needed cannot be reached.
    pub(super) unreachable: bool,
}

impl Findings {
    fn add(&mut self, level: Level, id: Id, subject: &str, what: impl Into<String>, remedy: Option<String>) {
        let (depth, subject, what) = (id.depth(), subject.to_owned(), what.into());
        self.all.push(Finding { depth, level, subject, id, what, remedy });
    }

    pub(super) fn ok(&mut self, id: Id, subject: &str, what: impl Into<String>) {
        self.add(Level::Ok, id, subject, what, None);
    }

    /// What is good to know; a remedy, where one is given, is a possibility.
    pub(super) fn info(&mut self, id: Id, subject: &str, what: impl Into<String>, remedy: Option<String>) {
        self.add(Level::Info, id, subject, what, remedy);
    }

    pub(super) fn warn(&mut self, id: Id, subject: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Warning, id, subject, what, Some(remedy.into()));
    }

    pub(super) fn error(&mut self, id: Id, subject: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Error, id, subject, what, Some(remedy.into()));
    }

    pub(super) fn extend(&mut self, others: Findings) {
        self.all.extend(others.all);
        self.unreachable |= others.unreachable;
    }

    pub(super) fn count(&self, level: Level) -> usize {
        self.all.iter().filter(|finding| finding.level == level).count()
    }

    /// Nothing needs a hand.
    pub(super) fn is_well(&self) -> bool {
        self.count(Level::Warning) + self.count(Level::Error) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_is_explained_in_the_documentation() {
        let text = include_str!("../../../docs/check.md");
        let names: Vec<&str> =
            Id::ALL.iter().map(|id| id.as_str()).chain(Cause::ALL.iter().map(|cause| cause.as_str())).collect();
        for name in &names {
            assert!(text.contains(&format!("| `{name}` |")), "docs/check.md does not explain {name}");
        }
        let explained = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        for name in explained.map(|(name, _)| name).filter(|name| !name.contains('`')) {
            assert!(names.contains(&name), "docs/check.md explains {name}, which is never found");
        }
    }
}
