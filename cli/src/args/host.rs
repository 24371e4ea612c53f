//! `shoal host …`.

use std::time::Duration;

use clap::{Args, Subcommand};
use shoal_core::label::{Selector, parse_label};
use shoal_core::name::HostName;

use crate::completion::values::Values;
use crate::target::{LabelEdit, parse_duration};

#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Join tokens: one-time secrets that let a host enrol
    #[command(subcommand)]
    Token(TokenCommand),
    /// List hosts
    #[command(alias = "ls")]
    List {
        /// Only hosts with these labels, such as role=web,!old
        #[arg(short = 'l', long)]
        selector: Option<Selector>,
    },
    /// Show all that is known of a host
    Show {
        /// Its name
        name: HostName,
    },
    /// Set and remove labels of a host; they count from the next apply on
    Label {
        /// Its name
        name: HostName,
        /// KEY=VALUE sets a label, KEY- removes it
        #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
        edits: Vec<LabelEdit>,
    },
    /// Keep new instances off hosts; what runs there stays
    ///
    /// It counts from the next plan and apply on: `count` picks other hosts, and where every match
    /// is meant, the new instance is left out there and `plan` says so.
    Cordon {
        #[command(flatten)]
        hosts: SomeHosts,
        /// Why, for those who wonder
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Let hosts have instances again, after `cordon` or `drain`
    ///
    /// Nothing comes back by itself: the next `shoal apply` of a fleet places it.
    Uncordon {
        #[command(flatten)]
        hosts: SomeHosts,
    },
    /// Move or stop everything that runs on a host, and keep it empty
    ///
    /// Each fleet is moved by a revision and a rollout of its own, with its batches and gates:
    /// instances with a `count` go to other hosts, the others are stopped. Data volumes stay on the
    /// host. It exits 0 where nothing is left, 5 where something stays, and 6 where the time was
    /// up; what is left is named, with the reason. The host stays empty until `uncordon`.
    Drain(DrainArgs),
    /// Bring another agent to hosts; no instance notices
    ///
    /// Each host fetches it, checks that it runs there, and starts it beside the one before. Once
    /// it has reached the controller it takes the place of that one; where it has not by the
    /// deadline, the one before is put back by itself and this one is not tried again until asked.
    /// One host goes first, then two, four and so on; after a failure no further host is begun. It
    /// exits 0 where every host runs it, 4 where it was rejected, 5 where only some hosts run it, 6
    /// where the time was up, and 12 where all that is left is offline: those get it when they are
    /// back.
    Upgrade(UpgradeArgs),
    /// Take a host out of the fleet for good
    ///
    /// Its certificate is refused from then on, and its name is free again. What runs on it goes on
    /// until someone stops it there. Refused while it has instances.
    #[command(alias = "rm")]
    Remove {
        /// Its name
        name: HostName,
        /// Whatever is on it: for a host that is gone for good
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SomeHosts {
    /// Their names
    #[arg(value_name = "HOST", required_unless_present = "selector")]
    pub(crate) names: Vec<HostName>,
    /// All hosts with these labels, such as role=web,!old
    #[arg(short = 'l', long, conflicts_with = "names")]
    pub(crate) selector: Option<Selector>,
}

#[derive(Debug, Args)]
pub(crate) struct UpgradeArgs {
    /// Their names
    #[arg(value_name = "HOST", required_unless_present_any = ["selector", "all"])]
    pub(crate) names: Vec<HostName>,
    /// All hosts with these labels, such as role=web,!old
    #[arg(short = 'l', long, conflicts_with_all = ["names", "all"])]
    pub(crate) selector: Option<Selector>,
    /// All hosts
    #[arg(long, conflicts_with = "names")]
    pub(crate) all: bool,
    /// A shoal-agent, or the version of one that was pushed before
    #[arg(long, value_name = "FILE|VERSION", required_unless_present = "release")]
    #[arg(add = Values::Files)]
    pub(crate) agent: Option<String>,
    /// Name no agent any more: the hosts keep what they run, and it may be replaced there by hand
    #[arg(long, conflicts_with = "agent")]
    pub(crate) release: bool,
    /// How long the agent may take to reach the controller before the one before is put back
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1m")]
    pub(crate) deadline: Duration,
    /// How long to wait for the hosts that are under way at once, the transfer included
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10m")]
    pub(crate) timeout: Duration,
    /// Go on with further hosts after a failure
    #[arg(long)]
    pub(crate) keep_going: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Its name
    pub(crate) name: HostName,
    /// How long to wait until nothing is left
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10m")]
    pub(crate) timeout: Duration,
    /// Why, for those who wonder
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a join token, and show the line to run on the host
    Create(TokenArgs),
    /// List join tokens that can still be used; their secrets are not kept
    #[command(alias = "ls")]
    List {
        /// Also those that were used or have expired
        #[arg(short, long)]
        all: bool,
    },
    /// Make a join token worthless
    #[command(alias = "rm")]
    Revoke {
        /// Its id, as `list` shows it
        #[arg(value_name = "ID")]
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// Only a host of this name may use it
    #[arg(long, value_name = "HOST", add = Values::New)]
    pub(crate) name: Option<HostName>,
    /// A label that the host gets; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub(crate) labels: Vec<(String, String)>,
    /// How long it can be used
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "15m")]
    pub(crate) ttl: Duration,
}
