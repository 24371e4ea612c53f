//! `[instance.NAME.hooks]`: commands that are run once, before a start.

use crate::spec::Hooks;

use super::instance::read_command;
use super::report::Report;
use super::table::{Section, optional};

/// Reads the table.
pub(super) fn read(mut section: Section<'_>, report: &mut Report<'_>) -> Option<Hooks> {
    let [init, migrate, restore] = ["init", "migrate", "restore"].map(|name| {
        let item = section.take(name);
        item.map(|item| read_command(&item, report))
    });
    section.finish(&[], report);
    Some(Hooks {
        init: optional(init)?.unwrap_or_default(),
        migrate: optional(migrate)?.unwrap_or_default(),
        restore: optional(restore)?.unwrap_or_default(),
    })
}
