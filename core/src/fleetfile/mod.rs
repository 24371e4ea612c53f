//! The fleet file, and the infra file, which is one with a version: from text, TOML or JSON, to a [`FleetSpec`].
//!
//! The way in is [`parse`]. It finds every problem of a file at once, each with its place, the
//! line and, where one is near, the word that was meant. A section is read by taking the keys that
//! this version knows out of a `table::Section`; what is left over is reported, so that no list
//! of keys can fall behind the code. Deliberately absent: any I/O (the caller hands in how to read
//! the files that a fleet file names) and anything about hosts and images as they are, which only
//! the controller knows.

mod clash;
mod data;
mod files;
mod format;
mod health;
mod hooks;
mod hosts;
mod infra;
mod instance;
mod json;
mod limits;
mod mounts;
mod network;
mod order;
mod paths;
mod problem;
mod report;
mod rollout;
mod schema;
mod secrets;
mod security;
mod table;
mod template;
mod vars;

use std::collections::BTreeMap;

use toml::de::DeTable;

use crate::fleet::{DeclaredInstance, FleetSpec};
use crate::infra::{FLEET as INFRA, Infra};
use crate::label::HostMatch;
use crate::name::{FleetName, InstanceId, InstanceName};

pub use format::format;
use instance::Read;
use order::Order;
pub use problem::{Problem, Problems};
use report::Report;
pub use schema::{infra_schema, schema};
use table::{Item, Section, optional};
use vars::Variables;

/// Bytes that a fleet may have in all: its settings, and the contents of its files, of each
/// instance again. A revision is one transaction of the store, which has at most 1 MiB.
pub const LARGEST_SPEC: usize = 768 << 10;

const FLEET: &str = "fleet = \"shop\", or in an infra file infra = \"50.2.0\"";

const INSTANCE: &str = "an instance, such as [instance.main], with image, hosts and boot = true; or \
                        an empty [instance] to take every instance of the fleet away";

const INFRA_INSTANCE: &str = "an instance, such as [instance.mysql], with image and boot = true; or \
                              an empty [instance] to take the infra away from all hosts";

/// A text and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source<'a> {
    /// What errors call it, such as `fleet.toml`.
    pub name: &'a str,
    /// What is in it.
    pub text: &'a str,
}

/// Reads a fleet file. `read` gives the contents of a file that it names, by its path as written
/// (relative to the fleet file's directory), or why it can't be had.
///
/// # Errors
/// All problems of the file, ordered by their place.
pub fn parse(
    source: Source<'_>,
    read: &mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
) -> Result<FleetSpec, Problems> {
    let text = source.text.strip_prefix('\u{feff}').unwrap_or(source.text);
    let source = Source { text, ..source };
    let mut report = Report::new(source);
    let Some(document) = tree(source, &mut report) else { return Err(report.into_problems()) };
    let mut reader = Reader {
        report,
        read,
        vars: Variables::default(),
        fleet: None,
        hosts: None,
        is_infra: false,
        order: Order::default(),
        bytes: 0,
    };
    let spec = reader.document(Section::top(&document));
    match spec {
        Some(spec) if reader.report.is_clean() => Ok(spec),
        _ => Err(reader.report.into_problems()),
    }
}

/// The tables and values of the text; `None` where it is too large or not well formed, and that is
/// in the report.
fn tree<'s>(source: Source<'s>, report: &mut Report<'_>) -> Option<DeTable<'s>> {
    if source.text.len() > LARGEST_SPEC {
        let message = format!("the file is over {LARGEST_SPEC} bytes, the most a fleet may have");
        report.error(&(0..0), message);
        return None;
    }
    if json::is_json(source) {
        return json::read(source.text, report);
    }
    let (document, errors) = DeTable::parse_recoverable(source.text);
    report.syntax(&errors);
    report.is_clean().then(|| document.into_inner())
}

/// What reading one file has found so far.
struct Reader<'r, 's> {
    report: Report<'s>,
    read: &'r mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
    vars: Variables,
    fleet: Option<FleetName>,
    /// The hosts of instances that name none: an infra file has such; `Some(None)` where wrong.
    hosts: Option<Option<HostMatch>>,
    is_infra: bool,
    order: Order,
    /// Bytes of the spec as it is so far.
    bytes: usize,
}

