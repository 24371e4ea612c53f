//! Watching what instances do: their logs, their states and what happened to them, through whatever
//! happens to them. On real hosts, through the command alone. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

mod app;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use shoal_lab::{Background, Deployment, images, wait_until};

const PATIENCE: Duration = Duration::from_secs(90);

const FLEET: &str = r#"
fleet = "shop"

[instance.system]
image = "app:1"
hosts = "h1"
boot  = true
[instance.system.data.var]
path  = "/var/app"
owner = "1000:1000"
[instance.system.health]
unit = "app.service"

[instance.web]
image   = "box:1"
hosts   = "role=web"
command = ["/bin/sh", "-c", "echo web starts; i=0; while sleep 0.5; do i=$((i+1)); echo tick $i; done"]
"#;

#[test]
fn instances_are_watched_through_whatever_happens_to_them() {
    let mut shop = Deployment::new("watching", 2).unwrap();
    shop.push(&app::image().unwrap(), "app:1").unwrap();
    shop.push(&images::busybox_image("1").unwrap(), "box:1").unwrap();
    shop.apply(FLEET).unwrap();
    logs_of_many_are_one_by_time(&shop);
    logs_are_filtered_on_the_host(&shop);
    logs_of_a_time_are_whole(&shop);
    a_host_that_is_offline_hides_no_other(&shop);
    a_reader_that_is_gone_is_noticed(&shop);
    logs_are_followed_through_everything(&mut shop);
    a_kill_is_seen_as_it_happens(&shop);
    a_paused_instance_is_left_alone(&shop);
    what_happened_is_told(&shop);
}

fn said(shop: &Deployment, arguments: &[&str]) -> String {
    shop.shoal(arguments).unwrap().ok().unwrap()
}

/// One object of each line that is whole: the last one may still be on its way.
fn objects(text: &str) -> Vec<Value> {
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let object = |line| match serde_json::from_str(line) {
        Ok(object) => object,
        Err(error) => panic!("{error} in {line:?}"),
    };
    text[..whole].lines().map(object).collect()
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_else(|| panic!("no {key} in {object}"))
}

fn logs_of_many_are_one_by_time(shop: &Deployment) {
    let ticks = || Ok(said(shop, &["logs", "shop/web"]).matches("tick 3").count() == 2);
    wait_until("both to have ticked", PATIENCE, ticks).unwrap();
    let all = said(shop, &["logs", "shop"]);
    for label in ["shop/web@h1    │ ", "shop/web@h2    │ ", "shop/system@h1 │ "] {
        assert!(all.lines().any(|line| line.starts_with(label)), "no {label:?} in {all}");
    }
    let one = said(shop, &["logs", "shop/web@h1"]);
    assert!(!one.contains('│') && one.contains("web starts"), "{one}");
    let entries = objects(&said(shop, &["logs", "-o", "json", "-l", "role=web"]));
    let times: Vec<&str> = entries.iter().map(|entry| text(entry, "time")).collect();
    assert!(times.is_sorted(), "{times:?}");
    let mut from: Vec<String> =
        entries.iter().map(|e| format!("{}@{}", text(e, "instance"), text(e, "host"))).collect();
    from.sort();
    from.dedup();
    assert_eq!(from, ["shop/system@h1", "shop/web@h1", "shop/web@h2"]);
    let why = shop.shoal(&["logs", "shop/wbe"]).unwrap().fails_with(10).unwrap();
    assert!(why.contains("fleet shop has system, web"), "{why}");
}

fn logger(shop: &Deployment, priority: &str, message: &str) {
    said(shop, &["exec", "shop/system", "--", "logger", "-p", priority, message]);
    let written = || Ok(said(shop, &["logs", "shop/system"]).contains(message));
    wait_until("it to be in the journal", PATIENCE, written).unwrap();
}

