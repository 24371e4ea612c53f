//! A revision that does not get ready, on a host whose controller is gone: the agent goes back by
//! itself, also through a power cut, and both agree when they meet again. On a real host, through
//! the command alone. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::time::Duration;

use anyhow::{Result, ensure};
use shoal_lab::{Deployment, Host, images, wait_until};

const PATIENCE: Duration = Duration::from_secs(90);

/// What the host keeps of the fleet's past.
const NOTED: &str = "/var/lib/shoal/agent/fallback/shop.json";

/// Each start of the container leaves a line in its data.
const FLEET: &str = r#"
fleet = "shop"

[instance.web]
image   = "box:1"
hosts   = "h1"
command = ["/bin/sh", "-c", "echo @VERSION >>/data/starts; exec httpd -f -p @PORT -h /www"]
network = "host"
[instance.web.data.store]
path = "/data"
[instance.web.health]
tcp      = "127.0.0.1:8080"
grace    = "5s"
interval = "1s"
timeout  = "1s"

[rollout]
batch-timeout = "20s"
"#;

/// A version of the fleet; it works where the port is 8080.
fn fleet(version: u32, port: u32) -> String {
    FLEET.replace("@VERSION", &version.to_string()).replace("@PORT", &port.to_string())
}

/// The versions that were started, in order.
fn starts(host: &Host) -> Result<Vec<String>> {
    let lines = host.sh("cat /var/lib/shoal/instances/shop-web/data/store/starts")?;
    Ok(lines.lines().map(str::to_owned).collect())
}

fn is_serving(host: &Host) -> Result<bool> {
    host.sh("bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080'").map(|_| true)
}

/// Applies a version that does not work, and kills the controller once the host was told of it.
fn apply_and_lose_the_controller(shop: &mut Deployment, version: u32) {
    shop.file("fleet.toml", &fleet(version, 8081)).unwrap();
    shop.shoal(&["apply"]).unwrap().ok().unwrap();
    let told = format!("grep -q '\"revision\": {version},' /var/lib/shoal/agent/ledger.json");
    let is_told = || shop.lab().host(0).sh(&told).map(|_| true);
    wait_until("the host to be told", PATIENCE, is_told).unwrap();
    shop.kill_controller().unwrap();
    let is_tried = || Ok(starts(shop.lab().host(0))?.last() == Some(&version.to_string()));
    wait_until("the bad version to be tried", PATIENCE, is_tried).unwrap();
}

/// Waits until the agent has gone back by itself to version 1, and that works.
fn wait_until_back(host: &Host) {
    let is_back = || {
        let noted = host.sh(&format!("cat {NOTED}"))?;
        ensure!(noted.contains("\"rejected\""), "{noted}");
        let status = host.sh("shoal-agent status")?;
        ensure!(status.contains("shop went back to what was healthy before: shop/web"), "{status}");
        ensure!(starts(host)?.last().is_some_and(|version| version == "1"), "{:?}", starts(host)?);
        is_serving(host)
    };
    wait_until("the agent to go back", PATIENCE, is_back).unwrap();
}

/// Starts the controller again: it must agree, and nothing may be started once more.
fn meet_again(shop: &mut Deployment, version: u32) {
    let (leader, before) = {
        let host = shop.lab().host(0);
        (shop.container(0, "shop-web").unwrap(), starts(host).unwrap())
    };
    shop.start_controller().unwrap();
    shop.wait_online("h1").unwrap();
    let revision = version.to_string();
    let is_over = || {
        let rollout = shop.json(&["rollout", "show", "shop", "--revision", &revision])?;
        ensure!(rollout["state"] == "rolled-back", "{rollout:#}");
        Ok(true)
    };
    wait_until("the rollout to be rolled back", PATIENCE, is_over).unwrap();
    let is_ready = || Ok(shop.json(&["ps", "shop"])?["instances"][0]["ready"] == true);
    wait_until("the fleet to be as it was", PATIENCE, is_ready).unwrap();
    // What was asked for is not what runs.
    shop.shoal(&["status", "shop"]).unwrap().fails_with(1).unwrap();
    let host = shop.lab().host(0);
    assert_eq!(shop.container(0, "shop-web").unwrap(), leader);
    assert_eq!(starts(host).unwrap(), before);
    let noted = host.sh(&format!("cat {NOTED}")).unwrap();
    assert!(!noted.contains("\"rejected\""), "{noted}");
}

#[test]
fn an_agent_without_its_controller_goes_back_by_itself() {
    let mut shop = Deployment::new("fallback", 1).unwrap();
    shop.push(&images::busybox_image("1").unwrap(), "box:1").unwrap();
    shop.apply(&fleet(1, 8080)).unwrap();
    assert_eq!(starts(shop.lab().host(0)).unwrap(), ["1"]);

    apply_and_lose_the_controller(&mut shop, 2);
    wait_until_back(shop.lab().host(0));
    assert_eq!(starts(shop.lab().host(0)).unwrap(), ["1", "2", "1"], "each once; data stays");
    meet_again(&mut shop, 2);
    let told = shop.shoal(&["events", "shop", "--warnings"]).unwrap().ok().unwrap();
    assert!(told.contains("went back from revision 2 to 1: shop/web"), "{told}");

    apply_and_lose_the_controller(&mut shop, 3);
    cut_the_power(shop.lab().host(0));
    wait_until_back(shop.lab().host(0));
    cut_the_power(shop.lab().host(0));
    wait_until_back(shop.lab().host(0));
    let all = starts(shop.lab().host(0)).unwrap();
    assert_eq!(all[3..], ["3", "3", "1", "1"], "what was rejected is not tried again");
    meet_again(&mut shop, 3);
}

fn cut_the_power(host: &Host) {
    host.power_kill().unwrap();
    host.start().unwrap();
}
