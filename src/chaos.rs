//! For the chaos runner (`make chaos`) only: points at which a process is killed, and builds that are deliberately wrong.
//!
//! Without the feature `chaos`, which no release has, a point is nothing, and [`is`] is a constant `false`.

/// A named step of the path. `FAILPOINTS` says what happens there: `fold.taken=3*off->return` kills this process, as
/// `kill -9` does, when it comes by for the fourth time.
macro_rules! point {
    ($name:literal) => {
        #[cfg(feature = "chaos")]
        $crate::chaos::reach($name)
    };
}
pub(crate) use point;

/// What a build can have wrong. Each must make the runner fail: a test keeps it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A delivery is settled before it is sent.
    SettleBeforeSending,
    /// LISTEN comes after the last fold before sleeping.
    ListenAfterFold,
    /// The severity is stored in a transaction of its own.
    StateOutsideTransaction,
    /// Each event of a batch has an idempotency key of its own.
    IdempotencyKeyPerItem,
    /// After arming, nothing is folded once more.
    ArmWithoutLastFold,
    /// The snapshot is taken after the statement that it is to bound.
    SnapshotInSecondStatement,
    /// Keys are evaluated although the journal is not dry.
    EvaluateBeforeDry,
    /// A fold does not take the fold's lock.
    TwoFolders,
    /// What is sent from memory is not leased.
    BornUnleased,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 9] = [
        Mutation::SettleBeforeSending,
        Mutation::ListenAfterFold,
        Mutation::StateOutsideTransaction,
        Mutation::IdempotencyKeyPerItem,
        Mutation::ArmWithoutLastFold,
        Mutation::SnapshotInSecondStatement,
        Mutation::EvaluateBeforeDry,
        Mutation::TwoFolders,
        Mutation::BornUnleased,
    ];
}

/// The points there are: the runner fails if one of them was never reached with a kill.
pub const POINTS: [&str; 25] = [
    "session.entered",
    "session.listening",
    "session.beat",
    "install.marked",
    "recount.begun",
    "recount.committed",
    "fold.begun",
    "fold.taken",
    "fold.deliveries",
    "fold.episodes",
    "fold.states",
    "fold.written",
    "fold.committed",
    "fold.accepted",
    "bell.armed",
    "bell.heard",
    "claim.before",
    "claim.after",
    "send.before",
    "send.after",
    "settle.before",
    "settle.after",
    "reload.built",
    "reload.swapped",
    "stop.drained",
];

/// Whether this build is wrong in this way: `CHAOS_MUTATION`, by its name as `Debug` writes it.
#[cfg(feature = "chaos")]
pub fn is(mutation: Mutation) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<Mutation>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let name = std::env::var("CHAOS_MUTATION").ok()?;
        Mutation::ALL.into_iter().find(|mutation| format!("{mutation:?}") == name)
    });
    *chosen == Some(mutation)
}

/// A release is never wrong on purpose.
#[cfg(not(feature = "chaos"))]
#[inline(always)]
pub const fn is(_mutation: Mutation) -> bool {
    false
}

/// Reads `FAILPOINTS`.
#[cfg(feature = "chaos")]
pub fn begin() {
    // For as long as the process lives: dropping it would take the points back.
    std::mem::forget(fail::FailScenario::setup());
}

#[cfg(feature = "chaos")]
pub(crate) fn reach(name: &'static str) {
    debug_assert!(POINTS.contains(&name), "{name} is not in the list");
    let _died: Option<()> = fail::eval(name, |_| {
        eprintln!("{{\"failpoint\":\"{name}\"}}");
        let _gone = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    });
}
