//! Advisory locks: their keys come from the schema's oid, so that two installations do not meet.
//!
//! | lock | held by | while |
//! |---|---|---|
//! | doorbell | the LISTEN session, exclusively | it sleeps: a writer that is refused it rings |
//! | awake | the LISTEN session, shared | it works: keeps other replicas from arming |
//! | fold | a transaction that writes `count`, events, deliveries | that transaction |
//! | install | whoever changes schema or triggers | that work |
//! | recount | a recount of one watch | it runs |
//! | source | the replica that serves a notify watch | it serves it |

/// The first byte of all our keys: so that they are told from an application's small numbers.
const FAMILY: i64 = 0x49 << 56;

/// A kind of lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// The doorbell is armed.
    Doorbell,
    /// A replica is awake.
    Awake,
    /// A fold, or another writer of counts, is at work.
    Fold,
    /// Schema or triggers are being changed.
    Install,
    /// The watch of this id is being counted anew.
    Recount(i32),
    /// The notify watch of this id is served.
    Source(i32),
}

impl Lock {
    /// The key without the schema's oid, which SQL adds.
    pub fn base(self) -> i64 {
        let kind = match self {
            Lock::Doorbell => 1,
            Lock::Awake => 2,
            Lock::Fold => 3,
            Lock::Install => 4,
            Lock::Recount(watch) => 0x40_0000 + i64::from(watch),
            Lock::Source(watch) => 0x80_0000 + i64::from(watch),
        };
        FAMILY | (kind << 32)
    }

    /// The key as an SQL expression.
    pub fn sql(self, schema: &super::schema::Schema) -> String {
        format!("({} | '{}'::regnamespace::oid::bigint)", self.base(), schema.name())
    }
}
