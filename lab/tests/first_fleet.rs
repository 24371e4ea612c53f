//! A first fleet, from the file to the containers, on real hosts and through the command alone.
//! Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

mod app;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use shoal_lab::{Deployment, Host, images, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

const TEMPLATE: &str = "server {{ domain }} on {{ shoal.host }}\n\
    {% for peer in peers %}peer {{ peer }}\n{% endfor %}";

/// The fleet file of these tests, and what can be changed in it.
#[derive(Debug, Clone)]
struct Shop {
    web_image: &'static str,
    web_env: &'static str,
    /// Text for further instances.
    more: &'static str,
    idle: bool,
}

const SHOP: Shop = Shop { web_image: "box:1", web_env: "blue", more: "", idle: true };

impl Shop {
    fn text(&self) -> String {
        let Self { web_image, web_env, more, idle } = self;
        let idle = if *idle { IDLE } else { "" };
        format!("{HEAD}{SYSTEM}{idle}{more}")
            + &WEB.replace("@IMAGE", web_image).replace("@COLOUR", web_env)
    }
}

const HEAD: &str = r#"
fleet = "shop"
[vars]
domain = "shop.example.org"
peers  = ["a", "b"]
"#;

const SYSTEM: &str = r#"
[instance.system]
image = "app:1"
hosts = "role=web"
boot  = true
env   = { GREETING = 'hello "world", 100% \o/' }
[instance.system.data.var]
path  = "/var/app"
owner = "1000:1000"
[instance.system.files."/etc/app/app.conf"]
template = "config/app.conf.in"
mode     = "0640"
owner    = "0:1000"
[instance.system.health]
unit = "app.service"
"#;

const WEB: &str = r#"
[instance.web]
image   = "@IMAGE"
hosts   = "role=web"
command = ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"]
network = "host"
env     = { COLOUR = "@COLOUR" }
[instance.web.data.store]
path = "/data"
[instance.web.health]
tcp = "127.0.0.1:8080"
"#;

const IDLE: &str = r#"
[instance.idle]
image   = "box:1"
hosts   = "h1"
command = ["/bin/sleep", "1000000"]
[instance.idle.data.keep]
path = "/keep"
"#;

/// Every container of the two hosts that is not in `except`, with its leader.
fn leaders(shop: &Deployment, except: &[&str]) -> Vec<(String, u32)> {
    let machines = [(0, "shop-system"), (1, "shop-system"), (0, "shop-web"), (1, "shop-web")];
    let all = machines.into_iter().chain([(0, "shop-idle")]);
    all.filter(|(_, machine)| !except.contains(machine))
        .map(|(host, machine)| {
            (format!("{machine}@{host}"), shop.container(host, machine).unwrap())
        })
        .collect()
}

fn revision(shop: &Deployment) -> u64 {
    let list = shop.json(&["rollout", "list", "shop"]).unwrap();
    list["rollouts"][0]["revision"].as_u64().unwrap()
}

fn exec(shop: &Deployment, instance: &str, script: &str) -> String {
    shop.shoal(&["exec", instance, "--", "/bin/sh", "-c", script]).unwrap().ok().unwrap()
}

fn write(shop: &Deployment, fleet: &Shop) {
    shop.file("fleet.toml", &fleet.text()).unwrap();
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("no {key} in {value}"))
}

#[test]
fn a_fleet_is_declared_planned_applied_and_changed() {
    let shop = Deployment::new("first fleet", 2).unwrap();
    shop.push(&app::image().unwrap(), "app:1").unwrap();
    shop.push(&images::busybox_image("1").unwrap(), "box:1").unwrap();
    shop.push(&images::busybox_image("2").unwrap(), "box:2").unwrap();
    shop.file("config/app.conf.in", TEMPLATE).unwrap();

    it_is_planned_and_nothing_happens(&shop);
    it_is_applied_once(&shop);
    booted_systems_are_as_declared(&shop);
    root_inside_is_nobody_outside(&shop);
    an_image_is_mounted_once(&shop);
    a_setting_recreates_just_its_instance(&shop);
    an_image_rolls_and_data_stays(&shop);
    bad_instances_fail_alone_and_by_name(&shop);
    a_good_revision_takes_a_failing_ones_place(&shop);
    an_instance_taken_out_leaves_its_data(&shop);
    the_policy_is_read_or_nothing_runs(&shop);
    what_is_removed_leaves_no_mount(&shop);
}

