//! What differs between two configurations of an instance, field by field, for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::fleet::{DeclaredInstance, FleetSpec, Override, Templates};
use crate::label::HostMatch;
use crate::name::InstanceName;
use crate::spec::{
    File, FileBody, Health, InstanceConfig, Limits, Link, Mount, Network, Port, Security, Settings,
    Start, Value, Vars,
};

/// One field that differs. A side that is not there is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// The field, as the fleet file names it: `env.ENGINE_NAME`, `image`.
    pub field: String,
    /// What it was.
    pub from: Option<String>,
    /// What it will be.
    pub to: Option<String>,
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "{}: {from} -> {to}", self.field),
            (None, Some(to)) => write!(f, "{}: {to} (new)", self.field),
            (Some(from), None) => write!(f, "{}: {from} (removed)", self.field),
            (None, None) => f.write_str(&self.field),
        }
    }
}

/// Fields whose values people may keep passwords in.
const PRIVATE: [&str; 3] = ["env.", "vars.", "files."];

impl FieldChange {
    /// The change without values that are not for everyone: those of the environment, of
    /// variables and of files.
    #[must_use]
    pub fn without_values(&self) -> String {
        if PRIVATE.iter().any(|prefix| self.field.starts_with(prefix)) {
            return format!("{} changed", self.field);
        }
        self.to_string()
    }
}

/// Every field of a configuration that is new as a whole.
#[must_use]
pub fn config_fields(config: &InstanceConfig) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    push(&mut changes, "image", None, shown_image(config));
    for (name, field) in fields(&config.settings) {
        push(&mut changes, &name, None, Some(field.shown));
    }
    changes
}

fn shown_image(config: &InstanceConfig) -> Option<String> {
    Some(format!("{} ({})", config.image.reference, config.image.digest.short()))
}

/// Every field in which `to` differs from `from`; empty where both make the same container.
#[must_use]
pub fn config_changes(from: &InstanceConfig, to: &InstanceConfig) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    if from.image.digest != to.image.digest {
        push(&mut changes, "image", shown_image(from), shown_image(to));
    } else if from.image.signed != to.image.signed {
        let before = from.image.signed.as_ref().map(|_| "signed");
        let after = to.image.signed.as_ref().map(|_| before.map_or("signed", |_| "signed anew"));
        push(&mut changes, "signature", before.map(str::to_owned), after.map(str::to_owned));
    }
    changes.extend(field_changes(&fields(&from.settings), &fields(&to.settings)));
    changes
}

fn field_changes(old: &BTreeMap<String, Field>, new: &BTreeMap<String, Field>) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let (from, to) = (old.get(name), new.get(name));
        if from != to {
            let show = |field: Option<&Field>| field.map(|f| f.shown.clone());
            push(&mut changes, name, show(from), show(to));
        }
    }
    changes
}

/// What differs between two specs of a fleet, instance by instance; empty where nothing does. One
/// that is new or gone is a change without a field.
#[must_use]
pub fn fleet_changes(
    from: &FleetSpec,
    to: &FleetSpec,
) -> BTreeMap<InstanceName, InstanceDifference> {
    let names: BTreeSet<&InstanceName> = from.instances.keys().chain(to.instances.keys()).collect();
    let difference = |name: &InstanceName| match (from.instances.get(name), to.instances.get(name))
    {
        (None, Some(_)) => InstanceDifference::Added,
        (Some(_), None) => InstanceDifference::Removed,
        (Some(from), Some(to)) => InstanceDifference::Changed(declared_changes(from, to)),
        (None, None) => InstanceDifference::Changed(vec![]),
    };
    let all = names.into_iter().map(|name| (name.clone(), difference(name)));
    all.filter(|(_, difference)| *difference != InstanceDifference::Changed(vec![])).collect()
}

/// Where two specs of a fleet say different things of what an instance is, as the file's paths:
/// `instance.mysql.image`. Where instances are to be does not count.
#[must_use]
pub fn content_changes(from: &FleetSpec, to: &FleetSpec) -> Vec<String> {
    let paths = fleet_changes(from, to).into_iter().flat_map(|(name, difference)| {
        let fields: Vec<String> = match difference {
            InstanceDifference::Added => return vec![format!("instance.{name} (new)")],
            InstanceDifference::Removed => return vec![format!("instance.{name} (removed)")],
            InstanceDifference::Changed(changes) => changes.into_iter().map(|c| c.field).collect(),
        };
        let fields = fields.into_iter().filter(|field| !PLACES.contains(&field.as_str()));
        fields.map(|field| format!("instance.{name}.{field}")).collect()
    });
    let agent = |spec: &FleetSpec| spec.infra.as_ref().and_then(|infra| infra.agent.clone());
    let agent = (agent(from) != agent(to)).then(|| "agent".to_owned());
    agent.into_iter().chain(paths).collect()
}

