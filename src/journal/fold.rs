//! The fold's side of the journal: the snapshot it goes on from, and its limit.

/// `xmin:xmax:xip` of the last complete fold: the next one looks only at what it could not see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Every transaction from here on was invisible.
    pub xmax: String,
    /// So were these, though they are older.
    pub xip: Vec<String>,
}

impl Snapshot {
    /// From the beginning: whatever connection is new, watch is new, or cluster is another.
    pub fn beginning() -> Snapshot {
        Snapshot { xmax: "0".into(), xip: Vec::new() }
    }

    /// Reads PostgreSQL's text form of a `pg_snapshot`.
    pub fn parse(text: &str) -> Option<Snapshot> {
        let mut parts = text.splitn(3, ':');
        let (_xmin, xmax, xip) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Snapshot { xmax: xmax.into(), xip: xip.split(',').filter(|xid| !xid.is_empty()).map(str::to_owned).collect() })
    }
}

/// How many journal rows one fold takes at most. Not a bound on the backlog: a fold that reaches it is
/// followed by one with twice the limit, since nothing is evaluated before the journal is dry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(i64);

impl Limit {
    /// Where it starts, and where it returns when the journal is dry.
    const FIRST: i64 = 20_000;

    /// The first limit.
    pub fn first() -> Limit {
        if crate::chaos::is(crate::chaos::Mutation::EvaluateBeforeDry) {
            return Limit(10);
        }
        Limit(Limit::FIRST)
    }

    /// Rows.
    pub fn rows(self) -> i64 {
        self.0
    }

    /// After a fold: reset when it was complete, doubled when not.
    pub fn after(self, complete: bool) -> Limit {
        if complete { Limit::first() } else { Limit(self.0.saturating_mul(2)) }
    }

    /// After a statement timeout.
    pub fn halved(self) -> Limit {
        Limit((self.0 / 2).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_read() {
        let snapshot = |text| Snapshot::parse(text);
        assert_eq!(snapshot("10:20:10,14"), Some(Snapshot { xmax: "20".into(), xip: vec!["10".into(), "14".into()] }));
        assert_eq!(snapshot("10:10:"), Some(Snapshot { xmax: "10".into(), xip: vec![] }));
        assert_eq!(snapshot("10"), None);
    }

    #[test]
    fn the_limit_doubles_until_the_journal_is_dry() {
        let limit = Limit::first().after(false).after(false);
        assert_eq!(limit.rows(), 80_000);
        assert_eq!(limit.halved().rows(), 40_000);
        assert_eq!(limit.after(true), Limit::first());
        assert_eq!(Limit(1).halved().rows(), 1);
        assert_eq!(Limit(i64::MAX).after(false).rows(), i64::MAX);
    }
}