fn it_is_planned_and_nothing_happens(shop: &Deployment) {
    write(shop, &SHOP);
    let said = shop.shoal(&["check"]).unwrap().ok().unwrap();
    assert!(said.contains("fleet shop with 3 instances"), "check: {said}");
    let plan = shop.shoal(&["plan"]).unwrap();
    assert_eq!(plan.code(), 1, "a plan with changes: {}{}", plan.stdout(), plan.stderr());
    for line in [
        "fleet shop (new)",
        "+ system on h1: create",
        "+ web on h2: create",
        "5 to create, 0 to replace, 0 to remove, 0 unchanged",
    ] {
        assert!(plan.stdout().contains(line), "{line:?} is not in the plan: {}", plan.stdout());
    }
    let said = shop.shoal(&["apply", "--dry-run"]).unwrap().ok().unwrap();
    assert!(said.contains("nothing was changed"), "dry run: {said}");
    assert_eq!(array(&shop.json(&["ps"]).unwrap(), "instances").len(), 0, "a dry run applied");
    assert_eq!(array(&shop.json(&["rollout", "list"]).unwrap(), "rollouts").len(), 0);
    for host in shop.lab().hosts() {
        let machines = host.sh("machinectl list --no-legend; ls /var/lib/shoal/images").unwrap();
        assert_eq!(machines.trim(), "", "a dry run did something on {}", host.name());
    }
}

fn it_is_applied_once(shop: &Deployment) {
    let said = shop.shoal(&["apply", "--wait", "--timeout", "90s"]).unwrap().ok().unwrap();
    assert!(said.contains("fleet shop is at revision 1: 2 hosts ready"), "apply: {said}");
    let plan = shop.shoal(&["plan"]).unwrap().ok().unwrap();
    assert!(plan.contains("nothing would change (5 unchanged)"), "plan after apply: {plan}");
    let before = leaders(shop, &[]);
    let said = shop.shoal(&["apply", "--wait"]).unwrap().ok().unwrap();
    assert!(said.contains("revision 1 as before: nothing to do"), "second apply: {said}");
    assert_eq!(leaders(shop, &[]), before, "a second apply restarted something");
    assert_eq!(revision(shop), 1, "a second apply made a revision");
    let rows = shop.json(&["ps", "shop"]).unwrap();
    assert_eq!(array(&rows, "instances").len(), 5, "{rows}");
    for row in array(&rows, "instances") {
        assert_eq!((&row["state"], &row["ready"]), (&"running".into(), &true.into()), "{row}");
        assert_eq!(row["restarts"], 0, "{row}");
    }
    shop.shoal(&["status", "shop"]).unwrap().ok().unwrap();
    for host in shop.lab().hosts() {
        assert_eq!(served(shop, host), "1", "the page of {}", host.name());
    }
}

/// What the web instance of a host serves on the host's own network.
fn served(shop: &Deployment, host: &Host) -> String {
    let instance = format!("shop/web@{}", host.name());
    let url = format!("http://{}:8080/", host.addr());
    exec(shop, &instance, &format!("wget -q -O - {url}")).trim().to_owned()
}

fn booted_systems_are_as_declared(shop: &Deployment) {
    for host in ["h1", "h2"] {
        let system = format!("shop/system@{host}");
        let file =
            exec(shop, &system, "cat /etc/app/app.conf; stat -c '%a %u:%g' /etc/app/app.conf");
        let wanted = format!("server shop.example.org on {host}\npeer a\npeer b\n640 0:1000\n");
        assert_eq!(file, wanted, "the rendered file on {host}");
        let greeting = "hello \"world\", 100% \\o/\n";
        assert_eq!(
            exec(shop, &system, "cat /var/app/greeting"),
            greeting,
            "a service's environment"
        );
        let shown = exec(shop, &system, "systemctl show app.service --property=MainPID --value");
        let script = format!("tr '\\0' '\\n' </proc/{}/environ", shown.trim());
        let environment = exec(shop, &system, &script);
        assert!(environment.contains("GREETING=hello \"world\""), "{environment}");
        assert_eq!(exec(shop, &system, "printenv GREETING"), greeting, "a command's environment");
        let read_only = exec(shop, &system, "(echo x >>/etc/app/app.conf) || echo refused");
        assert!(read_only.contains("refused"), "a rendered file can be written: {read_only}");
        assert_eq!(exec(shop, &system, "systemctl is-system-running").trim(), "running");
    }
    let colour = exec(shop, "shop/web@h1", "tr '\\0' '\\n' </proc/2/environ | grep COLOUR");
    assert_eq!(colour.trim(), "COLOUR=blue", "a command instance's environment");
    let devices = exec(shop, "shop/idle", "ls /sys/class/net");
    assert_eq!(devices.trim(), "lo", "the devices of a private network");
    let devices = exec(shop, "shop/web@h1", "cat /proc/net/dev");
    assert!(devices.contains("host0"), "the devices of the host's network: {devices}");
}

