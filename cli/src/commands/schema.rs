//! `shoal schema`.

use shoal_core::fleetfile::{infra_schema, schema};

use super::Shell;
use crate::args::SchemaArgs;
use crate::exit::{Exit, Failure};

/// Writes the schema, which is JSON whatever the output's format.
pub(super) fn run(shell: &Shell, args: &SchemaArgs) -> Result<Exit, Failure> {
    let schema = if args.infra { infra_schema() } else { schema() };
    // With the `#` form, `Display` of a JSON value puts it on several lines.
    shell.console.raw(format!("{schema:#}\n").as_bytes())?;
    Ok(Exit::Done)
}
