//! The fleet file and the infra file as JSON Schemas, for editors.
//!
//! The ways in are [`schema`] and [`infra_schema`]: two, as an editor that knows which file it has
//! offers only the keys of that one. They say what can be said of one place alone: keys, types, spellings.
//! What takes two places (paths that meet, rings, templates) only the reader knows. That the
//! schema has the reader's keys, no fewer and no more, is tested against the reader itself.

use serde_json::{Map, Value, json};

use crate::spec::{Capability, Root};

const FLEET_NAME: &str = "^[a-z]([a-z0-9-]{0,29}[a-z0-9])?$";
const VOLUME_NAME: &str = "^[a-z]([a-z0-9_-]{0,29}[a-z0-9])?$";
const HOST_NAME: &str = "^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$";
const HOSTS: &str = r"^(\*|[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?|[\s\S]*[=!][\s\S]*)$";
/// Of an infra version, and of a backup.
const VERSION: &str = "^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$";
const AGENT: &str = "^(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)([-+][A-Za-z0-9.+-]+)?$";
const IMAGE: &str = "^[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?:\
                     [A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$";
const AFTER: &str = "^[a-z][a-z0-9-]{0,30}(/[a-z][a-z0-9-]{0,30})?$";
const NETWORK: &str = "^(private|host|veth|zone:[A-Za-z0-9][A-Za-z0-9._-]{0,11}|\
                       bridge:[A-Za-z0-9][A-Za-z0-9._-]{0,14})$";
const ADDRESS: &str = r"^([0-9A-Fa-f.:]+/[0-9]{1,3}|[\s\S]*\{\{[\s\S]*)$";
const IP: &str = "^[0-9A-Fa-f.:]+$";
const PORT: &str = "^[0-9]+(:[0-9]+)?(/(tcp|udp))?$";
const PATH: &str = r#"^(/[^/:\\"%\u0000-\u001f\u007f-\u009f]+)+$"#;
const OWNER: &str = "^[0-9]+:[0-9]+$";
const MODE: &str = "^[0-7]{3,4}$";
const UNIT: &str = r"^[A-Za-z0-9:_.\\@-]*\.(service|socket|target|mount|timer|path)$";
const TCP: &str = r"^([0-9.]+|\[[0-9A-Fa-f.:%]+\]):[0-9]+$";
const HTTP: &str = r"^http://([0-9.]+|[0-9A-Fa-f.:]+|\[[0-9A-Fa-f.:]+\])(:[0-9]+)?([/?][!-~]*)?$";
const DURATION: &str = "^[0-9]+(ms|s|m|h)$";
const SIZE: &str = "^[0-9]+[KMGT]?$";
const PERCENT: &str = "^0*[1-9][0-9]*%$";
const ENV_NAME: &str = "^[A-Za-z_][A-Za-z0-9_]{0,254}$";
const CREDENTIAL: &str = "^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$";
const SECRET: &str =
    "^[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?(/[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?){0,7}$";
const SYSTEM_CALLS: &str = "^@?[a-z_][a-z0-9_-]*$";
const REACH: &str = "^(0*[1-9][0-9]*|0*([1-9][0-9]?|100)%)$";
const LABEL_KEY: &str = "^[A-Za-z0-9._/-]{1,63}$";
/// Days, then from when to when; only an end can be 24:00.
const WINDOW: &str = "^((mon|tue|wed|thu|fri|sat|sun)(-(mon|tue|wed|thu|fri|sat|sun))?\
                      (,(mon|tue|wed|thu|fri|sat|sun)(-(mon|tue|wed|thu|fri|sat|sun))?)* )?\
                      ([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$";

/// Batches, and windows, that there may be.
const MOST_OF_ROLLOUT: u32 = 100;

/// The JSON Schema (draft 2020-12) of a fleet file.
#[must_use]
pub fn schema() -> Value {
    let fleet = text("The fleet's name", FLEET_NAME);
    let instance = named("The fleet's instances, by name", FLEET_NAME, "main", instance(true));
    let top = table(
        "A fleet: its instances, their images, hosts and settings",
        [("fleet", fleet), ("vars", vars()), ("instance", instance), ("rollout", rollout())],
        &["fleet", "instance"],
    );
    whole("Shoal fleet file", top)
}