fn logs_are_filtered_on_the_host(shop: &Deployment) {
    logger(shop, "user.info", "all is well");
    logger(shop, "user.err", "LOUD and bad");
    logger(shop, "user.crit", "loud and worse");
    let messages = |arguments: &[&str]| -> Vec<String> {
        let all = [&["logs", "-o", "json", "shop/system"], arguments].concat();
        objects(&said(shop, &all)).iter().map(|entry| text(entry, "message").to_owned()).collect()
    };
    let loud = |arguments: &[&str]| -> Vec<String> {
        let mut found = messages(arguments);
        found.retain(|message| message.to_lowercase().contains("loud"));
        found
    };
    assert_eq!(loud(&["-p", "err"]), ["LOUD and bad", "loud and worse"]);
    assert_eq!(loud(&["-p", "crit"]), ["loud and worse"]);
    assert!(!messages(&["-p", "3"]).contains(&"all is well".to_owned()));
    assert_eq!(messages(&["--grep", "loud and"]), ["LOUD and bad", "loud and worse"]);
    assert_eq!(messages(&["--grep", "LOUD"]), ["LOUD and bad"]);
    assert_eq!(messages(&["--grep", "loud and", "-n", "1"]), ["loud and worse"]);
    assert!(messages(&["--grep", "nothing says this"]).is_empty());
    for unit in ["app", "app.service"] {
        let found = messages(&["--unit", unit]);
        assert!(found.contains(&"the app is up".to_owned()), "{found:?}");
        assert!(found.iter().any(|message| message.starts_with("Started ")), "{found:?}");
        assert!(!found.contains(&"all is well".to_owned()), "{found:?}");
    }
    let bad = shop.shoal(&["logs", "shop/system", "--grep", "("]).unwrap();
    let why = bad.fails_with(11).unwrap();
    assert!(why.contains("pattern") && why.contains("missing"), "{why}");
    let none = shop.shoal(&["logs", "shop/web@h1", "--unit", "app"]).unwrap();
    let why = none.fails_with(11).unwrap();
    assert!(why.contains("has no units inside; leave out --unit"), "{why}");
}

fn logs_of_a_time_are_whole(shop: &Deployment) {
    let now = || shop.lab().host(0).sh("date --utc +%FT%T.%6NZ").unwrap().trim().to_owned();
    let numbers = "for i in $(seq 250); do echo number $i; done | logger";
    let before = now();
    said(shop, &["exec", "shop/system", "--", "/bin/sh", "-c", numbers]);
    let last = || Ok(said(shop, &["logs", "shop/system"]).contains("number 250"));
    wait_until("the last number", PATIENCE, last).unwrap();
    let after = now();
    logger(shop, "user.info", "after the numbers");
    let all = said(shop, &["logs", "shop/system", "--since", &before, "--until", &after]);
    let found: Vec<&str> =
        all.lines().filter_map(|l| l.split_once("number ").map(|p| p.1)).collect();
    let wanted: Vec<String> = (1..=250).map(|number| number.to_string()).collect();
    assert_eq!(found, wanted, "in their order, and not only a hundred");
    assert!(!all.contains("after the numbers") && !all.contains("all is well"), "{all}");
    let recent = said(shop, &["logs", "shop/system", "-S", &after]);
    assert!(recent.contains("after the numbers") && !recent.contains("number 2"), "{recent}");
    assert!(said(shop, &["logs", "shop/system", "-S", "10m", "-n", "5"]).lines().count() == 5);
    assert_eq!(said(shop, &["logs", "shop", "--until", "yesterday"]), "");
}

fn a_host_that_is_offline_hides_no_other(shop: &Deployment) {
    let host = shop.lab().host(1);
    host.sh("systemctl stop shoal-agent").unwrap();
    wait_until("h2 to be offline", PATIENCE, || Ok(!shop.is_online("h2")?)).unwrap();
    let ran = shop.shoal(&["logs", "-n", "1", "shop"]).unwrap();
    let why = ran.fails_with(12).unwrap();
    assert!(why.contains("1 instance of 3") && why.contains("shop/web@h2: host h2"), "{why}");
    assert!(ran.stdout().contains("shop/web@h1"), "{}", ran.stdout());
    let status = shop.shoal(&["status"]).unwrap();
    status.fails_with(1).unwrap();
    assert!(status.stdout().contains("shop/web@h2: the host is offline"), "{}", status.stdout());
    let version = said(shop, &["version"]);
    assert!(version.contains("when last seen, on h2"), "{version}");
    host.sh("systemctl start shoal-agent").unwrap();
    shop.wait_online("h2").unwrap();
    wait_until("all to be ready", PATIENCE, || Ok(shop.shoal(&["status"])?.success())).unwrap();
}

