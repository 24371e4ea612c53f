//! Completion that knows what there is: hosts, fleets, instances, images, secrets, labels, contexts.
//!
//! Way in: `shoal completion SHELL` writes [`Shell::script`]. At each press of the key that script
//! runs the command with [`VARIABLE`] set, and [`answer`] answers: [`shell`] reads what was typed
//! and writes what it could become, [`values`] says which argument takes what, [`candidates`] makes
//! candidates of what is [`known`], and [`asker`] knows it from the controller or [`cache`].
//!
//! It is a guest in someone's shell: it never hangs, and never says anything but candidates. What
//! it can't find out in time it does not offer. Deliberately absent: errors.

mod asker;
mod cache;
mod candidates;
mod known;
mod line;
mod shell;
pub(crate) mod values;

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use clap::CommandFactory as _;
use clap_complete::engine::{self, CompletionCandidate};

use crate::args::Cli;
use asker::Asker;
use known::Source;
pub(crate) use shell::Shell;
use values::{Files, FilesAsked, equip};

/// The environment variable that makes a run of the command one that completes; its value is the
/// shell.
pub(crate) const VARIABLE: &str = "SHOAL_COMPLETE";

/// How long the controller may take for its answer, connecting included.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it may take in all; the rest is for what no deadline can be given, such as a home
/// directory on a file server that is gone.
const LIMIT: Duration = Duration::from_secs(2);

/// The shell that this run of the command completes for, if it does.
pub(crate) fn asked() -> Option<Shell> {
    Shell::named(&std::env::var_os(VARIABLE)?)
}

/// Writes what the line in this process's arguments could become, or nothing.
pub(crate) fn answer(shell: Shell) {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let typed = std::env::args_os().skip_while(|arg| arg != "--").skip(1).collect();
        // Whoever waits for it may have given up.
        let _ = sender.send(reply(shell, typed));
    });
    if let Ok(Some(reply)) = receiver.recv_timeout(LIMIT) {
        // No one is there to be told that it can't be written.
        let _ = std::io::stdout().write_all(&reply);
    }
}

/// What a script calls this command: as it was called, and from anywhere.
pub(crate) fn this_command() -> String {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    match std::env::current_dir() {
        // A plain name is found in the path, then as now.
        Ok(here) if called.components().count() > 1 => here.join(called),
        _ => called,
    }
    .to_string_lossy()
    .into_owned()
}

fn reply(shell: Shell, typed: Vec<OsString>) -> Option<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let line = shell.read(typed)?;
    let source = Asker::new(&line.words, deadline);
    let answer = complete(line.words.clone(), Arc::new(source))?;
    Some(shell.write(&line, &answer))
}

/// What a word could become.
#[derive(Debug)]
struct Answer {
    candidates: Vec<CompletionCandidate>,
    /// Where the word is the name of a file.
    files: Option<Files>,
}

/// What the last of these words could become; the first is the command's own name.
fn complete(words: Vec<OsString>, source: Arc<dyn Source>) -> Option<Answer> {
    let last = words.len().checked_sub(1)?;
    let is_option = words.get(last)?.as_encoded_bytes().starts_with(b"-");
    let asked: FilesAsked = Arc::new(OnceLock::new());
    let mut command = equip(Cli::command(), &source, &asked);
    let here = std::env::current_dir().ok();
    let mut candidates = engine::complete(&mut command, words, last, here.as_deref()).ok()?;
    // Options are offered to those who begin one; else they would hide what is really there.
    candidates.retain(|candidate| is_plain(candidate.get_value()));
    candidates.retain(|candidate| is_option || !begins_option(candidate));
    Some(Answer { candidates, files: asked.get().copied() })
}

fn begins_option(candidate: &CompletionCandidate) -> bool {
    candidate.get_value().as_encoded_bytes().starts_with(b"-")
}

/// Whether a shell can be given it on a line of its own.
fn is_plain(value: &OsStr) -> bool {
    !value.as_encoded_bytes().iter().any(u8::is_ascii_control)
}

#[cfg(test)]
mod tests;
