//! What can go wrong, and the exit code that says so.

use std::fmt;

use crate::config::Mistake;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub enum Error {
    /// The configuration: exit code 78.
    Config(Vec<Mistake>),
    /// The schema in the database is newer than this program: exit code 78.
    SchemaTooNew {
        /// The version found.
        found: i32,
        /// The newest version known.
        known: i32,
    },
    /// Something that is needed cannot be reached: exit code 69.
    Unavailable(String),
    /// The database said no.
    Database(tokio_postgres::Error),
    /// The command line asks for what there is not: exit code 2.
    Usage(String),
    /// A lock was not to be had: trying again may help. Exit code 1.
    Busy(String),
    /// Anything else: exit code 1.
    Failed(String),
}

impl Error {
    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Config(_) | Error::SchemaTooNew { .. } => 78,
            Error::Unavailable(_) => 69,
            Error::Usage(_) => 2,
            Error::Database(error) if error.as_db_error().is_none() => 69,
            Error::Database(_) | Error::Failed(_) | Error::Busy(_) => 1,
        }
    }

    /// Whether it is only a lock that was not to be had.
    pub fn is_busy(&self) -> bool {
        matches!(self, Error::Busy(_))
    }

    /// The error with what it is about before it. A lock that was not to be had stays one.
    pub fn about(what: impl fmt::Display, error: impl Into<Error>) -> Error {
        let error = error.into();
        let said = format!("{what}: {error}");
        if error.is_locked() { Error::Busy(said) } else { Error::Failed(said) }
    }

    /// Whether a lock was not to be had in time (SQLSTATE 55P03): it says nothing about what was asked.
    pub fn is_locked(&self) -> bool {
        self.is_busy() || self.sqlstate() == Some("55P03")
    }

    /// Whether the connection is lost, or the server ends it, as opposed to an answer.
    pub fn is_lost(&self) -> bool {
        self.exit_code() == 69 || self.sqlstate().is_some_and(|state| state.starts_with("08") || state.starts_with("57P"))
    }

    /// Whether it says nothing about a table or an expression: the connection is lost, or the server is read-only
    /// (SQLSTATE 25006), has no disk (53100) or no connection left (53300).
    pub fn is_about_the_server(&self) -> bool {
        self.is_lost() || self.sqlstate().is_some_and(|state| ["25006", "53100", "53300"].contains(&state))
    }

    /// Whether a statement does not fit what is in the database: a table or column that is gone, or of another type.
    pub fn is_about_a_definition(&self) -> bool {
        self.sqlstate().is_some_and(|state| state.starts_with("42") || state == "0A000")
    }

    /// Whether a value cannot be read as what it is to be, or used so (SQLSTATE class 22).
    pub fn is_about_a_value(&self) -> bool {
        self.sqlstate().is_some_and(|state| state.starts_with("22"))
    }

    /// An error and what caused it, in one line.
    pub fn chain(error: &dyn std::error::Error) -> String {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    }

    /// The SQLSTATE, if the database gave one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Error::Database(error) => error.code().map(tokio_postgres::error::SqlState::code),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config(mistakes) => {
                let lines: Vec<String> = mistakes.iter().map(Mistake::to_string).collect();
                f.write_str(&lines.join("\n"))
            }
            Error::SchemaTooNew { found, known } => write!(
                f,
                "the schema in the database is version {found}, this program knows up to {known}: install a newer items-listen"
            ),
            Error::Unavailable(what) | Error::Usage(what) | Error::Busy(what) | Error::Failed(what) => f.write_str(what),
            Error::Database(error) => match error.as_db_error() {
                Some(db) => {
                    write!(f, "{} (SQLSTATE {})", db.message(), db.code().code())?;
                    if let Some(detail) = db.detail() {
                        write!(f, "; {detail}")?;
                    }
                    if let Some(hint) = db.hint() {
                        write!(f, "; {hint}")?;
                    }
                    Ok(())
                }
                None => f.write_str(&Error::chain(error)),
            },
        }
    }
}

impl std::error::Error for Error {}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Error {
        Error::Database(error)
    }
}

impl From<deadpool_postgres::PoolError> for Error {
    fn from(error: deadpool_postgres::PoolError) -> Error {
        match error {
            deadpool_postgres::PoolError::Backend(error) => Error::Database(error),
            other => Error::Unavailable(format!("no connection from the pool: {other}")),
        }
    }
}
