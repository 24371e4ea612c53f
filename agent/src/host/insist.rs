//! Stops that were told too early to be heard. systemd-nspawn hands a stop on to the container's
//! first process as a signal, once. One that comes before that process listens is lost, as the
//! kernel lets a first process ignore what it has not asked for, and the unit would be killed only
//! after its whole time to stop: a minute and a half in which a booting host does not come up.
//!
//! Way in: [`see_through`], for each unit that is told to stop.

use std::time::Duration;

use shoal_core::name::MachineName;

use super::systemd::Systemd;

/// How long a stop has before it is told again, and from one time to the next. Most have ended by
/// then, and to be told twice harms none.
const PAUSE: Duration = Duration::from_secs(2);
/// How often it is told again.
const TIMES: u32 = 5;

/// Tells the container of a unit that stops to power off until it is down, beside the caller.
pub(super) fn see_through(systemd: &Systemd, machine: &MachineName) {
    let (systemd, machine) = (systemd.clone(), machine.clone());
    tokio::spawn(async move {
        for _ in 0..TIMES {
            tokio::time::sleep(PAUSE).await;
            if !systemd.is_stopping(&machine).await {
                return;
            }
            // Where there is no container yet, or no more, there is nobody to tell.
            let _ = systemd.power_off(&machine).await;
        }
    });
}
