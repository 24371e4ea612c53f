//! Another agent on real hosts: put in place when it has reached the controller, put back by
//! itself when it has not, and no instance notices either. Through the command alone. Needs root.
#![allow(clippy::disallowed_methods, reason = "strip is run beside the test")]
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use shoal_lab::{Deployment, Host, images, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);

/// Exit codes, as docs/exit-codes.md has them.
const USAGE: i32 = 2;
const PUT_BACK: i32 = 4;
const PRECONDITION: i32 = 11;

/// The version of the agent that is built, and what comes before it in its program.
const BUILT: &str = env!("CARGO_PKG_VERSION");
const STAMP: &[u8] = b"version stamp, format 1; the version is next:\n\n\n";

const FLEET: &str = r#"
fleet = "shop"

[instance.web]
image   = "box:1"
hosts   = "role=web"
command = ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"]
network = "host"
[instance.web.health]
tcp = "127.0.0.1:8080"
"#;

fn shop(hint: &str, hosts: usize) -> Deployment {
    let shop = Deployment::new(hint, hosts).unwrap();
    shop.push(&images::busybox_image("1").unwrap(), "box:1").unwrap();
    shop.apply(FLEET).unwrap();
    shop
}

fn leaders(shop: &Deployment) -> Vec<u32> {
    let hosts = 0..shop.lab().hosts().len();
    hosts.map(|host| shop.container(host, "shop-web").unwrap()).collect()
}

/// Puts `to` in the place of each `from` of a program, which has it at least once.
fn replace(program: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let mut found = 0;
    let mut at = 0;
    while let Some(next) = program[at..].windows(from.len()).position(|window| window == from) {
        program[at + next..at + next + from.len()].copy_from_slice(to);
        at += next + from.len();
        found += 1;
    }
    assert!(found > 0, "{:?} is not in the program", String::from_utf8_lossy(from));
}

/// The agent that is built, as one of another version: its version is in its program, once, and
/// that is where it reads it. `change` may make more of it.
fn agent(shop: &Deployment, version: &str, change: impl FnOnce(&mut [u8])) -> PathBuf {
    // What is for debuggers is most of it.
    let path = shop.dir().join(format!("agent-{version}"));
    let built = shop.programs().path("shoal-agent");
    let stripped = Command::new("strip").arg("-o").args([&path, &built]).status().unwrap();
    assert!(stripped.success(), "strip: {stripped}");
    let mut program = fs::read(&path).unwrap();
    let stamped = |version: &str| {
        let mut bytes = [STAMP, version.as_bytes()].concat();
        bytes.resize(STAMP.len() + 48, 0);
        bytes
    };
    replace(&mut program, &stamped(BUILT), &stamped(version));
    change(&mut program);
    fs::write(&path, program).unwrap();
    path
}

/// What is made of a program.
type Change = fn(&mut [u8]);

/// Looks for its state where there is none, and so ends as soon as it is run as the daemon.
fn ends_at_once(program: &mut [u8]) {
    replace(program, b"/var/lib/shoal", b"/var/lib/shoaX");
}

/// Calls what the controller does not have, and so is never welcomed.
fn never_arrives(program: &mut [u8]) {
    replace(program, b"/shoal.v1.AgentLink/Connect", b"/shoal.v1.AgentLink/Connecx");
}

fn show(shop: &Deployment, host: &str) -> Value {
    shop.json(&["host", "show", host]).unwrap()
}

/// The version of the agent that a host has said that it runs.
fn runs(shop: &Deployment, host: &str) -> String {
    show(shop, host)["facts"]["agent"].as_str().unwrap().to_owned()
}

/// That nothing of a trial is left on a host.
fn is_tidy(host: &Host) {
    let timers = "systemctl list-units --all --no-legend 'shoal-agent-put-back*'";
    assert_eq!(host.sh(timers).unwrap(), "");
    let dropped = host.sh("ls /run/systemd/system/shoal-agent.service.d 2>/dev/null || true");
    assert_eq!(dropped.unwrap(), "");
    host.sh("test ! -e /usr/bin/shoal-agent.new").unwrap();
    let program = "systemctl show shoal-agent --property=ExecStart --value";
    assert!(host.sh(program).unwrap().contains("path=/usr/bin/shoal-agent "));
}

