//! Fleets that can't be, for what one host has and what others have of it: told with the place and
//! the reason, by `plan` and `apply` alike, and nothing is changed. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use serde_json::Value;
use shoal_lab::Deployment;
use shoal_lab::deployment::Ran;
use shoal_lab::images::busybox_image;

/// Exit code, as docs/exit-codes.md has it.
const USAGE: i32 = 2;

/// What the host's root allows.
const POLICY: &str = r#"
[[bind]]
path = "/srv"
writable = true

[[bind]]
path = "/opt"
"#;

/// A fleet that runs: it has a port and a directory of the host, each to itself.
const DEPOT: &str = r#"fleet = "depot"

[instance.first]
image = "box:1"
hosts = "role=web"
command = ["/bin/sleep", "infinity"]
network = "host"
ports = ["8001/tcp"]

[instance.first.mounts."/shared"]
source = "/srv/shared"
writable = true

[instance.second]
image = "box:1"
hosts = "role=web"
command = ["/bin/sleep", "infinity"]
after = ["shop/main"]
"#;

/// The fleet that the cases are made of.
const SHOP: &str = r#"fleet = "shop"

[instance.main]
image = "box:1"
hosts = "role=web"
command = ["/bin/sleep", "infinity"]
"#;

/// The shop with these lines added to its instance.
fn shop(lines: &str) -> String {
    format!("{SHOP}{lines}\n")
}

/// Everything that a refused command must leave as it was.
#[derive(Debug, PartialEq)]
struct World {
    fleets: Vec<Value>,
    rollouts: Value,
    instances: Vec<Value>,
    host: Vec<Value>,
    audited: usize,
}

fn world(site: &Deployment) -> World {
    let host = site.json(&["host", "show", "h1"]).unwrap();
    // But for when a host was last heard, which always changes.
    let kept = |list: Value, keys: &[&str]| -> Vec<Value> {
        let rows = list.as_array().unwrap().iter();
        rows.map(|row| keys.iter().map(|key| row[key].clone()).collect()).collect()
    };
    let instance = ["instance", "state", "health", "since", "revision", "restarts", "ready"];
    let fleet = ["fleet", "revision", "applied", "source", "rollout"];
    World {
        fleets: kept(site.json(&["status"]).unwrap()["fleets"].take(), &fleet),
        rollouts: site.json(&["rollout", "list"]).unwrap(),
        instances: kept(site.json(&["ps"]).unwrap()["instances"].take(), &instance),
        host: ["generation", "observed_generation"].map(|key| host[key].clone()).to_vec(),
        audited: site.json(&["audit"]).unwrap()["entries"].as_array().unwrap().len(),
    }
}

#[track_caller]
fn refused(ran: &Ran, words: &[&str]) {
    let said = ran.fails_with(USAGE).unwrap();
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(said.contains("error: "), "no error in: {said}");
    assert_eq!(ran.stdout(), "", "with {said}");
}

/// Who can know that a fleet can't be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Known {
    /// Whoever reads the file.
    Offline,
    /// Only the controller.
    Controller,
}

struct Case {
    known: Known,
    fleet: String,
    words: &'static [&'static str],
}

#[track_caller]
fn check(site: &Deployment, case: &Case) {
    site.file("fleet.toml", &case.fleet).unwrap();
    let offline = site.shoal(&["check"]).unwrap();
    match case.known {
        Known::Offline => refused(&offline, case.words),
        Known::Controller => drop(offline.ok().unwrap()),
    }
    for command in [&["plan"][..], &["apply"], &["apply", "--wait"], &["apply", "--dry-run"]] {
        refused(&site.shoal(command).unwrap(), case.words);
    }
}

#[test]
fn what_cant_be_is_refused_with_its_reason_and_changes_nothing() {
    let mut site = Deployment::without_hosts("cant be").unwrap();
    site.lab_mut().boot_hosts(1).unwrap();
    let host = site.lab().host(0);
    host.put_file("/etc/shoal/policy.toml", POLICY.as_bytes(), 0o644).unwrap();
    host.sh("mkdir -p /srv/shared /opt/tools").unwrap();
    site.join(0, &["role=web"]).unwrap();
    site.push(&busybox_image("1").unwrap(), "box:1").unwrap();
    site.apply(&shop("")).unwrap();
    site.apply(DEPOT).unwrap();

    let before = world(&site);
    for case in [conflicts(), orders(), limits(), places(), files()].into_iter().flatten() {
        check(&site, &case);
    }
    assert_eq!(world(&site), before, "something was changed by a fleet that was refused");
    // What all of them were made of is good.
    site.apply(&shop("env = { COLOUR = \"blue\" }")).unwrap();
}

