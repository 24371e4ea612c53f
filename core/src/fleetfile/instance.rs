//! `[instance.NAME]`: one instance, its image, its hosts and its settings.

use std::collections::BTreeMap;

use toml::de::DeValue;

use crate::fleet::DeclaredInstance;
use crate::image::ImageRef;
use crate::render::Place;
use crate::spec::{EnvName, Network, Settings, Start};

use super::Reader;
use super::files::Files;
use super::paths::Paths;
use super::problem::short;
use super::report::Report;
use super::table::{Item, Section, optional};
use super::{data, health, hosts};

/// Keys of the whole fleet file that this version does not know yet.
const LATER: &[&str] =
    &["address", "after", "count", "hooks", "limits", "ports", "secrets", "security"];

/// Bytes of one variable of the environment; the kernel takes 128 KiB at most.
const LARGEST_ENV: usize = 64 << 10;

const IMAGE: &str = "\"belenios:2.5.1\"";

impl Reader<'_, '_> {
    /// Reads one instance; `None` where something that it can't do without is wrong.
    pub(super) fn instance(&mut self, item: &Item<'_>) -> Option<DeclaredInstance> {
        let mut section = item.section(&mut self.report)?;
        let report = &mut self.report;
        let (image, hosts) = (section.take("image"), section.take("hosts"));
        if image.is_none() {
            section.lacks(&["image"], &format!("image = {IMAGE}"));
        }
        if hosts.is_none() {
            section.lacks(&["hosts"], "hosts = \"role=web\", or \"*\" for all");
        }
        let image: Option<ImageRef> = image.and_then(|image| image.parsed(IMAGE, report));
        let hosts = hosts.and_then(|item| hosts::read(&item, report));
        let settings = self.settings(&mut section, item);
        section.finish(LATER, &mut self.report);
        Some(DeclaredInstance {
            image: image?,
            hosts: hosts?,
            count: None,
            settings: settings?,
            overrides: Vec::new(),
            templates: crate::fleet::Templates::default(),
        })
    }

    fn settings(&mut self, section: &mut Section<'_>, instance: &Item<'_>) -> Option<Settings> {
        let report = &mut self.report;
        let start = read_start(section, report);
        let network = section.take("network");
        let network = network.map_or(Some(Network::Private), |item| read_network(&item, report));
        let env = sub(section, "env", report).map(|env| read_env(&env, report));
        let mut paths = Paths::default();
        let data = sub(section, "data", report).map(|data| data::read(&data, &mut paths, report));
        let health = sub(section, "health", report);
        let health = health.map(|health| health::read(health, start.as_ref(), report));
        let files = sub(section, "files", report);
        let place = self.sample_place(instance);
        let files = files.map(|files| self.files(&files, &place, &mut paths)).unwrap_or_default();
        paths.check(&mut self.report);
        if !self.spend(0) {
            return None;
        }
        let (env, data) = (env.unwrap_or_default(), data.unwrap_or_default());
        let Files { files, used } = files;
        let (vars, health) = (self.vars.only(&used), optional(health)?);
        let (start, network) = (start?, network?);
        let settings = Settings {
            start,
            network,
            env,
            data,
            files,
            vars,
            health,
            after: Default::default(),
            ports: Default::default(),
            limits: Default::default(),
            security: Default::default(),
            mounts: Default::default(),
            root: Default::default(),
        };
        self.spend_settings(&settings).then_some(settings)
    }

    /// A place for templates to be tried at: the hosts are known to the controller only.
    fn sample_place(&self, instance: &Item<'_>) -> Place {
        let fleet = self.fleet.as_ref().map_or("example-fleet".to_owned(), ToString::to_string);
        Place { host: "example-host".to_owned(), fleet, instance: instance.name.to_owned() }
    }
}

fn sub<'t>(
    section: &mut Section<'t>,
    name: &'static str,
    report: &mut Report<'_>,
) -> Option<Section<'t>> {
    section.take(name).and_then(|item| item.section(report))
}

fn read_start(section: &mut Section<'_>, report: &mut Report<'_>) -> Option<Start> {
    match (section.take("boot"), section.take("command")) {
        (Some(boot), None) => read_boot(&boot, report),
        (None, Some(command)) => read_command(&command, report),
        (Some(boot), Some(command)) => {
            let at = if boot.key.start > command.key.start { boot.key } else { command.key };
            report.error(&at, "`boot` and `command` exclude one another; keep one");
            None
        }
        (None, None) => {
            let example = "boot = true to start the image's init system, or \
                           command = [\"/usr/bin/app\"]";
            section.lacks(&["boot", "command"], example);
            None
        }
    }
}

fn read_boot(item: &Item<'_>, report: &mut Report<'_>) -> Option<Start> {
    match item.value() {
        DeValue::Boolean(true) => return Some(Start::Boot),
        DeValue::Boolean(false) => {
            item.wrong("can only be true; instead of false, give `command`", report);
        }
        _ => item.wrong_type("true", report),
    }
    None
}

fn read_command(item: &Item<'_>, report: &mut Report<'_>) -> Option<Start> {
    let DeValue::Array(array) = item.value() else {
        item.wrong_type("a list of words, such as [\"/usr/bin/app\", \"--verbose\"]", report);
        return None;
    };
    let words: Vec<_> = item.elements(array).map(|word| plain_text(&word, report)).collect();
    let words: Vec<String> = words.into_iter().collect::<Option<_>>()?;
    if words.first().is_none_or(String::is_empty) {
        item.wrong("names no program; write one, such as [\"/usr/bin/app\"]", report);
        return None;
    }
    Some(Start::Command(words))
}

fn read_network(item: &Item<'_>, report: &mut Report<'_>) -> Option<Network> {
    match item.text("\"private\"", report)? {
        "host" => return Some(Network::Host),
        "private" => return Some(Network::Private),
        text => {
            let later = text == "veth" || text.starts_with("zone:") || text.starts_with("bridge:");
            let text = short(text, 80);
            let problem = if later {
                format!("{text:?} is not supported by this version yet")
            } else {
                format!("there is no network {text:?}")
            };
            item.wrong(format!("{problem}; write \"private\" or \"host\""), report);
        }
    }
    None
}

fn read_env(section: &Section<'_>, report: &mut Report<'_>) -> BTreeMap<EnvName, String> {
    let mut env = BTreeMap::new();
    for item in section.entries() {
        let name: Option<EnvName> = item.named(report);
        if let (Some(value), Some(name)) = (plain_text(&item, report), name) {
            env.insert(name, value);
        }
    }
    env
}

/// A text that can be an argument or a variable of a process.
fn plain_text(item: &Item<'_>, report: &mut Report<'_>) -> Option<String> {
    let example = match item.value() {
        DeValue::Integer(number) => format!("\"{}\"", short(number.as_str(), 40)),
        DeValue::Boolean(flag) => format!("\"{flag}\""),
        _ => "\"--verbose\"".to_owned(),
    };
    let text = item.text(&example, report)?;
    if text.contains('\0') {
        item.wrong("has a zero byte, which no process can be given", report);
        return None;
    }
    if text.len() > LARGEST_ENV {
        let length = text.len();
        item.wrong(format!("has {length} bytes; {LARGEST_ENV} are allowed"), report);
        return None;
    }
    Some(text.to_owned())
}