/// The JSON Schema (draft 2020-12) of an infra file.
#[must_use]
pub fn infra_schema() -> Value {
    let version = "The version of the platform: compared for equality, never for more or less";
    let each = named("The infra's instances, by name", FLEET_NAME, "mysql", instance(false));
    let snapshot = "Whether the data volumes are copied before a host gets another version";
    let going_back = "What goes back where a version does not prove good: \"image-and-data\" needs \
                      snapshot = true";
    let restore = "The backup that hosts without a recorded version get their data from";
    let keys = [
        ("infra", text(version, VERSION)),
        ("hosts", hosts("The hosts of every instance that names none")),
        ("agent", text("The version that the agents are to have", AGENT)),
        ("snapshot", flag(snapshot, false)),
        ("going-back", with_default(choice(going_back, &["image", "image-and-data"]), "image")),
        ("restore", text(restore, VERSION)),
        ("vars", vars()),
        ("instance", each),
        ("rollout", rollout()),
    ];
    let about = "An infra: the version of the platform under the apps, and its instances";
    whole("Shoal infra file", table(about, keys, &["infra", "instance"]))
}

fn whole(title: &str, top: Value) -> Value {
    let more = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "$defs": { "variable": variable() },
    });
    merged(top, more)
}

fn vars() -> Value {
    let value = json!({ "$ref": "#/$defs/variable" });
    let on_some = json!({
        "description": "Variables that hold on some hosts only",
        "type": "object",
        "patternProperties": { ENV_NAME: value },
        "additionalProperties": false,
    });
    json!({
        "description": "Values for templates; in a table such as [vars.\"site=b\"] or \
                        [vars.\"@web-1\"] those of some hosts",
        "type": "object",
        "patternProperties": { ENV_NAME: value, "^@|[=!]": on_some },
        "additionalProperties": false,
    })
}

/// A value for templates: no fractions, dates or nulls.
fn variable() -> Value {
    let inner = json!({ "$ref": "#/$defs/variable" });
    json!({
        "description": "A value for templates",
        "type": ["string", "integer", "boolean", "array", "object"],
        "items": inner,
        "additionalProperties": inner,
    })
}

/// An instance, which must name its hosts or may.
fn instance(names_hosts: bool) -> Value {
    let keys = [basics(), networking(), tables()].concat();
    let required: &[&str] = if names_hosts { &["image", "hosts"] } else { &["image"] };
    let table = table("One instance on each of its hosts", keys, required);
    merged(table, one_of(&["boot", "command"]))
}