/// Fields that say where an instance is to be.
const PLACES: [&str; 2] = ["hosts", "count"];

/// How one instance differs between two specs of its fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceDifference {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// These fields differ.
    Changed(Vec<FieldChange>),
}

/// Every field in which a declared instance differs.
fn declared_changes(from: &DeclaredInstance, to: &DeclaredInstance) -> Vec<FieldChange> {
    field_changes(&declared_fields(from), &declared_fields(to))
}

fn declared_fields(declared: &DeclaredInstance) -> BTreeMap<String, Field> {
    let DeclaredInstance { image, hosts, count, settings, overrides, templates, secrets } =
        declared;
    let mut fields = fields(settings);
    let mut add = |name: String, value: String| {
        fields.insert(name, Field { shown: value.clone(), exact: value });
    };
    add("image".into(), image.to_string());
    add("hosts".into(), hosts.to_string());
    count.iter().for_each(|count| add("count".into(), count.to_string()));
    for Override { hosts, vars } in overrides {
        let named = matches!(hosts, HostMatch::Names(_));
        let hosts = if named { format!("@{hosts}") } else { hosts.to_string() };
        for (name, value) in vars {
            add(format!("vars.{hosts:?}.{name}"), show_value(value));
        }
    }
    for (name, secret) in secrets {
        add(format!("secrets.{name}"), secret.to_string());
    }
    let Templates { env, address } = templates;
    for (name, template) in env {
        add(format!("env.{name}"), template.clone());
    }
    address.iter().for_each(|template| add("address".into(), template.clone()));
    fields
}

fn push(changes: &mut Vec<FieldChange>, field: &str, from: Option<String>, to: Option<String>) {
    changes.push(FieldChange { field: field.to_owned(), from, to });
}

/// A field's value: what is compared, and the short form that people see.
#[derive(PartialEq, Eq)]
struct Field {
    exact: String,
    shown: String,
}

fn fields(settings: &Settings) -> BTreeMap<String, Field> {
    // Destructured, so that a new setting can't be forgotten here.
    let Settings {
        start,
        network,
        env,
        data,
        files,
        vars,
        health,
        after,
        ports,
        limits,
        security,
        mounts,
        root,
        secrets,
        hooks,
    } = settings;
    let mut fields = BTreeMap::new();
    let mut add = |name: String, value: String| {
        fields.insert(name, Field { shown: value.clone(), exact: value });
    };
    match start {
        Start::Boot => add("boot".into(), "true".into()),
        Start::Command(words) => add("command".into(), format!("{words:?}")),
    }
    add_network(&mut add, network, ports);
    for (name, value) in env {
        add(format!("env.{name}"), format!("{value:?}"));
    }
    for (name, volume) in data {
        add(format!("data.{name}.path"), volume.path.to_string());
        add(format!("data.{name}.owner"), volume.owner.to_string());
    }
    add_vars(&mut add, vars);
    if let Some(health) = health {
        add_health(&mut add, health);
    }
    if !after.is_empty() {
        add("after".into(), listed(after));
    }
    add_limits(&mut add, limits);
    add_security(&mut add, security);
    for (path, Mount { source, writable, shared }) in mounts {
        add(format!("mounts.{path}.source"), source.to_string());
        add(format!("mounts.{path}.writable"), writable.to_string());
        add(format!("mounts.{path}.shared"), shared.to_string());
    }
    for (name, secret) in secrets {
        add(format!("secrets.{name}"), secret.to_string());
    }
    for (name, words) in hooks.named() {
        add(format!("hooks.{name}"), format!("{words:?}"));
    }
    if !root.is_default() {
        add("root".into(), root.to_string());
    }
    for (path, file) in files {
        let File { body: _, mode, owner, reload } = file;
        add(format!("files.{path}.mode"), format!("{mode:04o}"));
        add(format!("files.{path}.owner"), owner.to_string());
        if let Some(unit) = reload {
            add(format!("files.{path}.reload"), unit.to_string());
        }
    }
    for (path, file) in files {
        fields.insert(format!("files.{path}"), body_field(file));
    }
    fields
}

fn listed<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn add_network(add: &mut impl FnMut(String, String), network: &Network, ports: &[Port]) {
    add("network".into(), network.to_string());
    if let Some(Link { address, gateway }) = network.link() {
        address.iter().for_each(|address| add("address".into(), address.to_string()));
        gateway.iter().for_each(|gateway| add("gateway".into(), gateway.to_string()));
    }
    if !ports.is_empty() {
        add("ports".into(), listed(ports));
    }
}

