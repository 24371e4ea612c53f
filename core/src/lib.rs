//! Shoal's domain: what users want, what was observed, and what to do about the difference.
//!
//! Everything here is pure: no I/O, no clock, no async, no wire types. Time comes in as an
//! argument, decisions go out as values. The ways in are [`fleetfile::parse`] (text to
//! [`fleet::FleetSpec`]), [`placement::place`] (a fleet onto hosts), [`plan::plan`] (one host's
//! next steps) and [`rollout::step`] (a fleet's move to a revision).

pub mod agent_program;
pub mod agent_upgrade;
pub mod cause;
pub mod diff;
pub mod drift;
pub mod event;
pub mod fallback;
pub mod fanout;
pub mod fleet;
pub mod fleetfile;
pub mod health;
pub mod hooks;
pub mod host;
pub mod image;
pub mod infra;
pub mod label;
pub mod name;
pub mod nspawn;
pub mod pace;
pub mod peers;
pub mod placement;
pub mod plan;
pub mod policy;
pub mod render;
pub mod rollout;
pub mod secret;
pub mod sources;
pub mod spec;
pub mod status;
mod text;
pub mod time;
pub mod transfer;
pub mod uidrange;
pub mod update;
