//! From a container's `.nspawn` file to a first fleet file, with all that could not be carried
//! over named.
//!
//! The way in is [`import`]. It reads as systemd does ([`ini`], [`words`]) and as
//! `systemd-nspawn@.service` runs the file: what it leaves out has that unit's defaults. Each
//! section has a module that takes the keys it knows; a key that no one took is noted too, so that
//! nothing is lost in silence. Deliberately absent: I/O, and errors. There is always a fleet file,
//! and the worst that can be in it is a note.

mod draft;
mod exec;
mod files;
mod ini;
mod mount;
mod network;
mod settings;
mod unit;
mod words;

use crate::fleetfile::{Source, format};
use crate::name::FleetName;

use draft::Draft;
use settings::Settings;

/// A text and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<'a> {
    /// What notes call it, such as `shop.nspawn`.
    pub name: &'a str,
    /// What is in it.
    pub text: &'a str,
}

/// A container as systemd runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container<'a> {
    /// Its name, as `machinectl` shows it.
    pub name: &'a str,
    /// Its `.nspawn` file.
    pub settings: Text<'a>,
    /// Drop-ins of its unit, in the order in which they count.
    pub unit: Vec<Text<'a>>,
}

/// A first fleet file, and what its reader must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The fleet's name.
    pub fleet: FleetName,
    /// The fleet file.
    pub toml: String,
    /// What was not carried over, or not quite: by file and line, then the container as a whole.
    pub notes: Vec<Note>,
}

/// Something that was not carried over, or not quite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The file that says it; `None` where it is about the container as a whole.
    pub file: Option<String>,
    /// Its line there, from 1.
    pub line: Option<usize>,
    /// The key, such as `Bind`.
    pub key: String,
    /// Why, and what to do.
    pub why: String,
}

/// Makes a fleet file of a container: a fleet of its name with the one instance `main`.
#[must_use]
pub fn import(container: &Container<'_>) -> Import {
    let mut settings = Settings::new(container.settings);
    let mut draft = Draft::new(container.name, &mut settings);
    exec::carry(&mut settings, &mut draft);
    files::carry(&mut settings, &mut draft);
    network::carry(&mut settings, &mut draft);
    settings.leave_rest();
    let said = settings.into_notes();
    let (mut notes, general): (Vec<Note>, _) = said.into_iter().partition(|n| n.file.is_some());
    notes.sort_by_key(|note| note.line);
    notes.extend(unit::carry(&container.unit, &mut draft));
    notes.extend(general);
    let text = draft.toml(container);
    let source = Source { name: "import", text: &text };
    let toml = format(source).expect("what a draft writes is TOML");
    Import { toml, fleet: draft.fleet, notes }
}

#[cfg(test)]
mod tests;