#[test]
fn every_host_gets_it_and_no_instance_notices() {
    let shop = shop("upgrade", 2);
    let before = leaders(&shop);
    let new = agent(&shop, "9.9.1", |_| ());
    let line = ["host", "upgrade", "--all", "--agent", new.to_str().unwrap()];
    let ran = shop.shoal(&line).unwrap();
    let said = ran.ok().unwrap();
    for host in ["h1", "h2"] {
        assert!(said.contains(&format!("{host}: runs agent 9.9.1; it was {BUILT}")), "{said}");
        assert_eq!(runs(&shop, host), "9.9.1");
        assert_eq!(show(&shop, host)["agent"]["phase"], "current");
    }
    for host in shop.lab().hosts() {
        assert_eq!(host.sh("shoal-agent --version").unwrap(), "shoal-agent 9.9.1\n");
        let previous = host.sh("/usr/bin/shoal-agent.previous --version").unwrap();
        assert_eq!(previous, format!("shoal-agent {BUILT}\n"));
        is_tidy(host);
        host.sh("systemctl restart shoal-agent").unwrap();
    }
    let generation = show(&shop, "h1")["generation"].clone();
    shop.wait_online("h1").unwrap();
    shop.wait_online("h2").unwrap();
    let again = shop.shoal(&["host", "upgrade", "h1", "h2", "--agent", "9.9.1"]).unwrap();
    assert!(again.ok().unwrap().contains("h1: runs agent 9.9.1\n"));
    assert_eq!(show(&shop, "h1")["generation"], generation, "nothing was to be done");
    assert_eq!(leaders(&shop), before);
    shop.shoal(&["status", "shop"]).unwrap().ok().unwrap();
    let held = shop.shoal(&["agent", "rm", "9.9.1"]).unwrap().fails_with(PRECONDITION).unwrap();
    assert!(held.contains("h1, h2"), "{held}");
}

#[test]
fn one_that_does_not_work_is_put_back() {
    let shop = shop("putback", 2);
    let before = leaders(&shop);
    let bad: [(&str, Change); 2] = [("9.9.2", ends_at_once), ("9.9.3", never_arrives)];
    for (version, change) in bad {
        let bad = agent(&shop, version, change);
        let line = ["host", "upgrade", "h1", "h2", "--deadline", "10s", "--agent"];
        let line = [&line[..], &[bad.to_str().unwrap()]].concat();
        let said = shop.shoal(&line).unwrap().fails_with(PUT_BACK).unwrap();
        for words in [
            &*format!("agent {version} was rejected"),
            "h1: rejected: it did not reach the controller within 10 s",
            &*format!("agent {BUILT} was put back"),
            "h2: not tried",
        ] {
            assert!(said.contains(words), "{words:?} is not in: {said}");
        }
        is_still_as_before(&shop, version);
        assert_eq!(leaders(&shop), before);
    }
    stays_rejected(&shop, "9.9.3");
    let events = shop.shoal(&["events", "--host", "h1"]).unwrap().ok().unwrap();
    assert!(events.contains("another agent was rejected: it did not reach"), "{events}");

    let good = agent(&shop, "9.9.4", |_| ());
    let line = ["host", "upgrade", "-l", "role=web", "--agent", good.to_str().unwrap()];
    shop.shoal(&line).unwrap().ok().unwrap();
    assert_eq!((runs(&shop, "h1"), runs(&shop, "h2")), ("9.9.4".into(), "9.9.4".into()));
    assert_eq!(show(&shop, "h1")["problems"], serde_json::json!([]));
    assert_eq!(leaders(&shop), before);
}

