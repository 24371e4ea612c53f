//! Waiting for a fleet that someone else keeps locked.

use std::time::Duration;

use tokio::time::Instant;

use crate::client::RemoteError;
use crate::exit::Failure;
use crate::output::Console;
use crate::output::time::span;

/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(2);

/// Why a fleet's lock was not waited for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error(
        "interrupted while fleet {fleet} was locked; nothing was applied before, and `shoal status \
         {fleet}` says how it is now"
    )]
    Interrupted { fleet: String },
}

/// Attempts at something that a lock may forbid for now.
#[derive(Debug)]
pub(super) struct Attempts {
    console: Console,
    until: Option<Instant>,
    /// What was said last of who holds it.
    said: String,
}

impl Attempts {
    /// `wait` is for how long it is tried again.
    pub(super) fn new(console: Console, wait: Option<Duration>) -> Self {
        let until = wait.map(|wait| Instant::now() + wait);
        Self { console, until, said: String::new() }
    }

    /// Whether it is to be tried again after `failure`; waits until it is time to, then.
    pub(super) async fn again(&mut self, failure: &Failure) -> bool {
        let Failure::Remote(refused) = failure else { return false };
        let Some(left) = self.left(refused) else { return false };
        let why = refused.to_string();
        if self.said != why {
            self.console.note(format!("{why}\ntrying again, for {} at most", span(left)));
            self.said = why;
        }
        tokio::time::sleep(PAUSE.min(left)).await;
        true
    }

    /// How much time is left for it, where trying again makes sense.
    fn left(&self, refused: &RemoteError) -> Option<Duration> {
        // Whoever held the lock has changed the fleet in between; that is what was waited for.
        let waited = !self.said.is_empty() && refused.is_conflict();
        let left = self.until?.checked_duration_since(Instant::now())?;
        (refused.is_locked() || waited).then_some(left).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use tonic::Code;

    use super::*;
    use crate::args::Cli;
    use crate::commands::Shell;

    fn refused(message: &str) -> Failure {
        let message = message.to_owned();
        RemoteError::Refused { doing: "apply fleet shop".into(), code: Code::Aborted, message }
            .into()
    }

    fn console() -> Console {
        Shell::new(Cli::try_parse_from(["shoal", "version"]).unwrap().globals).console
    }

    #[tokio::test]
    async fn only_a_lock_is_waited_for_and_only_so_long() {
        let locked = || refused("fleet shop is locked: user/ada migrates it");
        let conflict = || refused("fleet shop is at another revision by now; plan again");
        assert!(!Attempts::new(console(), None).again(&locked()).await, "was not asked to");
        let wait = Duration::from_millis(40);
        let mut attempts = Attempts::new(console(), Some(wait));
        assert!(!attempts.again(&conflict()).await, "there was no lock");
        let began = Instant::now();
        assert!(attempts.again(&locked()).await);
        assert!(!attempts.again(&locked()).await, "the time is over");
        assert!(began.elapsed() >= wait / 2);
    }

    #[tokio::test]
    async fn whoever_held_it_may_have_been_faster() {
        let console = console();
        let mut attempts = Attempts::new(console, Some(Duration::from_secs(60)));
        let Failure::Remote(conflict) = refused("fleet shop is at another revision") else {
            panic!("another failure")
        };
        assert_eq!(attempts.left(&conflict), None);
        attempts.said = "fleet shop is locked: user/ada migrates it".into();
        assert!(attempts.left(&conflict).is_some());
    }
}