fn root_inside_is_nobody_outside(shop: &Deployment) {
    let host = shop.lab().host(0);
    let facts = shop.json(&["host", "show", "h1"]).unwrap();
    assert_eq!(facts["facts"]["idmapped_squashfs"], true, "{facts}");
    let mut bases = Vec::new();
    for machine in ["shop-system", "shop-web", "shop-idle"] {
        let leader = shop.container(0, machine).unwrap();
        let map = host.sh(&format!("cat /proc/{leader}/uid_map")).unwrap();
        let map: Vec<u32> = map.split_whitespace().map(|word| word.parse().unwrap()).collect();
        assert_eq!((map[0], map[2]), (0, 65536), "{machine}: {map:?}");
        assert!(map[1] >= 65536 && !bases.contains(&map[1]), "{machine} begins at {}", map[1]);
        bases.push(map[1]);
        let status = host.sh(&format!("cat /proc/{leader}/status")).unwrap();
        let uid = format!("Uid:\t{0}\t{0}", map[1]);
        assert!(status.contains(&uid), "{machine} runs as {status}");
        assert!(status.contains("NoNewPrivs:\t1"), "{machine}: {status}");
    }
    exec(shop, "shop/system@h1", "echo root >/var/app/by-root");
    exec(
        shop,
        "shop/web@h1",
        "echo root >/data/by-root; echo app >/data/by-app; chown 1000 /data/by-app",
    );
    let data = |machine: &str| host.disk().join("shoal/instances").join(machine).join("data");
    let owner = |path: &Path| fs::metadata(path).map(|found| (found.uid(), found.gid())).unwrap();
    let (system, web) = (data("shop-system").join("var"), data("shop-web").join("store"));
    assert_eq!(owner(&system), (1000, 1000), "a volume's owner on the disk");
    assert_eq!(owner(&system.join("greeting")), (1000, 1000), "a service's file on the disk");
    assert_eq!(owner(&system.join("by-root")), (0, 0), "root's file on the disk");
    assert_eq!(owner(&web), (0, 0));
    assert_eq!(owner(&web.join("by-app")).0, 1000);
    let inside = exec(shop, "shop/system@h1", "stat -c %u:%g /var/app /var/app/by-root");
    assert_eq!(inside, "1000:1000\n0:0\n", "owners as seen inside");
    let modes = host.sh("stat -c %a:%u /var/lib/shoal/agent /run/shoal").unwrap();
    assert_eq!(modes, "700:0\n700:0\n", "who may reach Shoal's directories");
}

/// The images that are mounted on a host. An instance's own view of its image is not one of them.
fn image_mounts(host: &Host) -> usize {
    let mounts = host.sh("findmnt -rn -t squashfs -o TARGET").unwrap();
    mounts.lines().filter(|target| target.starts_with("/run/shoal/images/")).count()
}

fn an_image_is_mounted_once(shop: &Deployment) {
    for host in shop.lab().hosts() {
        assert_eq!(image_mounts(host), 2, "image mounts of {}", host.name());
    }
}

fn a_setting_recreates_just_its_instance(shop: &Deployment) {
    let before = leaders(shop, &["shop-web"]);
    let old = shop.container(0, "shop-web").unwrap();
    exec(shop, "shop/web@h1", "echo gone >/mark; echo kept >/data/mark");
    write(shop, &Shop { web_env: "green", ..SHOP });
    let plan = shop.shoal(&["plan"]).unwrap();
    assert_eq!(plan.code(), 1, "{}", plan.stderr());
    for line in [
        "~ web on h2: replace",
        "env.COLOUR: \"blue\" -> \"green\"",
        "0 to create, 2 to replace, 0 to remove, 3 unchanged",
    ] {
        assert!(plan.stdout().contains(line), "{line:?} is not in the plan: {}", plan.stdout());
    }
    let json: Value = {
        let plan = shop.shoal(&["plan", "-o", "json"]).unwrap();
        serde_json::from_str(&plan.stdout()).unwrap()
    };
    assert_eq!((&json["base_revision"], &json["changes_anything"]), (&1.into(), &true.into()));
    shop.shoal(&["apply", "--wait"]).unwrap().ok().unwrap();
    assert_eq!(revision(shop), 2);
    assert_eq!(leaders(shop, &["shop-web"]), before, "an instance that did not change restarted");
    assert_ne!(shop.container(0, "shop-web").unwrap(), old, "the changed one was not recreated");
    let seen = exec(shop, "shop/web@h1", "ls /mark 2>&1; cat /data/mark; echo $COLOUR");
    assert_eq!(seen, "ls: /mark: No such file or directory\nkept\ngreen\n");
}

