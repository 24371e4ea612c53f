//! `shoal context …`.

use clap::Subcommand;

use crate::completion::values::Values;

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List the contexts
    #[command(alias = "ls")]
    List,
    /// Make a context the current one
    Use {
        /// Its name
        #[arg(add = Values::Contexts)]
        name: String,
    },
    /// Show a context: controller, identity, certificate
    Show {
        /// Its name [default: the current one]
        #[arg(add = Values::Contexts)]
        name: Option<String>,
    },
    /// Give a context another name
    Rename {
        /// Its name
        #[arg(add = Values::Contexts)]
        from: String,
        /// Its new name
        to: String,
    },
}
