//! Hostile keys and rows.
