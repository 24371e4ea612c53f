//! `shoal context …`.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List the contexts
    #[command(alias = "ls")]
    List,
    /// Make a context the current one
    Use {
        /// Its name
        name: String,
    },
    /// Show a context: controller, identity, certificate
    Show {
        /// Its name [default: the current one]
        name: Option<String>,
    },
    /// Give a context another name
    Rename {
        /// Its name
        from: String,
        /// Its new name
        to: String,
    },
}