/// Also where nothing more is written, which is when a write would tell.
fn a_reader_that_is_gone_is_noticed(shop: &Deployment) {
    for arguments in [&["logs", "-f", "-n", "1", "shop/system"][..], &["ps", "-w", "shop/system"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        let command = shop.spawn(arguments, writer.into()).unwrap();
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        // The reader is closed by now.
        let began = Instant::now();
        let ran = command.wait().unwrap();
        assert_eq!((ran.code(), &*ran.stderr()), (141, ""), "{arguments:?} after {line}");
        assert!(began.elapsed() < Duration::from_secs(2), "{arguments:?}");
    }
}

/// A command whose output is read while it runs.
struct Watched {
    command: Background,
    out: Arc<Mutex<Vec<u8>>>,
    notes: Arc<Mutex<Vec<u8>>>,
    readers: [JoinHandle<()>; 2],
}

/// What is read of a pipe, as it comes.
fn gathered(mut pipe: impl Read + Send + 'static) -> (Arc<Mutex<Vec<u8>>>, JoinHandle<()>) {
    let all: Arc<Mutex<Vec<u8>>> = Arc::default();
    let sink = Arc::clone(&all);
    let reader = std::thread::spawn(move || {
        let mut some = [0; 4096];
        while let Ok(read @ 1..) = pipe.read(&mut some) {
            sink.lock().unwrap().extend_from_slice(&some[..read]);
        }
    });
    (all, reader)
}

impl Watched {
    fn start(shop: &Deployment, arguments: &[&str]) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = shop.spawn(arguments, writer.into()).unwrap();
        let (out, of_out) = gathered(reader);
        let (notes, of_notes) = gathered(command.stderr().unwrap());
        Self { command, out, notes, readers: [of_out, of_notes] }
    }

    /// The whole lines of its output so far.
    fn out(&self) -> String {
        let all = self.out.lock().unwrap();
        let whole = all.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        String::from_utf8(all[..whole].to_vec()).unwrap()
    }

    fn notes(&self) -> String {
        String::from_utf8_lossy(&self.notes.lock().unwrap()).into_owned()
    }

    #[track_caller]
    fn wait_for(&self, what: &str, holds: impl Fn(&str, &str) -> bool) {
        let now = || {
            let (out, notes) = (self.out(), self.notes());
            ensure!(holds(&out, &notes), "{notes}\n{}", tail(&out));
            Ok(true)
        };
        wait_until(what, PATIENCE, now).unwrap();
    }

    #[track_caller]
    fn interrupt(self) -> String {
        self.command.signal(Signal::INT).unwrap();
        assert_eq!(self.command.wait().unwrap().code(), 130);
        for reader in self.readers {
            reader.join().unwrap();
        }
        String::from_utf8(self.out.lock().unwrap().clone()).unwrap()
    }
}

fn tail(text: &str) -> &str {
    &text[text.len().saturating_sub(2000)..]
}

/// What each instance said, in the order in which it came.
fn by_instance(out: &str) -> BTreeMap<String, Vec<String>> {
    let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in objects(out) {
        let label = format!("{}@{}", text(&entry, "instance"), text(&entry, "host"));
        said.entry(label).or_default().push(text(&entry, "message").to_owned());
    }
    said
}

/// The ticks of each run of an instance: each begins with 1, and none is missing or comes twice.
#[track_caller]
fn check_ticks(messages: &[String]) -> usize {
    let (mut runs, mut last) = (1, None);
    for message in messages {
        if message == "web starts" {
            (runs, last) = (runs + 1, Some(0));
        }
        let Some(tick) = message.strip_prefix("tick ") else { continue };
        let tick: u64 = tick.parse().unwrap();
        // The first that is seen may be any.
        assert!(last.is_none_or(|last| tick == last + 1), "{tick} after {last:?}: {messages:#?}");
        last = Some(tick);
    }
    runs
}

