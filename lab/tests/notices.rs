//! What happens to an instance by itself or by hand is noticed at once, put right, counted, and
//! told with its reason: on a real host, through the command alone. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use shoal_lab::{Deployment, Host, images, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// `web` runs for ever; `job` ends with 3 when its volume has a file `end`.
const FLEET: &str = r#"
fleet = "shop"

[instance.web]
image   = "box:1"
hosts   = "role=web"
command = ["/bin/sleep", "1000000"]

[instance.job]
image   = "box:1"
hosts   = "role=web"
command = ["/bin/sh", "-c", "until rm /data/end 2>/dev/null; do sleep 0.1; done; exit 3"]
[instance.job.data.work]
path = "/data"
"#;

/// How an instance is shown: its state, whether that is proven to last, how often it was started
/// again, and how it ended last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    state: String,
    ready: bool,
    restarts: u64,
    reason: Option<String>,
}

fn shown(shop: &Deployment, instance: &str) -> Result<Shown> {
    let ps = shop.json(&["ps"])?;
    let rows = ps["instances"].as_array().context("ps has no instances")?;
    let row = rows.iter().find(|row| row["instance"] == instance);
    let row = row.with_context(|| format!("ps does not show {instance}"))?;
    Ok(Shown {
        state: row["state"].as_str().unwrap_or_default().to_owned(),
        ready: row["ready"] == true,
        restarts: row["restarts"].as_u64().context("ps shows no restarts")?,
        reason: row["last_exit"]["reason"].as_str().map(str::to_owned),
    })
}

/// Waits until `instance` runs again, started again `restarts` times and the last time for `reason`.
fn back(shop: &Deployment, instance: &str, restarts: u64, reason: &str) {
    let expected =
        Shown { state: "running".into(), ready: true, restarts, reason: Some(reason.into()) };
    let is_back = || {
        let shown = shown(shop, instance)?;
        ensure!(shown == expected, "it is {shown:?}");
        Ok(true)
    };
    let what = format!("{instance} to be {expected:?}");
    wait_until(&what, PATIENCE, is_back).unwrap();
}

/// How often the agent has seen an instance in a state that lasts for a second only.
fn sightings(host: &Host, seen: &str) -> Result<usize> {
    let log = host.sh("journalctl --unit=shoal-agent --output=cat --no-pager")?;
    Ok(log.lines().filter(|line| line.contains(seen)).count())
}

#[test]
fn what_happens_to_an_instance_is_noticed_put_right_and_told() {
    let shop = Deployment::new("notices", 1).unwrap();
    shop.push(&images::busybox_image("1").unwrap(), "box:1").unwrap();
    shop.apply(FLEET).unwrap();
    for instance in ["shop/web", "shop/job"] {
        let fresh = Shown { state: "running".into(), ready: true, restarts: 0, reason: None };
        assert_eq!(shown(&shop, instance).unwrap(), fresh);
    }
    killed(&shop);
    stopped_by_hand(&shop);
    stopped_through_shoal(&shop);
    ended_by_itself(&shop);
    killed_while_the_agent_is_down(&shop);
    rebooted(&shop);
}

/// systemd starts it again after a second, so an agent that looks every few seconds, as it does
/// where all is ready, would see nothing of most of these.
fn killed(shop: &Deployment) {
    let host = shop.lab().host(0);
    for times in 1..=3 {
        let leader = shop.container(0, "shop-web").unwrap();
        host.sh(&format!("kill -9 {leader}")).unwrap();
        back(shop, "shop/web", times, "killed by SIGKILL");
        assert_ne!(shop.container(0, "shop-web").unwrap(), leader);
    }
    let all = || {
        let seen = sightings(host, "instance=shop/web kind=failed failed:")?;
        ensure!(seen >= 3, "it was seen {seen} times");
        Ok(true)
    };
    wait_until("each end to have been seen", PATIENCE, all).unwrap();

    // What supervises it, so that nothing is put away.
    host.sh("kill -9 $(systemctl show shoal-instance@shop-web --property=MainPID --value)")
        .unwrap();
    back(shop, "shop/web", 4, "killed by SIGKILL");
}

fn stopped_by_hand(shop: &Deployment) {
    shop.lab().host(0).sh("systemctl stop shoal-instance@shop-web").unwrap();
    back(shop, "shop/web", 5, "stopped on the host");
}

fn stopped_through_shoal(shop: &Deployment) {
    shop.shoal(&["stop", "shop/web"]).unwrap().ok().unwrap();
    let is_stopped = || Ok(shown(shop, "shop/web")?.state == "stopped");
    wait_until("shop/web to be stopped", PATIENCE, is_stopped).unwrap();
    shop.shoal(&["start", "shop/web"]).unwrap().ok().unwrap();
    back(shop, "shop/web", 5, "stopped on the host");
}

fn ended_by_itself(shop: &Deployment) {
    let host = shop.lab().host(0);
    host.sh("touch /var/lib/shoal/instances/shop-job/data/work/end").unwrap();
    back(shop, "shop/job", 1, "exit code 3");
}

fn killed_while_the_agent_is_down(shop: &Deployment) {
    let host = shop.lab().host(0);
    host.sh("systemctl stop shoal-agent").unwrap();
    let leader = shop.container(0, "shop-job").unwrap();
    host.sh(&format!("kill -9 {leader}")).unwrap();
    let is_back = || Ok(shop.container(0, "shop-job")? != leader);
    wait_until("shop/job to be back without the agent", PATIENCE, is_back).unwrap();
    host.sh("systemctl start shoal-agent").unwrap();
    back(shop, "shop/job", 2, "killed by SIGKILL");
    back(shop, "shop/web", 5, "stopped on the host");
}

fn rebooted(shop: &Deployment) {
    shop.lab().host(0).reboot().unwrap();
    back(shop, "shop/web", 6, "the host shut down");
    back(shop, "shop/job", 3, "the host shut down");
}
