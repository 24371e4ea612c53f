//! A host that is away delays only itself, catches up behind the gate of its own agent, and
//! `status` says at each moment how it is.

use std::process::Stdio;

use anyhow::ensure;
use shoal_lab::{Deployment, wait_until};

use super::shop::{
    DIFFERS, GOOD, PARTIAL, PATIENCE, Version, is_serving, leaders, mark, progress, put, rollout,
    shop, starts, status, wait_until_as_wanted,
};

const POLICY: &str = "batch-timeout = \"12s\"";

#[test]
fn a_host_that_was_away_catches_up_or_says_that_it_did_not() {
    let shop = shop("offline", &[]);
    one_that_was_off_is_named_and_catches_up(&shop);
    one_that_returns_in_time_is_waited_for(&shop);
    one_that_fails_on_return_goes_back_by_itself(&shop);
    what_it_rejected_is_tried_by_the_next_rollout(&shop);
}

fn wait_until_away(shop: &Deployment) {
    wait_until("h3 to be offline", PATIENCE, || Ok(!shop.is_online("h3")?)).unwrap();
}

fn stop_its_agent(shop: &Deployment) {
    shop.lab().host(2).sh("systemctl stop shoal-agent").unwrap();
    wait_until_away(shop);
}

fn start_its_agent(shop: &Deployment) {
    shop.lab().host(2).sh("systemctl start shoal-agent").unwrap();
}

/// Applies it without waiting for `h3`, which is offline.
fn skips_it(shop: &Deployment, name: &str) {
    put(shop, Version { name, policy: POLICY, ..GOOD });
    let ran = shop.shoal(&["apply", "--wait", "--skip-offline"]).unwrap();
    let said = ran.fails_with(PARTIAL).unwrap();
    let error = &said[said.find("error: ").unwrap_or_default()..];
    assert!(error.contains("is partial (offline: h3)"), "{said}");
    let rollout = rollout(shop);
    assert_eq!(rollout["state"], "partial");
    assert_eq!(progress(&rollout, "h3")["outcome"], "offline", "{rollout:#}");
    for host in ["h1", "h2"] {
        assert_eq!(progress(&rollout, host)["outcome"], "ready", "{rollout:#}");
    }
    assert!(status(shop, DIFFERS).contains("the host is offline"));
}

fn one_that_was_off_is_named_and_catches_up(shop: &Deployment) {
    let host = shop.lab().host(2);
    // So that what happens at its boot happens before what its agent does.
    host.sh("systemctl disable shoal-agent").unwrap();
    host.stop().unwrap();
    wait_until_away(shop);
    skips_it(shop, "2");
    let others = leaders(shop, [0, 1]);
    host.start().unwrap();
    wait_until("what it had to run", PATIENCE, || is_serving(shop, 2)).unwrap();
    host.sh("systemctl enable --now shoal-agent").unwrap();
    wait_until_as_wanted(shop);
    assert_eq!(starts(shop, 2), ["1", "1", "2"]);
    assert_eq!(leaders(shop, [0, 1]), others);
    assert_eq!(rollout(shop)["state"], "partial", "what has ended has");
}

fn one_that_returns_in_time_is_waited_for(shop: &Deployment) {
    stop_its_agent(shop);
    let before = leaders(shop, [2]);
    put(shop, Version { name: "3", policy: POLICY, ..GOOD });
    let apply = shop.spawn(&["apply", "--wait", "--timeout", "3m"], Stdio::piped()).unwrap();
    let waits = || {
        let rollout = shop.json(&["rollout", "show", "shop"])?;
        ensure!(rollout["state"] == "waiting", "it is {}", rollout["state"]);
        Ok(progress(&rollout, "h3")["outcome"] == "offline")
    };
    wait_until("only h3 to be left", PATIENCE, waits).unwrap();
    let list = shop.shoal(&["rollout", "list", "shop"]).unwrap().ok().unwrap();
    assert!(list.contains("waiting") && list.contains("2 ready, 1 offline"), "{list}");
    let said = status(shop, DIFFERS);
    assert!(said.contains("waiting") && said.contains("the host is offline"), "{said}");
    assert_eq!(leaders(shop, [2]), before, "an instance needs no agent");
    start_its_agent(shop);
    apply.wait().unwrap().ok().unwrap();
    assert_eq!(rollout(shop)["state"], "completed");
    assert_eq!(starts(shop, 2).last().unwrap(), "3");
    status(shop, 0);
}

fn one_that_fails_on_return_goes_back_by_itself(shop: &Deployment) {
    stop_its_agent(shop);
    mark(shop, 2, "broken");
    skips_it(shop, "picky-4");
    let others = leaders(shop, [0, 1]);
    start_its_agent(shop);
    let is_back = || {
        let ps = shop.json(&["ps", "shop/web@h3"])?;
        let instance = &ps["instances"][0];
        let why = instance["went_back"].as_str().unwrap_or_default();
        ensure!(why.contains("shop/web"), "{instance:#}");
        ensure!(instance["state"] == "running" && instance["ready"] == false, "{instance:#}");
        is_serving(shop, 2)
    };
    wait_until("h3 to go back", PATIENCE, is_back).unwrap();
    let starts = starts(shop, 2);
    assert!(starts.contains(&"picky-4".to_owned()), "it was never tried: {starts:?}");
    assert_eq!(starts.last().unwrap(), "3");
    let said = status(shop, DIFFERS);
    assert!(said.contains("the agent went back to what was healthy"), "{said}");
    assert_eq!(leaders(shop, [0, 1]), others);
}

fn what_it_rejected_is_tried_by_the_next_rollout(shop: &Deployment) {
    let others = leaders(shop, [0, 1]);
    shop.lab().host(2).sh("rm /var/lib/shoal/instances/shop-web/data/store/broken").unwrap();
    let plan = shop.shoal(&["plan"]).unwrap();
    assert_eq!(plan.code(), DIFFERS);
    assert!(plan.stdout().contains("note: h3 went back to what was healthy"), "{}", plan.stdout());
    shop.shoal(&["apply", "--wait"]).unwrap().ok().unwrap();
    let rollout = rollout(shop);
    let kept = ["h1", "h2", "h3"].map(|host| progress(&rollout, host)["kept"] == true);
    assert_eq!(kept, [true, true, false], "{rollout:#}");
    assert_eq!(starts(shop, 2).last().unwrap(), "picky-4");
    assert_eq!(leaders(shop, [0, 1]), others);
    status(shop, 0);
}
