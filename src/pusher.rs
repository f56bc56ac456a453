//! The Pusher HTTP protocol: how a request is signed, what it contains, and what an answer means.

pub mod body;
pub mod classify;
pub mod client;
pub mod encrypt;
pub mod route;
pub mod sign;
mod tls;
