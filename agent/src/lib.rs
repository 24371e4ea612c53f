//! The Shoal agent: the daemon that runs nspawn and image operations on one host.
//!
//! Ways in: [`link`] keeps the stream to the controller, [`ledger`] keeps what it wants,
//! [`reconcile`] makes the host so, [`stage`] brings images, and [`host`] is the only place that
//! touches the system. `container::start` is what each instance's unit runs, without the daemon.

pub mod clock;
pub mod connect;
pub mod daemon;
pub mod files;
pub mod host;
pub mod identity;
pub mod join;
pub mod ledger;
pub mod link;
pub mod local;
pub mod monitor;
pub mod paths;
pub mod reconcile;
pub mod record;
pub mod renew;
pub mod sessions;
pub mod stage;
pub mod status;

/// An error with everything that caused it, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Transparent errors repeat what they wrap.
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
