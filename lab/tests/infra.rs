//! Infra versions on real hosts, through the command alone: what a version does to a host, and what
//! becomes of one that is bad, that is cut off, or that has no room. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use shoal_lab::images::busybox_image;
use shoal_lab::{Background, Deployment, Host, wait_until};

const PATIENCE: Duration = Duration::from_secs(90);

/// Exit codes, as docs/exit-codes.md has them.
const ROLLED_BACK: i32 = 4;

/// The platform: a server of the page that its image has, whose hooks write down how they were run.
const DB: &str = r#"
[instance.db]
image   = "box:@IMAGE"
command = @COMMAND
network = "host"
[instance.db.data.store]
path = "/data"
[instance.db.health]
tcp      = "127.0.0.1:8080"
grace    = "4s"
interval = "1s"
[instance.db.hooks]
init    = ["/bin/sh", "-c", "echo $SHOAL_MODE,$SHOAL_INFRA_FROM,$SHOAL_INFRA_TO >> /data/log"]
migrate = ["/bin/sh", "-c", "echo $SHOAL_MODE,$SHOAL_INFRA_FROM,$SHOAL_INFRA_TO >> /data/log; @MORE"]
restore = ["/bin/sh", "-c", "echo $SHOAL_MODE,$SHOAL_INFRA_FROM,$SHOAL_INFRA_TO >> /data/log"]
"#;

const SERVES: &str = r#"["/bin/httpd", "-f", "-p", "8080", "-h", "/www"]"#;
const ENDS: &str = r#"["/bin/sh", "-c", "echo no such table >&2; exit 4"]"#;

/// A part of the platform that a later version does without.
const OLD: &str = r#"
[instance.old]
image   = "box:old"
command = ["/bin/sleep", "1000000"]
[instance.old.data.keep]
path = "/keep"
[instance.old.files."/etc/old.conf"]
content = "old"
"#;

/// An app that works where the platform is a good one, and its volume says nothing else.
const SHOP: &str = r#"
fleet = "shop"
[instance.web]
image   = "box:1"
hosts   = "role=web"
command = ["/bin/sleep", "1000000"]
network = "host"
after   = ["infra/db"]
[instance.web.data.store]
path = "/data"
[instance.web.health]
exec     = ["/bin/sh", "-c", "test ! -e /data/hold && wget -q -O - http://127.0.0.1:8080/ | grep -v bad"]
grace    = "@GRACE"
interval = "1s"
"#;

/// An infra file, and what is varied in it.
#[derive(Debug, Clone, Copy)]
struct Infra {
    version: u32,
    image: &'static str,
    command: &'static str,
    /// What `migrate` does at its end.
    more: &'static str,
    /// Further keys at the top.
    keys: &'static str,
    /// Further instances.
    instances: &'static str,
}

const INFRA: Infra =
    Infra { version: 1, image: "1", command: SERVES, more: "true", keys: "", instances: "" };

impl Infra {
    fn write(&self, site: &Deployment) {
        let Self { version, image, command, more, keys, instances } = self;
        let db = DB.replace("@IMAGE", image).replace("@COMMAND", command).replace("@MORE", more);
        let text = format!("infra = \"{version}\"\nhosts = \"role=web\"\n{keys}{db}{instances}");
        site.file("infra.toml", &text).unwrap();
    }

    /// Has the hosts brought to it, and waits for that.
    #[track_caller]
    fn apply(&self, site: &Deployment) -> String {
        self.write(site);
        site.shoal(&["infra", "apply", "--wait", "--timeout", "3m"]).unwrap().ok().unwrap()
    }

    /// Begins to bring the hosts to it.
    fn begin(&self, site: &Deployment) -> Background {
        self.write(site);
        let apply = ["infra", "apply", "--wait", "--timeout", "3m"];
        site.spawn(&apply, Stdio::piped()).unwrap()
    }
}

/// Hosts whose infra has version 1, and the app on them, which may take `grace` to be healthy.
fn site(hint: &str, hosts: usize, infra: Infra, grace: &str) -> Deployment {
    let site = Deployment::new(hint, hosts).unwrap();
    set_up(&site, infra, grace);
    site
}