fn an_image_rolls_and_data_stays(shop: &Deployment) {
    let before = leaders(shop, &["shop-web"]);
    write(shop, &Shop { web_image: "box:2", web_env: "green", ..SHOP });
    let plan = shop.shoal(&["plan"]).unwrap();
    assert!(plan.stdout().contains("image: box:1 ("), "{}", plan.stdout());
    assert!(plan.stdout().contains("-> box:2 ("), "{}", plan.stdout());
    shop.shoal(&["apply", "--wait"]).unwrap().ok().unwrap();
    for host in shop.lab().hosts() {
        assert_eq!(served(shop, host), "2", "the page of {}", host.name());
    }
    assert_eq!(exec(shop, "shop/web@h1", "cat /data/mark"), "kept\n");
    assert_eq!(leaders(shop, &["shop-web"]), before, "an instance that did not change restarted");
    // h2 has no instance of box:1 any more.
    let unmounted = || Ok(image_mounts(shop.lab().host(1)) == 2);
    wait_until("the old image to be unmounted", PATIENCE, unmounted).unwrap();
}

/// What the fleet is after [`an_image_rolls_and_data_stays`].
const SECOND: Shop = Shop { web_image: "box:2", web_env: "green", more: "", idle: true };

const NO_PROGRAM: &str = r#"
[instance.broken]
image   = "box:1"
hosts   = "h2"
command = ["/bin/no-such-program"]
"#;

const ENDS: &str = r#"
[instance.broken]
image   = "box:1"
hosts   = "h2"
command = ["/bin/sh", "-c", "echo cannot open the database >&2; exit 4"]
"#;

const DEAF: &str = r#"
[instance.broken]
image   = "box:1"
hosts   = "h2"
command = ["/bin/sleep", "1000000"]
[instance.broken.health]
tcp   = "127.0.0.1:9"
grace = "1s"
"#;

