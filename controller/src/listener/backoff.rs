//! How long to wait after a failed accept.
//!
//! A failure of one connection needs no wait. One of this process (no file descriptors, no
//! memory) leaves the connection in the queue, so that trying again at once would only spin.

use std::io;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// Doubles from 50 ms to 1 s while accepting keeps failing.
#[derive(Debug, Default)]
pub(super) struct AcceptBackoff {
    last: Duration,
}

impl AcceptBackoff {
    pub(super) fn reset(&mut self) {
        self.last = Duration::ZERO;
    }

    /// The pause that `error` asks for.
    pub(super) fn after(&mut self, error: &io::Error) -> Duration {
        if is_one_connections(error) {
            return Duration::ZERO;
        }
        self.last = (self.last * 2).clamp(FIRST, LONGEST);
        self.last
    }
}

/// The peer was gone before it was accepted.
fn is_one_connections(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMFILE: i32 = 24;

    #[test]
    fn grows_to_a_second_and_starts_over() {
        let mut backoff = AcceptBackoff::default();
        let mut pauses = || backoff.after(&io::Error::from_raw_os_error(EMFILE)).as_millis();
        let grown: Vec<u128> = (0..7).map(|_| pauses()).collect();
        assert_eq!(grown, [50, 100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.after(&io::Error::from_raw_os_error(EMFILE)), FIRST);
    }

    #[test]
    fn a_peer_that_left_costs_nothing() {
        let mut backoff = AcceptBackoff::default();
        let aborted = io::Error::from(io::ErrorKind::ConnectionAborted);
        assert_eq!(backoff.after(&aborted), Duration::ZERO);
    }
}