fn set_up(site: &Deployment, infra: Infra, grace: &str) {
    for image in ["1", "2", "old", "bad"] {
        site.push(&busybox_image(image).unwrap(), &format!("box:{image}")).unwrap();
    }
    infra.apply(site);
    site.file("shop.toml", &SHOP.replace("@GRACE", grace)).unwrap();
    site.shoal(&["apply", "shop.toml", "--wait", "--timeout", "3m"]).unwrap().ok().unwrap();
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

/// A file of Shoal's on a host; nothing where there is none.
fn state(host: &Host, path: &str) -> String {
    fs::read_to_string(host.disk().join("shoal").join(path)).unwrap_or_default()
}

/// The version that a host has written down.
fn recorded(host: &Host) -> String {
    let recorded: Value = serde_json::from_str(&state(host, "infra.json")).unwrap();
    recorded["version"].as_str().unwrap().to_owned()
}

/// How the hooks were run on a host.
fn log(host: &Host) -> String {
    state(host, "instances/infra-db/data/store/log")
}

fn leader(site: &Deployment, host: usize, machine: &str) -> Result<u32> {
    site.container(host, machine)
}

/// The containers of the infra and of the app on a host.
fn leaders(site: &Deployment, host: usize) -> [u32; 2] {
    ["infra-db", "shop-web"].map(|machine| leader(site, host, machine).unwrap())
}

fn exec(site: &Deployment, instance: &str, script: &str) -> String {
    site.shoal(&["exec", instance, "--", "/bin/sh", "-c", script]).unwrap().ok().unwrap()
}

fn volume(host: &Host, path: &str) -> PathBuf {
    host.disk().join("shoal/instances").join(path)
}

#[test]
fn a_version_comes_once_and_as_a_whole() {
    let first = Infra { instances: OLD, ..INFRA };
    let site = site("infra", 1, first, "60s");
    the_same_version_touches_nothing(&site, first);
    another_version_recreates_everything(&site);
    what_is_not_in_it_is_gone(&site);
    the_same_version_with_other_instances_is_refused(&site);
    an_operator_takes_a_version_back_with_its_data(&site);
}

fn the_same_version_touches_nothing(site: &Deployment, infra: Infra) {
    let before = leaders(site, 0);
    says(&infra.apply(site), &["nothing to do"]);
    assert_eq!(leaders(site, 0), before);
    site.shoal(&["infra", "plan"]).unwrap().ok().unwrap();
    site.shoal(&["infra", "status"]).unwrap().ok().unwrap();
}

fn another_version_recreates_everything(site: &Deployment) {
    let host = site.lab().host(0);
    for instance in ["infra/db", "shop/web"] {
        exec(site, instance, "echo gone >/mark; echo kept >/data/mark");
    }
    let before = leaders(site, 0);
    fs::write(volume(host, "shop-web/data/store/hold"), "").unwrap();
    let second = Infra { version: 2, image: "2", ..INFRA };
    second.write(site);
    let plan = site.shoal(&["infra", "plan"]).unwrap();
    assert_eq!(plan.code(), 1, "{}{}", plan.stdout(), plan.stderr());
    says(&plan.stdout(), &["h1: 1 -> 2 (update)", "infra/db, shop/web"]);

    let apply = second.begin(site);
    let app_is_up = || Ok(leader(site, 0, "shop-web")? != before[1]);
    wait_until("the app to be up again", PATIENCE, app_is_up).unwrap();
    assert_eq!(recorded(host), "1", "the version is recorded before the last gate");
    let infra = site.json(&["infra", "status"]);
    assert!(infra.is_err(), "an upgrade that is under way is as wanted");
    fs::remove_file(volume(host, "shop-web/data/store/hold")).unwrap();
    apply.wait().unwrap().ok().unwrap();
    assert_eq!(recorded(host), "2");

    let after = leaders(site, 0);
    assert!(after.iter().all(|leader| !before.contains(leader)), "{before:?} {after:?}");
    assert!(started(host, "infra-db") < started(host, "shop-web"), "the app started first");
    for instance in ["infra/db", "shop/web"] {
        assert_eq!(exec(site, instance, "ls /mark 2>/dev/null; cat /data/mark"), "kept\n");
    }
    assert_eq!(log(host), "new,,1\nupdate,1,2\n");
    assert_eq!(exec(site, "infra/db", "wget -q -O - http://127.0.0.1:8080/"), "2\n");
}

/// When a unit was up, in microseconds since the host's boot.
fn started(host: &Host, machine: &str) -> u64 {
    let unit = format!("shoal-instance@{machine}");
    let show = format!("systemctl show {unit} --property=ActiveEnterTimestampMonotonic --value");
    host.sh(&show).unwrap().trim().parse().unwrap()
}

fn what_is_not_in_it_is_gone(site: &Deployment) {
    let host = site.lab().host(0);
    let units = "systemctl list-units --all --no-legend 'shoal-instance@infra-old*'";
    // Until it reads its units again, systemd remembers which were enabled.
    assert_eq!(host.sh(&format!("systemctl daemon-reload; {units}")).unwrap(), "");
    let places = "/etc/systemd/system /run/systemd/system /run/shoal";
    assert_eq!(host.sh(&format!("find {places} -name '*infra-old*'")).unwrap(), "");
    assert_eq!(host.sh("findmnt -rn -o TARGET | grep infra-old || true").unwrap(), "");
    assert!(volume(host, "infra-old/data/keep").is_dir(), "its data is gone");
    // Its image was needed to go back. From the next version on, it is not.
    let image = site.json(&["image", "show", "box:old"]).unwrap();
    let digest = image["digest"].as_str().unwrap();
    let file = host.disk().join("shoal/images").join(format!("{digest}.squashfs"));
    assert!(file.exists(), "the image that going back needs is not there");
    Infra { version: 3, image: "2", ..INFRA }.apply(site);
    assert!(!file.exists(), "an image that nothing needs is still there");
}

fn the_same_version_with_other_instances_is_refused(site: &Deployment) {
    let before = leaders(site, 0);
    Infra { version: 3, image: "1", ..INFRA }.write(site);
    let apply = site.shoal(&["infra", "apply", "--wait"]).unwrap();
    assert!(!apply.success(), "{}", apply.stdout());
    says(&apply.stderr(), &["instance.db.image", "give it a new version"]);
    assert_eq!(leaders(site, 0), before);
}

fn an_operator_takes_a_version_back_with_its_data(site: &Deployment) {
    let undo = ["rollout", "undo", "infra", "--data", "--wait"];
    let refused = site.shoal(&undo).unwrap();
    assert!(!refused.success(), "{}", refused.stdout());
    says(&refused.stderr(), &["no data was copied before version 3 on h1"]);
    let host = site.lab().host(0);
    exec(site, "infra/db", "echo of version 3 >/data/mark");
    Infra { version: 4, image: "2", keys: "snapshot = true\n", ..INFRA }.apply(site);
    exec(site, "infra/db", "echo of version 4 >/data/mark");
    site.shoal(&undo).unwrap().ok().unwrap();
    assert_eq!(recorded(host), "3");
    assert_eq!(exec(site, "infra/db", "cat /data/mark"), "of version 3\n");
    let aside = "cat /var/lib/shoal/undone/*/infra-db/store/mark";
    assert_eq!(host.sh(aside).unwrap(), "of version 4\n", "what was there is not kept");
    site.shoal(&["infra", "status"]).unwrap().ok().unwrap();
}

#[test]
fn a_bad_version_stops_at_its_canary_and_goes_back() {
    let site = site("infra bad", 3, INFRA, "4s");
    let before: Vec<_> = (0..3).map(|host| leaders(&site, host)).collect();
    for host in site.lab().hosts() {
        assert_eq!(log(host), "new,,1\n");
    }
    // The platform says that it is well, and the app can't work with it.
    Infra { version: 2, image: "bad", ..INFRA }.write(&site);
    let canary = fails_at_its_canary(&site, &before, "shop/web");
    let host = site.lab().host(canary);
    let migrated = "new,,1\nupdate,1,2\nupdate,2,1\n";
    assert_eq!(log(host), migrated, "data went back, too, or the way back had no hook");

    // The platform itself does not work, once it has changed its data.
    let keys = "snapshot = true\ngoing-back = \"image-and-data\"\n";
    Infra { version: 3, command: ENDS, more: "rm /data/mark", keys, ..INFRA }.write(&site);
    let mark = "instances/infra-db/data/store/mark";
    for host in 0..3 {
        exec(&site, &format!("infra/db@h{}", host + 1), "echo precious >/data/mark");
    }
    let before: Vec<_> = (0..3).map(|host| leaders(&site, host)).collect();
    let canary = fails_at_its_canary(&site, &before, "infra/db");
    let host = site.lab().host(canary);
    assert_eq!(state(host, mark), "precious\n");
    assert!(!log(host).contains("update,1,3"), "{}", log(host));
}

/// Applies what is written, and gives the one host that it was tried on.
fn fails_at_its_canary(site: &Deployment, before: &[[u32; 2]], culprit: &str) -> usize {
    let apply = site.shoal(&["infra", "apply", "--wait", "--timeout", "3m"]).unwrap();
    says(&apply.fails_with(ROLLED_BACK).unwrap(), &[culprit]);
    let settled = || {
        // What was asked for is not what the hosts have: so it exits with 1.
        let status = site.shoal(&["infra", "status", "-o", "json"])?.stdout();
        let status: Value = serde_json::from_str(&status)?;
        let hosts = status["hosts"].as_array().context("no hosts")?;
        ensure!(hosts.len() == 3 && hosts.iter().all(|host| host["ready"] == true), "{status}");
        Ok(true)
    };
    wait_until("every host to have version 1", PATIENCE, settled).unwrap();
    site.shoal(&["status", "shop"]).unwrap().ok().unwrap();
    let changed: Vec<usize> = (0..3).filter(|host| leaders(site, *host) != before[*host]).collect();
    let [canary] = changed[..] else { panic!("changed: {changed:?}") };
    for host in site.lab().hosts() {
        assert_eq!(recorded(host), "1", "{}", host.name());
    }
    let served =
        exec(site, &format!("infra/db@h{}", canary + 1), "wget -q -O - http://127.0.0.1:8080/");
    assert_eq!(served, "1\n");
    canary
}

#[test]
fn a_host_that_loses_its_power_comes_to_the_right_end() {
    let site = site("infra power", 1, INFRA, "60s");
    let host = site.lab().host(0);
    // So much that it is still being copied when it is noticed.
    exec(
        &site,
        "infra/db",
        "dd if=/dev/zero of=/data/much bs=1M count=256 2>/dev/null; echo kept >/data/mark",
    );
    let kept = Infra { keys: "snapshot = true\n", ..INFRA };
    let web = leader(&site, 0, "shop-web").unwrap();

    let stops = || Ok(leader(&site, 0, "shop-web").ok() != Some(web));
    is_cut_off(&site, Infra { version: 2, image: "2", ..kept }, "the app to stop", stops);
    let copies = || {
        Ok(fs::read_dir(host.disk().join("shoal/snapshots"))?
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().ends_with(".partial")))
    };
    is_cut_off(&site, Infra { version: 3, image: "1", ..kept }, "data to be copied", copies);
    // Its hook waits for a sign, which it gets while the host is down.
    let waits =
        Infra { version: 4, image: "2", more: "until [ -e /data/go ]; do sleep 0.1; done", ..kept };
    let starts = || Ok(log(host).contains("update,3,4"));
    is_cut_off(&site, waits, "the hook to run", starts);

    // What was cut off may have been run twice.
    let mut log: Vec<_> = log(host).lines().map(str::to_owned).collect();
    log.dedup();
    assert_eq!(log, ["new,,1", "update,1,2", "update,2,3", "update,3,4"]);
    for revision in [3, 4] {
        let copy = format!("snapshots/{revision}/infra-db/store/mark");
        assert_eq!(state(host, &copy), "kept\n", "snapshot {revision}");
    }
}

