//! Hooks: run once in the new image, with the data mounted, before the instance is started; on a
//! real host, through the command alone. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

mod app;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use shoal_lab::{Deployment, images, wait_until};

const PATIENCE: Duration = Duration::from_secs(90);

/// What a hook of `main` finds is appended to `log` in its volume.
const FLEET: &str = r#"
fleet = "shop"

[instance.main]
image   = "box:@IMAGE"
hosts   = "role=web"
command = ["/bin/httpd", "-f", "-p", "8080", "-h", "/data"]
env     = { COLOUR = "@COLOUR" }
[instance.main.data.store]
path  = "/data"
owner = "1000:1000"
[instance.main.health]
tcp = "127.0.0.1:8080"
[instance.main.hooks]
init    = ["/bin/sh", "-c", "echo $SHOAL_MODE,$SHOAL_FROM,$SHOAL_TO,$COLOUR >> /data/log; touch /outside; echo init is done"]
migrate = ["/bin/sh", "-c", """@MIGRATE"""]
"#;

const GOOD: &str =
    "test ! -e /outside; echo $SHOAL_MODE,$SHOAL_FROM,$SHOAL_TO,$COLOUR >> /data/log";
const BAD: &str =
    "echo tried >> /data/tries; echo looking; echo no room for the tables >&2; exit 3";

fn fleet(image: u32, colour: &str, migrate: &str) -> String {
    FLEET
        .replace("@IMAGE", &image.to_string())
        .replace("@COLOUR", colour)
        .replace("@MIGRATE", migrate)
}

/// What is in a file of an instance's volume; nothing where there is none.
fn volume(shop: &Deployment, path: &str) -> String {
    let file = format!("/var/lib/shoal/instances/{path}");
    shop.lab().host(0).sh(&format!("cat {file} 2>/dev/null || true")).unwrap()
}

