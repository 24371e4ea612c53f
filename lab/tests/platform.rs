//! The example deployment deploy/examples/platform: an infra of two databases, a mail relay and
//! Graphite, and an app that needs all of them. It goes from one version of its platform to the next
//! with rows in both databases, while its agent is killed. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use shoal_lab::{Background, Deployment, images, wait_until};

const PATIENCE: Duration = Duration::from_secs(90);

const INFRA: [&str; 4] = ["mariadb", "postgres", "mail", "graphite"];

/// Every data volume of the platform.
const VOLUMES: [&str; 5] = [
    "infra-mariadb/data/mysql",
    "infra-postgres/data/postgresql",
    "infra-mail/data/queue",
    "infra-mail/data/kept",
    "infra-graphite/data/metrics",
];

#[test]
fn the_platform_gets_its_next_version_and_keeps_its_data() {
    let site = site();
    the_first_version(&site);
    assert_eq!(keep(&site, "first"), r#"{"kept": "first"}"#);
    every_service_has_it(&site);
    let (volumes, leaders) = (inodes(&site), leaders(&site));
    let old = password(&site, "green");

    the_second_version(&site);
    assert_eq!(inodes(&site), volumes, "a data volume is another one");
    assert_all_new(&leaders, &self::leaders(&site));
    assert_eq!(kept(&site), both(&["first"]));
    assert_eq!(keep(&site, "second"), r#"{"kept": "second"}"#);
    every_service_has_it(&site);
    before_it_is_in_the_snapshot(&site);

    the_password_is_another(&site, &old);
    the_app_takes_the_other_login(&site);
    assert_eq!(keep(&site, "third"), r#"{"kept": "third"}"#);
    assert_eq!(kept(&site), both(&["first", "second", "third"]));
    the_same_version_touches_nothing(&site);
}

fn site() -> Deployment {
    let mut site = Deployment::without_hosts("platform").unwrap();
    site.lab_mut().boot_hosts(1).unwrap();
    site.join(0, &["role=platform"]).unwrap();
    copy(images::platform_example(), &site.dir().join("platform"));
    for image in ["platform:1", "platform:2", "notes:1"] {
        let (name, version) = image.split_once(':').unwrap();
        site.push(&images::platform_image(name, version).unwrap(), image).unwrap();
    }
    for login in ["notes/blue", "notes/green"] {
        shoal(&site, &["secret", "generate", login]);
    }
    site
}

/// The files that fleet files name, and those.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).unwrap();
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, to).unwrap();
        }
    }
}

