//! `[instance.NAME]`: one instance, its image, its hosts and its settings.

use std::collections::{BTreeMap, BTreeSet};

use toml::de::DeValue;

use crate::fleet::{DeclaredInstance, Override, Templates};
use crate::image::ImageRef;
use crate::label::HostMatch;
use crate::name::CredentialName;
use crate::render::{Place, Secrets};
use crate::secret::SecretName;
use crate::spec::{EnvName, Network, Settings, Start};

use super::Reader;
use super::files::{self, Files};
use super::paths::Paths;
use super::problem::short;
use super::report::Report;
use super::table::{Item, Section, optional};
use super::{data, health, hooks, hosts, limits, mounts, network, secrets, security};

/// Hosts that one instance may be picked for.
const MOST_HOSTS: u32 = 10_000;

/// Bytes of one variable of the environment; the kernel takes 128 KiB at most.
const LARGEST_ENV: usize = 64 << 10;

const IMAGE: &str = "\"belenios:2.5.1\"";

const HOSTS: &str = "hosts = \"role=web\", or \"*\" for all";

const INFRA_HOSTS: &str = "hosts = \"role=platform\" here, or at the top of the file for all \
                           instances that have none";

impl Reader<'_, '_> {
    /// Reads one instance; `None` where something that it can't do without is wrong.
    pub(super) fn instance(&mut self, item: &Item<'_>) -> Option<DeclaredInstance> {
        let mut section = item.section(&mut self.report)?;
        let report = &mut self.report;
        let (image, hosts) = (section.take("image"), section.take("hosts"));
        if image.is_none() {
            section.lacks(&["image"], &format!("image = {IMAGE}"));
        }
        if hosts.is_none() && self.hosts.is_none() {
            section.lacks(&["hosts"], if self.is_infra { INFRA_HOSTS } else { HOSTS });
        }
        let image: Option<ImageRef> = image.and_then(|image| image.parsed(IMAGE, report));
        let hosts = match hosts {
            Some(item) => hosts::read(&item, report),
            None => self.hosts.clone().flatten(),
        };
        let count = section.take("count");
        let count = count.map(|item| read_count(&item, hosts.as_ref(), report));
        let after = section.take("after");
        let after = after
            .map(|after| self.order.read(item.name, &after, self.fleet.as_ref(), &mut self.report));
        let read = self.settings(&mut section, item);
        section.finish(&[], &mut self.report);
        let Read { mut settings, overrides, templates, secrets } = read?;
        settings.after = optional(after)?.unwrap_or_default();
        let (image, hosts, count) = (image?, hosts?, optional(count)?);
        Some(DeclaredInstance { image, hosts, count, settings, overrides, templates, secrets })
    }

    fn settings(&mut self, section: &mut Section<'_>, instance: &Item<'_>) -> Option<Read> {
        let report = &mut self.report;
        let start = read_start(section, report);
        let network = network::read(section, report);
        let ports = section.take("ports");
        let ports = ports.map(|item| network::ports(&item, network.as_ref(), report));
        let mut paths = Paths::default();
        let data = sub(section, "data", report).map(|data| data::read(&data, &mut paths, report));
        let mounts =
            sub(section, "mounts", report).map(|mounts| mounts::read(&mounts, &mut paths, report));
        let limits = sub(section, "limits", report).map(|limits| limits::read(limits, report));
        let security = sub(section, "security", report).map(|s| security::read(s, report));
        let hooks = sub(section, "hooks", report).map(|hooks| hooks::read(hooks, report));
        let root = section.take("root").map(|root| root.parsed("\"memory\"", report));
        let health = sub(section, "health", report);
        let health = health.map(|health| health::read(health, start.as_ref(), report));
        let secrets = sub(section, "secrets", report).map(|table| secrets::read(&table, report));
        let secrets = secrets.unwrap_or_default();
        let files = sub(section, "files", report);
        let env = sub(section, "env", report);
        let place = self.sample_place(instance);
        let boots = is_boot(start.as_ref());
        let stand_ins = Secrets::stand_ins(secrets.keys());
        let owner = files::Owner { place: &place, boots, secrets: &stand_ins };
        let files = files.map(|files| self.files(&files, &owner, &mut paths));
        let Files { files, mut used } = files.unwrap_or_default();
        let (env, env_templates) =
            env.map(|env| self.env(&env, &place, &mut used)).unwrap_or_default();
        let network = network.and_then(|found| self.network(found, &place, &mut used));
        paths.check(&mut self.report);
        if !self.spend(0) {
            return None;
        }
        let (vars, overrides) = (self.vars.only(&used), self.vars.overrides(&used));
        let (network, address) = network?;
        let settings = Settings {
            start: start?,
            network,
            env,
            data: data.unwrap_or_default(),
            files,
            vars,
            health: optional(health)?,
            after: BTreeSet::new(),
            ports: optional(ports)?.unwrap_or_default(),
            limits: optional(limits)?.unwrap_or_default(),
            security: optional(security)?.unwrap_or_default(),
            mounts: mounts.unwrap_or_default(),
            root: optional(root)?.unwrap_or_default(),
            secrets: BTreeMap::new(),
            hooks: optional(hooks)?.unwrap_or_default(),
        };
        let templates = Templates { env: env_templates, address };
        let read = Read { settings, overrides, templates, secrets };
        self.spend_settings(&read).then_some(read)
    }