fn add_limits(add: &mut impl FnMut(String, String), limits: &Limits) {
    let Limits { memory, cpu, tasks, nofile } = limits;
    memory.iter().for_each(|memory| add("limits.memory".into(), memory.to_string()));
    cpu.iter().for_each(|cpu| add("limits.cpu".into(), format!("{cpu}%")));
    tasks.iter().for_each(|tasks| add("limits.tasks".into(), tasks.to_string()));
    nofile.iter().for_each(|nofile| add("limits.nofile".into(), nofile.to_string()));
}

fn add_security(add: &mut impl FnMut(String, String), security: &Security) {
    let Security {
        capabilities_add,
        capabilities_drop,
        new_privileges,
        private_users,
        system_calls_allow,
    } = security;
    if !capabilities_add.is_empty() {
        add("security.capabilities-add".into(), listed(capabilities_add));
    }
    if !capabilities_drop.is_empty() {
        add("security.capabilities-drop".into(), listed(capabilities_drop));
    }
    if *new_privileges {
        add("security.new-privileges".into(), "true".into());
    }
    if !private_users {
        add("security.private-users".into(), "false".into());
    }
    if !system_calls_allow.is_empty() {
        add("security.system-calls-allow".into(), listed(system_calls_allow));
    }
}

fn add_vars(add: &mut impl FnMut(String, String), vars: &Vars) {
    for (name, value) in vars {
        add(format!("vars.{name}"), show_value(value));
    }
}

fn show_value(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| format!("{value:?}"))
}

fn add_health(add: &mut impl FnMut(String, String), health: &Health) {
    let Health { unit, tcp, http, exec, grace, interval, timeout, retries } = health;
    if let Some(unit) = unit {
        add("health.unit".into(), unit.to_string());
    }
    if let Some(tcp) = tcp {
        add("health.tcp".into(), tcp.to_string());
    }
    if let Some(http) = http {
        add("health.http".into(), http.to_string());
    }
    if !exec.is_empty() {
        add("health.exec".into(), format!("{exec:?}"));
    }
    add("health.grace".into(), format!("{grace:?}"));
    add("health.interval".into(), format!("{interval:?}"));
    add("health.timeout".into(), format!("{timeout:?}"));
    add("health.retries".into(), retries.to_string());
}

