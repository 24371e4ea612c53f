//! The fleet file in the making, and its text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::name::{FleetName, VolumeName};
use crate::spec::{EnvName, HostPath, InstancePath, Limits, Port, Root, Security};

use super::Container;
use super::settings::Settings;

/// Bytes of a fleet's name, and of a volume's.
const LONGEST_NAME: usize = 31;

/// Characters of a line beyond which the environment is a table of its own.
const WIDEST: usize = 100;

#[derive(Debug)]
pub(super) enum Start {
    Boot,
    Command(Vec<String>),
}

#[derive(Debug)]
pub(super) struct Volume {
    pub(super) name: VolumeName,
    pub(super) path: InstancePath,
}

#[derive(Debug)]
pub(super) struct Mount {
    pub(super) path: InstancePath,
    pub(super) source: HostPath,
    pub(super) writable: bool,
}

/// What is known of the container so far.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) fleet: FleetName,
    pub(super) start: Start,
    pub(super) network: String,
    pub(super) ports: Vec<Port>,
    /// `None` where nothing is said.
    pub(super) root: Option<Root>,
    /// Whether systemd-nspawn, too, discarded what was written to the root.
    pub(super) keeps_nothing: bool,
    pub(super) env: BTreeMap<EnvName, String>,
    pub(super) volumes: Vec<Volume>,
    pub(super) mounts: Vec<Mount>,
    pub(super) limits: Limits,
    pub(super) security: Security,
}

impl Draft {
    pub(super) fn new(machine: &str, settings: &mut Settings) -> Self {
        let name = plain_name(machine, "imported");
        if name != machine {
            let why = format!("{machine:?} can't be the name of a fleet; it is {name} here");
            settings.general("name", why);
        }
        Self {
            fleet: name.parse().expect("a plain name is a fleet's name"),
            start: Start::Boot,
            network: "veth".to_owned(),
            ports: Vec::new(),
            root: None,
            keeps_nothing: false,
            env: BTreeMap::new(),
            volumes: Vec::new(),
            mounts: Vec::new(),
            limits: Limits::default(),
            security: Security::default(),
        }
    }

