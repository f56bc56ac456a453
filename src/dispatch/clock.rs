//! The clock that leases are counted by.

use std::time::Duration;

/// The time since boot, including the time asleep: a suspended machine must not believe in its leases, and
/// neither NTP nor an operator can turn this clock.
pub fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
