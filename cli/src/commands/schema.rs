//! `shoal schema`.

use shoal_core::fleetfile::schema;

use super::Shell;
use crate::exit::{Exit, Failure};

/// Writes the schema, which is JSON whatever the output's format.
pub(super) fn run(shell: &Shell) -> Result<Exit, Failure> {
    // With the `#` form, `Display` of a JSON value puts it on several lines.
    shell.console.raw(format!("{:#}\n", schema()).as_bytes())?;
    Ok(Exit::Done)
}
