//! The schema says what the reader does: the same keys, and nothing that the reader would take is
//! refused.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use regex::Regex;

use super::*;
use crate::fleetfile::{Source, parse};

fn read(text: &str) -> Result<(), String> {
    let files = &mut |_: &str| Ok(Vec::new());
    parse(Source { name: "f.toml", text }, files).map(drop).map_err(|e| e.to_string())
}

/// As much of JSON Schema as this one uses; a keyword that it does not know is a panic.
struct Validator {
    root: Value,
    patterns: RefCell<BTreeMap<String, Regex>>,
}

impl Validator {
    fn new() -> Self {
        Self::of(schema())
    }

    fn of(root: Value) -> Self {
        Self { root, patterns: RefCell::default() }
    }

    /// What the schema finds wrong with a TOML text.
    fn toml(&self, text: &str) -> Result<(), String> {
        let value: Value = toml::from_str(text).map_err(|e| e.to_string())?;
        self.check(&self.root, &value)
    }

    fn fits(&self, pattern: &str, text: &str) -> bool {
        let mut patterns = self.patterns.borrow_mut();
        let new = || Regex::new(pattern).unwrap();
        patterns.entry(pattern.to_owned()).or_insert_with(new).is_match(text)
    }

    /// Whether `properties` or `patternProperties` speak of a key.
    fn is_named(&self, keywords: &Map<String, Value>, key: &str) -> bool {
        let patterns = keywords.get("patternProperties").into_iter().flat_map(members);
        keywords.get("properties").is_some_and(|p| p.get(key).is_some())
            || patterns.into_iter().any(|(pattern, _)| self.fits(pattern, key))
    }

    fn check(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let Some(keywords) = schema.as_object() else {
            return if schema == &Value::Bool(false) {
                Err(format!("{value} is too much"))
            } else {
                Ok(())
            };
        };
        keywords.iter().try_for_each(|(keyword, by)| self.keyword((keyword, by), keywords, value))
    }

    fn keyword(
        &self,
        (keyword, by): (&str, &Value),
        all: &Map<String, Value>,
        value: &Value,
    ) -> Result<(), String> {
        let holds = match keyword {
            "$schema" | "$defs" | "title" | "description" | "default" | "examples" => true,
            "$ref" => {
                let place = by.as_str().unwrap().strip_prefix('#').unwrap();
                return self.check(self.root.pointer(place).unwrap(), value);
            }
            "type" => match by {
                Value::String(name) => is(value, name),
                names => {
                    names.as_array().unwrap().iter().any(|name| is(value, name.as_str().unwrap()))
                }
            },
            "const" => value == by,
            "enum" => by.as_array().unwrap().contains(value),
            "pattern" => value.as_str().is_none_or(|text| self.fits(by.as_str().unwrap(), text)),
            "minLength" => value.as_str().is_none_or(|text| text.chars().count() >= number(by)),
            "minimum" => value.as_i64().is_none_or(|n| n >= by.as_i64().unwrap()),
            "maximum" => value.as_i64().is_none_or(|n| n <= by.as_i64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|list| list.len() <= number(by)),
            "minItems" => value.as_array().is_none_or(|list| list.len() >= number(by)),
            "uniqueItems" => value.as_array().is_none_or(|list| {
                list.iter().map(Value::to_string).collect::<BTreeSet<_>>().len() == list.len()
            }),
            "prefixItems" => return self.each(by.as_array().unwrap().iter().zip(elements(value))),
            "items" => {
                let first = all.get("prefixItems").map_or(0, |p| p.as_array().unwrap().len());
                let rest = elements(value).iter().skip(first);
                return self.each(rest.map(|element| (by, element)));
            }
            "required" => value.as_object().is_none_or(|table| {
                by.as_array().unwrap().iter().all(|key| table.contains_key(key.as_str().unwrap()))
            }),
            "properties" => {
                let known = members(value).filter_map(|(key, v)| Some((by.get(key)?, v)));
                return self.each(known);
            }
            "patternProperties" => {
                let each = members(by).flat_map(|(pattern, schema)| {
                    let fits = move |(key, _): &(&String, &Value)| self.fits(pattern, key);
                    members(value).filter(fits).map(move |(_, value)| (schema, value))
                });
                return self.each(each);
            }
            "additionalProperties" => {
                let others = members(value).filter(|(key, _)| !self.is_named(all, key));
                return self.each(others.map(|(_, value)| (by, value)));
            }
            "propertyNames" => {
                let names: Vec<Value> =
                    members(value).map(|(key, _)| key.as_str().into()).collect();
                return self.each(names.iter().map(|name| (by, name)));
            }
            "anyOf" => by.as_array().unwrap().iter().any(|s| self.check(s, value).is_ok()),
            "oneOf" => {
                by.as_array().unwrap().iter().filter(|s| self.check(s, value).is_ok()).count() == 1
            }
            other => panic!("the validator does not know `{other}`"),
        };
        if holds { Ok(()) } else { Err(format!("{value} is not as {keyword} {by} says")) }
    }

