//! A terminal that is interrupted or closed while `shoal` is at work: it ends at once with the
//! documented code, says what goes on without it, and leaves nothing behind. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::Signal;
use shoal_lab::deployment::Ran;
use shoal_lab::images::{busybox_image, noisy_image};
use shoal_lab::{Background, Deployment, Host, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// How soon a command has ended that was told to.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Bytes of an image that is caught in the middle of its push, and where that is.
const LARGE: u64 = 192 << 20;
const MIDDLE: u64 = 24 << 20;

/// Exit codes, as docs/exit-codes.md has them, and as a shell tells of a signal.
const INTERRUPTED: i32 = 130;
const HUNG_UP: i32 = 129;
const READER_GONE: i32 = 141;
const TERMINATED: i32 = 143;

/// Ends a command as Ctrl-C does, and has it end at once.
#[track_caller]
fn end(command: Background, signal: Signal, code: i32) -> Ran {
    command.signal(signal).unwrap();
    let told = Instant::now();
    let ran = command.wait().unwrap();
    assert_eq!(ran.code(), code, "{}{}", ran.stdout(), ran.stderr());
    assert!(told.elapsed() < AT_ONCE, "it took {:?} to end", told.elapsed());
    ran
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

/// The one partial file of the controller, and how long it is.
fn partial(site: &Deployment) -> Option<(PathBuf, u64)> {
    let entries = fs::read_dir(site.controller_dir().join("images")).ok()?;
    let path = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let path = path.into_iter().find(|path| path.extension().is_some_and(|e| e == "partial"))?;
    let length = fs::metadata(&path).ok()?.len();
    Some((path, length))
}

/// A push of which the controller has a good part.
fn half_pushed(site: &Deployment, image: &Path) -> Background {
    let before = partial(site).map_or(0, |(_, length)| length);
    let arguments = ["image", "push", image.to_str().unwrap(), "big:1"];
    let push = site.spawn(&arguments, Stdio::piped()).unwrap();
    let is_half = || Ok(partial(site).is_some_and(|(_, length)| length > before + MIDDLE));
    wait_until("the push to be in its middle", PATIENCE, is_half).unwrap();
    push
}

#[test]
fn an_interrupted_push_keeps_what_was_sent() {
    let mut site = Deployment::without_hosts("push").unwrap();
    let image = site.dir().join("big.squashfs");
    noisy_image(&image, LARGE).unwrap();

    let push = half_pushed(&site, &image);
    site.pause_controller().unwrap();
    let ran = end(push, Signal::INT, INTERRUPTED);
    site.resume_controller().unwrap();
    says(&ran.stderr(), &["interrupted after", "run the same command again to send the rest"]);
    assert_eq!(ran.stdout(), "");
    assert_eq!(site.json(&["image", "list"]).unwrap()["images"], serde_json::json!([]));
    assert!(!site.json(&["audit"]).unwrap().to_string().contains("Images/Push"));

    // Interrupted once more, while it waits for a controller that has gone.
    let mut push = half_pushed(&site, &image);
    site.kill_controller().unwrap();
    let kept = partial(&site).unwrap().1;
    let mut stderr = push.stderr().unwrap();
    wait_for_words(&mut stderr, "going on in");
    end(push, Signal::INT, INTERRUPTED);
    drop(stderr);

    site.start_controller().unwrap();
    let arguments = ["image", "push", image.to_str().unwrap(), "big:1", "-o", "json"];
    let ran = site.shoal(&arguments).unwrap();
    says(&ran.stderr(), &["are there already"]);
    let pushed: serde_json::Value = serde_json::from_str(&ran.ok().unwrap()).unwrap();
    let (sent, whole) = (pushed["sent_bytes"].as_u64().unwrap(), image.metadata().unwrap().len());
    assert!(sent > 0 && sent <= whole - kept, "{sent} of {whole} sent, {kept} were there");
    assert!(partial(&site).is_none());
}

/// Reads what a command writes to its standard error until it has written `words`.
fn wait_for_words(stderr: &mut ChildStderr, words: &str) {
    let mut said = String::new();
    let mut byte = [0];
    while !said.contains(words) {
        assert_eq!(stderr.read(&mut byte).unwrap(), 1, "it ended after: {said}");
        said.push(char::from(byte[0]));
    }
}

const TALKER: &str = r#"
[instance.talker]
image   = "box:1"
hosts   = "role=web"
command = ["/bin/sh", "-c", "while sleep 0.2; do echo still here; done"]
"#;

/// Is ready once its volume has a file `go`.
const LATE: &str = r#"
[instance.late]
image   = "box:1"
hosts   = "role=web"
command = ["/bin/sh", "-c", "until [ -e /data/go ]; do sleep 0.1; done; exec httpd -f -p 8080"]
[instance.late.data.sign]
path = "/data"
[instance.late.health]
tcp = "127.0.0.1:8080"
"#;

fn site(hint: &str) -> Deployment {
    let site = Deployment::new(hint, 1).unwrap();
    site.push(&busybox_image("1").unwrap(), "box:1").unwrap();
    site
}

fn fleet(site: &Deployment, instances: &str) {
    site.file("fleet.toml", &format!("fleet = \"shop\"\n{instances}")).unwrap();
}

#[test]
fn an_interrupted_apply_is_done_or_was_never_sent() {
    let site = site("apply");
    before_it_was_sent(&site);
    while_the_rollout_goes_on(&site);
}

fn revisions(site: &Deployment) -> usize {
    site.json(&["rollout", "list"]).unwrap()["rollouts"].as_array().unwrap().len()
}

fn before_it_was_sent(site: &Deployment) {
    fleet(site, LATE);
    site.pause_controller().unwrap();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let apply = site.spawn(&["apply", "--wait"], Stdio::piped()).unwrap();
        wait_until("it to call the controller", PATIENCE, || apply.is_connecting()).unwrap();
        let code = 128 + signal.as_raw();
        assert_eq!(end(apply, signal, code).stdout(), "");
    }
    site.resume_controller().unwrap();
    assert_eq!(revisions(site), 0, "what was never sent was applied");
    assert!(!site.json(&["audit"]).unwrap().to_string().contains("Fleets/Apply"));
}

fn while_the_rollout_goes_on(site: &Deployment) {
    let apply = site.spawn(&["apply", "--wait"], Stdio::piped()).unwrap();
    let is_changing = || {
        let list = site.json(&["rollout", "list", "shop"])?;
        let state = &list["rollouts"][0]["state"];
        ensure!(state == "staging" || state == "changing", "{list}");
        // It follows the rollout from the moment on at which it says so.
        Ok(site.json(&["ps"])?["instances"][0]["state"] == "running")
    };
    wait_until("the rollout to be under way", PATIENCE, is_changing).unwrap();
    let ran = end(apply, Signal::INT, INTERRUPTED);
    says(
        &ran.stderr(),
        &["interrupted; the rollout of shop revision 1 goes on", "`shoal rollout watch shop`"],
    );
    says(&ran.stdout(), &["revision 1"]);
    // A closed terminal is no other thing.
    for signal in [Signal::TERM, Signal::HUP] {
        let watch = site.spawn(&["rollout", "watch", "shop"], Stdio::piped()).unwrap();
        wait_until("it to call the controller", PATIENCE, || watch.is_connecting()).unwrap();
        end(watch, signal, 128 + signal.as_raw());
    }
    let volume = "/var/lib/shoal/instances/shop-late/data/sign";
    site.lab().host(0).sh(&format!("touch {volume}/go")).unwrap();
    site.shoal(&["rollout", "watch", "shop"]).unwrap().ok().unwrap();
    assert_eq!(revisions(site), 1);
}

/// Whether a reader of an instance's journal runs there.
fn follows(host: &Host) -> Result<bool> {
    let readers = host.run(&["pgrep", "--full", "--exact", "journalctl .*--follow.*"])?;
    Ok(readers.status.success())
}

fn following(site: &Deployment, stdout: Stdio) -> Background {
    let logs = site.spawn(&["logs", "-f", "shop/talker"], stdout).unwrap();
    let followed = || follows(site.lab().host(0));
    wait_until("the journal to be followed", PATIENCE, followed).unwrap();
    logs
}

#[test]
fn interrupted_logs_leave_no_reader_behind() {
    let site = site("logs");
    fleet(&site, TALKER);
    site.shoal(&["apply", "--wait"]).unwrap().ok().unwrap();
    let gone = || Ok(!follows(site.lab().host(0))?);
    for (signal, code) in
        [(Signal::INT, INTERRUPTED), (Signal::TERM, TERMINATED), (Signal::HUP, HUNG_UP)]
    {
        let ran = end(following(&site, Stdio::piped()), signal, code);
        assert!(!ran.stderr().contains("panicked"), "{}", ran.stderr());
        wait_until("the reader on the host to be gone", PATIENCE, gone).unwrap();
    }
    // Whoever read the output goes away, as `head` does.
    let (mut reader, writer) = std::io::pipe().unwrap();
    let logs = following(&site, writer.into());
    let mut some = [0; 10];
    reader.read_exact(&mut some).unwrap();
    drop(reader);
    let ran = logs.wait().unwrap();
    assert_eq!((ran.code(), &*ran.stderr()), (READER_GONE, ""));
    wait_until("the reader on the host to be gone", PATIENCE, gone).unwrap();
    let sessions = site.shoal(&["exec", "shop/talker", "--", "true"]).unwrap();
    sessions.ok().unwrap();
}
