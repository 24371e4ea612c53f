//! `shoal`: the command that people and CI use.
//!
//! Way in: [`args`] says what can be written, [`commands`] does it, [`exit`] says how it ended.
//! A command asks the controller ([`client`] over [`connect`], as a [`context`] says), makes plain
//! data of the answer ([`view`]), and shows that ([`output`]).
//! Where a shell asks what a line could become, [`completion`] answers instead; [`man`] makes the
//! manual of what [`args`] says.
//!
//! Deliberately absent: decisions. What would change, what is healthy and who may do what is the
//! controller's and the core's to say; and no host is ever talked to directly.

mod args;
mod client;
mod clock;
mod commands;
mod completion;
mod connect;
mod context;
mod exit;
mod expiry;
mod man;
mod output;
mod signing;
mod target;
#[cfg(test)]
mod testing;
mod view;
mod when;

use std::io::Write as _;

use clap::Parser as _;
use clap::error::ErrorKind;

use args::Cli;
use exit::Exit;

fn main() {
    if let Some(shell) = completion::asked() {
        completion::answer(shell);
        std::process::exit(Exit::Done.code().into());
    }
    let exit = match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(error) => {
            // Where this can't be written, the exit code still says it.
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Done,
                _ => Exit::Usage,
            }
        }
    };
    // Not by returning: a read of standard input that `exec` has begun can't be called off, and
    // the runtime would wait for it.
    std::process::exit(exit.code().into());
}

/// Says it on standard error. Where that is closed, as a terminal may be, the exit code still says
/// it.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn run(cli: Cli) -> Exit {
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                complain(&format!("error: cannot start: {error}"));
                return Exit::Internal;
            }
        };
    let exit = runtime.block_on(commands::run(cli)).unwrap_or_else(|failure| {
        if let Some(report) = failure.report() {
            complain(&report);
        }
        failure.exit()
    });
    runtime.shutdown_background();
    exit
}
