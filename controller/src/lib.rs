//! The Shoal controller: API, store, dispatch to agents, rollouts.

pub mod store;
