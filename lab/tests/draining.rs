//! Hosts that take no new instances, that are emptied, and that are gone for good. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use shoal_lab::images::busybox_image;
use shoal_lab::{Deployment, Host, wait_until};

const PATIENCE: Duration = Duration::from_secs(90);
/// Exit codes, as docs/exit-codes.md has them.
const PARTIAL: i32 = 5;
const NOT_FOUND: i32 = 10;
const PRECONDITION: i32 = 11;

const HOSTS: [&str; 3] = ["h1", "h2", "h3"];

/// Two instances of `app` somewhere, and one of `log` everywhere.
fn shop(env: &str) -> String {
    format!(
        r#"fleet = "shop"

[instance.app]
image   = "box:1"
hosts   = "role=web"
count   = 2
env     = {{ A = "{env}" }}
command = ["/bin/sleep", "infinity"]

[instance.app.data.var]
path = "/data"

[instance.log]
image   = "box:1"
hosts   = "*"
command = ["/bin/sleep", "infinity"]
"#
    )
}

const SIDE: &str = "fleet = \"side\"\n[instance.main]\nimage = \"box:1\"\nhosts = \"*\"\n\
                    command = [\"/bin/sleep\", \"infinity\"]\n";

fn position(host: &str) -> usize {
    HOSTS.iter().position(|name| *name == host).unwrap()
}

fn host<'a>(site: &'a Deployment, name: &str) -> &'a Host {
    site.lab().host(position(name))
}

/// The hosts of an instance, as `ps` has them.
fn hosts(site: &Deployment, instance: &str) -> BTreeSet<String> {
    let rows = site.json(&["ps", instance]).unwrap();
    let rows = rows["instances"].as_array().unwrap().iter();
    rows.map(|row| row["host"].as_str().unwrap().to_owned()).collect()
}

fn leader(site: &Deployment, host: &str, machine: &str) -> Option<u32> {
    site.container(position(host), machine).ok()
}

/// The first processes of all containers of a fleet on a host that is not touched.
fn leaders(site: &Deployment, on: &BTreeSet<String>, machine: &str) -> Vec<Option<u32>> {
    on.iter().map(|host| leader(site, host, machine)).collect()
}

fn said(site: &Deployment, arguments: &[&str]) -> String {
    site.shoal(arguments).unwrap().ok().unwrap()
}

#[test]
fn hosts_are_cordoned_drained_and_removed() {
    let site = Deployment::new("draining", 3).unwrap();
    site.push(&busybox_image("1").unwrap(), "box:1").unwrap();
    site.apply(&shop("1")).unwrap();
    let two = hosts(&site, "shop/app");
    let free = HOSTS.iter().find(|host| !two.contains(**host)).unwrap().to_string();
    let full = two.first().unwrap().clone();

    a_cordoned_host_gets_nothing_new(&site, &free);
    what_can_not_move_stays_and_says_why(&site, &full, &free);
    a_drained_host_is_empty_and_stays_so(&site, &full);
    what_was_drained_comes_back_with_an_apply(&site, &full);
    a_dead_host_is_removed_and_its_return_refused(&site, &free);
}

fn a_cordoned_host_gets_nothing_new(site: &Deployment, free: &str) {
    let text = said(site, &["host", "cordon", free, "--reason", "bad disk"]);
    assert!(text.contains(&format!("host {free} is cordoned (")), "{text}");
    assert!(said(site, &["host", "list"]).contains("online, cordoned"));
    let shown = site.json(&["host", "show", free]).unwrap();
    assert_eq!(shown["cordon"]["reason"], "bad disk");
    site.file("fleet.toml", SIDE).unwrap();
    let plan = site.shoal(&["plan"]).unwrap();
    assert_eq!(plan.code(), 1);
    let note = format!("note: {free} is cordoned (");
    let rest = ": bad disk): instance main is not placed there";
    assert!(plan.stdout().contains(&note) && plan.stdout().contains(rest), "{}", plan.stdout());
    site.apply(SIDE).unwrap();
    assert_eq!(hosts(site, "side").len(), 2);
    assert!(leader(site, free, "shop-log").is_some(), "what it had stays");
    let missing = ["host", "cordon", "-l", "role=none"];
    site.shoal(&missing).unwrap().fails_with(NOT_FOUND).unwrap();
}

