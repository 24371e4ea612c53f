//! The Shoal controller: API, store, dispatch to agents, rollouts.
//!
//! Deliberately absent: any decision about fleets (that is `shoal-core`'s), and anything that
//! touches a host (that is the agent's, which dials in and is told).

pub mod app;
pub mod authority;
pub mod clock;
pub mod config;
pub mod listener;
pub mod live;
mod random;
pub mod records;
pub mod refusal;
pub mod sessions;
pub mod store;
