//! What is bad stops at the canary, and nothing else notices.

use shoal_lab::Deployment;

use super::shop::{
    DIFFERS, GOOD, PRECONDITION, ROLLED_BACK, STOPPED, Version, is_serving, leaders, mark,
    progress, put, rollout, shop, starts, status, wait_until_as_wanted,
};

const SOON: &str = "batch-timeout = \"8s\"";
const PAUSES: &str = "batch-timeout = \"8s\"\non-failure = \"pause\"";

#[test]
fn what_is_bad_stops_at_the_canary() {
    let shop = shop("bad", &["exits", "deaf"]);
    let exits = Version { name: "2", image: "exits", ..GOOD };
    goes_back(&shop, exits, "this image is bad");
    assert_eq!(starts(&shop, 0).last().unwrap(), "1");
    let deaf = Version { name: "3", image: "deaf", policy: SOON, ..GOOD };
    goes_back(&shop, deaf, "8080");
    // Nothing but a file of it differs.
    let config = Version { port: 8081, policy: SOON, ..GOOD };
    goes_back(&shop, config, "8080");
    one_that_pauses_goes_on_once_it_is_mended(&shop);
    one_that_pauses_is_aborted_and_undone(&shop);
}

/// A version that does not work is taken back from `h1`, for a reason that has `why` in it.
fn goes_back(shop: &Deployment, bad: Version<'_>, why: &str) {
    let others = leaders(shop, [1, 2]);
    put(shop, bad);
    let said = shop.shoal(&["apply", "--wait"]).unwrap().fails_with(ROLLED_BACK).unwrap();
    let error = &said[said.find("error: ").unwrap_or_default()..];
    for words in ["was rolled back to revision 1: ", "shop/web: ", why, "(failed: h1)"] {
        assert!(error.contains(words), "{words:?} is not in: {said}");
    }
    let rollout = rollout(shop);
    let canary = progress(&rollout, "h1");
    assert_eq!(rollout["state"], "rolled-back", "{rollout:#}");
    assert_eq!(canary["outcome"], "back", "{rollout:#}");
    let had_failed = canary["had_failed"].as_str().unwrap();
    assert!(had_failed.contains(why), "{why:?} is not why it failed: {had_failed}");
    for host in ["h2", "h3"] {
        assert!(progress(&rollout, host)["generation"].is_null(), "{host} was told: {rollout:#}");
    }
    let shown = shop.shoal(&["rollout", "show", "shop"]).unwrap().ok().unwrap();
    assert!(shown.contains("had failed: ") && shown.contains("shop/web"), "{shown}");
    let ps = shop.json(&["ps", "shop/web@h1"]).unwrap();
    assert_eq!(
        (&ps["instances"][0]["revision"], &ps["instances"][0]["ready"]),
        (&1.into(), &true.into())
    );
    assert!(is_serving(shop, 0).unwrap());
    assert_eq!(leaders(shop, [1, 2]), others, "a bad canary disturbed others");
}

/// Applies one that pauses when it fails, as it does.
fn is_paused(shop: &Deployment, name: &str) {
    let (canary, others) = (leaders(shop, [0]), leaders(shop, [1, 2]));
    put(shop, Version { name, policy: PAUSES, ..GOOD });
    let said = shop.shoal(&["apply", "--wait"]).unwrap().fails_with(STOPPED).unwrap();
    assert!(said.contains("paused after a failure: ") && said.contains("(failed: h1)"), "{said}");
    let rollout = rollout(shop);
    assert_eq!(rollout["hold"]["kind"], "failure", "{rollout:#}");
    assert_eq!(progress(&rollout, "h1")["outcome"], "failed", "{rollout:#}");
    assert_ne!(leaders(shop, [0]), canary);
    assert_eq!(starts(shop, 0).last().unwrap(), name, "all is left as it is");
    assert_eq!(leaders(shop, [1, 2]), others);
}

fn one_that_pauses_goes_on_once_it_is_mended(shop: &Deployment) {
    is_paused(shop, "needy-4");
    let canary = leaders(shop, [0]);
    (0..3).for_each(|host| mark(shop, host, "mended"));
    shop.shoal(&["rollout", "resume", "shop", "--wait"]).unwrap().ok().unwrap();
    assert_eq!(rollout(shop)["state"], "completed");
    assert_eq!(leaders(shop, [0]), canary, "what works by now was restarted");
    (0..3).for_each(|host| assert_eq!(starts(shop, host).last().unwrap(), "needy-4"));
    wait_until_as_wanted(shop);
}

fn one_that_pauses_is_aborted_and_undone(shop: &Deployment) {
    shop.lab().host(0).sh("rm /var/lib/shoal/instances/shop-web/data/store/mended").unwrap();
    is_paused(shop, "needy-5");
    let all = leaders(shop, [0, 1, 2]);
    shop.shoal(&["rollout", "abort", "shop", "--reason", "not today"]).unwrap().ok().unwrap();
    let aborted = rollout(shop);
    assert_eq!(aborted["state"], "aborted");
    assert!(aborted["cause"].as_str().unwrap().ends_with("aborted it: not today"), "{aborted:#}");
    let resume = shop.shoal(&["rollout", "resume", "shop"]).unwrap();
    assert!(resume.fails_with(PRECONDITION).unwrap().contains("has ended"));
    status(shop, DIFFERS);
    assert_eq!(leaders(shop, [0, 1, 2]), all, "abort leaves everything as it is");

    mark(shop, 0, "mended");
    shop.shoal(&["rollout", "undo", "shop", "--wait"]).unwrap().ok().unwrap();
    assert_eq!(starts(shop, 0).last().unwrap(), "needy-4");
    assert_eq!(leaders(shop, [1, 2]), all[1..]);
    status(shop, 0);
}
