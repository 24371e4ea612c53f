//! Rollouts over real hosts, through the command alone: what is bad stops at the canary, a
//! controller that is killed at any step carries on, and a host that was away tells no lies. Needs
//! root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

mod bad;
mod killed;
mod offline;
mod shop;
mod written;