    /// What is at a path already, or inside it, or around it.
    pub(super) fn occupied(&self, path: &InstancePath) -> Option<&InstancePath> {
        let volumes = self.volumes.iter().map(|volume| &volume.path);
        let mut paths = volumes.chain(self.mounts.iter().map(|mount| &mount.path));
        let within = |a: &InstancePath, b: &InstancePath| {
            let rest = a.as_str().strip_prefix(b.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        paths.find(|other| within(path, other) || within(other, path))
    }

    /// Whether a port of the host leads here already.
    pub(super) fn leads(&self, port: &Port) -> bool {
        self.ports.iter().any(|p| (p.host, p.protocol) == (port.host, port.protocol))
    }

    /// A name for the volume at a path, which no other has.
    pub(super) fn volume_name(&self, path: &InstancePath) -> VolumeName {
        let last = path.as_str().rsplit('/').next().unwrap_or_default();
        let base = plain_name(last, "data");
        let taken: BTreeSet<&str> = self.volumes.iter().map(|v| v.name.as_str()).collect();
        let numbered = |n: usize| {
            let (number, base) = (format!("-{n}"), base.as_str());
            let room = LONGEST_NAME - number.len();
            format!("{}{number}", base.get(..room).unwrap_or(base).trim_end_matches('-'))
        };
        let names = std::iter::once(base.clone()).chain((2..).map(numbered));
        let mut free = names.filter(|name| !taken.contains(name.as_str()));
        let name = free.next().expect("there are more numbers than volumes");
        name.parse().expect("a plain name is a volume's name")
    }

    /// The fleet file, in the one form of fleet files.
    pub(super) fn toml(&self, container: &Container<'_>) -> String {
        let mut out = Toml::default();
        out.line(format!("# Made by `shoal import` from {}.", printable(container.settings.name)));
        out.line("");
        out.line(format!("fleet = {}", quoted(self.fleet.as_str())));
        out.table("instance.main");
        self.image(&mut out, container.name);
        self.settings(&mut out);
        self.tables(&mut out);
        out.0
    }

    fn image(&self, out: &mut Toml, machine: &str) {
        let (fleet, machine) = (&self.fleet, shell_word(&printable(machine)));
        out.line("# There is no image yet. Make one of the container's root, where it runs now:");
        out.line(format!("#   machinectl stop {machine}"));
        out.line(format!("#   mksquashfs /var/lib/machines/{machine} {fleet}.squashfs -comp zstd"));
        out.line(format!("#   shoal image push {fleet}.squashfs {fleet}:imported"));
        if self.security.private_users {
            out.line("# First, if `ls -ln` shows owners of 65536 and more there, give them back:");
            out.line(format!(
                "#   systemd-nspawn -D /var/lib/machines/{machine} --private-users=0 \
                 --private-users-ownership=chown /bin/true"
            ));
        }
        out.line(format!("image = {}", quoted(&format!("{fleet}:imported"))));
        out.line(format!("# Choose a host: `shoal host label HOST role={fleet}`."));
        out.line(format!("hosts = {}", quoted(&format!("role={fleet}"))));
    }

    fn settings(&self, out: &mut Toml) {
        match &self.start {
            Start::Boot => out.line("boot = true"),
            Start::Command(words) => out.line(format!("command = {}", list(words))),
        }
        out.line(format!("network = {}", quoted(&self.network)));
        if !self.ports.is_empty() {
            out.line(
                "# Ports lead to a fixed address. Write the instance's own, and use both lines:",
            );
            out.line("# address = \"10.0.0.24/24\"");
            out.line(format!("# ports = {}", list(&self.ports)));
        }
        if let Some(root) = self.root {
            out.line(format!("root = {}", quoted(&root.to_string())));
        }
        let pairs = self.env.iter().map(|(name, value)| format!("{name} = {}", quoted(value)));
        let pairs: Vec<String> = pairs.collect();
        let inline = format!("env = {{ {} }}", pairs.join(", "));
        if pairs.is_empty() {
        } else if inline.chars().count() <= WIDEST && !inline.contains('\n') {
            out.line(inline);
        } else {
            out.table("instance.main.env");
            pairs.iter().for_each(|pair| out.line(pair));
        }
    }

    fn tables(&self, out: &mut Toml) {
        for Volume { name, path } in &self.volumes {
            out.table(&format!("instance.main.data.{name}"));
            out.line(format!("path = {}", quoted(path.as_str())));
        }
        for Mount { path, source, writable } in &self.mounts {
            out.table(&format!("instance.main.mounts.{}", quoted(path.as_str())));
            out.line(format!("source = {}", quoted(source.as_str())));
            if *writable {
                out.line("writable = true");
            }
        }
        self.limits(out);
        self.security(out);
    }

    fn limits(&self, out: &mut Toml) {
        let Limits { memory, cpu, tasks, nofile } = &self.limits;
        let lines = [
            memory.map(|memory| format!("memory = {}", quoted(&memory.to_string()))),
            cpu.map(|percent| format!("cpu = {}", quoted(&format!("{percent}%")))),
            tasks.map(|tasks| format!("tasks = {tasks}")),
            nofile.map(|files| format!("nofile = {files}")),
        ];
        out.table_of("instance.main.limits", lines.into_iter().flatten());
    }

    fn security(&self, out: &mut Toml) {
        let Security {
            capabilities_add,
            capabilities_drop,
            new_privileges,
            private_users,
            system_calls_allow,
        } = &self.security;
        let lines = [
            (!capabilities_add.is_empty())
                .then(|| format!("capabilities-add = {}", list(capabilities_add))),
            (!capabilities_drop.is_empty())
                .then(|| format!("capabilities-drop = {}", list(capabilities_drop))),
            new_privileges.then(|| "new-privileges = true".to_owned()),
            (!private_users).then(|| "private-users = false".to_owned()),
            (!system_calls_allow.is_empty())
                .then(|| format!("system-calls-allow = {}", list(system_calls_allow))),
        ];
        out.table_of("instance.main.security", lines.into_iter().flatten());
    }
}

/// A text of TOML, line by line.
#[derive(Debug, Default)]
struct Toml(String);

impl Toml {
    fn line(&mut self, line: impl std::fmt::Display) {
        // Writing to a string can't fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn table(&mut self, path: &str) {
        self.line(format!("\n[{path}]"));
    }

    /// A table with these lines, where there are any.
    fn table_of(&mut self, path: &str, lines: impl Iterator<Item = String>) {
        let mut lines = lines.peekable();
        if lines.peek().is_some() {
            self.table(path);
        }
        lines.for_each(|line| self.line(line));
    }
}

/// A string of TOML, on one line.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn list<T: ToString>(words: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| quoted(&word.to_string())).collect();
    format!("[{}]", words.join(", "))
}

/// A text that can be in a comment.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A word as a shell takes it.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The nearest name to `text` that a fleet or a volume can have, or `otherwise`.
fn plain_name(text: &str, otherwise: &str) -> String {
    let mut name = String::new();
    for c in text.to_ascii_lowercase().chars() {
        let good = c.is_ascii_lowercase() || c.is_ascii_digit();
        let first = name.is_empty();
        match c {
            c if good && !(first && c.is_ascii_digit()) => name.push(c),
            c if good => name.extend(['n', c]),
            _ if first || name.ends_with('-') => {}
            _ => name.push('-'),
        }
    }
    name.truncate(LONGEST_NAME);
    let name = name.trim_end_matches('-');
    if name.is_empty() { otherwise.to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_plain() {
        let long = "x".repeat(40);
        let table = [
            ("shop", "shop"),
            ("Shop_1", "shop-1"),
            ("db.example.org", "db-example-org"),
            ("9front", "n9front"),
            ("--", "imported"),
            ("ü", "imported"),
            ("a--b-", "a-b"),
            (&long, &long[..31]),
        ];
        for (text, wanted) in table {
            assert_eq!(plain_name(text, "imported"), wanted, "{text}");
            assert!(wanted.parse::<FleetName>().is_ok());
            assert!(wanted.parse::<VolumeName>().is_ok());
        }
    }

    #[test]
    fn strings_come_through() {
        for text in ["", "a\"b\\c", "x\ny\t\u{1}\u{7f}", "é😀", "'''"] {
            let toml = format!("a = {}", quoted(text));
            let table: toml::Table = toml.parse().unwrap();
            assert_eq!(table["a"].as_str(), Some(text));
        }
    }
}
