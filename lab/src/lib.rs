//! Boots real systemd test hosts on this machine, for integration tests, the demo and benches.
//!
//! Way in: [`Lab::new`], [`Lab::boot_hosts`], [`Lab::host`]. A host is an nspawn container with
//! systemd as its PID 1; all hosts of a lab share one network namespace with a bridge, in which
//! the controller and the command line run too ([`Lab::netns_command`]). [`images`] builds the
//! squashfs images that tests push.
//!
//! A lab leaves nothing behind: dropping it tears it down, a watchdog process does when its owner
//! is killed, and the next lab sweeps what even that missed (a machine that lost power).
//!
//! [`deployment`] puts the product into a lab as its README tells a user to: as built programs,
//! driven from outside. Deliberately absent: any dependency on the product's crates.
#![allow(
    clippy::disallowed_methods,
    reason = "the lab's whole work is to run the machine's commands; it never ships"
)]

mod background;
mod base;
mod cache;
pub mod deployment;
mod exec;
mod host;
pub mod images;
mod lab;
mod network;
pub mod packages;
mod process;
mod teardown;
mod wait;

pub use background::Background;
pub use base::Suite;
pub use cache::Cache;
pub use deployment::Deployment;
pub use host::Host;
pub use lab::Lab;
pub use network::CONTROLLER_ADDR;
pub use wait::wait_until;
