//! The controller is killed at each step of a rollout that it has written down, forward and back,
//! and the next one goes on from there.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use shoal_lab::{Background, Deployment, wait_until};

use super::shop::{
    GOOD, Version, leaders, progress, put, rollout, shop, starts, wait_until_as_wanted,
};
use super::written::{Step, Store, left_behind};

const FORWARD: &str = "monitor = \"2s\"\nbatch-timeout = \"1m\"";
const BACK: &str = "batch-timeout = \"8s\"";

/// How long nothing new may be written.
const PATIENCE: Duration = Duration::from_secs(90);

/// Images of versions that work. A new one has to get to the hosts, which is what makes staging a
/// step of its own.
const IMAGES: [&str; 5] = ["n2", "n3", "n4", "n5", "n6"];

#[test]
fn a_controller_killed_at_each_step_carries_on() {
    let mut shop = shop("killed", &[&IMAGES[..], &["deaf"]].concat());
    let revision = forward(&mut shop);
    back(&mut shop, revision);
    nothing_is_lost(&shop, revision);
}

/// Kills the controller as soon as something is written of a revision at which none was killed
/// before. Gives what is in the store then.
fn kill_at_next(shop: &mut Deployment, revision: u64, killed: &BTreeSet<Step>) -> Step {
    let store = Store::open(&shop.controller_dir());
    let began = Instant::now();
    // No pause in between: the first step is over in a few milliseconds.
    while store.rollout(revision).is_none_or(|step| killed.contains(&step)) {
        assert!(began.elapsed() < PATIENCE, "it stands still after {killed:?}");
    }
    drop(store);
    shop.kill_controller().unwrap();
    left_behind(&shop.controller_dir(), revision).unwrap()
}

/// The same again and again, until it has ended. Gives who has watched it since a step that takes
/// its time.
fn kill_at_each(
    shop: &mut Deployment,
    revision: u64,
    watched_from: Step,
    killed: &mut BTreeSet<Step>,
) -> Background {
    let mut watcher = None;
    while !killed.iter().any(|(state, _)| ["completed", "rolled-back"].contains(state)) {
        let step = kill_at_next(shop, revision, killed);
        killed.insert(step);
        shop.start_controller().unwrap();
        if step == watched_from {
            watcher = Some(watch(shop));
        }
    }
    watcher.unwrap()
}

/// Has a new version applied, and kills the controller as soon as that is written. The apply may
/// have heard of it or not. Gives the revision and where it was.
fn apply_and_kill(shop: &mut Deployment, version: Version<'_>) -> (u64, Step) {
    let revision = rollout(shop)["revision"].as_u64().unwrap() + 1;
    put(shop, version);
    let apply = ["apply", "--skip-offline", "--replace"];
    let apply = shop.spawn(&apply, Stdio::piped()).unwrap();
    let step = kill_at_next(shop, revision, &BTreeSet::new());
    let code = apply.wait().unwrap().code();
    assert!([0, 8].contains(&code), "apply ended with {code}");
    shop.start_controller().unwrap();
    (revision, step)
}

/// Someone who watches, and has seen something already.
fn watch(shop: &Deployment) -> Background {
    let seen = shop.file("seen", "").unwrap();
    let watch = ["rollout", "watch", "shop", "-o", "json"];
    let watcher = shop.spawn(&watch, File::create(&seen).unwrap().into()).unwrap();
    let has_seen = || Ok(fs::metadata(&seen)?.len() > 0);
    wait_until("the watch to see something", PATIENCE, has_seen).unwrap();
    watcher
}

/// The last state that was seen.
fn last_seen(shop: &Deployment) -> String {
    let seen = fs::read_to_string(shop.dir().join("seen")).unwrap();
    let last: Value = serde_json::from_str(seen.lines().last().unwrap()).unwrap();
    last["state"].as_str().unwrap().to_owned()
}

