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
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a join token, and show the line to run on the host
    Create(TokenArgs),
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
