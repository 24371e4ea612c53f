//! `shoal agent …`.

use std::path::PathBuf;

use clap::Subcommand;
use shoal_core::agent_program::AgentVersion;

use crate::completion::values::Values;

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Make a program of the agent known to the controller, by the version that it says of itself
    ///
    /// No host runs it before `shoal host upgrade` says so. Push one for each kind of processor
    /// under the same version; each host gets the one that it can run.
    Push {
        /// A shoal-agent
        #[arg(add = Values::Files)]
        file: PathBuf,
    },
    /// List the programs of the agent that are known, and the hosts that are to run them
    #[command(alias = "ls")]
    List,
    /// Forget a program of the agent that no host is to run
    #[command(alias = "remove")]
    Rm {
        /// Its version
        #[arg(add = Values::New)]
        version: AgentVersion,
        /// Only the one for this kind of processor, such as arm64
        #[arg(long, value_name = "ARCHITECTURE", add = Values::New)]
        architecture: Option<String>,
    },
}