/// What another instance of the host has already.
fn conflicts() -> Vec<Case> {
    let known = Known::Controller;
    let port = |words| Case { known, fleet: shop("network = \"host\"\nports = [\"8001\"]"), words };
    let mount = |source: &str, words| Case {
        known,
        fleet: shop(&format!(
            "mounts = {{ \"/x\" = {{ source = \"{source}\", writable = true }} }}"
        )),
        words,
    };
    // Both in one file: then nobody needs to be asked.
    let two = DEPOT.replace("second", "third").replace(
        "after = [\"shop/main\"]",
        "network = \"host\"\nports = [\"8001/tcp\"]\n\
         mounts = { \"/y\" = { source = \"/srv/shared\", writable = true } }",
    );
    vec![
        port(&["instance main on host h1", "port 8001/tcp", "depot/first", "another port"]),
        mount(
            "/srv/shared",
            &["instance main on host h1", "/srv/shared", "depot/first", "shared = true"],
        ),
        mount("/srv", &["instance main on host h1", "depot/first mounts /srv/shared"]),
        Case {
            known: Known::Offline,
            fleet: two,
            words: &[
                "fleet.toml:14:11",
                "port 8001/tcp of the host is also that of depot/first",
                "depot/first mounts /srv/shared",
            ],
        },
    ]
}

fn orders() -> Vec<Case> {
    let case = |known, lines: &str, words| Case { known, fleet: shop(lines), words };
    let other = |after: &str| {
        let sleep = "command = [\"/bin/sleep\", \"infinity\"]";
        format!(
            "after = [\"other\"]\n[instance.other]\nimage = \"box:1\"\nhosts = \"*\"\n{sleep}\n\
             after = [\"{after}\"]"
        )
    };
    vec![
        case(Known::Offline, "after = [\"main\"]", &["fleet.toml:7:10", "main after main"]),
        case(
            Known::Offline,
            &other("main"),
            &["`after` goes in a ring: main after other after main", "leave one of these"],
        ),
        // The rest of the ring is another fleet, which runs.
        case(
            Known::Controller,
            "after = [\"depot/second\"]",
            &["instance main", "ring", "shop/main after depot/second after shop/main"],
        ),
        case(
            Known::Controller,
            "after = [\"depot/frist\"]",
            &["instance main", "depot/frist", "no such instance", "did you mean depot/first?"],
        ),
        case(
            Known::Offline,
            &other("man"),
            &["there is no instance man in this fleet", "did you mean `main`?"],
        ),
    ]
}

/// What the host does not have.
fn limits() -> Vec<Case> {
    let case = |lines: &str, words| Case { known: Known::Controller, fleet: shop(lines), words };
    let limit = |what: &str, words| case(&format!("limits = {{ {what} }}"), words);
    vec![
        limit(
            "memory = \"64T\"",
            &["instance main on host h1", "limits.memory is 64T", "the host has", "give it less"],
        ),
        limit("cpu = \"10000%\"", &["limits.cpu is 10000%", "the host has", "CPUs"]),
        limit("tasks = 99999999999", &["limits.tasks is 99999999999", "the host has"]),
        limit("nofile = 99999999999", &["limits.nofile is 99999999999", "the host has"]),
        case("count = 2", &["instance main", "count = 2", "only 1 host matches", "\"role=web\""]),
    ]
}

/// What the host's root does not allow, and what nobody can.
fn places() -> Vec<Case> {
    let case = |known, source: &str, words| Case {
        known,
        fleet: shop(&format!("mounts = {{ \"/x\" = {{ {source} }} }}")),
        words,
    };
    vec![
        case(
            Known::Controller,
            "source = \"/home/data\"",
            &["instance main on host h1", "/home/data", "[[bind]]", "/etc/shoal/policy.toml"],
        ),
        case(Known::Controller, "source = \"/srvx\"", &["/srvx of the host may not be shown"]),
        case(
            Known::Controller,
            "source = \"/opt/tools\", writable = true",
            &["/opt/tools of the host may not be shown writable", "writable = true"],
        ),
        case(Known::Offline, "source = \"/etc\"", &["fleet.toml:7:30", "\"/etc\"", "Shoal"]),
    ]
}

fn files() -> Vec<Case> {
    let offline = |lines: String, words| Case { known: Known::Offline, fleet: shop(&lines), words };
    let content = |path: &str, bytes: usize| {
        format!("[instance.main.files.\"{path}\"]\ncontent = \"{}\"\n", "x".repeat(bytes))
    };
    let template = |text: &str| {
        let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
        format!("env = {{ X = {{ template = \"{escaped}\" }} }}")
    };
    let forever = "{% for a in range(100000) %}{% for b in range(100000) %}\
                   {% for c in range(100000) %}{% endfor %}{% endfor %}{% endfor %}";
    let huge = "{% for a in range(99999) %}0123456789{% endfor %}";
    vec![
        offline(content("/a", 600 << 10), &["614400 bytes", "524288", "image"]),
        offline(content("/a", 500 << 10) + &content("/b", 500 << 10), &["786432"]),
        offline(template(forever), &["too much work; does it loop?"]),
        offline(template(huge), &["renders to", "bytes"]),
    ]
}
