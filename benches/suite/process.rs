//! What the kernel says of a process. A megabyte is a million bytes.

/// Resident memory in MB.
pub fn resident(pid: u32) -> f64 {
    field(pid, "status", "VmRSS:")
}

/// The most that it ever was, in MB.
pub fn peak(pid: u32) -> f64 {
    field(pid, "status", "VmHWM:")
}

/// Resident memory, of which what is shared with other processes counts in part, in MB.
pub fn share(pid: u32) -> f64 {
    field(pid, "smaps_rollup", "Pss:")
}

fn field(pid: u32, file: &str, name: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("it runs");
    let line = text.lines().find(|line| line.starts_with(name)).expect("Linux says so");
    let kibibytes: f64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number");
    kibibytes * 1_024.0 / 1_000_000.0
}