/// Has the host lose its power in the middle of an upgrade, which then ends as if it had not.
fn is_cut_off(site: &Deployment, infra: Infra, what: &str, now: impl Fn() -> Result<bool>) {
    let host = site.lab().host(0);
    let go = volume(host, "infra-db/data/store/go");
    let _ = fs::remove_file(&go);
    let apply = infra.begin(site);
    wait_until(what, PATIENCE, now).unwrap();
    host.power_kill().unwrap();
    assert_eq!(recorded(host), (infra.version - 1).to_string(), "while waiting for {what}");
    fs::write(go, "").unwrap();
    host.start().unwrap();
    apply
        .wait()
        .unwrap()
        .ok()
        .with_context(|| format!("cut off while waiting for {what}"))
        .unwrap();
    assert_eq!(recorded(host), infra.version.to_string());
    site.shoal(&["infra", "status"]).unwrap().ok().unwrap();
    site.shoal(&["status", "shop"]).unwrap().ok().unwrap();
    assert_eq!(exec(site, "infra/db", "cat /data/mark"), "kept\n");
    let served = exec(site, "infra/db", "wget -q -O - http://127.0.0.1:8080/");
    assert_eq!(served.trim(), infra.image);
}

#[test]
fn data_is_copied_where_there_is_room_and_comes_from_a_backup() {
    let mut site = Deployment::without_hosts("infra data").unwrap();
    site.lab_mut().boot_hosts(2).unwrap();
    let small =
        "mkdir -p /var/lib/shoal && mount -t tmpfs -o size=256m,mode=0755 small /var/lib/shoal";
    site.lab().host(0).sh(small).unwrap();
    site.join(0, &["role=web"]).unwrap();
    set_up(&site, INFRA, "60s");
    a_snapshot_without_room_stops_nothing(&site);
    a_new_host_gets_its_data_from_a_backup(&site);
}

