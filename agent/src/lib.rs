//! The Shoal agent: the daemon that runs nspawn and image operations on one host.
//!
//! Ways in: [`link`] keeps the stream to the controller, [`ledger`] keeps what it wants,
//! [`reconcile`] makes the host so, [`stage`] brings images, [`secrets`] keeps secrets, and [`host`] is the only place that
//! touches the system. `container::start` is what each instance's unit runs, without the daemon.

pub mod clock;
pub mod connect;
pub mod daemon;
pub mod events;
pub mod fallback;
pub mod files;
pub mod host;
pub mod identity;
pub mod join;
pub mod ledger;
pub mod link;
pub mod local;
pub mod monitor;
pub mod paths;
pub mod policy;
pub mod reconcile;
pub mod record;
pub mod renew;
pub mod scrub;
pub mod secrets;
pub mod sessions;
pub mod stage;
pub mod status;
pub mod stock;
pub mod trust;
pub mod upgrade;
pub mod verified;
pub mod version;

pub(crate) use shoal_core::cause::chain;
