//! `shoal secret …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use shoal_core::secret::SecretName;

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Keep a value under a name, as its next version
    ///
    /// The value is read from standard input or a file, up to 64 KiB; on a terminal it is asked
    /// for twice and not shown. It is never an argument: everyone on this computer sees the
    /// arguments of a command that runs, and shells write them into their history.
    ///
    /// The controller gives it back to nobody, not even an admin. Instances get it with the next
    /// apply of a fleet that names it under [instance.NAME.secrets].
    Set(SetArgs),
    /// Keep a random value under a name, as its next version; nobody is told it
    Generate(GenerateArgs),
    /// List secrets and who gets them, without their values
    #[command(alias = "ls")]
    List,
    /// Remove a secret with all its versions, unless a fleet or an instance uses it
    #[command(alias = "remove")]
    Rm {
        /// Its name
        name: SecretName,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Its name: parts of a-z, 0-9, -, _ and ., with / between, such as db/creator
    pub(crate) name: SecretName,
    /// Read the value from this file; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) from_file: Option<PathBuf>,
    /// Keep the newline at the end of what is read
    ///
    /// Without this, one newline at the end is left out: editors and `echo` put it there, and it is
    /// part of few passwords.
    #[arg(long)]
    pub(crate) keep_newline: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Its name: parts of a-z, 0-9, -, _ and ., with / between, such as db/creator
    pub(crate) name: SecretName,
    /// How many characters, of A-Z, a-z and 0-9
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(8..=1024))]
    pub(crate) length: u32,
    /// Leave a secret that is there as it is
    #[arg(long)]
    pub(crate) if_absent: bool,
}
