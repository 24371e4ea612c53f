//! `[instance.NAME.files."/path"]`: files of the deployment, their contents taken into the spec.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use crate::render::{LARGEST_FILE, Place, Secrets};
use crate::spec::{File, FileBody, InstancePath, UnitName};

use super::Reader;
use super::data::read_owner;
use super::paths::{Paths, What};
use super::problem::short;
use super::report::Report;
use super::table::{Item, Section, optional};
use super::template;

/// Characters of a path or of an error of the file system that an error repeats.
const SHOWN: usize = 200;

/// The files of one instance, and the names of the variables that their templates use.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) files: BTreeMap<InstancePath, File>,
    pub(super) used: BTreeSet<String>,
}

/// The instance whose files they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) place: &'a Place,
    /// Whether it boots.
    pub(super) boots: bool,
    /// What its templates may ask for.
    pub(super) secrets: &'a Secrets,
}

impl Reader<'_, '_> {
    /// Reads all files of an instance, and notes their paths in `paths`.
    pub(super) fn files(
        &mut self,
        section: &Section<'_>,
        owner: &Owner<'_>,
        paths: &mut Paths,
    ) -> Files {
        let mut files = Files::default();
        for item in section.entries() {
            let path: Option<InstancePath> = item.named(&mut self.report);
            if let Some(path) = &path {
                paths.add(path, What::File, item.key.clone(), &mut self.report);
            }
            let file = self.file(&item, owner, &mut files.used);
            if let (Some(path), Some(file)) = (path, file) {
                files.files.insert(path, file);
            }
        }
        files
    }

    fn file(
        &mut self,
        item: &Item<'_>,
        instance: &Owner<'_>,
        used: &mut BTreeSet<String>,
    ) -> Option<File> {
        let mut section = item.section(&mut self.report)?;
        let bodies = ["content", "source", "template"].map(|name| section.take(name));
        let (mode, owner) = (section.take("mode"), section.take("owner"));
        let body = self.body(&mut section, bodies, instance, used);
        let reload = section.take("reload");
        section.finish(&[], &mut self.report);
        let reload = reload.map(|item| reload_unit(&item, instance.boots, &mut self.report));
        let mode = mode.map_or(Some(Mode(0o644)), |mode| mode.parsed("\"0644\"", &mut self.report));
        let owner = read_owner(owner, &mut self.report);
        Some(File { body: body?, mode: mode?.0, owner: owner?, reload: optional(reload)? })
    }

    fn body(
        &mut self,
        section: &mut Section<'_>,
        bodies: [Option<Item<'_>>; 3],
        instance: &Owner<'_>,
        used: &mut BTreeSet<String>,
    ) -> Option<FileBody> {
        match bodies {
            [Some(content), None, None] => self.content(&content),
            [None, Some(source), None] => self.local(&source).map(FileBody::plain),
            [None, None, Some(template)] => self.template(&template, instance, used),
            [None, None, None] => {
                let example = "content = \"…\", or source or template = \"FILE\"";
                section.lacks(&["content", "source", "template"], example);
                None
            }
            several => {
                let given: Vec<&Item<'_>> = several.iter().flatten().collect();
                let names: Vec<String> = given.iter().map(|i| format!("`{}`", i.name)).collect();
                let message = format!("{} exclude one another; keep one", names.join(" and "));
                let last = given.iter().max_by_key(|item| item.key.start)?;
                self.report.error(&last.key, message);
                None
            }
        }
    }

    fn content(&mut self, item: &Item<'_>) -> Option<FileBody> {
        let text = item.text("\"one line\\n\"", &mut self.report)?;
        self.fits(item, text.len()).then(|| FileBody::Text(text.to_owned()))
    }

    fn template(
        &mut self,
        item: &Item<'_>,
        instance: &Owner<'_>,
        used: &mut BTreeSet<String>,
    ) -> Option<FileBody> {
        let Ok(text) = String::from_utf8(self.local(item)?) else {
            item.wrong("a template must be UTF-8; give other files as `source`", &mut self.report);
            return None;
        };
        let file = item.text("", &mut self.report).map(|path| short(path, SHOWN))?;
        let at = (instance.place, instance.secrets);
        let sound = self.sound_template(item, (&file, &text), at, used);
        sound.then_some(FileBody::Template(text))
    }

    /// Whether the template `text`, called `name`, renders; reports why not at `item`. Notes the
    /// variables that it uses in `used`.
    pub(super) fn sound_template(
        &mut self,
        item: &Item<'_>,
        (name, text): (&str, &str),
        (place, secrets): (&Place, &Secrets),
        used: &mut BTreeSet<String>,
    ) -> bool {
        let checked = template::check(text, &self.vars, place, secrets);
        used.extend(checked.used);
        let sound = checked.faults.is_empty();
        for fault in checked.faults {
            let line = fault.line.map(|line| format!(", line {line}")).unwrap_or_default();
            let message = format!("template {name}{line}: {}", fault.message);
            self.report.push(&item.span(), message, fault.help);
        }
        sound
    }

    /// The contents of the local file that `item` names.
    fn local(&mut self, item: &Item<'_>) -> Option<Vec<u8>> {
        let path = item.text("\"config/app.conf\"", &mut self.report)?;
        if self.bytes > super::LARGEST_SPEC {
            return None; // That is reported, and reading on would only fill memory.
        }
        match (self.read)(path) {
            Ok(bytes) => self.fits(item, bytes.len()).then_some(bytes),
            Err(why) => {
                let message =
                    format!("can't read {:?}: {}", short(path, SHOWN), short(&why, SHOWN));
                let help = "paths are relative to the directory of the fleet file";
                self.report.error_help(&item.span(), message, help);
                None
            }
        }
    }

    fn fits(&mut self, item: &Item<'_>, bytes: usize) -> bool {
        if bytes > LARGEST_FILE {
            let message = format!(
                "the file has {bytes} bytes; a file may have {LARGEST_FILE}. Put large ones into \
                 the image"
            );
            item.wrong(message, &mut self.report);
            return false;
        }
        self.spend(bytes)
    }
}

/// The unit that reads a file again when it changes.
fn reload_unit(item: &Item<'_>, boots: bool, report: &mut Report<'_>) -> Option<UnitName> {
    if !boots {
        let message = "`reload` needs a booted instance: with `command` there is no systemd inside";
        report.error_help(&item.key, message, "leave it out, or write boot = true");
        return None;
    }
    item.parsed("\"nginx.service\"", report)
}

/// Permission bits in octal digits.
struct Mode(u32);

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let octal = text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let bits = u32::from_str_radix(text, 8).ok();
        bits.filter(|_| octal && matches!(text.len(), 3 | 4)).map(Self).ok_or_else(|| {
            let text = short(text, 80);
            format!("{text:?} is not a mode; write three or four octal digits, such as \"0640\"")
        })
    }
}
