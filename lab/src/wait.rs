//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

const PERIOD: Duration = Duration::from_millis(50);

/// Polls `condition` until it says `Ok(true)`.
///
/// An `Err` counts as "not yet": its message is shown if `timeout` passes. `what` completes the
/// sentence "waited 5 s for …".
pub fn wait_until(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let started = Instant::now();
    loop {
        let outcome = condition();
        if matches!(outcome, Ok(true)) {
            return Ok(());
        }
        if started.elapsed() >= timeout {
            let gave_up = format!("waited {timeout:?} for {what}, in vain");
            return Err(match outcome {
                Ok(_) => anyhow!(gave_up),
                Err(last) => last.context(gave_up),
            });
        }
        std::thread::sleep(PERIOD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_not_yet_and_the_last_one_is_shown() {
        let mut calls = 0;
        let second_time = || {
            calls += 1;
            if calls < 2 { Err(anyhow!("not there")) } else { Ok(true) }
        };
        wait_until("it", Duration::from_secs(5), second_time).unwrap();
        let error = wait_until("a rabbit", Duration::ZERO, || Err(anyhow!("no hat"))).unwrap_err();
        assert_eq!(format!("{error:#}"), "waited 0ns for a rabbit, in vain: no hat");
    }
}
