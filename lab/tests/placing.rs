//! A fleet over several hosts: how many of an instance, which of them, in which order, with which
//! values, and how they find one another. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use shoal_lab::images::busybox_image;
use shoal_lab::{Deployment, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// A fleet that sleeps on some of the three hosts.
fn sleepers(fleet: &str, count: u32, env: &str) -> String {
    format!(
        "fleet = \"{fleet}\"\n[instance.main]\nimage = \"box:1\"\nhosts = \"role=web\"\n\
         count = {count}\ncommand = [\"/bin/sleep\", \"infinity\"]\nenv = {{ {env} }}\n"
    )
}

/// `db` is ready when someone says so; `app` fails at once where it can't reach `db` by its name.
const ORDERED: &str = r#"
fleet = "shop"

[rollout]
batches = ["100%"]

[vars]
motd = "everywhere"

[vars."role=web"]
motd = "the web"

[vars."@h3"]
motd = "the third"

[instance.db]
image   = "box:1"
hosts   = "h1"
network = "host"
ports   = ["8080"]
command = ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"]
[instance.db.health]
http = "http://127.0.0.1:8080/ready"

[instance.app]
image   = "box:1"
hosts   = ["h2", "h3"]
network = "host"
after   = ["db"]
env     = { MOTD = { template = "{{ motd }}, on {{ shoal.host }}" } }
command = ["/bin/sh", "-c", "wget -q -O /tmp/page http://db.shop.shoal:8080/ready && exec sleep infinity"]
"#;

/// The ports of `db` again, by another fleet; and of this one's own two.
const TAKEN: &str = r#"
fleet = "rival"
[instance.a]
image   = "box:1"
hosts   = "*"
network = "host"
ports   = ["8080"]
command = ["/bin/sleep", "infinity"]
"#;

fn rows(site: &Deployment, fleet: &str) -> Vec<Value> {
    let rows = site.json(&["ps", fleet]).unwrap();
    rows["instances"].as_array().unwrap().clone()
}

fn hosts(site: &Deployment, fleet: &str) -> BTreeSet<String> {
    rows(site, fleet).iter().map(|row| row["host"].as_str().unwrap().to_owned()).collect()
}

/// What the host's root can see of an instance: its leader, by machined.
fn leader(site: &Deployment, host: &str, machine: &str) -> Option<u32> {
    let position = ["h1", "h2", "h3"].iter().position(|name| *name == host).unwrap();
    site.container(position, machine).ok()
}

fn exec(site: &Deployment, instance: &str, script: &str) -> String {
    site.shoal(&["exec", instance, "--", "/bin/sh", "-c", script]).unwrap().ok().unwrap()
}

#[test]
fn a_fleet_is_placed_in_order_and_finds_itself() {
    let site = Deployment::new("placing", 3).unwrap();
    site.push(&busybox_image("1").unwrap(), "box:1").unwrap();

    counted_instances_are_spread_and_stay(&site);
    who_comes_after_another_hosts_instance_waits_for_it(&site);
    names_lead_to_the_instances(&site);
    values_differ_by_label_and_by_host(&site);
    what_can_not_be_is_told_before_a_host_is_touched(&site);
}

fn counted_instances_are_spread_and_stay(site: &Deployment) {
    site.apply(&sleepers("two", 2, "A = \"1\"")).unwrap();
    let two = hosts(site, "two");
    assert_eq!(two.len(), 2);
    site.apply(&sleepers("one", 1, "A = \"1\"")).unwrap();
    let one = hosts(site, "one");
    assert!(one.is_disjoint(&two), "{one:?} {two:?}");
    let before: Vec<_> = two.iter().map(|host| leader(site, host, "two-main").unwrap()).collect();
    site.apply(&sleepers("two", 3, "A = \"1\"")).unwrap();
    let after: Vec<_> = two.iter().map(|host| leader(site, host, "two-main").unwrap()).collect();
    assert_eq!(after, before, "who was there was disturbed");
    assert_eq!(hosts(site, "two").len(), 3);
    site.apply(&sleepers("two", 2, "A = \"2\"")).unwrap();
    assert_eq!(hosts(site, "two"), two, "the fullest host is left");
    site.file("fleet.toml", &sleepers("two", 4, "A = \"2\"")).unwrap();
    let said = site.shoal(&["apply"]).unwrap().fails_with(2).unwrap();
    assert!(said.contains("count = 4, and only 3 hosts match \"role=web\""), "{said}");
    for fleet in ["one", "two"] {
        site.apply(&format!("fleet = \"{fleet}\"\n[instance]\n")).unwrap();
    }
}

fn who_comes_after_another_hosts_instance_waits_for_it(site: &Deployment) {
    site.file("fleet.toml", ORDERED).unwrap();
    site.shoal(&["apply"]).unwrap().ok().unwrap();
    let waits = || {
        let status = site.shoal(&["status", "shop"])?.stdout();
        Ok(status.matches("waits for shop/db to be ready").count() >= 2)
    };
    wait_until("both instances of app to wait for db", PATIENCE, waits).unwrap();
    let runs = || Ok(leader(site, "h1", "shop-db").is_some());
    wait_until("db to run", PATIENCE, runs).unwrap();
    for host in ["h2", "h3"] {
        assert_eq!(leader(site, host, "shop-app"), None, "it did not wait on {host}");
    }
    exec(site, "shop/db", "echo yes > /www/ready");
    let ready = || Ok(site.shoal(&["status", "shop"])?.success());
    wait_until("all of it to be ready", PATIENCE, ready).unwrap();
    for row in rows(site, "shop") {
        assert_eq!(row["restarts"], 0, "it was started too early: {row}");
    }
}

fn names_lead_to_the_instances(site: &Deployment) {
    let address = site.lab().host(0).addr().to_owned();
    for host in ["h2", "h3"] {
        let file = exec(site, &format!("shop/app@{host}"), "cat /etc/hosts");
        let line = format!("{address} db.shop.shoal h1.db.shop.shoal");
        assert!(file.lines().any(|l| l == line), "{file}");
        assert_eq!(file.matches(" app.shop.shoal ").count(), 2, "{file}");
        let apps: Vec<&str> = file.lines().filter(|l| l.contains("app.shop.shoal")).collect();
        assert!(apps[0].ends_with(&format!(" {host}.app.shop.shoal")), "nearest first: {file}");
        let page = "wget -q -O - http://h1.db.shop.shoal:8080/ready";
        assert_eq!(exec(site, &format!("shop/app@{host}"), page), "yes\n");
    }
}

fn values_differ_by_label_and_by_host(site: &Deployment) {
    let motd = |host: &str| exec(site, &format!("shop/app@{host}"), "echo $MOTD");
    assert_eq!(motd("h2"), "the web, on h2\n");
    assert_eq!(motd("h3"), "the third, on h3\n");
}

fn refused(site: &Deployment, file: &str, words: &[&str]) -> Result<()> {
    let before = site.json(&["host", "list"])?;
    site.file("fleet.toml", file)?;
    for verb in ["plan", "apply"] {
        let said = site.shoal(&[verb])?.fails_with(2)?;
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
    }
    let generation = |list: &Value| -> Vec<Value> {
        list["hosts"].as_array().unwrap().iter().map(|host| host["generation"].clone()).collect()
    };
    assert_eq!(generation(&site.json(&["host", "list"])?), generation(&before));
    Ok(())
}

fn what_can_not_be_is_told_before_a_host_is_touched(site: &Deployment) {
    let taken = "instance a on host h1: port 8080/tcp of the host is also that of shop/db";
    refused(site, TAKEN, &[taken]).unwrap();
    let bind = TAKEN.replace(
        "ports   = [\"8080\"]",
        "mounts.\"/srv\" = { source = \"/srv/x\", writable = true }",
    );
    let bind = format!("{bind}[instance.a.limits]\nmemory = \"900T\"\n");
    let words = [
        "instance a on hosts h1, h2, h3: /srv/x of the host may not be shown writable",
        "instance a on hosts h1, h2, h3: limits.memory is 900T, and the host has",
    ];
    refused(site, &bind, &words).unwrap();
    let later = sleepers("later", 1, "")
        .replace("[instance.main]", "[instance.main]\nafter = [\"shop/app\"]");
    site.apply(&later).unwrap();
    let ring = ORDERED.replace("[instance.db]", "[instance.db]\nafter = [\"later/main\"]");
    let shown = "shop/app after shop/db after later/main after shop/app";
    refused(site, &ring, &[shown]).unwrap();
}