fn bad_instances_fail_alone_and_by_name(shop: &Deployment) {
    let before = leaders(shop, &[]);
    for (more, why) in
        [(NO_PROGRAM, "no-such-program"), (ENDS, "cannot open the database"), (DEAF, "127.0.0.1:9")]
    {
        write(shop, &Shop { more, ..SECOND });
        let said = shop.shoal(&["apply", "--wait", "--timeout", "60s"]).unwrap();
        let said = said.fails_with(4).unwrap();
        let said = &said[said.find("error: ").unwrap_or_default()..];
        for part in ["h2", "broken", why] {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
        assert!(!said.contains("h1:"), "h1 is blamed: {said}");
        shop.shoal(&["status", "shop"]).unwrap().fails_with(1).unwrap();
        shop.shoal(&["rollout", "watch", "shop"]).unwrap().fails_with(4).unwrap();
        assert_eq!(leaders(shop, &[]), before, "a bad instance ({why}) disturbed others");
    }
}

fn a_good_revision_takes_a_failing_ones_place(shop: &Deployment) {
    let before = leaders(shop, &[]);
    write(shop, &Shop { more: ENDS, ..SECOND });
    shop.shoal(&["apply"]).unwrap().ok().unwrap();
    let bad = revision(shop);
    write(shop, &SECOND);
    shop.shoal(&["apply", "--wait"]).unwrap().fails_with(13).unwrap();
    shop.shoal(&["apply", "--wait", "--replace"]).unwrap().ok().unwrap();
    let rollouts = shop.json(&["rollout", "list", "shop"]).unwrap();
    let states: Vec<_> = array(&rollouts, "rollouts")
        .iter()
        .filter(|rollout| rollout["revision"].as_u64() >= Some(bad))
        .map(|rollout| rollout["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["completed", "superseded"], "{rollouts}");
    let late = shop.shoal(&["rollout", "watch", "shop", "--revision", &bad.to_string()]).unwrap();
    late.fails_with(7).unwrap();
    assert_eq!(leaders(shop, &[]), before, "superseding disturbed others");
}

fn an_instance_taken_out_leaves_its_data(shop: &Deployment) {
    let host = shop.lab().host(0);
    exec(shop, "shop/idle", "echo precious >/keep/it");
    let before = leaders(shop, &["shop-idle"]);
    write(shop, &Shop { idle: false, ..SECOND });
    let plan = shop.shoal(&["plan"]).unwrap();
    let line = "- idle on h1: remove (its data volumes are kept)";
    assert!(plan.stdout().contains(line), "{}", plan.stdout());
    shop.shoal(&["apply", "--wait"]).unwrap().ok().unwrap();
    let is_gone = || {
        let units =
            host.sh("systemctl list-units --all --no-legend 'shoal-instance@shop-idle*'")?;
        Ok(units.trim().is_empty())
    };
    wait_until("the unit to be gone", PATIENCE, is_gone).unwrap();
    let enabled = host.run(&["systemctl", "is-enabled", "shoal-instance@shop-idle"]).unwrap();
    assert_eq!(String::from_utf8_lossy(&enabled.stdout).trim(), "disabled");
    assert_eq!(host.sh("ls /run/shoal/machines | sort").unwrap(), "shop-system\nshop-web\n");
    let rows = shop.json(&["ps", "shop"]).unwrap().to_string();
    assert!(!rows.contains("shop/idle"), "{rows}");
    let listed = || Ok(shop.shoal(&["data", "list"])?.ok()?.contains("shop/idle"));
    wait_until("its data to be listed", PATIENCE, listed).unwrap();
    let data = shop.json(&["data", "list"]).unwrap();
    let [row] = array(&data, "data") else { panic!("more than one is listed: {data}") };
    assert_eq!((&row["host"], &row["machine"]), (&"h1".into(), &"shop-idle".into()), "{row}");
    assert_eq!(row["instance"], "shop/idle", "{row}");
    assert_eq!(row["volumes"], serde_json::json!(["keep"]));
    assert_eq!(leaders(shop, &["shop-idle"]), before, "a removal disturbed others");

    write(shop, &SECOND);
    shop.shoal(&["apply", "--wait"]).unwrap().ok().unwrap();
    assert_eq!(exec(shop, "shop/idle", "cat /keep/it"), "precious\n");
    assert_eq!(array(&shop.json(&["data", "list"]).unwrap(), "data").len(), 0);
}

fn the_policy_is_read_or_nothing_runs(shop: &Deployment) {
    let host = shop.lab().host(0);
    let before = leaders(shop, &[]);
    host.sh("mkdir -p /etc/shoal; echo 'user-namespaces = \"off\"' >/etc/shoal/policy.toml")
        .unwrap();
    assert!(host.sh("systemctl restart shoal-agent").is_err(), "it started on an unknown policy");
    let log = host.sh("journalctl -u shoal-agent -o cat -n 30").unwrap();
    for part in ["/etc/shoal/policy.toml", "user-namespaces", "user-namespace`"] {
        assert!(log.contains(part), "{part:?} is not in the journal: {log}");
    }
    host.sh("rm /etc/shoal/policy.toml; systemctl restart shoal-agent").unwrap();
    shop.wait_online("h1").unwrap();
    assert_eq!(leaders(shop, &[]), before, "an agent that could not start disturbed instances");
}

fn what_is_removed_leaves_no_mount(shop: &Deployment) {
    let files = loop_files(shop);
    assert!(!files.is_empty(), "the check for loop devices sees none");
    let nothing_but = "fleet = \"shop\"\n[instance.idle]\nimage = \"box:1\"\nhosts = \"h1\"\n\
                       command = [\"/bin/sleep\", \"1000000\"]\n";
    shop.apply(nothing_but).unwrap();
    let only_one = || {
        let left = shop.lab().host(1).sh("findmnt -rn -o TARGET | grep /run/shoal/ || true")?;
        anyhow::ensure!(left.is_empty(), "still mounted on h2:\n{left}");
        let left = loop_files(shop);
        anyhow::ensure!(left.len() == 1, "loop devices of {left:?}");
        Ok(true)
    };
    wait_until("mounts and loop devices to be gone", PATIENCE, only_one).unwrap();
    let enabled = shop.lab().host(1).sh("ls /etc/systemd/system/multi-user.target.wants").unwrap();
    assert!(!enabled.contains("shoal-instance@"), "still enabled on h2: {enabled}");
}

/// The inodes of this lab's images that a loop device of the machine holds.
fn loop_files(shop: &Deployment) -> Vec<u64> {
    let mut inodes = Vec::new();
    for host in shop.lab().hosts() {
        for image in fs::read_dir(host.disk().join("shoal/images")).unwrap() {
            inodes.push(image.unwrap().metadata().unwrap().ino());
        }
    }
    let attached = shop.lab().host(0).sh("losetup --list --noheadings --output BACK-INO").unwrap();
    let attached: Vec<u64> = attached.lines().filter_map(|line| line.trim().parse().ok()).collect();
    inodes.retain(|inode| attached.contains(inode));
    inodes
}