    /// The network with its address; where that is a template, it is given apart.
    fn network(
        &mut self,
        found: network::Found<'_>,
        place: &Place,
        used: &mut BTreeSet<String>,
    ) -> Option<(Network, Option<String>)> {
        let network::Found { mut network, address } = found;
        let Some(address) = address else { return Some((network, None)) };
        let text = address.text("\"10.0.0.24/24\"", &mut self.report)?;
        if text.contains("{{") {
            let at = (place, &Secrets::none());
            let sound = self.sound_template(&address, ("of `address`", text), at, used);
            return sound.then(|| (network, Some(text.to_owned())));
        }
        let gateway = network.link().and_then(|link| link.gateway);
        let read = network::plain_address(&address, gateway, &mut self.report)?;
        if let Some(link) = network.link_mut() {
            link.address = Some(read);
        }
        Some((network, None))
    }

    /// The environment, and those variables of it that are templates.
    fn env(&mut self, section: &Section<'_>, place: &Place, used: &mut BTreeSet<String>) -> Env {
        let (mut plain, mut templates) = Env::default();
        for item in section.entries() {
            let name: Option<EnvName> = item.named(&mut self.report);
            if let DeValue::Table(_) = item.value() {
                let template = self.env_template(&item, place, used);
                templates.extend(name.zip(template));
            } else {
                let value = plain_text(&item, &mut self.report);
                plain.extend(name.zip(value));
            }
        }
        (plain, templates)
    }

    fn env_template(
        &mut self,
        item: &Item<'_>,
        place: &Place,
        used: &mut BTreeSet<String>,
    ) -> Option<String> {
        let mut section = item.section(&mut self.report)?;
        let template = section.take("template");
        if template.is_none() {
            section.lacks(&["template"], "template = \"{{ domain }}\", or write the value itself");
        }
        section.finish(&[], &mut self.report);
        let template = template?;
        let text = plain_text(&template, &mut self.report)?;
        let at = (place, &Secrets::none());
        let sound = self.sound_template(&template, ("of the variable", &text), at, used);
        sound.then_some(text)
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

/// What is read of an instance's settings.
pub(super) struct Read {
    /// Those that are the same everywhere.
    pub(super) settings: Settings,
    pub(super) overrides: Vec<Override>,
    pub(super) templates: Templates,
    pub(super) secrets: BTreeMap<CredentialName, SecretName>,
}

/// The plain part of an environment, and the templates.
type Env = (BTreeMap<EnvName, String>, BTreeMap<EnvName, String>);

fn is_boot(start: Option<&Start>) -> bool {
    // Where the start is wrong, nothing more is said about it.
    start.is_none_or(|start| *start == Start::Boot)
}

fn read_count(item: &Item<'_>, hosts: Option<&HostMatch>, report: &mut Report<'_>) -> Option<u32> {
    let count = u32::try_from(item.integer(report)?).ok();
    let Some(count) = count.filter(|count| (1..=MOST_HOSTS).contains(count)) else {
        let help = "to have none, take the instance out of the file";
        let message = format!("`count` must be from 1 to {MOST_HOSTS}");
        report.error_help(&item.span(), message, help);
        return None;
    };
    if let Some(HostMatch::Names(names)) = hosts
        && usize::try_from(count).is_ok_and(|count| count > names.len())
    {
        item.wrong(format!("{count} hosts are wanted, and `hosts` names {}", names.len()), report);
        return None;
    }
    Some(count)
}

fn read_start(section: &mut Section<'_>, report: &mut Report<'_>) -> Option<Start> {
    match (section.take("boot"), section.take("command")) {
        (Some(boot), None) => read_boot(&boot, report),
        (None, Some(command)) => read_command(&command, report).map(Start::Command),
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

/// A program with its arguments.
pub(super) fn read_command(item: &Item<'_>, report: &mut Report<'_>) -> Option<Vec<String>> {
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
    Some(words)
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
