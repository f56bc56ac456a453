//! What stands in this process's memory stays there: no core file, and nobody of the same user reads it.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Forbids core files, for good, and makes the process one that may not be traced: then another process of the same user can
/// read neither its memory nor its environment (`/proc/PID/mem`, `/proc/PID/environ`). Root can. The first thing that the
/// program does.
///
/// Where the system does not let us (a filter of system calls, as in our unit, which sets the limit itself), the rest holds.
pub fn keep_private() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _refused = setrlimit(Resource::Core, none);
    let _refused = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
