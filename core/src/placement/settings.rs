//! What an instance is told on one host: its variables there, and every text that depends on them.

use std::collections::{BTreeMap, BTreeSet};

use super::OnHost;
use crate::fleet::{DeclaredInstance, FleetSpec};
use crate::host::Host;
use crate::label::HostMatch;
use crate::name::{CredentialName, InstanceId, InstanceName};
use crate::render::{self, Place, RenderError, Secrets};
use crate::secret::{PinnedSecret, SecretName};
use crate::spec::{FileBody, InterfaceAddress, Settings, Vars};

/// Bytes of one variable of the environment; the kernel takes 128 KiB at most.
const LARGEST_ENV: usize = 64 << 10;

/// An instance of a fleet, with what of it is the same on every host.
pub(super) struct Instance<'a> {
    declared: &'a DeclaredInstance,
    id: InstanceId,
    /// The variables that its files name.
    used: BTreeSet<String>,
    secrets: BTreeMap<CredentialName, PinnedSecret>,
    /// What its files may ask for.
    stand_ins: Secrets,
    /// The texts that could not be rendered on a host.
    failed: BTreeSet<String>,
}

impl<'a> Instance<'a> {
    pub(super) fn new(
        fleet: &FleetSpec,
        name: &InstanceName,
        declared: &'a DeclaredInstance,
        versions: &BTreeMap<SecretName, u64>,
    ) -> Self {
        let id = InstanceId { fleet: fleet.fleet.clone(), instance: name.clone() };
        let templates = declared.settings.files.values().filter_map(|file| match &file.body {
            FileBody::Template(text) => Some(text),
            FileBody::Text(_) | FileBody::Bytes(_) => None,
        });
        // One that can't be read is told of where it is rendered.
        let used = templates.filter_map(|text| render::variables(text).ok()).flatten().collect();
        let secrets = declared.secrets.iter().filter_map(|(credential, name)| {
            let version = *versions.get(name)?;
            Some((credential.clone(), PinnedSecret { name: name.clone(), version }))
        });
        let (secrets, stand_ins) = (secrets.collect(), Secrets::stand_ins(declared.secrets.keys()));
        Self { declared, id, used, secrets, stand_ins, failed: BTreeSet::new() }
    }

    /// Its settings on `host`; what is wrong there goes to `problems`.
    pub(super) fn on(&mut self, host: &Host, problems: &mut Vec<OnHost>) -> Settings {
        let place = Place::new(&host.name, &self.id);
        let declared = self.declared;
        let vars = vars_on(declared, host, problems);
        let mut settings = declared.settings.clone();
        settings.secrets.clone_from(&self.secrets);
        let stand_ins = self.stand_ins.clone();
        let mut render = |what: String, template: &str, secrets: &Secrets| {
            let text = self.rendered(&what, template, (&vars, &place, secrets))?;
            text.map_err(|problem| problems.push(problem)).ok().map(|text| (what, text))
        };
        let env = declared.templates.env.iter().filter_map(|(name, template)| {
            let text = render(format!("env.{name}"), template, &Secrets::none());
            text.map(|(what, text)| (name, what, text))
        });
        let env: Vec<_> = env.collect();
        let address = declared.templates.address.as_deref();
        let address =
            address.and_then(|template| render("address".to_owned(), template, &Secrets::none()));
        for (path, file) in &settings.files {
            if let FileBody::Template(template) = &file.body {
                render(format!("template of file {path}"), template, &stand_ins);
            }
        }
        for (name, what, text) in env {
            match for_process(what, text) {
                Ok(text) => drop(settings.env.insert(name.clone(), text)),
                Err(problem) => problems.push(problem),
            }
        }
        if let Some((_, address)) = address {
            problems.extend(give_address(&mut settings, &address).err());
        }
        settings.vars = vars.into_iter().filter(|(name, _)| self.used.contains(name)).collect();
        settings
    }

    /// What `template` says there; `None` where it has failed on another host: there are hosts by
    /// the thousand, and a template may take its time to fail.
    fn rendered(
        &mut self,
        what: &str,
        template: &str,
        (vars, place, secrets): (&Vars, &Place, &Secrets),
    ) -> Option<Result<String, OnHost>> {
        if self.failed.contains(what) {
            return None;
        }
        Some(render::render(template, vars, place, secrets).map_err(
            |RenderError { line, message }| {
                self.failed.insert(what.to_owned());
                OnHost::Template { what: what.to_owned(), line, problem: message }
            },
        ))
    }
}

/// The variables on `host`: those for its name go before those for its labels, and these before
/// those that hold everywhere.
fn vars_on(declared: &DeclaredInstance, host: &Host, problems: &mut Vec<OnHost>) -> Vars {
    let mut vars = declared.settings.vars.clone();
    let named = |hosts: &HostMatch| matches!(hosts, HostMatch::Names(_));
    for by_name in [false, true] {
        let mut set = std::collections::BTreeMap::<&String, &HostMatch>::new();
        let matching = declared.overrides.iter().filter(|o| named(&o.hosts) == by_name);
        for over in matching.filter(|o| o.hosts.matches(&host.name, &host.labels)) {
            for (var, value) in &over.vars {
                let first = set.get(var).filter(|_| vars.get(var) != Some(value));
                // Where two differ for its labels and one is for its name, that one decides.
                if let Some(first) = first.filter(|_| by_name || !decided(declared, host, var)) {
                    let (first, second) = (first.to_string(), over.hosts.to_string());
                    problems.push(OnHost::Overrides { var: var.clone(), first, second });
                }
                vars.insert(var.clone(), value.clone());
                set.entry(var).or_insert(&over.hosts);
            }
        }
    }
    vars
}

/// Whether a variable is set for the host by its name.
fn decided(declared: &DeclaredInstance, host: &Host, var: &str) -> bool {
    declared.overrides.iter().any(|over| {
        matches!(&over.hosts, HostMatch::Names(names) if names.contains(&host.name))
            && over.vars.contains_key(var)
    })
}

/// The text, if a process can be given it.
fn for_process(what: String, text: String) -> Result<String, OnHost> {
    let problem = if text.contains('\0') {
        "has a zero byte, which no process can be given".to_owned()
    } else if text.len() > LARGEST_ENV {
        format!("has {} bytes; {LARGEST_ENV} are allowed", text.len())
    } else {
        return Ok(text);
    };
    Err(OnHost::Template { what, line: None, problem })
}

fn give_address(settings: &mut Settings, text: &str) -> Result<(), OnHost> {
    let address: InterfaceAddress = text.trim().parse().map_err(OnHost::NoAddress)?;
    let link = settings.network.link_mut().ok_or(OnHost::NoLink)?;
    if let Some(gateway) = link.gateway.filter(|gateway| !address.reaches(*gateway)) {
        return Err(OnHost::Gateway { gateway, address });
    }
    link.address = Some(address);
    Ok(())
}
