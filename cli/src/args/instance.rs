//! `shoal ps`, `start`, `stop`, `restart`, `logs`, `exec` and `data …`.

use std::time::Duration;

use clap::{Args, Subcommand};
use shoal_core::label::Selector;
use shoal_core::name::FleetName;

use crate::target::{Target, parse_duration};

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Of one fleet [default: all]
    pub(crate) fleet: Option<FleetName>,
    /// Only on hosts with these labels, such as role=web,!old
    #[arg(short = 'l', long)]
    pub(crate) selector: Option<Selector>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The instance; on all hosts that run it where none is named
    #[arg(value_name = "FLEET/INSTANCE[@HOST]")]
    pub(crate) target: Target,
    /// Return once it is recorded, without waiting until it is done
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// How long to wait until it is done
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "2m")]
    pub(crate) timeout: Duration,
    /// Wait until it is done; the default
    #[arg(long, conflicts_with = "no_wait", hide = true)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The instance; name the host where several run it
    #[arg(value_name = "FLEET/INSTANCE[@HOST]")]
    pub(crate) target: Target,
    /// Go on with new entries as they come
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many of the last entries
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
    pub(crate) lines: u32,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The instance; name the host where several run it
    #[arg(value_name = "FLEET/INSTANCE[@HOST]")]
    pub(crate) target: Target,
    /// Forward standard input also from a terminal; from a file or a pipe it always is
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// Don't read standard input, as in a shell loop that reads from it
    #[arg(long, conflicts_with = "stdin")]
    pub(crate) no_stdin: bool,
    /// The command and its arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// List data volumes whose instances are gone
    #[command(alias = "ls")]
    List {
        /// Only on hosts with these labels, such as role=web,!old
        #[arg(short = 'l', long)]
        selector: Option<Selector>,
    },
}
