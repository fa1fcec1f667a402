//! Placeholder until the rooms stand; the lead's file replaces it.
pub mod inference;