/// A file of Shoal's on the host that has a small disk.
fn small(site: &Deployment, path: &str) -> String {
    site.lab().host(0).sh(&format!("cat /var/lib/shoal/{path}")).unwrap()
}

fn a_snapshot_without_room_stops_nothing(site: &Deployment) {
    exec(site, "infra/db", "dd if=/dev/zero of=/data/much bs=1M count=110 2>/dev/null");
    let before = leaders(site, 0);
    let apply = Infra { version: 2, image: "2", keys: "snapshot = true\n", ..INFRA }.begin(site);
    let is_told = || {
        let told = site.shoal(&["infra", "status"])?.stdout();
        ensure!(told.contains("preparing") && told.contains("the snapshot needs 11"), "{told}");
        Ok(true)
    };
    wait_until("the host to say what it lacks", PATIENCE, is_told).unwrap();
    assert_eq!(leaders(site, 0), before, "something was stopped for a copy that has no room");
    exec(site, "infra/db", "rm /data/much");
    apply.wait().unwrap().ok().unwrap();
    says(&small(site, "infra.json"), &["\"version\": \"2\""]);
    assert_eq!(small(site, "snapshots/2/infra-db/store/log"), "new,,1\n");
}

fn a_new_host_gets_its_data_from_a_backup(site: &Deployment) {
    let host = site.lab().host(1);
    let backup = "/var/lib/shoal/backups/nightly/infra-db/store/row";
    host.put_file(backup, b"from the backup\n", 0o600).unwrap();
    site.join(1, &["role=web"]).unwrap();
    Infra { version: 3, keys: "restore = \"nightly\"\n", ..INFRA }.apply(site);
    assert_eq!(state(host, "instances/infra-db/data/store/row"), "from the backup\n");
    assert_eq!(log(host), "restore,,3\n");
    assert_eq!(recorded(host), "3");
    assert_eq!(
        small(site, "instances/infra-db/data/store/log"),
        "new,,1\nupdate,1,2\nupdate,2,3\n"
    );
}
