//! `shoal check`, `plan`, `apply` and `status`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use shoal_core::label::Selector;
use shoal_core::name::FleetName;
use shoal_proto::v1::Recreate;

use crate::completion::values::Values;
use crate::target::parse_duration;

#[derive(Debug, Args)]
pub(crate) struct FileArg {
    /// The fleet file
    #[arg(default_value = "fleet.toml", add = Values::FleetFiles)]
    file: PathBuf,
    /// The same, as people know it from elsewhere
    #[arg(short = 'f', long = "file", value_name = "FILE", hide = true, conflicts_with = "file")]
    #[arg(add = Values::FleetFiles)]
    named: Option<PathBuf>,
}

impl FileArg {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.named.as_ref().unwrap_or(&self.file)
    }
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) file: FileArg,
}

#[derive(Debug, Args)]
pub(crate) struct FmtArgs {
    /// The fleet files; `-` is standard input, and is written to standard output
    #[arg(value_name = "FILE", default_value = "fleet.toml", add = Values::FleetFiles)]
    pub(crate) files: Vec<PathBuf>,
    /// Change nothing; show what would change, and exit 1 where anything would
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The container's settings, such as /etc/systemd/nspawn/shop.nspawn
    pub(crate) file: PathBuf,
    /// Write the fleet file here instead of to standard output
    #[arg(long, value_name = "FILE", add = Values::FleetFiles)]
    pub(crate) to: Option<PathBuf>,
    /// Replace the file that is there
    #[arg(long, requires = "to")]
    pub(crate) force: bool,
    /// Where its unit's drop-ins are [default: /etc/systemd/system for a file in /etc/systemd/nspawn]
    #[arg(long, value_name = "DIR", add = Values::Directories)]
    pub(crate) unit_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RecreateArgs {
    /// Destroy the fleet's containers and make them afresh from their images, even where nothing
    /// differs; data volumes stay
    #[arg(long)]
    recreate: bool,
    /// With --recreate: only on hosts with these labels, such as role=web,!old
    #[arg(short = 'l', long, requires = "recreate")]
    selector: Option<Selector>,
}

impl RecreateArgs {
    /// As it is asked for.
    pub(crate) fn wanted(&self) -> Option<Recreate> {
        let selector = self.selector.clone().map(String::from).unwrap_or_default();
        self.recreate.then_some(Recreate { selector })
    }
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) file: FileArg,
    #[command(flatten)]
    pub(crate) recreate: RecreateArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub(crate) file: FileArg,
    #[command(flatten)]
    pub(crate) recreate: RecreateArgs,
    #[command(flatten)]
    pub(crate) how: ApplyOptions,
}

/// How something is applied, whatever it is.
#[derive(Debug, Args)]
pub(crate) struct ApplyOptions {
    /// Wait until every host proved healthy, the rollout ended otherwise, or is held for someone
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long the rollout may take, and how long going back may
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10m")]
    pub(crate) timeout: Duration,
    /// Do not wait for hosts that are offline once all others are through: they are named, and
    /// catch up by themselves when they return
    #[arg(long)]
    pub(crate) skip_offline: bool,
    /// Take the place of a rollout that has not ended
    #[arg(long)]
    pub(crate) replace: bool,
    /// Where the fleet is locked, try again for so long [default: not at all]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    #[arg(conflicts_with = "dry_run")]
    pub(crate) lock_wait: Option<Duration>,
    /// Only show the plan; exits 0 also where something would change
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    /// Where the file comes from, such as a commit; kept with the revision
    #[arg(long, env = "SHOAL_SOURCE", hide_env_values = true, value_name = "TEXT")]
    pub(crate) source: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// One fleet [default: all]
    pub(crate) fleet: Option<FleetName>,
}
