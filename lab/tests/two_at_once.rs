//! Two people who apply at once: one of them wins, and the other is told who did, and what it
//! changed. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::fmt::Write as _;
use std::io::Read as _;
use std::process::Stdio;

use rustix::pipe::fcntl_setpipe_size;
use serde_json::Value;
use shoal_lab::Deployment;
use shoal_lab::images::busybox_image;

/// Exit code, as docs/exit-codes.md has it.
const CONFLICT: i32 = 7;
const LOCKED: i32 = 13;

/// Bytes that a pipe holds; a plan that is longer has to wait for its reader.
const PIPE: usize = 4096;

fn fleet(image: &str, env: &str) -> String {
    format!(
        "fleet = \"shop\"\n[instance.main]\nimage = \"{image}\"\nhosts = \"role=web\"\n\
         command = [\"/bin/sleep\", \"infinity\"]\n[instance.main.env]\n{env}"
    )
}

/// An environment of which the plan alone is longer than a pipe holds.
fn long_env() -> String {
    let mut text = String::new();
    for number in 0..200 {
        writeln!(text, "LOSER_{number} = \"{number:0100}\"").unwrap();
    }
    text
}

fn revisions(site: &Deployment) -> Vec<Value> {
    site.json(&["rollout", "list", "shop"]).unwrap()["rollouts"].as_array().unwrap().clone()
}

#[test]
fn one_of_two_wins_and_the_other_is_told() {
    let site = Deployment::new("two at once", 1).unwrap();
    for tag in ["1", "2"] {
        site.push(&busybox_image(tag).unwrap(), &format!("box:{tag}")).unwrap();
    }
    one_that_is_late(&site);
    many_at_the_same_moment(&site);
}

fn one_that_is_late(site: &Deployment) {
    site.apply(&fleet("box:1", "COLOUR = \"blue\"\n")).unwrap();

    // Held up between its plan and its apply: nobody reads what it has planned.
    let loser = site.file("loser.toml", &fleet("box:1", &long_env())).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    fcntl_setpipe_size(&writer, PIPE).unwrap();
    let loser = site.spawn(&["apply", loser.to_str().unwrap()], writer.into()).unwrap();
    let mut first = [0];
    reader.read_exact(&mut first).unwrap();

    site.apply(&fleet("box:2", "COLOUR = \"green\"\n")).unwrap();
    let before = (revisions(site), site.json(&["status", "shop"]).unwrap());
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    let ran = loser.wait().unwrap();

    let said = ran.fails_with(CONFLICT).unwrap();
    for word in [
        "fleet shop has moved on since revision 1",
        "revision 2 was applied by spiffe://lab.test/user/admin",
        "main: image: box:1 -> box:2",
        "main: env.COLOUR changed",
        "shoal plan",
    ] {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(!said.contains("LOSER_"), "it is told of its own: {said}");
    assert!(!said.contains("green"), "the environment of others is not for its eyes: {said}");
    assert!(rest.contains("LOSER_199"), "it showed no plan: {rest}");
    assert!(!rest.contains("revision 2") && !rest.contains("revision 3"), "{rest}");
    let after = (revisions(site), site.json(&["status", "shop"]).unwrap());
    assert_eq!(after, before, "something of the loser's is there");
    let env = site.shoal(&["exec", "shop/main", "--", "env"]).unwrap().ok().unwrap();
    assert!(env.contains("COLOUR=green") && !env.contains("LOSER_"), "{env}");
    let audit = site.json(&["audit"]).unwrap();
    let applies = audit["entries"].as_array().unwrap().iter();
    assert_eq!(applies.filter(|entry| entry["what"] == "Fleets/Apply").count(), 2, "{audit}");
}

/// Started at the same moment, with no hand that holds any of them: each has made a revision of its
/// own, or is told that it has not.
fn many_at_the_same_moment(site: &Deployment) {
    let first = revisions(site).len();
    let names: Vec<String> = (0..6).map(|number| format!("{number}.toml")).collect();
    for (number, name) in names.iter().enumerate() {
        site.file(name, &fleet("box:2", &format!("WINNER = \"{number}\"\n"))).unwrap();
    }
    let start = |name: &String| site.spawn(&["apply", name], Stdio::piped()).unwrap();
    let all: Vec<_> = names.iter().map(start).collect();
    let all: Vec<_> = all.into_iter().map(|one| one.wait().unwrap()).collect();
    let won = all.iter().filter(|ran| ran.success()).count();
    for ran in all.iter().filter(|ran| !ran.success()) {
        // One that planned after another had won is told that this one's rollout is under way.
        let (code, words) = match ran.code() {
            LOCKED => (LOCKED, ["is locked: revision", "is being rolled out by admin"]),
            _ => (CONFLICT, ["has moved on since", "was applied by"]),
        };
        let said = ran.fails_with(code).unwrap();
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    assert!(won > 0);
    let numbers: Vec<Value> = revisions(site).iter().map(|r| r["revision"].clone()).collect();
    let expected: Vec<Value> = (1..=first + won).rev().map(Value::from).collect();
    assert_eq!(numbers, expected, "one revision for each that won");
}
