//! Bad input: a clear error, a non-zero exit code, and nothing half-done. Needs root.
#![allow(clippy::disallowed_methods, reason = "the tests make files with the machine's tools")]
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use shoal_lab::Deployment;
use shoal_lab::deployment::Ran;
use shoal_lab::images::busybox_image;

/// Exit codes, as docs/exit-codes.md has them.
const USAGE: i32 = 2;
const UNREACHABLE: i32 = 8;
const NOT_FOUND: i32 = 10;

/// A fleet that is right, on the one host of a deployment.
const GOOD: &str = r#"fleet = "shop"

[vars]
domain = "example.org"

[instance.main]
image = "busybox:1"
hosts = "role=web"
command = ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"]
network = "private"

[instance.main.files."/etc/site.conf"]
template = "site.conf"
"#;

/// Everything that a refused command must leave as it was.
#[derive(Debug, PartialEq)]
struct World {
    fleets: serde_json::Value,
    rollouts: serde_json::Value,
    images: serde_json::Value,
    instances: serde_json::Value,
    hosts: usize,
    generation: serde_json::Value,
    observed: serde_json::Value,
    audited: usize,
    files: Vec<String>,
}

fn world(site: &Deployment) -> World {
    let host = site.json(&["host", "show", "h1"]).unwrap();
    let list = |arguments: &[&str]| but_for_heartbeats(site.json(arguments).unwrap());
    World {
        fleets: list(&["status"]),
        rollouts: list(&["rollout", "list"]),
        images: list(&["image", "list"]),
        instances: list(&["ps"]),
        hosts: list(&["host", "list"])["hosts"].as_array().unwrap().len(),
        generation: host["generation"].clone(),
        observed: host["observed_generation"].clone(),
        audited: list(&["audit"])["entries"].as_array().unwrap().len(),
        files: names_in(&site.controller_dir().join("images")),
    }
}