type Keys = Vec<(&'static str, Value)>;

fn basics() -> Keys {
    let about = "\"*\" for all, a label selector such as \"role=web\", a host's name, or a list of \
                 names";
    let kinds: Vec<&str> = Root::ALL.iter().map(|(name, _)| *name).collect();
    let root = choice("What becomes of what it writes outside its data volumes", &kinds);
    let boot = json!({ "description": "Start the image's own init system", "const": true });
    let after =
        "Instances that must be ready before it: \"db\", or of another fleet \"infra/mysql\"";
    vec![
        ("image", text("NAME:TAG of an image that was pushed", IMAGE)),
        ("hosts", hosts(about)),
        ("count", integer("How many of these hosts run one", 1, Some(10_000))),
        ("after", list(after, text("FLEET/INSTANCE", AFTER))),
        ("boot", boot),
        ("command", command("Run this program with these arguments, with no init system")),
        ("root", with_default(root, "discarded")),
        ("env", env()),
    ]
}

fn hosts(about: &str) -> Value {
    let names = json!({
        "type": "array",
        "items": text("A host's name", HOST_NAME),
        "minItems": 1,
        "uniqueItems": true,
    });
    let one = text("All, a selector, or a host's name", HOSTS);
    json!({ "description": about, "anyOf": [one, names] })
}

fn networking() -> Keys {
    let network =
        text("\"private\", \"host\", \"veth\", \"zone:NAME\" or \"bridge:NAME\"", NETWORK);
    let address =
        "The fixed address of its link with the prefix, \"10.0.0.24/24\"; may be a template";
    let ports = "Ports of the host: \"8001:80/tcp\", or in the host's network \"8001/tcp\"";
    vec![
        ("network", with_default(network, "private")),
        ("address", text(address, ADDRESS)),
        ("gateway", text("Where its link sends what is for other networks", IP)),
        ("ports", list(ports, text("HOST:INSIDE/tcp", PORT))),
    ]
}

fn tables() -> Keys {
    vec![
        ("data", named("Directories that outlive the instance", VOLUME_NAME, "var", volume())),
        ("files", named("Files made anew for each start", PATH, "/etc/app.conf", file())),
        (
            "secrets",
            named(
                "Secrets that it gets as systemd credentials",
                CREDENTIAL,
                "db-password",
                text("The secret's name, see `shoal secret list`", SECRET),
            ),
        ),
        ("mounts", named("What of the host is seen inside", PATH, "/srv/media", mount())),
        ("limits", limits()),
        ("security", security()),
        ("health", health()),
        ("hooks", hooks()),
    ]
}

fn env() -> Value {
    let template = any_text("A template, such as \"{{ domain }}\"");
    let template = table("A value that is a template", [("template", template)], &["template"]);
    let value = json!({ "anyOf": [{ "type": "string" }, template] });
    named("Environment of the command, or of every service", ENV_NAME, "NAME", value)
}

fn volume() -> Value {
    let path = text("Where it is seen inside", PATH);
    let owner = with_default(text("UID:GID as seen inside, when it is first made", OWNER), "0:0");
    table("A data volume", [("path", path), ("owner", owner)], &["path"])
}

fn file() -> Value {
    let keys = [
        ("content", any_text("What is in the file")),
        ("source", any_text("A local file, beside the fleet file; taken as it is")),
        ("template", any_text("A local file with a template, rendered on each host")),
        ("mode", with_default(text("Permission bits, three or four octal digits", MODE), "0644")),
        ("owner", with_default(text("UID:GID as seen inside", OWNER), "0:0")),
        ("reload", text("A unit inside to reload where only the contents change", UNIT)),
    ];
    merged(table("A file of the deployment", keys, &[]), one_of(&["content", "source", "template"]))
}

fn mount() -> Value {
    let keys = [
        ("source", text("Where it is on the host, whose policy must allow it", PATH)),
        ("writable", flag("Whether the instance may write there", false)),
        ("shared", flag("Whether other instances may mount it too", false)),
    ];
    table("A directory or file of the host", keys, &["source"])
}

fn limits() -> Value {
    let keys = [
        ("memory", text("Memory, with K, M, G or T: \"512M\"", SIZE)),
        ("cpu", text("CPU time in percent of one CPU: \"150%\"", PERCENT)),
        ("tasks", integer("Processes and threads", 1, None)),
        ("nofile", integer("Files that one process may have open", 1, None)),
    ];
    table("What it may use of its host", keys, &[])
}

fn security() -> Value {
    let names: Vec<String> = Capability::all().collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let capability = choice("A capability", &names);
    let calls = "System calls, or groups of them, that it may make besides the usual ones";
    let keys = [
        ("capabilities-add", list("Capabilities besides the usual ones", capability.clone())),
        ("capabilities-drop", list("Capabilities that it does without", capability)),
        ("new-privileges", flag("Whether a program may gain what its caller has not", false)),
        ("private-users", flag("Whether its users are numbers of its own", true)),
        ("system-calls-allow", list(calls, text("A system call, or @group", SYSTEM_CALLS))),
    ];
    table("Where it differs from the safe defaults", keys, &[])
}

fn health() -> Value {
    let duration = |about, default| with_default(text(about, DURATION), default);
    let keys = [
        ("unit", text("A systemd unit inside that must be active", UNIT)),
        ("tcp", text("IP:PORT that must accept a connection", TCP)),
        ("http", text("http://IP:PORT/PATH that must answer with 200 to 299", HTTP)),
        ("exec", command("A program inside that must end with 0")),
        ("grace", duration("How long after its start it may go without a success", "2m")),
        ("interval", duration("From one check to the next", "10s")),
        ("timeout", duration("How long one check may take", "5s")),
        ("retries", with_default(integer("Failures in a row that count", 1, Some(1000)), 3)),
    ];
    let checks = ["unit", "tcp", "http", "exec"].map(|check| json!({ "required": [check] }));
    merged(table("What proves that it works", keys, &[]), json!({ "anyOf": checks }))
}

fn hooks() -> Value {
    let keys = [
        ("init", command("Before the first start, where its data is empty")),
        ("migrate", command("Before it starts from another image than the last time")),
        ("restore", command("Before the first start on data that came from a backup")),
    ];
    table("Commands that are run once in the new image, before the start", keys, &[])
}

fn rollout() -> Value {
    let duration = |about, default| with_default(text(about, DURATION), default);
    let batches = "How many hosts are changed after each batch: \"1\" or \"10%\"; they must grow";
    let batches = with_default(
        some_of(list(batches, text("A number of hosts, or a share of them", REACH)), 1),
        json!(["1", "10%", "50%", "100%"]),
    );
    let windows = "When a batch may be begun, in UTC: \"sat,sun 22:00-04:00\"";
    let windows = some_of(list(windows, text("Days and times in UTC", WINDOW)), 0);
    let on_failure =
        choice("What becomes of the rollout when too many hosts fail", &["rollback", "pause"]);
    let promote =
        choice("Between which batches someone must say `promote`", &["auto", "canary", "each"]);
    let failures = integer("How many hosts may fail without ending it", 0, Some(u32::MAX));
    let keys = [
        ("batches", batches),
        ("monitor", duration("How long a batch must stay healthy before the next", "0s")),
        ("max-failures", with_default(failures, 0)),
        ("on-failure", with_default(on_failure, "rollback")),
        ("batch-timeout", duration("How long one batch may take until it is healthy", "5m")),
        ("spread", text("A label: no batch takes all hosts of one of its values", LABEL_KEY)),
        ("promote", with_default(promote, "auto")),
        ("windows", windows),
        ("stage-ahead", flag("Whether all hosts get their images before the first batch", false)),
    ];
    table("How a new revision gets onto the hosts", keys, &[])
}

/// A list of at least so many, and no more than a rollout may have.
fn some_of(list: Value, least: u32) -> Value {
    merged(list, json!({ "minItems": least, "maxItems": MOST_OF_ROLLOUT }))
}

/// A table that has these keys and no others.
fn table(
    about: &str,
    keys: impl IntoIterator<Item = (&'static str, Value)>,
    required: &[&str],
) -> Value {
    let properties: Map<String, Value> =
        keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    json!({
        "description": about,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// A table in which the user chooses the keys.
fn named(about: &str, pattern: &str, example: &str, each: Value) -> Value {
    json!({
        "description": about,
        "type": "object",
        "propertyNames": { "pattern": pattern, "examples": [example] },
        "additionalProperties": each,
    })
}

fn text(about: &str, pattern: &str) -> Value {
    json!({ "description": about, "type": "string", "pattern": pattern })
}

fn any_text(about: &str) -> Value {
    json!({ "description": about, "type": "string" })
}

fn choice(about: &str, of: &[&str]) -> Value {
    json!({ "description": about, "type": "string", "enum": of })
}

fn flag(about: &str, default: bool) -> Value {
    json!({ "description": about, "type": "boolean", "default": default })
}

fn integer(about: &str, least: u32, most: Option<u32>) -> Value {
    let number = json!({ "description": about, "type": "integer", "minimum": least });
    most.map_or(number.clone(), |most| merged(number, json!({ "maximum": most })))
}

fn list(about: &str, of: Value) -> Value {
    json!({ "description": about, "type": "array", "items": of })
}

fn command(about: &str) -> Value {
    json!({
        "description": about,
        "type": "array",
        "prefixItems": [{ "type": "string", "minLength": 1 }],
        "items": { "type": "string" },
        "minItems": 1,
    })
}

fn one_of(keys: &[&str]) -> Value {
    let each: Vec<Value> = keys.iter().map(|key| json!({ "required": [key] })).collect();
    json!({ "oneOf": each })
}

fn with_default(schema: Value, default: impl Into<Value>) -> Value {
    merged(schema, json!({ "default": default.into() }))
}

/// One schema with the keywords of both.
fn merged(mut schema: Value, more: Value) -> Value {
    if let (Value::Object(schema), Value::Object(more)) = (&mut schema, more) {
        schema.extend(more);
    }
    schema
}

#[cfg(test)]
mod tests;
