//! What takes more than a second is said, to stderr, while it goes on.

use std::time::Duration;

const SLOW: Duration = Duration::from_secs(1);

/// Waits for `work`, and says `what` is being done if it takes its time.
pub(super) async fn told<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(SLOW) => eprintln!("items-listen: {} …", crate::cli::plain(what)),
    }
    work.await
}