/// Without when hosts were last heard, which changes whatever one does.
fn but_for_heartbeats(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Array(list) => list.into_iter().map(but_for_heartbeats).collect(),
        Value::Object(map) => map
            .into_iter()
            .filter(|(key, _)| key != "host_last_heard")
            .map(|(key, value)| (key, but_for_heartbeats(value)))
            .collect(),
        plain => plain,
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// That a command failed with this code and said all of these words, on standard error alone.
#[track_caller]
fn refused(ran: &Ran, code: i32, words: &[&str]) {
    let said = ran.fails_with(code).unwrap();
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(said.contains("error: "), "no error in: {said}");
    assert_eq!(ran.stdout(), "", "with {said}");
}

#[test]
fn what_is_no_image_is_refused_before_anyone_is_called() {
    let mut site = Deployment::without_hosts("bad-images").unwrap();
    let image = busybox_image("1").unwrap();
    let bytes = fs::read(&image).unwrap();
    let dir = site.dir().to_owned();
    let make = |name: &str, content: &[u8]| fs::write(dir.join(name), content).unwrap();
    make("text", b"#!/bin/sh\necho this is a script\n");
    make("empty", b"");
    make("stub", &bytes[..50]);
    make("half", &bytes[..bytes.len() / 2]);
    // mksquashfs pads to 4 KiB: a page less is the least that is surely missing something.
    make("page-less", &bytes[..bytes.len() - 4096]);
    let mut longer = bytes.clone();
    longer.extend([7; 100]);
    make("longer", &longer);
    let mut damaged = bytes.clone();
    damaged[30..32].copy_from_slice(&[9, 9]);
    make("other-version", &damaged);
    fs::create_dir(dir.join("directory")).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-C", "/etc", "-cf"]).arg(dir.join("tar")).arg("hostname");
    assert!(tar.status().unwrap().success());
    fs::copy(site.programs().path("shoal-agent"), dir.join("elf")).unwrap();

    // With the controller gone, only what was never going to call it can end with "usage".
    site.stop_controller().unwrap();
    let push =
        |site: &Deployment, file: &str| site.shoal(&["image", "push", file, "bad:1"]).unwrap();
    for (file, words) in [
        ("text", "not a squashfs"),
        ("elf", "not a squashfs"),
        ("tar", "not a squashfs"),
        ("empty", "is empty"),
        ("directory", "mksquashfs"),
        ("absent", "could not be opened"),
        ("stub", "truncated"),
        ("half", "truncated"),
        ("page-less", "truncated"),
        ("longer", "trailing data"),
        ("other-version", "version"),
    ] {
        refused(&push(&site, file), USAGE, &[file, words]);
    }
    for name in ["Bad:1", "a/b:1", "..:1", "bad", "bad:", ":1", "bad:1/2", &"x".repeat(200)] {
        let ran = site.shoal(&["image", "push", image.to_str().unwrap(), name]).unwrap();
        refused(&ran, USAGE, &[&name[..name.len().min(20)]]);
    }
    refused(
        &site.shoal(&["image", "push", image.to_str().unwrap(), "good:1"]).unwrap(),
        UNREACHABLE,
        &["refused the connection"],
    );

    site.start_controller().unwrap();
    assert!(!push(&site, "half").success() && !push(&site, "text").success());
    assert_eq!(names_in(&site.controller_dir().join("images")), [""; 0]);
    assert_eq!(site.json(&["image", "list"]).unwrap()["images"], serde_json::json!([]));
    let audit = site.json(&["audit"]).unwrap();
    assert!(!audit.to_string().contains("Images/"), "{audit}");
}

#[test]
fn a_bad_fleet_changes_nothing() {
    let site = Deployment::new("bad-fleets", 1).unwrap();
    let image = busybox_image("1").unwrap();
    site.shoal(&["image", "push", image.to_str().unwrap(), "busybox:1"]).unwrap().ok().unwrap();
    site.file("site.conf", "server_name {{ domain }};\n").unwrap();
    let before = world(&site);

    bad_files(&site);
    bad_names(&site);
    bad_templates(&site);
    bad_placements(&site);
    bad_arguments(&site);
    assert_eq!(world(&site), before, "something was changed by input that was refused");

    // What all the bad ones were made of is good, and does change something.
    site.file("fleet.toml", GOOD).unwrap();
    site.shoal(&["check"]).unwrap().ok().unwrap();
    let plan = site.shoal(&["plan"]).unwrap();
    assert_eq!(plan.code(), 1, "{}{}", plan.stdout(), plan.stderr());
    site.shoal(&["apply", "--dry-run"]).unwrap().ok().unwrap();
    assert_eq!(world(&site), before, "a plan or a dry run changed something");
    site.shoal(&["apply", "--wait"]).unwrap().ok().unwrap();
    let good = world(&site);
    assert_ne!(good, before);

    // A bad change of a fleet that runs leaves it as it is, too.
    bad_placements(&site);
    bad_templates(&site);
    assert_eq!(world(&site), good, "a running fleet was changed by input that was refused");
}

/// Writes a fleet file and has all three commands that read one refuse it.
#[track_caller]
fn all_refuse(site: &Deployment, text: &str, words: &[&str]) {
    site.file("fleet.toml", text).unwrap();
    for command in [&["check"][..], &["plan"], &["apply"], &["apply", "--dry-run"]] {
        refused(&site.shoal(command).unwrap(), USAGE, words);
    }
}

/// Good but for one thing.
fn with(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    GOOD.replace(old, new)
}

fn bad_files(site: &Deployment) {
    let cases: &[(String, &[&str])] = &[
        (
            with("image =", "imgae ="),
            &["fleet.toml:7:1", "unknown key `imgae`", "did you mean `image`?"],
        ),
        (with("[vars]", "[varz]"), &["fleet.toml:3:2", "unknown key `varz`", "`vars`"]),
        (with("\"busybox:1\"", "251"), &["fleet.toml:7:9", "`image` must be a string"]),
        (with("[\"/bin/httpd\"", "[80"), &["fleet.toml:9:12", "`command` must be a string"]),
        (with("\"private\"", "true"), &["fleet.toml:10:11", "`network` must be a string"]),
        (with("hosts = \"role=web\"\n", ""), &["fleet.toml:6", "`hosts`"]),
        (with("fleet = \"shop\"", "fleet = \"shop"), &["fleet.toml:1:"]),
        (with("[instance.main]", "[instance.main"), &["fleet.toml:6:"]),
        (String::new(), &["fleet.toml", "`fleet`"]),
    ];
    for (text, words) in cases {
        all_refuse(site, text, words);
    }
    // All that is wrong is told at once.
    let both = with("image =", "imgae =").replace("\"private\"", "7");
    all_refuse(site, &both, &["fleet.toml:7:1", "fleet.toml:10:11"]);
    fs::remove_file(site.dir().join("fleet.toml")).unwrap();
    for command in ["check", "plan", "apply"] {
        refused(&site.shoal(&[command]).unwrap(), USAGE, &["there is no fleet file fleet.toml"]);
        refused(&site.shoal(&[command, "no/such"]).unwrap(), USAGE, &["no/such"]);
    }
    fs::write(site.dir().join("fleet.toml"), [0xff, 0xfe, 0, 1]).unwrap();
    refused(&site.shoal(&["apply"]).unwrap(), USAGE, &["not a text file"]);
}

fn bad_names(site: &Deployment) {
    let long = "x".repeat(200);
    for (name, why) in
        [("a/b", "contains '/'"), ("..", "contains '.'"), ("Shop", "contains 'S'"), (&long, "200")]
    {
        all_refuse(site, &with("\"shop\"", &format!("\"{name}\"")), &["fleet.toml:1:9", why]);
        let instance = GOOD.replace("instance.main", &format!("instance.\"{name}\""));
        all_refuse(site, &instance, &["fleet.toml:6:11", why]);
        let volume = format!("{GOOD}[instance.main.data.\"{name}\"]\npath = \"/data\"\n");
        all_refuse(site, &volume, &["fleet.toml:14", why.trim_end_matches("'S'")]);
    }
    // A host's name may have dots in it, an image's too.
    for (name, why) in [("a/b", "contains '/'"), ("..", "\"..\""), ("Web", "'W'"), (&long, "200")] {
        all_refuse(site, &with("role=web", name), &["fleet.toml:8:9", why]);
        all_refuse(site, &with("busybox:1", &format!("{name}:1")), &["fleet.toml:7:9", why]);
    }
    let escape = with("/etc/site.conf", "/etc/../../root/.ssh/authorized_keys");
    all_refuse(site, &escape, &["fleet.toml:12", ".."]);
}

fn bad_templates(site: &Deployment) {
    site.file("typo.conf", "a {{ domain }}\nb {{ domian }}\n").unwrap();
    site.file("broken.conf", "{% if domain %}").unwrap();
    let cases: &[(&str, &[&str])] = &[
        ("typo.conf", &["line 2", "`domian` is not set", "did you mean `domain`?"]),
        ("broken.conf", &["broken.conf, line 1", "syntax error"]),
        ("none.conf", &["none.conf", "No such file", "relative to the directory"]),
        ("/", &["directory"]),
    ];
    for (template, words) in cases {
        let words = [words, &["fleet.toml:13:12"][..]].concat();
        all_refuse(site, &with("\"site.conf\"", &format!("\"{template}\"")), &words);
    }
    all_refuse(site, &with("domain =", "other ="), &["`domain` is not set"]);
}

/// What only the controller can know: `check` finds nothing wrong.
fn bad_placements(site: &Deployment) {
    for (text, words) in [
        (with("busybox:1", "busybox:9"), ["main", "busybox:9", "shoal image push"]),
        (with("role=web", "role=db"), ["main", "no host matches", "shoal host list"]),
        (with("role=web", "h9"), ["main", "host h9 is not enrolled", "shoal host list"]),
    ] {
        site.file("fleet.toml", &text).unwrap();
        site.shoal(&["check"]).unwrap().ok().unwrap();
        for command in [&["plan"][..], &["apply"], &["apply", "--wait"], &["apply", "--dry-run"]] {
            refused(&site.shoal(command).unwrap(), USAGE, &words);
        }
    }
}

fn bad_arguments(site: &Deployment) {
    let long = "x".repeat(200);
    for name in ["a/b/c", "..", "Web", &long] {
        refused(&site.shoal(&["host", "show", name]).unwrap(), USAGE, &[&name[..2]]);
        let token = ["host", "token", "create", "--name", name];
        refused(&site.shoal(&token).unwrap(), USAGE, &[&name[..2]]);
        refused(&site.shoal(&["logs", name]).unwrap(), USAGE, &[&name[..2]]);
    }
    for (line, code) in [
        ("host show h9", NOT_FOUND),
        ("host label h9 role=db", NOT_FOUND),
        ("image show none:1", NOT_FOUND),
        ("image rm none:1", NOT_FOUND),
        ("image tag none:1 other:1", NOT_FOUND),
        ("status none", NOT_FOUND),
        ("rollout watch none", NOT_FOUND),
        ("stop none/main", NOT_FOUND),
        ("logs none/main", NOT_FOUND),
        ("host list -l =web", USAGE),
        ("host label h1 Role=", USAGE),
        ("host token create --ttl soon", USAGE),
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        refused(&site.shoal(&arguments).unwrap(), code, &[]);
    }
    let ran = site.shoal(&["host", "show", "h9"]).unwrap();
    refused(&ran, NOT_FOUND, &["h9"]);
}

#[test]
fn an_absent_controller_and_broken_contexts_are_named() {
    let mut site = Deployment::without_hosts("contexts").unwrap();
    broken_contexts(&site);
    let good = fs::read_to_string(site.context()).unwrap();
    let elsewhere = |address: &str| {
        let at = good.find("controller = \"").unwrap();
        let end = at + good[at..].find('\n').unwrap();
        context(&site, &format!("{}controller = \"{address}\"{}", &good[..at], &good[end..]))
    };
    let nobody = elsewhere("10.77.0.1:9999");
    // In the lab's network, but no machine has this address.
    let silent = elsewhere("10.77.0.250:7443");
    let unknown = elsewhere("no-such-host.invalid:7443");
    let enrolment = elsewhere("10.77.0.1:7444");
    let as_in = |file: &Path, arguments: &[&str]| {
        let arguments = [&["--config", file.to_str().unwrap()], arguments].concat();
        site.shoal(&arguments).unwrap()
    };
    for command in [&["host", "list"][..], &["ps", "-o", "json"], &["version"]] {
        let words = ["10.77.0.1:9999", "nothing listens there", "is shoal-controller running"];
        refused_with_output(&as_in(&nobody, command), UNREACHABLE, &words);
    }
    refused(&as_in(&silent, &["host", "list"]), UNREACHABLE, &["10.77.0.250:7443", "check"]);
    let words = ["no-such-host.invalid", "no address", "check the context and DNS"];
    refused(&as_in(&unknown, &["host", "list"]), UNREACHABLE, &words);
    let said = as_in(&enrolment, &["host", "list"]);
    assert!(!said.success() && said.stderr().contains("wrong port"), "{said:?}");

    site.file("fleet.toml", GOOD).unwrap();
    site.file("site.conf", "{{ domain }}").unwrap();
    site.stop_controller().unwrap();
    site.shoal(&["check"]).unwrap().ok().unwrap();
    for command in [&["plan"][..], &["apply", "--wait"], &["exec", "shop/main", "--", "true"]] {
        let ran = site.shoal(command).unwrap();
        let code = if command[0] == "exec" { 125 } else { UNREACHABLE };
        refused(&ran, code, &["10.77.0.1", "is shoal-controller running"]);
    }
    site.start_controller().unwrap();
    site.shoal(&["host", "list"]).unwrap().ok().unwrap();
}

/// `version` shows its own before it fails.
#[track_caller]
fn refused_with_output(ran: &Ran, code: i32, words: &[&str]) {
    let said = ran.fails_with(code).unwrap();
    assert!(words.iter().all(|word| said.contains(word)), "{words:?} are not all in: {said}");
}

fn context(site: &Deployment, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let name = format!("context-{}.toml", names_in(site.dir()).len());
    let path = site.file(&name, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn broken_contexts(site: &Deployment) {
    let good = fs::read_to_string(site.context()).unwrap();
    let name = good.lines().find_map(|line| line.strip_prefix("[context.")).unwrap();
    let name = name.trim_end_matches(']').trim_matches('"').to_owned();
    let cases: &[(String, &[&str])] = &[
        (good.replacen("controller =", "controller", 1), &[":"]),
        (good.replace("key =", "kee ="), &["key"]),
        (good.replace("current =", "# current ="), &["shoal context use", &name]),
        (good.replace("current = \"", "current = \"x"), &["there is no context"]),
        (good.replace("BEGIN CERTIFICATE", "BEGIN NONSENSE"), &["certificate", "again"]),
        (good.replace("BEGIN PRIVATE KEY", "BEGIN NONSENSE"), &["key", "again"]),
        (String::new(), &["context"]),
    ];
    for (text, words) in cases {
        let file = context(site, text);
        let path = file.to_str().unwrap();
        refused(&site.shoal(&["--config", path, "host", "list"]).unwrap(), USAGE, words);
    }
    let none = site.shoal(&["--config", "none.toml", "host", "list"]).unwrap();
    refused(&none, USAGE, &["none.toml", "shoal-controller init"]);
    let other = site.shoal(&["--context", "other", "host", "list"]).unwrap();
    refused(&other, USAGE, &["\"other\"", &name]);
    site.shoal(&["--context", &name, "host", "list"]).unwrap().ok().unwrap();
}
