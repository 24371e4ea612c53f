//! What can be written on the command line, and the help that says so.
//!
//! Names, labels and selectors are parsed into core types here, so that a wrong one is a usage
//! error before anything is read or asked.

pub(crate) mod agent;
pub(crate) mod context;
pub(crate) mod fleet;
pub(crate) mod host;
pub(crate) mod image;
pub(crate) mod infra;
pub(crate) mod instance;
pub(crate) mod rollout;
pub(crate) mod secret;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::completion::{self, values::Values};
use crate::exit;
use crate::target::parse_duration;

/// Runs fleets of systemd-nspawn containers on many hosts.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, after_long_help = exit::help(), max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// The context to use instead of the current one
    #[arg(long, global = true, env = "SHOAL_CONTEXT", hide_env_values = true, value_name = "NAME")]
    #[arg(add = Values::Contexts)]
    pub(crate) context: Option<String>,
    /// The file of contexts [default: ~/.config/shoal/config.toml]
    #[arg(long, global = true, env = "SHOAL_CONFIG", hide_env_values = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How to write results: a table for people, or JSON of a stable shape
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub(crate) color: Color,
    /// How long one question to the controller may take; waiting has its own --timeout
    #[arg(long, global = true, value_parser = parse_duration, default_value = "30s")]
    #[arg(value_name = "DURATION")]
    pub(crate) request_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Hosts: enrol, list, show, label, cordon, drain, upgrade, remove
    #[command(subcommand)]
    Host(host::HostCommand),
    /// Programs of the agent, for `shoal host upgrade`: push, list, remove
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// Images: push, list, show, tag, remove
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Secrets: values that instances get and nobody reads back
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    /// Check a fleet file or an infra file without asking anyone
    Check(fleet::CheckArgs),
    /// Bring fleet files and infra files into their one form
    ///
    /// Spacing, blank lines and the order of tables and keys; comments stay with what they are
    /// about. A file with syntax errors is left alone.
    Fmt(fleet::FmtArgs),
    /// Make a first fleet file of a container that systemd-nspawn runs
    ///
    /// Reads its .nspawn file, and the limits in the drop-ins of its unit. The fleet file is
    /// written to standard output, and what could not be carried over is listed on standard error,
    /// with its line and what to do.
    Import(fleet::ImportArgs),
    /// Write the JSON Schema of fleet files, with which editors check and complete them
    ///
    /// In the first line of a fleet file, `#:schema ./fleet.schema.json` names it to editors that
    /// use taplo, such as VS Code with Even Better TOML.
    Schema(SchemaArgs),
    /// Show what applying a fleet file would change
    ///
    /// Exits 0 where nothing would change, 1 where something would or a rollout that failed would be
    /// tried again, and more than 1 on an error.
    Plan(fleet::PlanArgs),
    /// Make a fleet as its file says
    ///
    /// Shows the plan, then makes a revision and its rollout, which changes the hosts batch by
    /// batch. Applying the same again changes nothing and restarts nothing, but with --recreate. If someone else applies
    /// in between, nothing is changed and it exits 7; where a rollout is under way or someone holds
    /// a lock, it says who and exits 13.
    Apply(fleet::ApplyArgs),
    /// Show how a fleet is, or all of them; exits 1 where something is not as wanted
    Status(fleet::StatusArgs),
    /// The infra: the version of the platform under the apps of each host
    #[command(subcommand)]
    Infra(infra::InfraCommand),
    /// Rollouts: list, show, watch, pause, resume, abort, promote, undo, lock, unlock
    #[command(subcommand)]
    Rollout(rollout::RolloutCommand),
    /// List instances on all hosts, or some of them; with --watch, live
    Ps(instance::PsArgs),
    /// Start an instance; it stays started, also after a reboot
    Start(instance::RunArgs),
    /// Stop an instance; it stays stopped, also after a reboot or a new revision
    Stop(instance::RunArgs),
    /// Restart an instance
    Restart(instance::RunArgs),
    /// Keep the agent's hands off an instance, so that it can be debugged
    ///
    /// Until `unpause` the agent neither starts nor stops it, repairs nothing of it, and brings no
    /// new revision to it; start, stop and restart are refused. What someone stops on the host stays
    /// stopped, and what crashes stays down. Processes are not frozen. Kept through reboots.
    Pause(instance::RunArgs),
    /// Let the agent at an instance again
    ///
    /// It makes the instance as it is wanted by now.
    #[command(visible_alias = "resume")]
    Unpause(instance::RunArgs),
    /// Show the journals of instances, merged by time; with -o json, one object a line
    ///
    /// Of one instance, of one on all its hosts, or of a whole fleet; each line begins with the
    /// name where there are several. What was logged before a restart of an instance or a reboot of
    /// its host is there too, and with --follow all that comes goes on through them. Where a host is
    /// offline the others are shown, and it exits 12.
    #[command(after_long_help = instance::TIMES)]
    Logs(instance::LogsArgs),
    /// Run a command inside an instance
    ///
    /// Standard output and error stay separate, and it exits with the command's own code (126:
    /// found but not executable, 127: not found). Where `shoal` itself fails, it exits 125. The
    /// command gets no terminal: pipe a script into `-- /bin/sh` rather than typing into one.
    Exec(instance::ExecArgs),
    /// Data volumes that outlived their instances
    #[command(subcommand)]
    Data(instance::DataCommand),
    /// Show what the agents did and noticed: steps, drift, repairs, failures
    ///
    /// The controller keeps the newest 10,000, for 7 days.
    #[command(after_long_help = instance::TIMES)]
    Events(instance::EventsArgs),
    /// Show what was done, and by whom
    Audit(AuditArgs),
    /// Contexts: which controller to talk to, and as whom
    #[command(subcommand)]
    Context(context::ContextCommand),
    /// Show the versions of this command, the controller and the agents
    Version(VersionArgs),
    /// Write what makes a shell complete commands, hosts, fleets, instances and images
    ///
    /// Source it: `source <(shoal completion bash)` in ~/.bashrc, the same with zsh in ~/.zshrc
    /// after compinit, and `shoal completion fish | source` in ~/.config/fish/config.fish. The
    /// shell then asks this command, and this command the controller of the context, for a second
    /// at most.
    Completion(CompletionArgs),
    /// Write the man pages of all commands into a directory
    ///
    /// There is a page for each command, such as shoal-host-list(1). `man` finds them in the
    /// folder man1 of the directories that `manpath` shows, such as /usr/local/share/man/man1.
    Man(ManArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// The one of infra files instead
    #[arg(long)]
    pub(crate) infra: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// How many entries, newest first
    #[arg(short = 'n', long, default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Only this command's own; asks no controller
    #[arg(long)]
    pub(crate) client: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// Which shell
    #[arg(value_enum)]
    pub(crate) shell: completion::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Where to; it is made where it is not there
    #[arg(value_name = "DIR", add = Values::Directories)]
    pub(crate) directory: PathBuf,
}

#[cfg(test)]
mod tests;
