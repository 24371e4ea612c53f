//! Whoever reads the output, and whether they still do.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::oneshot;

use super::OutputError;

/// Waits until whoever reads standard output has gone, as `head` does, also while nothing is
/// written. For ever where that can't be known, as of a file.
pub(crate) async fn gone() -> OutputError {
    let (sender, gone) = oneshot::channel();
    // A thread, because it has to wait for as long as the command runs; it ends with that.
    std::thread::spawn(move || {
        if wait() {
            let _ = sender.send(());
        }
    });
    match gone.await {
        Ok(()) => OutputError::Write(io::ErrorKind::BrokenPipe.into()),
        Err(_) => std::future::pending().await,
    }
}

/// Whether it came to its end; otherwise that can't be known.
fn wait() -> bool {
    let output = io::stdout();
    // Nothing is asked for: that the other end is gone is told anyhow.
    let mut watched = [PollFd::new(&output, PollFlags::empty())];
    loop {
        match poll(&mut watched, None) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return true,
            Err(_) => return false,
        }
    }
}