fn body_field(file: &File) -> Field {
    let (kind, exact) = match &file.body {
        FileBody::Text(text) => ("text", text.clone()),
        FileBody::Bytes(bytes) => ("bytes", format!("{bytes:?}")),
        FileBody::Template(text) => ("template", text.clone()),
    };
    let lines = exact.lines().count();
    let shown = match &file.body {
        FileBody::Bytes(bytes) => format!("{} bytes", bytes.len()),
        _ => format!("{kind} of {lines} lines"),
    };
    Field { exact: format!("{kind} {exact}"), shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests_support::instance;

    #[test]
    fn equal_configs_have_no_changes() {
        let config = instance("a/b", 1).config;
        assert_eq!(config_changes(&config, &config.clone()), vec![]);
    }

    #[test]
    fn each_field_that_differs_is_named() {
        let from = instance("a/b", 1).config;
        let mut to = instance("a/b", 2).config;
        to.settings.env.insert("X".parse().unwrap(), "1".into());
        to.settings.start = Start::Command(vec!["/bin/true".into()]);
        to.settings.files.insert(
            "/etc/x".parse().unwrap(),
            File {
                body: FileBody::Text("a\nb\n".into()),
                mode: 0o644,
                owner: Default::default(),
                reload: None,
            },
        );
        let shown: Vec<String> =
            config_changes(&from, &to).iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "image: app:1 (010101010101) -> app:2 (020202020202)",
                "boot: true (removed)",
                "command: [\"/bin/true\"] (new)",
                "env.X: \"1\" (new)",
                "files./etc/x: text of 2 lines (new)",
                "files./etc/x.mode: 0644 (new)",
                "files./etc/x.owner: 0:0 (new)",
            ]
        );
    }

    #[test]
    fn a_new_configuration_is_all_its_fields() {
        let fields = config_fields(&instance("a/b", 1).config);
        let shown: Vec<String> = fields.iter().map(ToString::to_string).collect();
        let wanted =
            ["image: app:1 (010101010101) (new)", "boot: true (new)", "network: host (new)"];
        assert_eq!(shown, wanted);
    }

    #[test]
    fn a_file_of_the_same_size_still_differs() {
        let mut from = instance("a/b", 1).config;
        let mut to = from.clone();
        for (config, text) in [(&mut from, "one"), (&mut to, "two")] {
            config.settings.files.insert(
                "/etc/x".parse().unwrap(),
                File {
                    body: FileBody::Text(text.into()),
                    mode: 0o644,
                    owner: Default::default(),
                    reload: None,
                },
            );
        }
        assert_eq!(config_changes(&from, &to).len(), 1);
    }

    #[test]
    fn a_moved_tag_on_the_same_file_is_no_change() {
        let from = instance("a/b", 1).config;
        let mut to = from.clone();
        to.image.reference = "app:latest".parse().unwrap();
        assert!(from.same_container(&to));
        assert_eq!(config_changes(&from, &to), vec![]);
    }

    #[test]
    fn another_signature_of_the_same_file_is_told() {
        let unsigned = instance("a/b", 1).config;
        let signed = |text: &str| {
            let mut config = unsigned.clone();
            let signed = crate::image::SignedManifest::new(text.into(), String::new()).unwrap();
            config.image.signed = Some(Box::new(signed));
            config
        };
        let told = |from: &InstanceConfig, to: &InstanceConfig| {
            assert!(from.same_container(to));
            let changes = config_changes(from, to);
            changes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(told(&unsigned, &signed("1")), "signature: signed (new)");
        assert_eq!(told(&signed("1"), &signed("2")), "signature: signed -> signed anew");
        assert_eq!(told(&signed("1"), &unsigned), "signature: signed (removed)");
        assert_eq!(told(&signed("1"), &signed("1")), "");
    }
    fn fleet(instances: &[(&str, &str)]) -> FleetSpec {
        let declared = |image: &str| DeclaredInstance {
            image: image.parse().unwrap(),
            hosts: HostMatch::All,
            count: None,
            settings: instance("a/b", 1).config.settings,
            overrides: vec![],
            templates: Templates::default(),
            secrets: BTreeMap::new(),
        };
        let instances =
            instances.iter().map(|(name, image)| (name.parse().unwrap(), declared(image)));
        FleetSpec {
            fleet: "shop".parse().unwrap(),
            instances: instances.collect(),
            rollout: crate::rollout::Policy::default(),
            infra: None,
        }
    }

    fn differences(from: &FleetSpec, to: &FleetSpec) -> Vec<String> {
        let lines = fleet_changes(from, to).into_iter().flat_map(|(name, difference)| {
            let changes = match difference {
                InstanceDifference::Changed(changes) => {
                    changes.iter().map(FieldChange::without_values).collect()
                }
                whole => vec![format!("{whole:?}")],
            };
            changes.into_iter().map(move |change| format!("{name}: {change}"))
        });
        lines.collect()
    }

    #[test]
    fn two_specs_of_a_fleet_are_told_apart_by_instance() {
        let from = fleet(&[("gone", "app:1"), ("main", "app:1"), ("same", "app:1")]);
        let mut to = fleet(&[("main", "app:2"), ("new", "app:1"), ("same", "app:1")]);
        let main = to.instances.values_mut().next().unwrap();
        main.hosts = "role=web".parse().map(HostMatch::Selector).unwrap();
        main.count = Some(2);
        assert_eq!(
            differences(&from, &to),
            [
                "gone: Removed",
                "main: count: 2 (new)",
                "main: hosts: * -> role=web",
                "main: image: app:1 -> app:2",
                "new: Added",
            ]
        );
        assert_eq!(differences(&to, &to), [""; 0]);
    }

    #[test]
    fn what_an_instance_is_is_told_apart_from_where_it_is() {
        let from = fleet(&[("gone", "app:1"), ("main", "app:1")]);
        let mut to = fleet(&[("main", "app:2"), ("new", "app:1")]);
        let main = to.instances.values_mut().next().unwrap();
        main.count = Some(2);
        main.hosts = HostMatch::Names(vec!["h1".parse().unwrap()]);
        main.settings.env.insert("TOKEN".parse().unwrap(), "secret".into());
        let wanted = [
            "instance.gone (removed)",
            "instance.main.env.TOKEN",
            "instance.main.image",
            "instance.new (new)",
        ];
        assert_eq!(content_changes(&from, &to), wanted);
        let mut elsewhere = from.clone();
        elsewhere.instances.values_mut().for_each(|declared| declared.count = Some(1));
        assert_eq!(content_changes(&from, &elsewhere), [""; 0]);
    }

    #[test]
    fn what_may_be_a_password_is_not_told() {
        let from = fleet(&[("main", "app:1")]);
        let mut to = from.clone();
        let main = to.instances.values_mut().next().unwrap();
        let secret = || Value::Text("secret".into());
        main.settings.env.insert("TOKEN".parse().unwrap(), "secret".into());
        main.settings.vars.insert("key".into(), secret());
        let hosts = HostMatch::Names(vec!["h1".parse().unwrap()]);
        main.overrides = vec![Override { hosts, vars: [("key".to_owned(), secret())].into() }];
        main.templates.env.insert("URL".parse().unwrap(), "https://secret@{{ host }}".into());
        let told = differences(&from, &to);
        let wanted = ["env.TOKEN", "env.URL", "vars.\"@h1\".key", "vars.key"]
            .map(|f| format!("main: {f} changed"));
        assert_eq!(told, wanted);
    }
}