fn what_can_not_move_stays_and_says_why(site: &Deployment, full: &str, free: &str) {
    let before = leader(site, full, "shop-app");
    let drain = ["host", "drain", full, "--reason", "new disk", "--timeout", "90s"];
    let text = site.shoal(&drain).unwrap().fails_with(PARTIAL).unwrap();
    for words in ["shop/app, shop/log: ", "count = 2", "shoal host uncordon"] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
    assert!(!text.contains("side/main"), "that one could go: {text}");
    assert!(before.is_some() && leader(site, full, "shop-app") == before);
    assert_eq!(leader(site, full, "side-main"), None);
    let text = said(site, &["host", "uncordon", free]);
    assert!(text.contains("next `shoal apply` of side"), "{text}");
}

fn a_drained_host_is_empty_and_stays_so(site: &Deployment, full: &str) {
    let others: BTreeSet<String> =
        HOSTS.iter().filter(|host| **host != full).map(ToString::to_string).collect();
    let logs = leaders(site, &others, "shop-log");
    let stays = hosts(site, "shop/app").into_iter().find(|host| host != full).unwrap();
    let app = leader(site, &stays, "shop-app");
    let text = said(site, &["host", "drain", full, "--timeout", "90s"]);
    assert!(text.contains(&format!("host {full} is drained: nothing runs there")), "{text}");
    assert!(text.contains("shop-app: var"), "its data is named: {text}");
    assert_eq!(hosts(site, "shop/app"), others, "what is counted has moved");
    assert_eq!(hosts(site, "shop/log"), others);
    let machines = host(site, full).sh("machinectl list --no-legend").unwrap();
    assert_eq!(machines.trim(), "");
    host(site, full).sh("test -d /var/lib/shoal/instances/shop-app/data/var").unwrap();
    assert_eq!(leaders(site, &others, "shop-log"), logs, "others were disturbed");
    assert_eq!(leader(site, &stays, "shop-app"), app);
    let rollouts = site.json(&["rollout", "list", "shop"]).unwrap();
    assert_eq!(rollouts["rollouts"][0]["state"], "completed", "{rollouts}");
    let status = site.json(&["status", "shop"]).unwrap();
    assert_eq!(status["source"], format!("drain of {full}"), "{status}");

    site.apply(&shop("2")).unwrap();
    assert_eq!(hosts(site, "shop/app"), others, "a later apply keeps off it");
    assert!(said(site, &["host", "list"]).contains("online, drained"));
}

fn what_was_drained_comes_back_with_an_apply(site: &Deployment, full: &str) {
    let text = said(site, &["host", "uncordon", full]);
    assert!(text.contains("next `shoal apply` of shop, side"), "{text}");
    assert_eq!(leader(site, full, "shop-log"), None, "nothing comes by itself");
    site.apply(&shop("2")).unwrap();
    assert!(leader(site, full, "shop-log").is_some());
    assert!(!hosts(site, "shop/app").contains(full), "what is counted stays where it is");
}

fn a_dead_host_is_removed_and_its_return_refused(site: &Deployment, dead: &str) {
    host(site, dead).power_kill().unwrap();
    let refused = site.shoal(&["host", "remove", dead]).unwrap().fails_with(PRECONDITION).unwrap();
    assert!(refused.contains("shop/app") && refused.contains("--force"), "{refused}");
    let text = said(site, &["host", "remove", dead, "--force"]);
    for words in ["its certificate is refused from now on", "shop/app", "apply again"] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
    let list = site.json(&["host", "list"]).unwrap();
    let names: Vec<&Value> = list["hosts"].as_array().unwrap().iter().map(|h| &h["name"]).collect();
    assert!(names.len() == 2 && !names.contains(&&Value::from(dead)), "{names:?}");
    site.apply(&shop("2")).unwrap();
    assert_eq!(hosts(site, "shop/app").len(), 2);

    let returned = host(site, dead);
    returned.start().unwrap();
    let told = || {
        let log = returned.sh("journalctl --no-pager -u shoal-agent")?;
        Ok(log.contains("it was removed, or has enrolled again"))
    };
    wait_until("the agent of a removed host to say so", PATIENCE, told).unwrap();
    let log = std::fs::read_to_string(site.controller_log()).unwrap();
    assert!(log.contains("call refused") && log.contains("it was removed"), "{log}");
    let runs = || Ok(leader(site, dead, "shop-app").is_some());
    wait_until("what it had to run on", PATIENCE, runs).unwrap();
    let show = site.shoal(&["host", "show", dead]).unwrap().fails_with(NOT_FOUND).unwrap();
    assert!(show.contains("there is no host"), "{show}");
}