    fn each<'v>(
        &self,
        mut all: impl Iterator<Item = (&'v Value, &'v Value)>,
    ) -> Result<(), String> {
        all.try_for_each(|(schema, value)| self.check(schema, value))
    }
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("there is no type {other}"),
    }
}

fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

fn elements(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// Every table of the schema that has keys of its own, by its path in a fleet file.
fn tables(schema: &Value, path: Vec<String>, found: &mut Vec<(Vec<String>, BTreeSet<String>)>) {
    if let Some(properties) = schema.get("properties") {
        found.push((path.clone(), members(properties).map(|(key, _)| key.clone()).collect()));
        for (key, schema) in members(properties) {
            tables(schema, [path.as_slice(), std::slice::from_ref(key)].concat(), found);
        }
    }
    if let Some(example) = schema.pointer("/propertyNames/examples/0") {
        let path = [path.as_slice(), &[example.as_str().unwrap().to_owned()]].concat();
        tables(&schema["additionalProperties"], path, found);
    }
    for part in schema.get("anyOf").map(elements).into_iter().flatten() {
        tables(part, path.clone(), found);
    }
}

/// The keys that the reader takes in a table of a file with this first line: what it says when it
/// meets another.
fn taken(first: &str, path: &[String]) -> BTreeSet<String> {
    let keys: Vec<String> = path.iter().map(|key| format!("{key:?}")).collect();
    let header = if keys.is_empty() { String::new() } else { format!("[{}]\n", keys.join(".")) };
    let shown = read(&format!("{first}\n{header}no-such-key-at-all = 1\n")).unwrap_err();
    let known = shown.split("known here are ").nth(1).and_then(|rest| rest.lines().next());
    let known = known.unwrap_or_else(|| panic!("the reader takes anything in {path:?}:\n{shown}"));
    known.split(", ").map(|key| key.trim_matches('`').to_owned()).collect()
}

#[test]
fn the_schemas_have_the_keys_that_the_reader_takes() {
    for (schema, first) in [(schema(), "fleet = \"shop\""), (infra_schema(), "infra = \"1\"")] {
        let mut found = Vec::new();
        tables(&schema, Vec::new(), &mut found);
        let paths: Vec<String> = found.iter().map(|(path, _)| path.join(" ")).collect();
        for (path, keys) in found {
            assert_eq!(keys, taken(first, &path), "{path:?}");
        }
        // Every table that the reader knows is one of these: what is a table in the file is an
        // object in the schema, or this test could not have met it.
        assert_eq!(paths.len(), 11, "{paths:?}");
    }
}

#[test]
fn every_key_has_a_description() {
    fn walk(schema: &Value, path: &str) {
        for (key, schema) in schema.get("properties").into_iter().flat_map(members) {
            assert!(schema.get("description").is_some(), "{path}.{key}");
            walk(schema, &format!("{path}.{key}"));
        }
        if let Some(each) = schema.get("additionalProperties").filter(|each| each.is_object()) {
            walk(each, &format!("{path}.*"));
        }
    }
    walk(&schema(), "");
    walk(&infra_schema(), "");
}

#[test]
fn every_fleet_file_of_this_repository_fits() {
    let reference = include_str!("../../../../docs/fleet-file.md");
    let readme = include_str!("../../../../README.md");
    let example = include_str!("../../../../deploy/examples/belenios/fleet.toml");
    let hello = readme.split("<<'EOF'\n").nth(1).and_then(|rest| rest.split("EOF").next()).unwrap();
    let whole = |block: &&str| block.contains("fleet =");
    let blocks = reference.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    for text in blocks.filter(whole).chain([hello, example, EVERYTHING]) {
        Validator::new().toml(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    }
    read(EVERYTHING).unwrap_or_else(|e| panic!("{e}"));
}

const EVERYTHING: &str = r#"
fleet = "shop"

[vars]
domain = "example.org"
list = [1, true, { a = "b" }]

[vars."site=b"]
domain = "b.example.org"

[vars."@web-1"]
domain = "one.example.org"

[instance.db]
image = "db:10.11"
hosts = ["web-1", "web-2"]
count = 1
command = ["/usr/bin/db", ""]

[instance.main]
image = "shop:v1.0_A"
hosts = "role=web,!old"
after = ["db", "infra/mysql"]
boot = true
network = "zone:back"
address = "10.0.0.{{ list[0] }}/24"
gateway = "10.0.0.1"
ports = ["8001:80/tcp", "53/udp", "9"]
root = "read-only"
env = { A = "1", B = { template = "{{ domain }}" } }

[instance.main.data.var_1]
path = "/var/shop"
owner = "1:1"

[instance.main.files."/etc/shop.conf"]
template = "shop.conf"
mode = "0600"
owner = "1:1"
reload = "shop@x.service"

[instance.main.mounts."/srv/media"]
source = "/srv/media"
writable = true
shared = true

[instance.main.limits]
memory = "1G"
cpu = "150%"
tasks = 10
nofile = 20

[instance.main.security]
capabilities-add = ["CAP_NET_ADMIN"]
capabilities-drop = ["CAP_NET_RAW"]
new-privileges = true
private-users = false
system-calls-allow = ["@keyring", "bpf"]

[instance.main.health]
unit = "shop.service"
tcp = "[::1]:80"
http = "http://127.0.0.1:80/health?x=1"
exec = ["/bin/true"]
grace = "0s"
interval = "100ms"
timeout = "1h"
retries = 1000

[instance.main.hooks]
init = ["/usr/bin/shop", "init"]
migrate = ["/usr/bin/shop", "migrate", ""]

[rollout]
batches = ["1", "10%", "100%"]
monitor = "30s"
max-failures = 2
on-failure = "pause"
batch-timeout = "10m"
spread = "site"
promote = "canary"
windows = ["sat,sun 22:00-04:00", "mon-fri 01:00-24:00", "12:00-13:30"]
stage-ahead = true
"#;

/// A small fleet that is fine, with a line in it changed.
fn changed(old: &str, new: &str) -> String {
    assert!(EVERYTHING.contains(old), "{old}");
    EVERYTHING.replacen(old, new, 1)
}

#[test]
fn what_a_schema_can_say_is_wrong_is_wrong_for_both() {
    let validator = Validator::new();
    for (old, new) in [
        ("fleet = \"shop\"", "fleet = \"Shop\""),
        ("fleet = \"shop\"\n", ""),
        ("fleet = \"shop\"", "fleet = \"shop\"\ninfra = \"1\""),
        ("list = [1", "list = [1.5"),
        ("domain = \"example.org\"", "my-var = 1"),
        ("[instance.main]\n", "[instance.Main]\n"),
        ("image = \"db:10.11\"", "image = \"db\""),
        ("image = \"db:10.11\"\n", ""),
        ("hosts = [\"web-1\", \"web-2\"]", "hosts = []"),
        ("\"web-2\"]", "\"web-1\"]"),
        ("\"web-2\"]", "\"role=web\"]"),
        ("count = 1", "count = 0"),
        ("count = 1", "count = \"1\""),
        ("command = [\"/usr/bin/db\", \"\"]", "command = []"),
        ("command = [\"/usr/bin/db\", \"\"]", "command = [\"\"]"),
        ("command = [\"/usr/bin/db\", \"\"]", "command = \"/usr/bin/db\""),
        ("command = [\"/usr/bin/db\", \"\"]\n", ""),
        ("boot = true", "boot = false"),
        ("boot = true", "boot = true\ncommand = [\"a\"]"),
        ("\"zone:back\"", "\"zone:much-too-long\""),
        ("\"zone:back\"", "\"lan\""),
        ("\"10.0.0.1\"", "\"gateway\""),
        ("\"9\"]", "\"9/sctp\"]"),
        ("\"read-only\"", "\"readonly\""),
        ("A = \"1\"", "A = 1"),
        ("A = \"1\"", "1A = \"1\""),
        ("B = { template", "B = { templat"),
        ("path = \"/var/shop\"", "path = \"var/shop\""),
        ("path = \"/var/shop\"\n", ""),
        ("owner = \"1:1\"", "owner = \"root\""),
        ("mode = \"0600\"", "mode = 600"),
        ("mode = \"0600\"", "content = \"x\""),
        ("template = \"shop.conf\"\n", ""),
        ("source = \"/srv/media\"\n", ""),
        ("memory = \"1G\"", "memory = \"1GB\""),
        ("cpu = \"150%\"", "cpu = \"0%\""),
        ("tasks = 10", "tasks = 0"),
        ("\"CAP_NET_ADMIN\"", "\"NET_ADMIN\""),
        ("migrate = [", "restore = \"a\"\nmigrate = ["),
        ("init = [\"/usr/bin/shop\"", "init = [\"\""),
        ("new-privileges = true", "new-privileges = \"yes\""),
        ("\"bpf\"]", "\"BPF\"]"),
        ("unit = \"shop.service\"", "unit = \"shop\""),
        ("tcp = \"[::1]:80\"", "tcp = \"localhost:80\""),
        ("\"http://127", "\"https://127"),
        ("grace = \"0s\"", "grace = \"0\""),
        ("retries = 1000", "retries = 1001"),
        ("retries = 1000", "Retries = 1000"),
        ("init = [\"/usr/bin/shop\", \"init\"]", "init = \"/usr/bin/shop init\""),
        ("init = [\"/usr/bin/shop\", \"init\"]", "init = []"),
        ("init = [\"/usr/bin/shop\"", "start = [\"/usr/bin/shop\""),
        ("[\"1\", \"10%\"", "[\"0\", \"10%\""),
        ("[\"1\", \"10%\"", "[1, \"10%\""),
        ("\"100%\"]", "\"101%\"]"),
        ("batches = [\"1\", \"10%\", \"100%\"]", "batches = []"),
        ("monitor = \"30s\"", "monitor = 30"),
        ("max-failures = 2", "max-failures = -1"),
        ("on-failure = \"pause\"", "on-failure = \"ignore\""),
        ("promote = \"canary\"", "promote = \"always\""),
        ("spread = \"site\"", "spread = \"site=a\""),
        ("\"12:00-13:30\"", "\"12:00-13:60\""),
        ("\"12:00-13:30\"", "\"24:00-02:00\""),
        ("\"12:00-13:30\"", "\"Sat 12:00-13:30\""),
        ("stage-ahead = true", "stage-ahead = 1"),
    ] {
        let text = changed(old, new);
        assert!(read(&text).is_err(), "the reader takes {new}");
        assert!(validator.toml(&text).is_err(), "the schema takes {new}");
    }
}

/// What an infra file has of its own.
const INFRA: &str = r#"
infra = "50.2.0-RC1"
hosts = "role=platform"
agent = "0.3.0-rc.1+b"
snapshot = true
going-back = "image-and-data"
restore = "Nightly_2"

[instance.mysql]
image = "mysql:10.11"
boot = true

[instance.mail]
image = "mail:1"
hosts = ["a"]
boot = true
"#;

#[test]
fn an_infra_file_fits_its_own_schema() {
    let (infra, fleet) = (Validator::of(infra_schema()), Validator::new());
    infra.toml(INFRA).unwrap();
    read(INFRA).unwrap_or_else(|e| panic!("{e}"));
    assert!(fleet.toml(INFRA).is_err() && infra.toml(EVERYTHING).is_err());
    for (old, new) in [
        ("infra = \"50.2.0-RC1\"", "infra = 50"),
        ("infra = \"50.2.0-RC1\"", "infra = \"50 2\""),
        ("infra = \"50.2.0-RC1\"", "infra = \"1\"\nfleet = \"infra\""),
        ("hosts = \"role=platform\"", "hosts = []"),
        ("\"0.3.0-rc.1+b\"", "\"0.3\""),
        ("\"0.3.0-rc.1+b\"", "\"v0.3.0\""),
        ("snapshot = true", "snapshot = \"yes\""),
        ("\"image-and-data\"", "\"data\""),
        ("\"Nightly_2\"", "\"../nightly\""),
        ("image = \"mysql:10.11\"\n", ""),
        ("boot = true\n", ""),
    ] {
        let text = INFRA.replacen(old, new, 1);
        assert_ne!(text, INFRA, "{old}");
        assert!(read(&text).is_err(), "the reader takes {new}");
        assert!(infra.toml(&text).is_err(), "the schema takes {new}");
    }
}

/// Places in [`EVERYTHING`] for a string, and what strings look like there.
const STRINGS: &[(&str, &str)] = &[
    ("fleet = \"shop\"", "[a-z0-9-]{0,33}"),
    ("hosts = [\"web-1\", \"web-2\"]", "[a-z*!=,./ -]{0,12}"),
    ("image = \"db:10.11\"", "[a-z0-9._-]{0,8}:[A-Za-z0-9._-]{0,8}"),
    ("\"zone:back\"", "(zone:|bridge:|)[a-z0-9._-]{0,17}"),
    ("\"10.0.0.{{ list[0] }}/24\"", "[0-9a-f.:]{0,9}/[0-9]{0,3}"),
    ("\"10.0.0.1\"", "10\\.0\\.0\\.[0-9]{1,3}|[0-9a-f:]{2,9}"),
    ("\"8001:80/tcp\"", "[0-9]{0,5}:?[0-9]{0,5}(/tcp|/udp|)"),
    ("\"infra/mysql\"", "[a-z0-9/-]{0,9}"),
    ("\"/var/shop\"", "(/[a-z.:%\\\\ é-]{0,4}){0,3}"),
    ("mode = \"0600\"", "[0-8]{2,5}"),
    ("owner = \"1:1\"", "[0-9]{0,6}:[0-9]{0,6}"),
    ("memory = \"1G\"", "[0-9]{0,8}[KMGTB]?"),
    ("cpu = \"150%\"", "[0-9]{0,5}%?"),
    ("\"@keyring\"", "[@a-z0-9_-]{0,5}"),
    ("unit = \"shop.service\"", "[a-z@.:_\\\\-]{0,5}(\\.service|\\.mount)"),
    ("tcp = \"[::1]:80\"", "(127\\.0\\.0\\.1|\\[[0-9a-f:%]{2,6}\\]):[0-9]{0,5}"),
    (
        "\"http://127.0.0.1:80/health?x=1\"",
        "http://(127\\.0\\.0\\.1|\\[::1\\]|::1)(:[0-9]{1,3})?[/?a-z&%#-]{0,6}",
    ),
    ("interval = \"100ms\"", "[0-9]{0,4}(ms|s|m|h)"),
    ("\"10%\"", "[0-9]{1,4}%?"),
    ("spread = \"site\"", "[a-zA-Z0-9./_-]{0,5}"),
    (
        "\"12:00-13:30\"",
        "((mon|sat)(-(tue|sun))?(,wed)? )?[0-2][0-9]:[0-6][0-9]-[0-2][0-9]:[0-6][0-9]",
    ),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_the_reader_takes_the_schema_takes(
        all in STRINGS.iter().map(|(_, look)| prop_oneof![4 => *look, 1 => ".{0,6}"]).collect::<Vec<_>>(),
    ) {
        let validator = Validator::new();
        for ((place, _), text) in STRINGS.iter().zip(all) {
            let (key, _) = place.rsplit_once(" = ").unwrap_or(("", ""));
            let quoted = toml::Value::String(text).to_string();
            let new = if key.is_empty() { quoted } else { format!("{key} = {quoted}") };
            let text = changed(place, &new);
            if read(&text).is_ok() {
                prop_assert_eq!(validator.toml(&text), Ok(()), "{}", new);
            }
        }
    }
}
