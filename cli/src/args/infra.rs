//! `shoal infra …`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::fleet::ApplyOptions;
use crate::completion::values::Values;

#[derive(Debug, Subcommand)]
pub(crate) enum InfraCommand {
    /// Show what applying an infra file would do to each host
    ///
    /// For each host: the version that it has and the one that it gets, which containers are made
    /// afresh, which data stays, and whether it is copied before. Exits 0 where nothing would
    /// change, 1 where something would or a rollout that failed would be tried again, and more than
    /// 1 on an error.
    Plan(InfraPlanArgs),
    /// Bring the hosts to the version of an infra file
    ///
    /// Shows the plan, then makes a revision and its rollout, which changes the hosts batch by
    /// batch. Where a host has another version, all its containers, those of apps too, are stopped
    /// and made afresh, the infra first; data volumes stay. A host that has the version already is
    /// not touched. If someone else applies in between, nothing is changed and it exits 7; where a
    /// rollout is under way or someone holds a lock, it says who and exits 13.
    Apply(InfraApplyArgs),
    /// Show the infra version of each host, and how far it is; exits 1 where one is not as wanted
    ///
    /// A host that is offline is shown as it was last heard of, and is not as wanted as far as
    /// anyone knows. How the revision gets onto the hosts, `shoal rollout watch infra` shows.
    Status,
}

#[derive(Debug, Args)]
pub(crate) struct InfraFileArg {
    /// The infra file
    #[arg(default_value = "infra.toml", add = Values::FleetFiles)]
    file: PathBuf,
    /// The same, as people know it from elsewhere
    #[arg(short = 'f', long = "file", value_name = "FILE", hide = true, conflicts_with = "file")]
    #[arg(add = Values::FleetFiles)]
    named: Option<PathBuf>,
}

impl InfraFileArg {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.named.as_ref().unwrap_or(&self.file)
    }
}

#[derive(Debug, Args)]
pub(crate) struct InfraPlanArgs {
    #[command(flatten)]
    pub(crate) file: InfraFileArg,
}

#[derive(Debug, Args)]
pub(crate) struct InfraApplyArgs {
    #[command(flatten)]
    pub(crate) file: InfraFileArg,
    #[command(flatten)]
    pub(crate) how: ApplyOptions,
}
