//! Seeing and driving instances: on real hosts, through the command alone. Needs root.
#![allow(clippy::disallowed_methods, reason = "the tests run the command beside themselves")]
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

mod app;

use std::fs::{self, File};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use shoal_lab::{Deployment, Host, images, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

const FLEET: &str = r#"
fleet = "shop"

[instance.system]
image = "app:1"
hosts = "h1"
boot  = true
env   = { GREETING = "hello" }
[instance.system.data.var]
path  = "/var/app"
owner = "1000:1000"
[instance.system.health]
unit = "app.service"

[instance.web]
image   = "box:1"
hosts   = "role=web"
command = ["/bin/sh", "-c", "echo web starts; exec /bin/httpd -f -v -p 8080 -h /www"]
network = "host"
env     = { COLOUR = "@COLOUR" }
[instance.web.health]
tcp = "127.0.0.1:8080"
"#;

fn fleet(colour: &str) -> String {
    FLEET.replace("@COLOUR", colour)
}

#[test]
fn instances_are_seen_and_driven() {
    let shop = Deployment::new("driving", 2).unwrap();
    shop.push(&app::image().unwrap(), "app:1").unwrap();
    shop.push(&images::busybox_image("1").unwrap(), "box:1").unwrap();
    shop.apply(&fleet("blue")).unwrap();
    all_is_seen(&shop);
    the_host_is_examined(&shop);
    commands_run_inside(&shop);
    commands_are_as_confined_as_their_instance(&shop);
    commands_end_with_who_asked_for_them(&shop);
    logs_are_read_and_followed(&shop);
    instances_stop_start_and_restart(&shop);
    a_stopped_instance_stays_stopped(&shop);
    what_was_done_is_on_record(&shop);
}

fn said(shop: &Deployment, arguments: &[&str]) -> String {
    shop.shoal(arguments).unwrap().ok().unwrap()
}

/// The row of an instance, as `ps` has it.
fn row(shop: &Deployment, instance: &str, host: &str) -> Value {
    let rows = shop.json(&["ps"]).unwrap();
    let all = rows["instances"].as_array().unwrap();
    let found = all.iter().find(|row| row["instance"] == instance && row["host"] == host);
    found.unwrap_or_else(|| panic!("no {instance} on {host} in {rows}")).clone()
}

fn all_is_seen(shop: &Deployment) {
    let ps = said(shop, &["ps"]);
    let lines: Vec<Vec<&str>> = ps.lines().map(|line| line.split_whitespace().collect()).collect();
    let header = ["INSTANCE", "HOST", "STATE", "HEALTH", "RESTARTS", "IMAGE", "SINCE"];
    assert_eq!(lines[0], header, "{ps}");
    assert_eq!(lines.len(), 4, "{ps}");
    for (line, (start, image)) in lines[1..].iter().zip([
        (["shop/system", "h1"], "app:1"),
        (["shop/web", "h1"], "box:1"),
        (["shop/web", "h2"], "box:1"),
    ]) {
        assert_eq!(line[..2], start, "{ps}");
        assert_eq!(line[2..6], ["running", "healthy", "0", image], "{ps}");
    }
    let web = row(shop, "shop/web", "h2");
    let images = shop.json(&["image", "list"]).unwrap().to_string();
    let digest = web["digest"].as_str().unwrap();
    assert!(images.contains(digest), "the digest {digest} is not in {images}");
    for (key, value) in [
        ("wanted", Value::from("running")),
        ("state", "running".into()),
        ("health", "healthy".into()),
        ("image", "box:1".into()),
        ("revision", 1.into()),
        ("ready", true.into()),
    ] {
        assert_eq!(web[key], value, "{key} of {web}");
    }
    assert!(said(shop, &["ps", "-l", "role=web"]).contains("shop/web"));
    assert!(!said(shop, &["ps", "-l", "role=other"]).contains("shop/web"));
    let status = said(shop, &["status"]);
    assert!(status.contains("3/3") && status.contains("completed"), "{status}");
    assert_eq!(shop.json(&["status", "shop"]).unwrap()["ready"], true);
    let hosts = said(shop, &["host", "list"]);
    assert!(hosts.contains("role=web") && hosts.matches("online").count() == 2, "{hosts}");
    let hosts = shop.json(&["host", "list"]).unwrap();
    assert_eq!(hosts["hosts"].as_array().unwrap().len(), 2, "{hosts}");
    let host = said(shop, &["host", "show", "h1"]);
    for part in ["Debian", "Kernel", "252", "Idmapped squashfs", "yes", "Problems"] {
        assert!(host.contains(part), "{part:?} is not in: {host}");
    }
    let version = said(shop, &["version"]);
    for part in ["Client", "Controller", "lab.test", "Agents", "on h1, h2"] {
        assert!(version.contains(part), "{part:?} is not in: {version}");
    }
}

fn doctor(host: &Host, arguments: &[&str]) -> (Option<i32>, String) {
    let output = host.run(&[&["shoal-agent", "doctor"], arguments].concat()).unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn the_host_is_examined(shop: &Deployment) {
    let host = shop.lab().host(1);
    let (code, text) = doctor(host, &[]);
    assert_eq!(code, Some(0), "a good host: {text}");
    let (code, text) = doctor(host, &["-o", "json"]);
    let findings: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, Some(0), "{findings}");
    let all = findings.as_array().unwrap();
    let idmap = all.iter().find(|finding| finding["subject"] == "idmapped squashfs").unwrap();
    assert_eq!(idmap["verdict"], "ok", "{findings}");

    host.sh("mv /usr/bin/systemd-nspawn /usr/bin/away").unwrap();
    let (code, text) = doctor(host, &[]);
    let (json_code, json) = doctor(host, &["-o", "json"]);
    host.sh("mv /usr/bin/away /usr/bin/systemd-nspawn").unwrap();
    assert_eq!((code, json_code), (Some(1), Some(1)), "without systemd-nspawn: {text}");
    assert!(text.contains("-> apt install systemd-container"), "{text}");
    assert!(json.contains("\"fail\""), "{json}");
}

fn commands_run_inside(shop: &Deployment) {
    let script = "echo out; echo err >&2; exit 3";
    for instance in ["shop/web@h1", "shop/system"] {
        let ran = shop.shoal(&["exec", instance, "--", "/bin/sh", "-c", script]).unwrap();
        assert_eq!(ran.fails_with(3).unwrap(), "err\n", "standard error of {instance}");
        assert_eq!(ran.stdout(), "out\n", "standard output of {instance}");
        let code = |command: &[&str]| {
            shop.shoal(&[&["exec", instance, "--"], command].concat()).unwrap().code()
        };
        assert_eq!(code(&["true"]), 0);
        assert_eq!(code(&["no-such-program"]), 127);
        assert_eq!(code(&["/etc"]), 126);
        assert_eq!(code(&["/bin/sh", "-c", "kill -TERM $$"]), 128 + 15);
    }
    assert_eq!(said(shop, &["exec", "shop/system", "--", "id", "-u"]), "0\n");
    let ambiguous = shop.shoal(&["exec", "shop/web", "--", "true"]).unwrap();
    let why = ambiguous.fails_with(125).unwrap();
    assert!(why.contains("h1") && why.contains("h2"), "{why}");
    shop.shoal(&["exec", "shop/none", "--", "true"]).unwrap().fails_with(125).unwrap();

    let size = 10 << 20;
    let bytes: Vec<u8> = (0_u32..).flat_map(u32::to_le_bytes).take(size).collect();
    let path = shop.dir().join("input");
    fs::write(&path, bytes).unwrap();
    for (instance, program) in [("shop/system", "sha256sum"), ("shop/web@h2", "sha256sum")] {
        let mut command = shop.shoal_command(&["exec", instance, "--", program]);
        let output = command.stdin(File::open(&path).unwrap()).output().unwrap();
        let inside = String::from_utf8(output.stdout).unwrap();
        let outside = shop.lab().netns_command("sha256sum").arg(&path).output().unwrap();
        let outside = String::from_utf8(outside.stdout).unwrap();
        assert_eq!(inside.split(' ').next(), outside.split(' ').next(), "10 MiB of input");
    }
    let mut command = shop.shoal_command(&["exec", "shop/web@h2", "--", "cat"]);
    let output = command.stdin(File::open(&path).unwrap()).output().unwrap();
    assert!(output.stdout == fs::read(&path).unwrap(), "10 MiB there and back again");
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

fn commands_are_as_confined_as_their_instance(shop: &Deployment) {
    let host = shop.lab().host(0);
    for (instance, machine) in [("shop/system", "shop-system"), ("shop/web@h1", "shop-web")] {
        let leader = shop.container(0, machine).unwrap();
        let theirs = host.sh(&format!("cat /proc/{leader}/status")).unwrap();
        let ours = said(shop, &["exec", instance, "--", "cat", "/proc/self/status"]);
        for name in ["CapBnd:", "NoNewPrivs:"] {
            assert_eq!(
                field(&ours, name),
                field(&theirs, name),
                "{name} of a command in {instance}"
            );
        }
        let allowed = u64::from_str_radix(field(&theirs, "CapBnd:"), 16).unwrap();
        for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
            let ours = u64::from_str_radix(field(&ours, set), 16).unwrap();
            assert_eq!(ours & !allowed, 0, "{set} of a command in {instance}");
        }
        let mut sleeper = background(shop, &["exec", instance, "--", "sleep", "4321"]);
        let pid = wait_for_process(host, "sleep 4321");
        let cgroup = host.sh(&format!("cat /proc/{pid}/cgroup")).unwrap();
        let unit = format!("/machine.slice/shoal-instance@{machine}.service/");
        let escaped = unit.replace('-', "\\x2d");
        assert!(cgroup.contains(&unit) || cgroup.contains(&escaped), "{instance}: {cgroup}");
        interrupt(&mut sleeper);
        wait_until("the command to be gone", PATIENCE, || Ok(!is_running(host, "sleep 4321")))
            .unwrap();
    }
}

fn background(shop: &Deployment, arguments: &[&str]) -> Child {
    let mut command = shop.shoal_command(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// The PID of the process whose whole command line matches, once it runs.
fn wait_for_process(host: &Host, line: &str) -> u32 {
    let mut pid = 0;
    let find = || {
        pid = host.sh(&format!("pgrep --full --exact '{line}'"))?.trim().parse()?;
        Ok(true)
    };
    wait_until(&format!("{line} to run"), PATIENCE, find).unwrap();
    pid
}

fn is_running(host: &Host, line: &str) -> bool {
    host.run(&["pgrep", "--full", "--exact", line]).unwrap().status.success()
}

/// Sends what Ctrl-C does, and gives the exit code.
fn interrupt(child: &mut Child) -> Option<i32> {
    kill_process(Pid::from_child(child), Signal::INT).unwrap();
    child.wait().unwrap().code()
}

fn commands_end_with_who_asked_for_them(shop: &Deployment) {
    let host = shop.lab().host(0);
    for signal in [Signal::INT, Signal::KILL] {
        for instance in ["shop/system", "shop/web@h1"] {
            let mut client = background(shop, &["exec", instance, "--", "sleep", "1234"]);
            wait_for_process(host, "sleep 1234");
            kill_process(Pid::from_child(&client), signal).unwrap();
            assert!(!client.wait().unwrap().success());
            let gone = || Ok(!is_running(host, "sleep 1234"));
            wait_until("the command to end with its client", PATIENCE, gone).unwrap();
        }
    }
    wait_until("no helper to be left", PATIENCE, || Ok(!is_running(host, ".* exec-in .*")))
        .unwrap();
}

fn logs_are_read_and_followed(shop: &Deployment) {
    let log = said(shop, &["logs", "shop/web@h1"]);
    assert!(log.contains("web starts"), "what a command says: {log}");
    let wait_for_app = || Ok(said(shop, &["logs", "shop/system"]).contains("the app is up"));
    wait_until("what a service inside says", PATIENCE, wait_for_app).unwrap();
    let one = said(shop, &["logs", "-n", "1", "shop/web@h1"]);
    assert_eq!(one.lines().count(), 1, "logs -n 1: {one}");
    let json = said(shop, &["logs", "-n", "3", "-o", "json", "shop/system"]);
    assert_eq!(json.lines().count(), 3, "{json}");
    for line in json.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        assert_eq!(entry["host"], "h1", "{entry}");
    }

    for (instance, says) in [("shop/web@h1", "web starts"), ("shop/system", "the app is up")] {
        let path = shop.dir().join("followed");
        let mut command = shop.shoal_command(&["logs", "-f", "-n", "0", instance]);
        let mut follower = command.stdout(File::create(&path).unwrap()).spawn().unwrap();
        let wanted = |count: usize| {
            let seen = fs::read_to_string(&path)?;
            ensure!(seen.matches(says).count() >= count, "so far:\n{seen}");
            Ok(true)
        };
        let followers = || Ok(is_running(shop.lab().host(0), "journalctl .*--follow.*"));
        wait_until("the log to be followed", PATIENCE, followers).unwrap();
        for count in 1..=2 {
            said(shop, &["restart", instance]);
            let what = format!("{instance} to be followed across restart {count}");
            wait_until(&what, PATIENCE, || wanted(count)).unwrap();
        }
        let seen = fs::read_to_string(&path).unwrap();
        assert_eq!(seen.matches(says).count(), 2, "each line once:\n{seen}");
        assert!(follower.try_wait().unwrap().is_none(), "logs -f ended by itself");
        interrupt(&mut follower);
        let gone = || Ok(!is_running(shop.lab().host(0), "journalctl .*--follow.*"));
        wait_until("the reader on the host to be gone", PATIENCE, gone).unwrap();
    }
}

fn starts(host: &Host, machine: &str) -> usize {
    let log = format!("journalctl -u shoal-instance@{machine} -o cat | grep -c '^Started '");
    host.sh(&log).unwrap().trim().parse().unwrap()
}

fn instances_stop_start_and_restart(shop: &Deployment) {
    let other = shop.container(1, "shop-web").unwrap();
    for (instance, machine) in [("shop/web@h1", "shop-web"), ("shop/system", "shop-system")] {
        let host = shop.lab().host(0);
        let (leader, before) = (shop.container(0, machine).unwrap(), starts(host, machine));
        let done = said(shop, &["restart", instance]);
        assert!(done.contains("@h1: restarted"), "{done}");
        assert_ne!(shop.container(0, machine).unwrap(), leader, "{instance} was not restarted");
        assert_eq!(starts(host, machine), before + 1, "{instance} was started more than once");

        assert!(said(shop, &["stop", instance]).contains("@h1: stopped"));
        assert!(shop.container(0, machine).is_err(), "{instance} runs");
        let name = instance.trim_end_matches("@h1");
        let stopped = row(shop, name, "h1");
        assert_eq!((&stopped["state"], &stopped["ready"]), (&"stopped".into(), &true.into()));
        assert!(said(shop, &["stop", instance]).contains("it was already"));
        let why = shop.shoal(&["exec", instance, "--", "true"]).unwrap().fails_with(125).unwrap();
        assert!(why.contains("is not running"), "{why}");
        said(shop, &["logs", instance]);
        assert!(said(shop, &["start", instance]).contains("@h1: started"));
        assert_eq!(row(shop, name, "h1")["health"], "healthy", "start did not wait for health");
        assert_eq!(starts(host, machine), before + 2);
    }
    assert_eq!(shop.container(1, "shop-web").unwrap(), other, "@h1 reached h2");
    assert!(said(shop, &["restart", "shop/web"]).contains("@h2: restarted"));
    assert_ne!(shop.container(1, "shop-web").unwrap(), other, "all hosts were meant");
    shop.shoal(&["stop", "shop/none"]).unwrap().fails_with(10).unwrap();
}

fn a_stopped_instance_stays_stopped(shop: &Deployment) {
    let is_stopped = || -> Result<bool> {
        ensure!(shop.container(0, "shop-web").is_err(), "it runs");
        let row = row(shop, "shop/web", "h1");
        ensure!(row["state"] == "stopped" && row["wanted"] == "stopped", "{row}");
        Ok(true)
    };
    said(shop, &["stop", "shop/web@h1"]);
    shop.lab().host(0).reboot().unwrap();
    shop.wait_online("h1").unwrap();
    wait_until("the rest of h1", PATIENCE, || said_ready(shop)).unwrap();
    assert!(is_stopped().unwrap(), "a reboot started it");
    shop.apply(&fleet("green")).unwrap();
    assert!(is_stopped().unwrap(), "a new revision started it");
    let colour = ["exec", "shop/web@h2", "--", "sh", "-c", "echo $COLOUR"];
    assert_eq!(said(shop, &colour), "green\n", "the other host");
    said(shop, &["start", "shop/web@h1"]);
    let colour = ["exec", "shop/web@h1", "--", "sh", "-c", "echo $COLOUR"];
    assert_eq!(said(shop, &colour), "green\n", "it is started as it is wanted by now");
}

fn said_ready(shop: &Deployment) -> Result<bool> {
    shop.shoal(&["status", "shop"])?.ok().map(|_| true)
}

fn what_was_done_is_on_record(shop: &Deployment) {
    let table = said(shop, &["audit"]);
    assert!(table.contains("user/admin"), "{table}");
    let json = shop.json(&["audit"]).unwrap();
    let entries = json["entries"].as_array().unwrap();
    let did = |what: &str, target: &str, detail: &str| {
        entries.iter().any(|entry| {
            let part = |key: &str, part: &str| entry[key].as_str().unwrap().contains(part);
            entry["who"] == "spiffe://lab.test/user/admin"
                && entry["what"] == what
                && part("target", target)
                && part("detail", detail)
        })
    };
    for (what, target, detail) in [
        ("Fleets/Apply", "shop", "revision 2"),
        ("Instances/SetRun", "shop/web@h1", "stop"),
        ("Instances/SetRun", "shop/system@h1", "restart"),
        ("Instances/Exec", "shop/web@h2", "echo $COLOUR"),
    ] {
        assert!(did(what, target, detail), "{what} of {target} is not on record:\n{table}");
    }
}