fn forward(shop: &mut Deployment) -> u64 {
    // The first step lasts a moment: where it was over before the kill, another version follows.
    let mut all = IMAGES.iter().map(|image| {
        let version = Version { name: image, image, policy: FORWARD, ..GOOD };
        (*image, apply_and_kill(shop, version))
    });
    let (name, (revision, step)) = all.find(|(_, (_, step))| step.0 == "planned").unwrap();
    drop(all);
    let mut killed = BTreeSet::from([step]);
    let watcher = kill_at_each(shop, revision, ("monitoring", 1), &mut killed);
    for step in [
        ("planned", 0),
        ("staging", 1),
        ("changing", 1),
        ("monitoring", 1),
        ("staging", 2),
        ("changing", 2),
        ("monitoring", 2),
        ("completed", 2),
    ] {
        assert!(killed.contains(&step), "it was not killed at {step:?}, but at {killed:?}");
    }
    watcher.wait().unwrap().ok().unwrap();
    assert_eq!(last_seen(shop), "completed");
    let rollout = rollout(shop);
    assert_eq!(rollout["state"], "completed", "{rollout:#}");
    for host in 0..3 {
        each_version_once(shop, host, name);
    }
    // Its hosts have yet to come back to the last controller.
    wait_until_as_wanted(shop);
    revision
}

/// Nothing was started twice on a host, and `last` is what runs.
fn each_version_once(shop: &Deployment, host: usize, last: &str) {
    let starts = starts(shop, host);
    let different: BTreeSet<&String> = starts.iter().collect();
    assert_eq!(different.len(), starts.len(), "something was started twice: {starts:?}");
    assert_eq!(starts.last().unwrap(), last);
}

fn back(shop: &mut Deployment, before: u64) {
    let others = leaders(shop, [1, 2]);
    let good = starts(shop, 0);
    let bad = Version { name: "bad", image: "deaf", policy: BACK, ..GOOD };
    let (revision, step) = apply_and_kill(shop, bad);
    assert_eq!(revision, before + 1);
    let mut killed = BTreeSet::from([step]);
    let watcher = kill_at_each(shop, revision, ("changing", 1), &mut killed);
    for step in [("staging", 1), ("changing", 1), ("rolling-back", 1), ("rolled-back", 1)] {
        assert!(killed.contains(&step), "it was not killed at {step:?}, but at {killed:?}");
    }
    let said = watcher.wait().unwrap().fails_with(4).unwrap();
    assert!(said.contains("(failed: h1)"), "{said}");
    let rollout = rollout(shop);
    assert_eq!(rollout["state"], "rolled-back", "{rollout:#}");
    assert!(progress(&rollout, "h1")["had_failed"].is_string(), "{rollout:#}");
    let last = good.last().unwrap().clone();
    assert_eq!(starts(shop, 0), [good, vec!["bad".to_owned(), last]].concat(), "each once");
    assert_eq!(leaders(shop, [1, 2]), others);
}

/// Every revision is there with its end, and on record with its author.
fn nothing_is_lost(shop: &Deployment, completed: u64) {
    let list = shop.json(&["rollout", "list", "shop"]).unwrap();
    let rollouts = list["rollouts"].as_array().unwrap();
    let states: Vec<(u64, &str)> = rollouts
        .iter()
        .map(|it| (it["revision"].as_u64().unwrap(), it["state"].as_str().unwrap()))
        .collect();
    let state = |revision: u64| match revision {
        1 => "completed",
        revision if revision == completed => "completed",
        revision if revision > completed => "rolled-back",
        _ => "superseded",
    };
    let expected: Vec<(u64, &str)> = (1..=completed + 1).rev().map(|it| (it, state(it))).collect();
    assert_eq!(states, expected);
    let audit = shop.json(&["audit"]).unwrap();
    let entries = audit["entries"].as_array().unwrap().iter();
    let applies = entries.filter(|entry| entry["what"] == "Fleets/Apply").count();
    assert_eq!(applies, states.len(), "{audit:#}");
}
