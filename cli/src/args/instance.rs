//! `shoal ps`, `start`, `stop`, `restart`, `pause`, `unpause`, `logs`, `events`, `exec` and
//! `data …`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use shoal_core::label::Selector;
use shoal_core::name::HostName;

use crate::target::{Scope, Target, parse_duration};
use crate::when::When;

/// What `--since` and `--until` take.
pub(crate) const TIMES: &str = "Times:
  10m, 2h, 3d                      so long ago
  10:30, \"2026-11-20 10:30\"        in the time zone of this computer
  2026-11-20T10:30:00Z             with its own
  now, today, yesterday            the last two from midnight on";

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Fleets, instances, or instances on a host [default: all]
    #[arg(value_name = "FLEET[/INSTANCE[@HOST]]")]
    pub(crate) targets: Vec<Scope>,
    /// Only on hosts with these labels, such as role=web,!old
    #[arg(short = 'l', long)]
    pub(crate) selector: Option<Selector>,
    /// Go on with what changes: in place on a terminal, else a line or JSON document for each
    #[arg(short, long)]
    pub(crate) watch: bool,
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
    /// Fleets, instances, or instances on a host
    #[arg(value_name = "FLEET[/INSTANCE[@HOST]]", required_unless_present = "selector")]
    pub(crate) targets: Vec<Scope>,
    /// Only on hosts with these labels, such as role=web,!old
    #[arg(short = 'l', long)]
    pub(crate) selector: Option<Selector>,
    /// Go on with new entries as they come, until Ctrl-C
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many of the last entries of each [default: 100; with --since all]
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) lines: Option<u32>,
    /// Not older than this
    #[arg(short = 'S', long, value_name = "TIME")]
    pub(crate) since: Option<When>,
    /// Not newer than this
    #[arg(short = 'U', long, value_name = "TIME", conflicts_with = "follow")]
    pub(crate) until: Option<When>,
    /// Only of this unit of the system inside, such as nginx or nginx.service
    #[arg(short = 'u', long, value_name = "UNIT")]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) unit: Option<String>,
    /// Only of this priority or worse
    #[arg(short = 'p', long, value_enum, value_name = "PRIORITY")]
    pub(crate) priority: Option<Priority>,
    /// Only with a text that this regular expression matches; in small letters alone it matches
    /// capitals too
    #[arg(short = 'g', long, value_name = "REGEX")]
    pub(crate) grep: Option<String>,
}

/// Syslog's, from the worst to the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Priority {
    #[value(aliases = ["0", "panic"])]
    Emerg,
    #[value(alias = "1")]
    Alert,
    #[value(alias = "2")]
    Crit,
    #[value(aliases = ["3", "error"])]
    Err,
    #[value(aliases = ["4", "warn"])]
    Warning,
    #[value(alias = "5")]
    Notice,
    #[value(alias = "6")]
    Info,
    #[value(alias = "7")]
    Debug,
}

impl Priority {
    /// As syslog numbers it.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Emerg => 0,
            Self::Alert => 1,
            Self::Crit => 2,
            Self::Err => 3,
            Self::Warning => 4,
            Self::Notice => 5,
            Self::Info => 6,
            Self::Debug => 7,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// A fleet, an instance, or an instance on a host [default: all, and what is of hosts]
    #[arg(value_name = "FLEET[/INSTANCE[@HOST]]")]
    pub(crate) target: Option<Scope>,
    /// Only of hosts with these labels, such as role=web,!old
    #[arg(short = 'l', long)]
    pub(crate) selector: Option<Selector>,
    /// Only of this host
    #[arg(long)]
    pub(crate) host: Option<HostName>,
    /// Not older than this
    #[arg(short = 'S', long, value_name = "TIME")]
    pub(crate) since: Option<When>,
    /// How many of the last ones [default: 100; with --since all]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) lines: Option<u32>,
    /// Go on with new ones as they come, until Ctrl-C
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only what is something to look at: drift and failures
    #[arg(long)]
    pub(crate) warnings: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The instance; name the host where several run it
    #[arg(value_name = "FLEET/INSTANCE[@HOST]")]
    pub(crate) target: Target,
    /// Forward standard input also from a terminal; from a file or a pipe it always is
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// Refused with a hint: people know it from elsewhere
    #[arg(short = 't', long, hide = true)]
    pub(crate) tty: bool,
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