fn logs_are_followed_through_everything(shop: &mut Deployment) {
    let watched = Watched::start(shop, &["logs", "-f", "-n", "5", "-o", "json", "shop/web"]);
    let says = |out: &str, label: &str, word: &str| {
        by_instance(out).get(label).is_some_and(|said| said.iter().any(|m| m == word))
    };
    watched.wait_for("both to be followed", |out, _| by_instance(out).len() == 2);
    said(shop, &["restart", "shop/web@h1"]);
    watched.wait_for("the restart", |out, _| says(out, "shop/web@h1", "web starts"));

    shop.stop_controller().unwrap();
    watched.wait_for("the controller's end", |_, notes| notes.contains("the controller is gone"));
    shop.start_controller().unwrap();
    watched.wait_for("the controller", |_, notes| notes.contains("the controller is back"));
    shop.wait_online("h2").unwrap();
    let seen = by_instance(&watched.out())["shop/web@h2"].len();
    watched.wait_for("more of h2", |out, _| by_instance(out)["shop/web@h2"].len() > seen + 2);

    // A reboot that is held up in the middle: what is over in a moment is not worth a word.
    shop.lab().host(1).stop().unwrap();
    watched.wait_for("h2's end", |_, notes| notes.contains("h2 is gone; waiting for it"));
    shop.lab().host(1).start().unwrap();
    watched.wait_for("h2", |_, notes| notes.contains("h2 is back"));
    watched.wait_for("h2 to go on", |out, _| {
        let said = by_instance(out).remove("shop/web@h2").unwrap_or_default();
        said.iter().rev().take_while(|m| *m != "web starts").any(|m| m == "tick 3")
            && said.iter().any(|m| m == "web starts")
    });
    let out = watched.interrupt();
    for (label, messages) in by_instance(&out) {
        assert_eq!(check_ticks(&messages), 2, "runs of {label}");
    }
    // Without following, what was before the reboot is there too, and in its order.
    let all = said(shop, &["logs", "-S", "1h", "-o", "json", "shop/web@h2"]);
    let said = by_instance(&all).remove("shop/web@h2").unwrap();
    let first = said.iter().position(|m| m == "web starts").unwrap();
    assert_eq!(check_ticks(&said[first..]), 3, "the first run, and that after the reboot");
    wait_until("all to be ready", PATIENCE, || Ok(shop.shoal(&["status"])?.success())).unwrap();
}

fn kill(shop: &Deployment, position: usize, machine: &str) {
    let leader = shop.container(position, machine).unwrap();
    shop.lab().host(position).sh(&format!("kill -9 {leader}")).unwrap();
}

fn a_kill_is_seen_as_it_happens(shop: &Deployment) {
    let watched = Watched::start(shop, &["ps", "-w", "shop/web@h1"]);
    watched.wait_for("the first line", |out, _| out.contains("shop/web@h1 running"));
    let json = Watched::start(shop, &["ps", "-w", "-o", "json", "shop"]);
    json.wait_for("the first document", |out, _| !out.is_empty());
    kill(shop, 0, "shop-web");
    watched.wait_for("the kill and its end", |out, _| {
        let last = out.lines().last().unwrap_or_default();
        out.lines().count() > 1 && last.contains("running") && last.contains("1 restart")
    });
    let lines = watched.interrupt();
    assert!(!lines.contains('\u{1b}'), "{lines:?}");
    let restarted = |out: &str| {
        objects(out).iter().any(|list| {
            let rows = list["instances"].as_array().unwrap();
            rows.iter().any(|row| row["restarts"] == 1 && row["host"] == "h1")
        })
    };
    json.wait_for("the kill in JSON", |out, _| restarted(out));
    let out = json.interrupt();
    assert!(objects(&out).len() > 1);
    let row = row(shop, "shop/web", "h1").unwrap();
    assert!(text(&row["last_exit"], "reason").contains("KILL"), "{row}");
    let table = said(shop, &["ps", "shop/web@h1"]);
    assert!(table.contains("MESSAGE") && table.contains("KILL"), "{table}");
}

