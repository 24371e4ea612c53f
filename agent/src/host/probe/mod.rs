//! Health checks, each made in the surroundings of the instance that it is about.
//!
//! What is checked is the instance's own and may do anything: hang, lie, or talk for ever. So
//! everything read from it is bounded, everything awaited ends with the round's time, and
//! dropping a round ends what it began.

mod exec;
mod http;
pub(super) mod program;
mod tcp;
mod unit;

use std::time::Duration;

use shoal_core::spec::Health;
use tokio::time::Instant;

use super::enter::Container;

/// Characters of an instance's own words that a verdict repeats.
const QUOTED: usize = 200;

/// What to check of which container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The container.
    pub container: Container,
    /// The checks.
    pub checks: Health,
}

/// One round of all checks, within their timeout. `env` is for the programs that are run inside.
///
/// # Errors
/// The first check that failed, and why.
pub async fn check(probe: &Probe, env: &[(String, String)]) -> Result<(), String> {
    let Probe { container, checks } = probe;
    let round = Round::of(checks.timeout);
    if let Some(unit) = &checks.unit {
        round.have(&format!("no word on {unit}"), unit::check(container, unit)).await?;
    }
    if let Some(address) = &checks.tcp {
        let late = format!("tcp {address} does not accept");
        round.have(&late, tcp::check(container, address)).await?;
    }
    if let Some(url) = &checks.http {
        round.have(&format!("{url} does not answer"), http::check(container, url)).await?;
    }
    if !checks.exec.is_empty() {
        let late = format!("{} does not end", exec::shown(&checks.exec));
        round.have(&late, exec::check(container, &checks.exec, env)).await?;
    }
    Ok(())
}

/// The time that the checks of one round have together.
#[derive(Debug, Clone, Copy)]
struct Round {
    timeout: Duration,
    end: Instant,
}

impl Round {
    fn of(timeout: Duration) -> Self {
        Self { timeout, end: Instant::now() + timeout }
    }

    /// What `check` finds; that it is `late` where the round is over first.
    async fn have<T>(
        self,
        late: &str,
        check: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        let late = |_| Err(format!("{late} within {:?}", self.timeout));
        tokio::time::timeout_at(self.end, check).await.unwrap_or_else(late)
    }
}

/// The first of what an instance says, on one line.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let plain = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    shortened(plain, QUOTED)
}

fn shortened(mut text: impl Iterator<Item = char>, longest: usize) -> String {
    let mut short: String = text.by_ref().take(longest).collect();
    if text.next().is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_instance_says_is_one_short_line() {
        assert_eq!(quoted(b"  a\r\nb\x1b[31m\xff \n"), "a  b [31m\u{fffd}");
        let long = quoted(&[b'x'; 1000]);
        assert_eq!((long.chars().count(), long.ends_with('…')), (QUOTED + 1, true));
    }

    #[tokio::test]
    async fn a_round_ends_with_its_time_for_all_its_checks() {
        let round = Round::of(Duration::from_millis(20));
        let never = std::future::pending::<Result<(), String>>();
        assert_eq!(round.have("it is late", never).await.unwrap_err(), "it is late within 20ms");
        let second = tokio::time::timeout(
            Duration::from_millis(10),
            round.have("the next too", std::future::pending::<Result<(), String>>()),
        );
        assert_eq!(second.await.unwrap().unwrap_err(), "the next too within 20ms");
    }
}
