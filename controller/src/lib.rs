//! The Shoal controller: API, store, dispatch to agents, rollouts.
//!
//! Way in: [`init::init`] makes a controller's directory, [`server::run`] serves from it.
//! [`app::App`] is what every service shares: the store, hosts as they are right now, the CA. Who
//! may call what is decided in [`access`] alone, before a service sees the call.
//!
//! Deliberately absent: any decision about fleets (that is `shoal-core`'s), and anything that
//! touches a host (that is the agent's, which dials in and is told).

pub mod access;
pub mod agents_api;
pub mod app;
pub mod audit;
pub mod authority;
pub mod blobs;
pub mod clock;
pub mod config;
pub mod controller_api;
pub mod enrol;
pub mod events;
pub mod events_api;
pub mod fleets_api;
pub mod hosts_api;
pub mod images_api;
pub mod init;
pub mod instances_api;
pub mod inventory;
pub mod link;
pub mod listener;
pub mod live;
pub mod locks;
pub mod peers;
mod random;
pub mod records;
pub mod refusal;
pub mod rollout_driver;
pub mod rollouts_api;
pub mod secrets;
pub mod secrets_api;
pub mod server;
pub mod sessions;
#[cfg(test)]
mod simulation;
pub mod store;
pub mod transfers;