fn is_still_as_before(shop: &Deployment, version: &str) {
    let host = show(shop, "h1");
    assert_eq!(host["facts"]["agent"], BUILT);
    assert_eq!(
        (&host["agent"]["version"], &host["agent"]["phase"]),
        (&version.into(), &"rejected".into())
    );
    let problem = host["problems"].to_string();
    assert!(problem.contains(&format!("agent {version} was rejected")), "{problem}");
    assert_eq!(show(shop, "h2")["agent"], Value::Null, "the second was never told");
    is_tidy(shop.lab().host(0));
}

/// An agent that starts anew tries nothing that was rejected.
fn stays_rejected(shop: &Deployment, version: &str) {
    let host = shop.lab().host(0);
    host.sh("systemctl restart shoal-agent").unwrap();
    let told = || {
        let host = show(shop, "h1");
        Ok(host["online"] == true && host["agent"]["phase"] == "rejected")
    };
    wait_until("it to be told again", PATIENCE, told).unwrap();
    let tried =
        format!("journalctl --no-pager -u shoal-agent | grep -c 'trying another agent.*{version}'");
    assert_eq!(host.sh(&tried).unwrap(), "1\n");
}

#[test]
fn what_is_no_agent_for_these_hosts_changes_nothing() {
    let shop = shop("noagent", 1);
    let generation = show(&shop, "h1")["generation"].clone();
    let whole = fs::read(agent(&shop, "9.9.5", |_| ())).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = shop.dir().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let mut unstamped = whole.clone();
    replace(&mut unstamped, STAMP, &vec![b'x'; STAMP.len()]);
    let mut arm = whole.clone();
    arm[18] = 183;
    for (path, code, words) in [
        (file("garbage", b"#!/bin/sh\nexit 0\n"), USAGE, "no program for Linux"),
        (file("short", &whole[..whole.len() - 1000]), USAGE, "its end is missing"),
        (file("other", &unstamped), USAGE, "no shoal-agent that says its version"),
        (file("arm", &arm), PRECONDITION, "h1: x86-64"),
        ("./not-there".into(), USAGE, "can't read ./not-there"),
        ("8.8.8".into(), PRECONDITION, "there is no agent 8.8.8"),
    ] {
        let ran = shop.shoal(&["host", "upgrade", "h1", "--agent", &path]).unwrap();
        let said = ran.fails_with(code).unwrap();
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
    assert_eq!(shop.json(&["agent", "list"]).unwrap()["agents"], serde_json::json!([]));
    assert_eq!(show(&shop, "h1")["generation"], generation);

    // One that says another version than it prints is found out on the host, before anything is
    // done to the agent there.
    let mut liar = fs::read(agent(&shop, "9.9.6", |_| ())).unwrap();
    replace(&mut liar, b"/lib64/ld-linux-x86-64.so.2\0", b"/lib64/ld-linux-x86-64.so.9\0");
    let path = file("liar", &liar);
    let said = shop.shoal(&["host", "upgrade", "h1", "--agent", &path]).unwrap();
    let said = said.fails_with(PUT_BACK).unwrap();
    assert!(said.contains("it does not run on this host"), "{said}");
    assert_eq!(runs(&shop, "h1"), BUILT);

    let host = shop.lab().host(0);
    host.put_file("/etc/shoal/policy.toml", b"agent-upgrade = false\n", 0o644).unwrap();
    host.sh("systemctl restart shoal-agent").unwrap();
    let refused = || {
        let ran = shop.shoal(&["host", "upgrade", "h1", "--agent", "9.9.6"])?;
        Ok(ran.fails_with(PRECONDITION)?.contains("policy of host h1 does not allow it"))
    };
    wait_until("the host's root to be heeded", PATIENCE, refused).unwrap();
    is_tidy(shop.lab().host(0));
}

/// Waits until a host is in the middle of a trial.
fn wait_until_tried(host: &Host) {
    let tried = || {
        let note = host.sh("cat /var/lib/shoal/agent/upgrade.json")?;
        ensure!(note.contains("\"trial\""), "{note}");
        Ok(true)
    };
    wait_until("a trial to be begun", PATIENCE, tried).unwrap();
}

#[test]
fn whatever_is_killed_in_the_middle_it_comes_to_a_right_end() {
    let shop = shop("killed", 1);
    let (host, before) = (shop.lab().host(0), leaders(&shop));
    let good = agent(&shop, "9.9.7", |_| ());
    let line = ["host", "upgrade", "h1", "--agent", good.to_str().unwrap()];
    let upgrade = shop.spawn(&line, Stdio::piped()).unwrap();
    wait_until_tried(host);
    host.sh("systemctl kill --signal=SIGKILL shoal-agent").unwrap();
    let ran = upgrade.wait().unwrap();
    ran.ok().unwrap();
    assert_eq!(runs(&shop, "h1"), "9.9.7");
    assert_eq!(leaders(&shop), before);

    // Never arrives, and the power goes while it is tried: what boots is the one before.
    let bad = agent(&shop, "9.9.8", never_arrives);
    let line = ["host", "upgrade", "h1", "--deadline", "20s", "--agent", bad.to_str().unwrap()];
    let upgrade = shop.spawn(&line, Stdio::piped()).unwrap();
    wait_until_tried(host);
    host.power_kill().unwrap();
    host.start().unwrap();
    let is_back = |shop: &Deployment| -> Result<bool> { shop.is_online("h1") };
    wait_until("the host to be back", PATIENCE, || is_back(&shop)).unwrap();
    let said = upgrade.wait().unwrap().fails_with(PUT_BACK).unwrap();
    assert!(said.contains("agent 9.9.7 was put back"), "{said}");
    assert_eq!(runs(&shop, "h1"), "9.9.7");
    is_tidy(host);
    let ready = || shop.shoal(&["status", "shop"])?.ok().map(|_| true);
    wait_until("the instances to be back", PATIENCE, ready).unwrap();
}

/// An infra of one instance that brings an agent.
fn infra(shop: &Deployment, version: &str, agent: &str) -> shoal_lab::deployment::Ran {
    let text = format!(
        "infra = \"{version}\"\nhosts = \"role=web\"\nagent = \"{agent}\"\n[instance.db]\n\
         image = \"box:1\"\ncommand = [\"/bin/sleep\", \"1000000\"]\n"
    );
    shop.file("infra.toml", &text).unwrap();
    shop.shoal(&["infra", "apply", "--wait", "--timeout", "4m"]).unwrap()
}

#[test]
fn an_infra_brings_the_agent_that_it_names() {
    let shop = shop("upinfra", 2);
    let unknown = infra(&shop, "1", "9.9.1");
    assert_eq!(unknown.code(), USAGE, "{}", unknown.stderr());
    assert!(unknown.stderr().contains("there is no agent 9.9.1 for it"), "{}", unknown.stderr());
    let changes: [(&str, Change); 2] = [("9.9.1", |_| ()), ("9.9.2", ends_at_once)];
    for (version, change) in changes {
        let program = agent(&shop, version, change);
        shop.shoal(&["agent", "push", program.to_str().unwrap()]).unwrap().ok().unwrap();
    }
    infra(&shop, "1", "9.9.1").ok().unwrap();
    for host in ["h1", "h2"] {
        assert_eq!(runs(&shop, host), "9.9.1");
    }
    let all = |host: usize| {
        ["infra-db", "shop-web"].map(|machine| shop.container(host, machine).unwrap())
    };
    let second = all(1);
    // One that can't run fails its infra at the first host, which goes back to what it had.
    let bad = infra(&shop, "2", "9.9.2");
    let said = format!("{}{}", bad.stdout(), bad.stderr());
    assert_eq!(bad.code(), PUT_BACK, "{said}");
    assert!(said.contains("agent 9.9.2 was rejected"), "{said}");
    assert_eq!(all(1), second, "the second host was touched");
    for host in shop.lab().hosts() {
        assert_eq!(host.sh("shoal-agent --version").unwrap(), "shoal-agent 9.9.1\n");
        is_tidy(host);
    }
    let status = shop.json(&["host", "show", "h1"]).unwrap();
    assert_eq!(status["infra"]["has"], "1", "{status}");
    assert_eq!(status["agent"]["phase"], "current", "{status}");
}
