//! A host whose disk is full, in whatever moment: a clear error, nothing half-done, what runs goes
//! on running, and all is well by itself once there is room again. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use shoal_lab::deployment::Ran;
use shoal_lab::images::{busybox_image, noisy_image};
use shoal_lab::{Deployment, Host, wait_until};

const PATIENCE: Duration = Duration::from_secs(90);

/// Exit codes, as docs/exit-codes.md has them.
const HELD: i32 = 14;
const TIMED_OUT: i32 = 6;

const STATE: &str = "/var/lib/shoal";
const INSTANCES: &str = "/var/lib/shoal/instances";
const LEDGER: &str = "/var/lib/shoal/agent/ledger.json";
const JOURNAL: &str = "/var/log/journal";

/// What the kernel says.
const FULL: &str = "No space left on device";

/// A host on which `place` is a file system of its own of this size.
fn site(hint: &str, place: &str, size: &str) -> Deployment {
    let mut site = Deployment::without_hosts(hint).unwrap();
    site.lab_mut().boot_hosts(1).unwrap();
    small(site.lab().host(0), place, size);
    site.join(0, &["role=web"]).unwrap();
    site.push(&busybox_image("1").unwrap(), "box:1").unwrap();
    site
}

fn small(host: &Host, place: &str, size: &str) {
    let mount =
        format!("mkdir -p {place} && mount -t tmpfs -o size={size},mode=0755 small {place}");
    host.sh(&mount).unwrap();
}

/// Fills a file system to its last byte.
fn fill(host: &Host, place: &str) {
    host.sh(&format!("cat /dev/zero >{place}/fill 2>/dev/null; sync -f {place}")).unwrap();
    let free = host.sh(&format!("df --output=avail {place} | tail -n 1")).unwrap();
    assert_eq!(free.trim(), "0", "{place} is not full");
}

fn empty(host: &Host, place: &str) {
    host.sh(&format!("rm {place}/fill")).unwrap();
}

fn apply(site: &Deployment, fleet: &str, timeout: &str) -> Ran {
    site.file("fleet.toml", fleet).unwrap();
    site.shoal(&["apply", "--wait", "--replace", "--timeout", timeout]).unwrap()
}