fn shown(shop: &Deployment, instance: &str) -> Result<serde_json::Value> {
    let ps = shop.json(&["ps"])?;
    let rows = ps["instances"].as_array().context("ps has no instances")?;
    let row = rows.iter().find(|row| row["instance"] == instance);
    Ok(row.with_context(|| format!("ps does not show {instance}"))?.clone())
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[test]
fn hooks_run_once_for_each_image_and_one_that_fails_fails_its_rollout() {
    let shop = Deployment::new("hooks", 1).unwrap();
    for image in 1..=3 {
        shop.push(&images::busybox_image(&image.to_string()).unwrap(), &format!("box:{image}"))
            .unwrap();
    }
    once_for_each_image(&shop);
    a_bad_one_is_rolled_back(&shop);
    a_first_one_that_fails(&shop);
}

fn once_for_each_image(shop: &Deployment) {
    let log = "shop-main/data/store/log";
    shop.apply(&fleet(1, "blue", GOOD)).unwrap();
    let first = "new,,box:1,blue\n";
    assert_eq!(volume(shop, log), first);
    // What it wrote outside its volume is gone.
    shop.shoal(&["exec", "shop/main", "--", "/bin/test", "!", "-e", "/outside"])
        .unwrap()
        .ok()
        .unwrap();
    let logs = shop.shoal(&["logs", "shop/main"]).unwrap().ok().unwrap();
    says(&logs, &["hook-init", "init is done", "hook init begins: for box:1"]);
    let events = || {
        let events = shop.shoal(&["events"])?.ok()?;
        ensure!(events.contains("hook init has run in"), "{events}");
        Ok(true)
    };
    wait_until("the event of the hook", PATIENCE, events).unwrap();

    // Neither a restart nor another configuration is another image.
    let before = shop.container(0, "shop-main").unwrap();
    shop.shoal(&["restart", "shop/main"]).unwrap().ok().unwrap();
    let is_ready = || {
        Ok(shown(shop, "shop/main")?["ready"] == true && shop.container(0, "shop-main")? != before)
    };
    wait_until("it to be restarted", PATIENCE, is_ready).unwrap();
    shop.apply(&fleet(1, "green", GOOD)).unwrap();
    assert_eq!(volume(shop, log), first);

    shop.apply(&fleet(2, "green", GOOD)).unwrap();
    let second = format!("{first}update,box:1,box:2,green\n");
    assert_eq!(volume(shop, log), second);
    // The way back is one, too.
    shop.apply(&fleet(1, "green", GOOD)).unwrap();
    assert_eq!(volume(shop, log), format!("{second}update,box:2,box:1,green\n"));
}

fn a_bad_one_is_rolled_back(shop: &Deployment) {
    let log = "shop-main/data/store/log";
    let before = volume(shop, log);
    shop.file("fleet.toml", &fleet(3, "red", BAD)).unwrap();
    let ran = shop.shoal(&["apply", "--wait", "--timeout", "180s"]).unwrap();
    assert_eq!(ran.code(), 4, "{}{}", ran.stdout(), ran.stderr());
    let reason = "hook migrate failed: exit code 3: no room for the tables";
    says(&format!("{}{}", ran.stdout(), ran.stderr()), &[reason]);
    let is_back = || {
        let row = shown(shop, "shop/main")?;
        ensure!(row["ready"] == true && row["image"] == "box:1", "{row}");
        Ok(true)
    };
    wait_until("it to be back", PATIENCE, is_back).unwrap();
    assert_eq!(volume(shop, "shop-main/data/store/tries"), "tried\n");
    assert_eq!(
        volume(shop, log),
        before,
        "the data counts as the older image's, and is left alone"
    );
}

/// One that has nothing to go back to stays as it is until someone asks.
fn a_first_one_that_fails(shop: &Deployment) {
    let other = r#"
fleet = "other"

[instance.one]
image   = "box:1"
hosts   = "role=web"
command = ["/bin/sleep", "1000000"]
[instance.one.data.store]
path = "/data"
[instance.one.hooks]
init = ["/bin/sh", "-c", "echo $SHOAL_MODE >> /data/tries; test -e /data/ok"]
"#;
    shop.file("fleet.toml", other).unwrap();
    let ran = shop.shoal(&["apply", "--wait", "--timeout", "180s"]).unwrap();
    assert_eq!(ran.code(), 3, "{}{}", ran.stdout(), ran.stderr());
    let host = shop.lab().host(0);
    // By hand, by the host's root: it is refused with the reason.
    host.sh("systemctl reset-failed shoal-instance@other-one; ! systemctl start shoal-instance@other-one")
        .unwrap();
    let journal = host.sh("journalctl --no-pager --unit=shoal-instance@other-one").unwrap();
    says(&journal, &["hook init failed: exit code 1", "`shoal restart other/one` asks for it"]);
    let has_failed = || {
        let row = shown(shop, "other/one")?;
        ensure!(row["state"] == "failed", "{row}");
        ensure!(row["message"] == "hook init failed: exit code 1", "{row}");
        ensure!(row["restarts"] == 0, "{row}");
        Ok(true)
    };
    wait_until("it to have failed", PATIENCE, has_failed).unwrap();
    assert_eq!(volume(shop, "other-one/data/store/tries"), "new\n");

    host.sh("touch /var/lib/shoal/instances/other-one/data/store/ok").unwrap();
    shop.shoal(&["restart", "other/one"]).unwrap().ok().unwrap();
    let runs = || Ok(shown(shop, "other/one")?["ready"] == true);
    wait_until("it to run", PATIENCE, runs).unwrap();
    assert_eq!(volume(shop, "other-one/data/store/tries"), "new\nnew\n");
}

/// Its hook waits for a file `go` in the volume.
const SLOW: &str = r#"
fleet = "shop"

[instance.system]
image   = "app:1"
hosts   = "role=web"
boot    = true
network = "veth"
address = "10.9.0.2/24"
gateway = "10.9.0.1"
env     = { GREETING = "hello" }
[instance.system.data.var]
path  = "/var/app"
owner = "1000:1000"
[instance.system.health]
unit = "app.service"
[instance.system.hooks]
init = ["/bin/sh", "-c", """
trap 'echo told >> /var/app/told; exit 1' TERM
grep -q 10.9.0.2 /proc/net/fib_trie || exit 9
echo $SHOAL_MODE $GREETING >> /var/app/begun
while [ ! -e /var/app/go ]; do sleep 0.1; done
echo ended >> /var/app/ended
"""]

[rollout]
batch-timeout = "10m"
"#;

const UNIT: &str = "shoal-instance@shop-system";

#[test]
fn a_hook_that_is_cut_off_is_run_again() {
    let shop = Deployment::new("slow hooks", 1).unwrap();
    shop.push(&app::image().unwrap(), "app:1").unwrap();
    shop.file("fleet.toml", SLOW).unwrap();
    shop.shoal(&["apply"]).unwrap().ok().unwrap();
    runs(&shop, 1);
    // To everyone else, the instance is not there yet.
    let host = shop.lab().host(0);
    assert!(shop.container(0, "shop-system").is_err());
    assert!(!shop.shoal(&["exec", "shop/system", "--", "true"]).unwrap().success());

    host.sh(&format!("systemctl kill --signal=KILL {UNIT}")).unwrap();
    runs(&shop, 2);
    host.sh(&format!("kill -9 $(systemctl show {UNIT} --property=MainPID --value)")).unwrap();
    runs(&shop, 3);
    assert_eq!(volume(&shop, "shop-system/data/var/told"), "");

    // Who stops it has it end by itself.
    shop.shoal(&["stop", "shop/system"]).unwrap().ok().unwrap();
    let is_stopped = || Ok(shown(&shop, "shop/system")?["state"] == "stopped");
    wait_until("it to be stopped", PATIENCE, is_stopped).unwrap();
    assert_eq!(volume(&shop, "shop-system/data/var/told"), "told\n");
    let unit = host.sh(&format!("systemctl show {UNIT} --property=ActiveState --value")).unwrap();
    assert_eq!(unit, "inactive\n");
    shop.shoal(&["start", "shop/system", "--no-wait"]).unwrap();
    runs(&shop, 4);

    // A boot is not over before what starts with it has started: so the hook is let go right away.
    host.power_kill().unwrap();
    let go = "shoal/instances/shop-system/data/var/go";
    std::fs::write(host.disk().join(go), "").unwrap();
    host.start().unwrap();
    let is_up = || Ok(shown(&shop, "shop/system")?["ready"] == true);
    wait_until("the instance to be up", PATIENCE, is_up).unwrap();
    assert_eq!(volume(&shop, "shop-system/data/var/begun"), "new hello\n".repeat(5));
    assert_eq!(volume(&shop, "shop-system/data/var/ended"), "ended\n");
    // Its own, and not that of the hook.
    let address = "nsenter --target @ --net ip -4 address show dev host0";
    let leader = shop.container(0, "shop-system").unwrap();
    let shown = host.sh(&address.replace('@', &leader.to_string())).unwrap();
    says(&shown, &["10.9.0.2/24"]);
    let group = host.sh(&format!("ls /sys/fs/cgroup/machine.slice/*/{UNIT}.service /sys/fs/cgroup/machine.slice/{UNIT}.service 2>/dev/null || true")).unwrap();
    assert!(!group.lines().any(|name| name == "hook"), "{group}");
}

/// Waits until the hook has been begun `times` times, and is shown to run.
fn runs(shop: &Deployment, times: usize) {
    let begun = || {
        let begun = volume(shop, "shop-system/data/var/begun");
        ensure!(begun == "new hello\n".repeat(times), "{begun}");
        let row = shown(shop, "shop/system")?;
        ensure!(row["state"] == "starting" && row["message"] == "runs its hook init", "{row}");
        Ok(true)
    };
    wait_until(&format!("the hook to run for time {times}"), PATIENCE, begun).unwrap();
}