fn shoal(site: &Deployment, arguments: &[&str]) -> String {
    site.shoal(arguments).unwrap().ok().unwrap()
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

fn the_first_version(site: &Deployment) {
    let plan = site.shoal(&["infra", "plan", "platform/infra.toml"]).unwrap();
    assert_eq!(plan.code(), 1, "{}{}", plan.stdout(), plan.stderr());
    says(&plan.stdout(), &["h1", "new", "mariadb", "graphite"]);
    shoal(site, &["infra", "apply", "platform/infra.toml", "--wait"]);
    shoal(site, &["apply", "platform/app.toml", "--wait"]);
    shoal(site, &["infra", "status"]);
}

/// Runs a command in an instance.
fn exec(site: &Deployment, instance: &str, argv: &[&str]) -> String {
    shoal(site, &[&["exec", instance, "--"], argv].concat())
}

/// Asks the app from its host, as a proxy there would.
fn ask(site: &Deployment, request: &str) -> String {
    let host = site.lab().host(0);
    let ask = format!("busybox wget -q -O - {request} http://{}:8080/notes", host.addr());
    host.sh(&ask).unwrap().trim().to_owned()
}

fn keep(site: &Deployment, note: &str) -> String {
    ask(site, &format!("--post-data={note}"))
}

fn kept(site: &Deployment) -> Value {
    serde_json::from_str(&ask(site, "")).unwrap()
}

/// What both databases have of these notes.
fn both(notes: &[&str]) -> Value {
    let audit: Vec<String> = notes.iter().map(|note| format!("kept: {note}")).collect();
    serde_json::json!({"notes": notes, "audit": audit})
}

/// The rows are in the databases, the mail is in the mailbox, and Graphite has counted.
fn every_service_has_it(site: &Deployment) {
    let notes = kept(site)["notes"].as_array().unwrap().len();
    let rows = "mariadb --defaults-file=/etc/platform/mariadb.cnf -N -e 'SELECT COUNT(*) FROM notes.notes'";
    assert_eq!(exec(site, "infra/mariadb", &["sh", "-c", rows]).trim(), notes.to_string());
    let rows = "setpriv --reuid=postgres --regid=postgres --clear-groups \
                psql -At -h /run/postgresql notes -c 'SELECT COUNT(*) FROM audit'";
    assert_eq!(exec(site, "infra/postgres", &["sh", "-c", rows]).trim(), notes.to_string());
    let mails = || {
        let mails = exec(site, "infra/mail", &["sh", "-c", "ls /var/mail/kept/new | wc -l"]);
        ensure!(mails.trim() == notes.to_string(), "{mails} mails");
        Ok(true)
    };
    wait_until("the mail to be kept", PATIENCE, mails).unwrap();
    let metric = "/var/lib/graphite/whisper/notes/kept.wsp";
    let counted = || {
        let fetch = ["exec", "infra/graphite", "--", "whisper-fetch", "--drop=nulls", metric];
        let points = site.shoal(&fetch)?.ok()?;
        ensure!(points.contains("1.0"), "{points}");
        Ok(true)
    };
    wait_until("Graphite to have counted", PATIENCE, counted).unwrap();
}

/// The password of a login, as the database was given it.
fn password(site: &Deployment, login: &str) -> String {
    exec(site, "infra/postgres", &["cat", &format!("/run/credentials/@system/notes-{login}")])
}

fn machines() -> Vec<String> {
    let infra = INFRA.iter().map(|name| format!("infra-{name}"));
    infra.chain(["notes-web".to_owned()]).collect()
}

fn leaders(site: &Deployment) -> Vec<u32> {
    machines().iter().map(|machine| site.container(0, machine).unwrap()).collect()
}

#[track_caller]
fn assert_all_new(before: &[u32], after: &[u32]) {
    let kept: Vec<_> = after.iter().filter(|leader| before.contains(leader)).collect();
    assert!(kept.is_empty(), "{kept:?} of {before:?} still run");
}

fn inodes(site: &Deployment) -> Vec<u64> {
    let instances = site.lab().host(0).disk().join("shoal/instances");
    VOLUMES.iter().map(|volume| fs::metadata(instances.join(volume)).unwrap().ino()).collect()
}

/// Comes with another image, another password of the login that nobody uses, and an agent that is
/// killed twice.
fn the_second_version(site: &Deployment) {
    shoal(site, &["secret", "generate", "notes/green"]);
    edit(site, "infra.toml", &[("infra = \"1\"", "infra = \"2\""), ("platform:1", "platform:2")]);
    let plan = site.shoal(&["infra", "plan", "platform/infra.toml"]).unwrap();
    assert_eq!(plan.code(), 1, "{}{}", plan.stdout(), plan.stderr());
    says(&plan.stdout(), &["h1", "update", "mariadb", "notes"]);
    let apply = ["infra", "apply", "platform/infra.toml", "--wait"];
    let apply = site.spawn(&apply, Stdio::piped()).unwrap();
    kill_the_agent_once(site, "the app to stop", || Ok(site.container(0, "notes-web").is_err()));
    kill_the_agent_once(site, "the infra to start", || {
        Ok(exec_image(site, "infra-mariadb")? == "2")
    });
    finish(apply);
    for (instance, version) in
        [("infra/mail", "platform/version"), ("infra/postgres", "platform/version")]
    {
        assert_eq!(exec(site, instance, &["cat", &format!("/usr/lib/{version}")]), "2\n");
    }
    says(&shoal(site, &["infra", "status"]), &["h1", "2"]);
}

fn finish(apply: Background) {
    apply.wait().unwrap().ok().unwrap();
}

/// The version of the platform that a machine's container is made of, asked without the agent.
fn exec_image(site: &Deployment, machine: &str) -> Result<String> {
    let leader = site.container(0, machine)?;
    let read = format!("cat /proc/{leader}/root/usr/lib/platform/version");
    Ok(site.lab().host(0).sh(&read)?.trim().to_owned())
}

fn kill_the_agent_once(site: &Deployment, what: &str, is_so: impl Fn() -> Result<bool>) {
    wait_until(what, PATIENCE, is_so).unwrap();
    site.lab().host(0).sh("systemctl kill --signal=KILL shoal-agent").unwrap();
}

fn edit(site: &Deployment, file: &str, changes: &[(&str, &str)]) {
    let path = site.dir().join("platform").join(file);
    let mut text = fs::read_to_string(&path).unwrap();
    for (old, new) in changes {
        assert!(text.contains(old), "{file} has no {old}");
        text = text.replace(old, new);
    }
    fs::write(path, text).unwrap();
}

/// It was taken while everything was down, and so has no lock of a running database.
fn before_it_is_in_the_snapshot(site: &Deployment) {
    let snapshot =
        site.lab().host(0).disk().join("shoal/snapshots/2/infra-postgres/postgresql/main");
    assert!(snapshot.join("PG_VERSION").exists(), "no snapshot at {}", snapshot.display());
    assert!(!snapshot.join("postmaster.pid").exists());
}

/// Whether PostgreSQL takes a login with this password.
fn may_log_in(site: &Deployment, login: &str, password: &str) -> bool {
    let try_it =
        format!("PGPASSWORD={password} psql -h 10.60.0.3 -U notes_{login} notes -c 'SELECT 1'");
    let exec = ["exec", "infra/postgres", "--", "sh", "-c", &try_it];
    site.shoal(&exec).unwrap().success()
}

fn the_password_is_another(site: &Deployment, old: &str) {
    let new = password(site, "green");
    assert_ne!(new, old);
    assert!(may_log_in(site, "green", &new), "the new password is refused");
    assert!(!may_log_in(site, "green", old), "the old password is taken");
}

fn the_app_takes_the_other_login(site: &Deployment) {
    edit(site, "app.toml", &[("\"blue\"", "\"green\""), ("notes/blue", "notes/green")]);
    shoal(site, &["apply", "platform/app.toml", "--wait"]);
    let config = exec(site, "notes/web", &["cat", "/etc/notes/notes.toml"]);
    says(&config, &["login = \"notes_green\""]);
}

fn the_same_version_touches_nothing(site: &Deployment) {
    let before = leaders(site);
    let said = shoal(site, &["infra", "apply", "platform/infra.toml", "--wait"]);
    says(&said, &["nothing to do"]);
    assert_eq!(leaders(site), before);
}