impl Reader<'_, '_> {
    fn document(&mut self, mut top: Section<'_>) -> Option<FleetSpec> {
        self.is_infra = infra::is_meant(&top);
        let infra = if self.is_infra { self.infra(&mut top) } else { self.fleet(&mut top) };
        let vars = top.take("vars");
        let (instances, rollout) = (top.take("instance"), top.take("rollout"));
        if instances.is_none() {
            top.lacks(&["instance"], if self.is_infra { INFRA_INSTANCE } else { INSTANCE });
        }
        let start = top.key().clone();
        top.finish(&[], &mut self.report);
        if let Some(item) = vars {
            self.vars = Variables::read(&item, &mut self.report);
        }
        let instances = instances.map(|item| self.instances(&item)).unwrap_or_default();
        if self.bytes > LARGEST_SPEC {
            let message = format!(
                "the fleet is over {LARGEST_SPEC} bytes, counting the files and variables of each \
                 instance; put large files into the image"
            );
            self.report.error(&start, message);
        }
        let rollout = rollout.map(|item| {
            let section = item.section(&mut self.report)?;
            rollout::read(section, &mut self.report)
        });
        let rollout = optional(rollout)?.unwrap_or_default();
        Some(FleetSpec { fleet: self.fleet.clone()?, instances, rollout, infra: infra? })
    }

    /// Reads what only an infra file has; `None` where it is wrong.
    fn infra(&mut self, top: &mut Section<'_>) -> Option<Option<Infra>> {
        let infra::Top { infra, hosts } = infra::read(top, &mut self.report);
        self.hosts = hosts;
        self.fleet = INFRA.parse().ok();
        infra.map(Some)
    }

    /// Reads what only a fleet file has, which has nothing of an infra.
    fn fleet(&mut self, top: &mut Section<'_>) -> Option<Option<Infra>> {
        let fleet = top.take("fleet");
        if fleet.is_none() {
            // Only here: in a fleet file, `infra` is no key at all.
            top.take("infra");
            top.lacks(&["fleet", "infra"], FLEET);
        }
        self.fleet = fleet.and_then(|item| item.parsed("\"shop\"", &mut self.report));
        Some(None)
    }

    fn instances(&mut self, item: &Item<'_>) -> BTreeMap<InstanceName, DeclaredInstance> {
        let (mut found, mut all) = (BTreeMap::new(), Vec::new());
        let Some(section) = item.section(&mut self.report) else { return found };
        // An empty table says so on purpose: a fleet that is to have no instances any more.
        for item in section.entries() {
            let name: Option<InstanceName> = item.named(&mut self.report);
            let declared = self.instance(&item);
            if let (Some(name), Some(declared)) = (name, declared) {
                if let Some(fleet) = self.fleet.clone() {
                    let id = InstanceId { fleet, instance: name.clone() };
                    all.push((id, item.key.clone(), declared.clone()));
                }
                found.insert(name, declared);
            }
        }
        clash::check(&all, &mut self.report);
        if let Some(fleet) = &self.fleet {
            let known: Vec<&str> = section.entries().map(|item| item.name).collect();
            self.order.check(fleet, &known, &mut self.report);
        }
        found
    }

    /// Counts `bytes` more; whether the spec is still small enough to go on collecting.
    fn spend(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        self.bytes <= LARGEST_SPEC
    }

    /// Counts what is in settings but the files, which were counted when they were read.
    fn spend_settings(&mut self, read: &Read) -> bool {
        let Read { settings, overrides, templates, secrets } = read;
        let env = settings
            .env
            .iter()
            .chain(&templates.env)
            .map(|(name, value)| name.as_str().len() + value.len());
        let files = settings.files.keys().map(|path| path.as_str().len());
        let all = std::iter::once(&settings.vars).chain(overrides.iter().map(|o| &o.vars));
        let vars = all.map(|vars| serde_json::to_vec(vars).map_or(0, |json| json.len()));
        let secrets = secrets
            .iter()
            .map(|(name, secret)| name.as_str().len().saturating_add(secret.to_string().len()));
        self.spend(env.chain(files).chain(vars).chain(secrets).sum())
    }
}

#[cfg(test)]
mod tests;
