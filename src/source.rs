//! Where readings come from: the session that listens, the doorbell on it, the slow beat, and the payloads
//! of applications that NOTIFY by themselves.

pub mod doorbell;
pub mod listen;
pub mod payload;
pub mod poll;
pub mod sweep;