fn row(shop: &Deployment, instance: &str, host: &str) -> Result<Value> {
    let rows = shop.json(&["ps", instance])?;
    let all = rows["instances"].as_array().context("no list")?;
    let found = all.iter().find(|row| row["host"] == host);
    found.cloned().with_context(|| format!("no {instance} on {host} in {rows}"))
}

fn is_active(shop: &Deployment) -> bool {
    let unit = ["systemctl", "is-active", "shoal-instance@shop-web"];
    shop.lab().host(0).run(&unit).unwrap().status.success()
}

fn a_paused_instance_is_left_alone(shop: &Deployment) {
    let paused = said(shop, &["pause", "shop/web@h1"]);
    assert!(paused.contains("shop/web@h1: paused"), "{paused}");
    assert!(said(shop, &["ps", "shop/web@h1"]).contains("running (paused)"));
    shop.lab().host(0).sh("systemctl stop shoal-instance@shop-web").unwrap();
    let is_down = || {
        let row = row(shop, "shop/web", "h1")?;
        ensure!(row["state"] != "running" && row["paused"] == true, "{row}");
        Ok(true)
    };
    wait_until("it to be seen that it is down", PATIENCE, is_down).unwrap();
    // The agent does other things meanwhile, and not this.
    said(shop, &["restart", "shop/system"]);
    assert!(!is_active(shop), "the agent started it");
    let status = shop.shoal(&["status", "shop"]).unwrap();
    status.fails_with(1).unwrap();
    assert!(status.stdout().contains("unpause"), "{}", status.stdout());
    for verb in ["start", "stop", "restart"] {
        let why = shop.shoal(&[verb, "shop/web"]).unwrap().fails_with(11).unwrap();
        assert!(why.contains("shop/web@h1 is paused") && why.contains("unpause"), "{why}");
    }
    let resumed = said(shop, &["resume", "shop/web@h1"]);
    assert!(resumed.contains("shop/web@h1: unpaused"), "{resumed}");
    let is_back = || {
        let row = row(shop, "shop/web", "h1")?;
        ensure!(row["ready"] == true && row["paused"] == false, "{row}");
        Ok(is_active(shop))
    };
    wait_until("it to be back", PATIENCE, is_back).unwrap();
}

fn what_happened_is_told(shop: &Deployment) {
    let watched = Watched::start(shop, &["events", "-f", "-o", "json", "shop/system"]);
    shop.lab().host(0).sh("systemctl stop shoal-instance@shop-system").unwrap();
    watched.wait_for("the repair", |out, _| {
        objects(out).iter().any(|event| event["kind"] == "repaired")
    });
    watched.interrupt();
    let all = objects_of(shop, &["events", "shop/system@h1"]);
    let drift = all.iter().rfind(|event| event["kind"] == "drift").unwrap();
    assert!(text(drift, "message").contains("starting it again"), "{drift}");
    assert_eq!((text(drift, "host"), &drift["warning"]), ("h1", &true.into()));
    assert!(all.iter().all(|event| event["instance"] == "shop/system"));
    let web = objects_of(shop, &["events", "-l", "role=web", "--warnings", "shop/web"]);
    assert!(web.iter().all(|event| event["warning"] == true));
    assert!(web.iter().any(|event| text(event, "message").contains("KILL")), "{web:?}");
    assert!(objects_of(shop, &["events", "--host", "h2"]).iter().all(|e| e["host"] == "h2"));
    assert_eq!(objects_of(shop, &["events", "-n", "2"]).len(), 2);
    let table = said(shop, &["events", "-S", "1h"]);
    assert!(table.starts_with("TIME") && table.contains("shop/web"), "{table}");
    shop.shoal(&["events", "shpo"]).unwrap().fails_with(10).unwrap();
}

fn objects_of(shop: &Deployment, arguments: &[&str]) -> Vec<Value> {
    shop.json(arguments).unwrap()["events"].as_array().unwrap().clone()
}