/// `shoal status` of a fleet that is not as wanted.
fn status(site: &Deployment) -> String {
    let ran = site.shoal(&["status", "shop"]).unwrap();
    ran.fails_with(1).unwrap();
    ran.stdout()
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

fn row(site: &Deployment, instance: &str) -> Result<Value> {
    let ps = site.json(&["ps"])?;
    let rows = ps["instances"].as_array().cloned().unwrap_or_default();
    Ok(rows.into_iter().find(|row| row["instance"] == instance).unwrap_or_default())
}

fn wait_until_ready(site: &Deployment) {
    let is_ready = || site.shoal(&["status", "shop"])?.ok().map(|_| true);
    wait_until("every instance to be ready", PATIENCE, is_ready).unwrap();
}

fn colour(site: &Deployment) -> String {
    let ran = site.shoal(&["exec", "shop/web", "--", "sh", "-c", "echo $COLOUR"]).unwrap();
    ran.ok().unwrap().trim().to_owned()
}

fn lines(host: &Host, script: &str) -> Vec<String> {
    host.sh(script).unwrap().lines().map(str::to_owned).collect()
}

fn web(image: &str, colour: &str) -> String {
    format!(
        r#"fleet = "shop"

[rollout]
on-failure = "pause"

[instance.web]
image   = "{image}"
hosts   = "role=web"
command = ["/bin/sh", "-c", "echo web starts; exec httpd -f -p 8080 -h /www"]
env     = {{ COLOUR = "{colour}" }}
[instance.web.data.store]
path = "/data"
[instance.web.health]
tcp = "127.0.0.1:8080"
"#
    )
}

#[test]
fn images_and_desired_states_wait_for_room() {
    let site = site("disk full", STATE, "256m");
    apply(&site, &web("box:1", "blue"), "60s").ok().unwrap();
    an_image_that_does_not_fit(&site);
    a_desired_state_that_cant_be_kept(&site);
}

/// Of 256 MiB, 64 are to stay free: with 100 in use, an image of 96 is refused before its first
/// byte.
fn an_image_that_does_not_fit(site: &Deployment) {
    let host = site.lab().host(0);
    let image = site.dir().join("big.squashfs");
    noisy_image(&image, 96 << 20).unwrap();
    site.push(&image, "big:1").unwrap();
    host.sh(&format!("fallocate --length 100MiB {STATE}/fill")).unwrap();
    let leader = site.container(0, "shop-web").unwrap();
    let received = "cat /sys/class/net/host0/statistics/rx_bytes";
    let bytes = || host.sh(received).unwrap().trim().parse::<u64>().unwrap();
    let before = bytes();

    let ran = apply(site, &web("big:1", "blue"), "40s");
    let words = ["h1", "big:1", "not enough space in", "are needed", "are free"];
    let said = ran.fails_with(HELD).unwrap();
    says(&said, &words);
    says(&said, &["97.", "64.0 MiB are to stay free"]);
    says(&status(site), &words);
    assert_eq!(site.container(0, "shop-web").unwrap(), leader, "what ran was disturbed");
    assert_eq!(row(site, "shop/web").unwrap()["health"], "healthy");
    let taken = bytes() - before;
    assert!(taken < 4 << 20, "{taken} bytes were sent for an image that has no room");
    let partial = lines(host, &format!("ls {STATE}/images | grep partial || true"));
    assert!(partial.is_empty(), "{partial:?}");
    let log = "journalctl --unit=shoal-agent --output=cat --no-pager | grep -c 'cannot stage'";
    let told: u32 = host.sh(log).unwrap().trim().parse().unwrap();
    assert!((1..4).contains(&told), "told {told} times");

    empty(host, STATE);
    // The agent tries again after a pause of its own.
    let is_applied = || {
        site.shoal(&["rollout", "abort", "shop"])?;
        Ok(apply(site, &web("big:1", "blue"), "60s").success())
    };
    wait_until("the image to have come", PATIENCE, is_applied).unwrap();
    wait_until_ready(site);
    assert_eq!(row(site, "shop/web").unwrap()["image"], "big:1");
    assert_ne!(site.container(0, "shop-web").unwrap(), leader);
}

fn a_desired_state_that_cant_be_kept(site: &Deployment) {
    let host = site.lab().host(0);
    let leader = site.container(0, "shop-web").unwrap();
    let ledger = || lines(host, &format!("sha256sum {LEDGER}; ls {STATE}/agent"));
    let before = ledger();
    fill(host, STATE);

    let ran = apply(site, &web("big:1", "green"), "5s");
    let words = ["h1", "refused generation", LEDGER, FULL];
    says(&ran.fails_with(TIMED_OUT).unwrap(), &words);
    let shown = site.shoal(&["host", "show", "h1"]).unwrap().ok().unwrap();
    says(&shown, &words[1..]);
    assert_eq!(ledger(), before, "the ledger is not as it was");
    assert_eq!(colour(site), "blue");

    // An agent that starts now has the ledger of before, and nothing changes.
    host.sh("systemctl restart shoal-agent").unwrap();
    site.wait_online("h1").unwrap();
    let told = || Ok(site.json(&["host", "show", "h1"])?.to_string().contains(FULL));
    wait_until("the agent to say again what keeps it", PATIENCE, told).unwrap();
    assert_eq!(ledger(), before, "the ledger is not as it was");
    assert_eq!(site.container(0, "shop-web").unwrap(), leader, "what ran was disturbed");

    empty(host, STATE);
    wait_until_ready(site);
    assert_eq!(colour(site), "green");
}

#[test]
fn a_controller_that_starts_anew_is_heard_by_a_host_with_a_full_disk() {
    let mut site = site("disk full epoch", STATE, "96m");
    apply(&site, &web("box:1", "blue"), "60s").ok().unwrap();
    fill(site.lab().host(0), STATE);
    site.stop_controller().unwrap();
    site.start_controller().unwrap();
    let host = site.lab().host(0);
    let log = "journalctl --unit=shoal-agent --output=cat --no-pager | grep -c 'connected to the'";
    let heard = || Ok(host.sh(log)?.trim() == "2");
    wait_until("the agent to hear the new controller", PATIENCE, heard).unwrap();
    site.wait_online("h1").unwrap();
    wait_until_ready(&site);
    empty(host, STATE);
    apply(&site, &web("box:1", "green"), "60s").ok().unwrap();
}

/// `other` never changes; `db` comes with the second one.
fn shop(colour: &str, memory: &str, db: bool) -> String {
    let mut text = web("box:1", colour);
    let sleeper = |name: &str, more: &str| {
        format!(
            "\n[instance.{name}]\nimage = \"box:1\"\nhosts = \"role=web\"\n\
             command = [\"/bin/sleep\", \"infinity\"]\n{more}"
        )
    };
    text += &sleeper("other", "");
    text += &sleeper("limited", &format!("[instance.limited.limits]\nmemory = \"{memory}\"\n"));
    if db {
        text += &sleeper("db", "[instance.db.data.tables]\npath = \"/tables\"\n");
    }
    text
}

#[test]
fn records_volumes_scratch_and_journals_wait_for_room() {
    let site = site("disk full inst", INSTANCES, "24m");
    apply(&site, &shop("blue", "64M", false), "60s").ok().unwrap();
    steps_that_cant_be_taken(&site);
    an_instance_that_fills_the_disk(&site);
    a_journal_that_is_full(&site);
}

const DROP_INS: &str = "/etc/systemd/system/shoal-instance@shop-limited.service.d";

fn steps_that_cant_be_taken(site: &Deployment) {
    let host = site.lab().host(0);
    let mark = ["exec", "shop/web", "--", "sh", "-c", "echo kept >/data/mark"];
    site.shoal(&mark).unwrap().ok().unwrap();
    let leaders =
        || ["shop-web", "shop-other", "shop-limited"].map(|m| site.container(0, m).unwrap());
    let before = leaders();
    fill(host, INSTANCES);
    // A file system may have bytes left and no room for another name.
    let used = host.sh(&format!("df --output=iused {INSTANCES} | tail -n 1")).unwrap();
    let inodes: u64 = used.trim().parse::<u64>().unwrap() + 8;
    host.sh(&format!("mount -o remount,nr_inodes={inodes} {INSTANCES}")).unwrap();
    host.sh(&format!("touch $(seq --format {INSTANCES}/fill.%g 100) 2>/dev/null; true")).unwrap();
    let drop_in = format!("{DROP_INS}/50-shoal.conf");
    host.sh(&format!("cp {drop_in} /run/kept")).unwrap();
    small(host, DROP_INS, "8k");
    host.sh(&format!("cp /run/kept {drop_in}")).unwrap();
    fill(host, DROP_INS);

    let ran = apply(site, &shop("green", "96M", true), "60s");
    says(&ran.fails_with(HELD).unwrap(), &["h1", "shop/", FULL]);
    let shown = status(site);
    says(&shown, &[&format!("can't write: can't make the directory {INSTANCES}/shop-db")]);
    says(&shown, &[&drop_in, FULL]);
    // What could not be written anew is not stopped either.
    let waits = format!("still runs what was wanted before: waits for room in {INSTANCES}");
    says(&shown, &[&waits]);
    assert_eq!(leaders(), before, "what ran was disturbed");
    assert_eq!(colour(site), "blue");
    let record = format!("{INSTANCES}/shop-web/instance.json");
    assert_eq!(lines(host, &format!("grep -c blue {record}")), ["1"], "the record of before");
    let left = lines(host, &format!("find {STATE} {DROP_INS} -name '*.new'"));
    assert!(left.is_empty(), "half-written: {left:?}");

    host.sh(&format!("rm {INSTANCES}/fill*; umount {DROP_INS}")).unwrap();
    host.sh(&format!("mount -o remount,nr_inodes=100000 {INSTANCES}")).unwrap();
    wait_until_ready(site);
    assert_eq!(colour(site), "green");
    let kept = site.shoal(&["exec", "shop/web", "--", "cat", "/data/mark"]).unwrap();
    assert_eq!(kept.ok().unwrap(), "kept\n", "a data volume was touched");
    let limit = "systemctl show --property=MemoryMax --value shoal-instance@shop-limited";
    assert_eq!(lines(host, limit), [(96 << 20).to_string()]);
    assert_eq!(leaders()[1..], before[1..], "what ran was disturbed");
}

/// What an instance writes outside its volumes goes to its own scratch, and with it.
fn an_instance_that_fills_the_disk(site: &Deployment) {
    let leader = site.container(0, "shop-other").unwrap();
    let script = "cat /dev/zero >/fill";
    let ran = site.shoal(&["exec", "shop/web", "--", "sh", "-c", script]).unwrap();
    says(&ran.fails_with(1).unwrap(), &[FULL]);
    assert!(site.is_online("h1").unwrap());
    wait_until_ready(site);
    let others = site.shoal(&["exec", "shop/other", "--", "true"]).unwrap();
    others.ok().unwrap();

    site.shoal(&["restart", "shop/web"]).unwrap().ok().unwrap();
    let left = site.shoal(&["exec", "shop/web", "--", "ls", "/fill"]).unwrap();
    left.fails_with(1).unwrap();
    wait_until_ready(site);
    assert_eq!(site.container(0, "shop-other").unwrap(), leader, "what ran was disturbed");
    apply(site, &shop("red", "96M", true), "60s").ok().unwrap();
}

fn a_journal_that_is_full(site: &Deployment) {
    let host = site.lab().host(0);
    small(host, JOURNAL, "1m");
    fill(host, JOURNAL);
    host.sh("systemctl restart systemd-journald").unwrap();
    apply(site, &shop("white", "64M", true), "60s").ok().unwrap();
    assert_eq!(colour(site), "white");
    host.sh("systemctl restart shoal-agent").unwrap();
    site.wait_online("h1").unwrap();
    wait_until_ready(site);
    // journald keeps what it can't write there in memory.
    let logs = site.shoal(&["logs", "shop/web"]).unwrap().ok().unwrap();
    says(&logs, &["web starts"]);
}
