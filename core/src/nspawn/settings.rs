//! The assignments of a file, until someone takes them; and what is said about them.

use super::ini::{self, Assignment};
use super::{Note, Text, words};

/// What is said of a value that is empty where that means nothing.
const EMPTY: &str = "it is empty, which systemd-nspawn does not take; nothing was carried over";

/// The assignments of one file that no one has taken yet, and the notes so far.
#[derive(Debug)]
pub(super) struct Settings {
    file: String,
    rest: Vec<Assignment>,
    notes: Vec<Note>,
}

impl Settings {
    pub(super) fn new(text: Text<'_>) -> Self {
        let ini = ini::parse(text.text);
        let mut settings =
            Self { file: text.name.to_owned(), rest: ini.assignments, notes: Vec::new() };
        for stray in ini.strays {
            let shown: String = stray.text.chars().take(40).collect();
            let why = format!("systemd ignores this line: {}", stray.problem);
            settings.push(Some(stray.line), shown, why);
        }
        settings
    }

    /// Takes every assignment of a key, in the order of the file.
    pub(super) fn all(&mut self, section: &str, key: &str) -> Vec<Assignment> {
        let wanted = |a: &mut Assignment| a.section == section && a.key == key;
        self.rest.extract_if(.., wanted).collect()
    }

    /// Takes a key of which the last assignment counts; `None` where that takes it back.
    pub(super) fn last(&mut self, section: &str, key: &str) -> Option<Assignment> {
        self.all(section, key).pop().filter(|assignment| !assignment.value.is_empty())
    }

    /// Takes a key that may be given several times, without the empty ones.
    pub(super) fn several(&mut self, section: &str, key: &str) -> Vec<Assignment> {
        let (full, empty): (Vec<_>, Vec<_>) =
            self.all(section, key).into_iter().partition(|a| !a.value.is_empty());
        for assignment in empty {
            self.note(&assignment, EMPTY);
        }
        full
    }

    /// Takes a key that is a list of words over all its assignments, each with its assignment. An
    /// empty one takes back those before it where systemd has it so.
    pub(super) fn words(
        &mut self,
        section: &str,
        key: &str,
        empty_resets: bool,
    ) -> Vec<(String, Assignment)> {
        let mut found = Vec::new();
        for assignment in self.all(section, key) {
            if assignment.value.is_empty() && empty_resets {
                found.clear();
            }
            match words::words(&assignment.value) {
                Some(words) => {
                    found.extend(words.into_iter().map(|word| (word, assignment.clone())));
                }
                None => self.note(&assignment, "a quote is not closed; nothing was carried over"),
            }
        }
        found
    }

    /// Takes a key that is yes or no.
    pub(super) fn flag(&mut self, section: &str, key: &str) -> Option<(bool, Assignment)> {
        let assignment = self.last(section, key)?;
        let flag = flag(&assignment.value);
        if flag.is_none() {
            self.note(&assignment, "it is neither yes nor no, and systemd-nspawn ignores it");
        }
        flag.map(|flag| (flag, assignment))
    }

    /// Says something about an assignment.
    pub(super) fn note(&mut self, assignment: &Assignment, why: impl Into<String>) {
        self.push(Some(assignment.line), assignment.key.clone(), why.into());
    }

    /// Says something about the container as a whole.
    pub(super) fn general(&mut self, key: &str, why: impl Into<String>) {
        self.notes.push(Note { file: None, line: None, key: key.to_owned(), why: why.into() });
    }

    /// Takes every assignment of a key, and says the same about each.
    pub(super) fn leave(&mut self, section: &str, key: &str, why: &str) {
        for assignment in self.all(section, key) {
            self.note(&assignment, why);
        }
    }

    /// Notes the keys that no one has taken.
    pub(super) fn leave_rest(&mut self) {
        for assignment in std::mem::take(&mut self.rest) {
            // A prefix for what is someone else's, which systemd passes over in silence.
            if assignment.key.starts_with("X-") || assignment.section.starts_with("X-") {
                continue;
            }
            let why = format!("[{}] {}= is not known to shoal", assignment.section, assignment.key);
            self.note(&assignment, why + "; see systemd.nspawn(5) for what it does");
        }
    }

    fn push(&mut self, line: Option<usize>, key: String, why: String) {
        self.notes.push(Note { file: Some(self.file.clone()), line, key, why });
    }

    pub(super) fn into_rest(self) -> (Vec<Assignment>, Vec<Note>) {
        (self.rest, self.notes)
    }

    pub(super) fn into_notes(self) -> Vec<Note> {
        self.notes
    }
}

/// A boolean, in all the ways in which systemd takes one.
pub(super) fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}
