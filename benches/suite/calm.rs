//! Whether anybody else uses the machine. Before a measurement everything of ours is idle: what the processors and the disk do
//! then is somebody else's work, and would be measured with it.

use std::time::Duration;

/// What others may use: a part of all processors.
const NOISE_MAX: f64 = 0.15;
const LOOK: Duration = Duration::from_millis(250);
const PATIENCE: u32 = 80;

/// Waits until the machine is idle, for twenty seconds at most; whether it was.
pub async fn wait() -> bool {
    for _ in 0..PATIENCE {
        let Some(before) = times() else { return true };
        tokio::time::sleep(LOOK).await;
        let Some(after) = times() else { return true };
        if busy(before, after) <= NOISE_MAX {
            return true;
        }
    }
    false
}

/// What was not idle; waiting for a disk is not idle either.
#[allow(clippy::cast_precision_loss, reason = "a share")]
fn busy(before: (u64, u64), after: (u64, u64)) -> f64 {
    let all = after.0.saturating_sub(before.0).max(1);
    1.0 - after.1.saturating_sub(before.1) as f64 / all as f64
}

/// Of all processors, the time since the start, and the idle one of it; `None` where the system does not tell.
fn times() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<u64> = text.lines().next()?.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    Some((fields.iter().sum(), *fields.get(3)?))
}
