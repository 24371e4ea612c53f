//! What an instance may use, may do and may see of its host: as the fleet file says and the host's
//! policy allows, on a real host. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

mod app;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use shoal_lab::{Deployment, Host, images, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

const POLICY: &str = r#"
user-namespace = "optional"
capabilities = ["CAP_SYS_NICE"]
system-calls = ["@keyring"]

[[bind]]
path = "/srv/plain"
@MEDIA
"#;

const MEDIA: &str = r#"
[[bind]]
path = "/srv/media"
writable = true
idmap = true
"#;

const FLEET: &str = r#"
fleet = "shop"
[vars]
word = "@WORD"

[instance.system]
image = "app:1"
hosts = "h1"
boot  = true
[instance.system.data.var]
path  = "/var/app"
owner = "1000:1000"
[instance.system.files."/etc/app.conf"]
template = "app.conf.in"
reload   = "@UNIT"
[instance.system.limits]
memory = "@MEMORY"
cpu    = "50%"
tasks  = 500
nofile = 5000
[instance.system.health]
unit = "app.service"

[instance.plain]
image   = "box:1"
hosts   = "h1"
command = ["/bin/sleep", "1000000"]
after   = ["system"]

[instance.able]
image   = "box:1"
hosts   = "h1"
command = ["/bin/sleep", "1000000"]
[instance.able.limits]
nofile = 2222
[instance.able.security]
capabilities-add   = ["CAP_SYS_NICE"]
capabilities-drop  = ["CAP_NET_RAW"]
new-privileges     = true
system-calls-allow = ["@keyring"]

[instance.open]
image   = "box:1"
hosts   = "h1"
command = ["/bin/sleep", "1000000"]
[instance.open.security]
private-users = false

[instance.media]
image   = "box:1"
hosts   = "h1"
command = ["/bin/sleep", "1000000"]
[instance.media.mounts."/media"]
source   = "/srv/media/shop"
writable = true
[instance.media.mounts."/plain"]
source = "/srv/plain"
[instance.media.mounts."/etc/note"]
source = "/srv/plain/note"

[instance.memory]
image   = "box:1"
hosts   = "h1"
command = ["/bin/sleep", "1000000"]
root    = "memory"

[instance.closed]
image   = "box:1"
hosts   = "h1"
command = ["/bin/sleep", "1000000"]
root    = "read-only"
[instance.closed.data.store]
path = "/var/store"
[instance.closed.files."/etc/new/x.conf"]
content = "x"

[instance.closed-system]
image = "app:1"
hosts = "h1"
boot  = true
root  = "read-only"
[instance.closed-system.data.var]
path  = "/var/app"
owner = "1000:1000"
[instance.closed-system.health]
unit = "app.service"
"#;

/// The fleet, and what is changed in it.
#[derive(Debug, Clone, Copy)]
struct Shop {
    memory: &'static str,
    word: &'static str,
    unit: &'static str,
    more: &'static str,
}

const SHOP: Shop = Shop { memory: "512M", word: "one", unit: "app.service", more: "" };

impl Shop {
    fn text(self) -> String {
        let fleet = FLEET.replace("@MEMORY", self.memory).replace("@WORD", self.word);
        fleet.replace("@UNIT", self.unit) + self.more
    }
}

const MACHINES: [&str; 8] = [
    "shop-able",
    "shop-closed",
    "shop-closed-system",
    "shop-media",
    "shop-memory",
    "shop-open",
    "shop-plain",
    "shop-system",
];

fn leaders(shop: &Deployment) -> Vec<u32> {
    MACHINES.map(|machine| shop.container(0, machine).unwrap()).into()
}

fn exec(shop: &Deployment, instance: &str, script: &str) -> String {
    shop.shoal(&["exec", instance, "--", "/bin/sh", "-c", script]).unwrap().ok().unwrap()
}

/// What is wrong with an instance, as people are told.
fn message(shop: &Deployment, instance: &str) -> Result<String> {
    let rows = shop.json(&["ps", "shop"])?;
    let rows = rows["instances"].as_array().context("no instances")?;
    let id = format!("shop/{instance}");
    let row = rows.iter().find(|row| row["instance"] == id.as_str()).context("not there")?;
    Ok(row["message"].as_str().unwrap_or_default().to_owned())
}

#[track_caller]
fn wait_for_message(shop: &Deployment, instance: &str, words: &[&str]) {
    let says = || {
        let message = message(shop, instance)?;
        ensure!(words.iter().all(|word| message.contains(word)), "{instance} says {message:?}");
        Ok(true)
    };
    wait_until(&format!("{instance} to say {words:?}"), PATIENCE, says).unwrap();
}

fn set_policy(host: &Host, media: &str) {
    let policy = POLICY.replace("@MEDIA", media);
    host.put_file("/etc/shoal/policy.toml", policy.as_bytes(), 0o600).unwrap();
}

#[test]
fn instances_get_what_they_are_given_and_no_more() {
    let shop = Deployment::new("isolation", 1).unwrap();
    shop.push(&app::image().unwrap(), "app:1").unwrap();
    shop.push(&images::busybox_image("1").unwrap(), "box:1").unwrap();
    shop.file("app.conf.in", "the word is {{ word }}\n").unwrap();
    let host = shop.lab().host(0);
    // The host's own root is an overlay, on which owners can't be shifted.
    host.sh("mkdir /srv/media && mount -t tmpfs tmpfs /srv/media && \
         mkdir -p /srv/media/shop /srv/plain /srv/secret; echo noted >/srv/plain/note; \
         ln -s /srv/secret /srv/plain/link; echo secret >/srv/secret/key")
        .unwrap();
    // The controller has to have heard of the policy.
    host.sh("systemctl stop shoal-agent").unwrap();
    wait_until("h1 to be offline", PATIENCE, || Ok(!shop.is_online("h1")?)).unwrap();
    set_policy(host, MEDIA);
    host.sh("systemctl start shoal-agent").unwrap();
    shop.wait_online("h1").unwrap();
    shop.apply(&SHOP.text()).unwrap();

    limits_are_set(&shop);
    the_defaults_are_safe(&shop);
    less_isolation_is_what_was_asked_for(&shop);
    mounts_are_as_narrow_as_the_policy(&shop);
    roots_keep_what_they_promise(&shop);
    names_are_there(&shop);
    running_containers_take_what_they_can(&shop);
    a_unit_that_cannot_be_reloaded_is_named(&shop);
    what_is_not_allowed_or_not_there_is_named(&shop);
    the_policy_counts_at_every_start(&shop);
}

fn shown(host: &Host, machine: &str, properties: &str) -> String {
    let unit = format!("shoal-instance@{machine}.service");
    host.sh(&format!("systemctl show {unit} --property={properties}")).unwrap()
}

fn limits_are_set(shop: &Deployment) {
    let host = shop.lab().host(0);
    let set = shown(host, "shop-system", "MemoryMax,CPUQuotaPerSecUSec,TasksMax");
    for line in ["MemoryMax=536870912\n", "CPUQuotaPerSecUSec=500ms\n", "TasksMax=500\n"] {
        assert!(set.contains(line), "{set}");
    }
    assert!(shown(host, "shop-plain", "TasksMax").contains("TasksMax=16384"));
    let order = shown(host, "shop-plain", "After");
    assert!(order.contains("shoal-instance@shop-system.service"), "{order}");
    assert_eq!(exec(shop, "shop/able", "ulimit -Hn").trim(), "2222", "of a command's container");
    let inside = "grep 'open files' /proc/$(systemctl show -p MainPID --value app)/limits";
    let files = exec(shop, "shop/system", inside);
    let files: Vec<&str> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(files, ["5000", "5000"], "of a service");
}

/// The capability bounding set, and whether a container's first process can gain privileges.
fn rights(shop: &Deployment, machine: &str) -> (u64, bool) {
    let leader = shop.container(0, machine).unwrap();
    let status = shop.lab().host(0).sh(&format!("cat /proc/{leader}/status")).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let bounding = u64::from_str_radix(field("CapBnd:").trim(), 16).unwrap();
    (bounding, field("NoNewPrivs:").trim() == "0")
}

const NET_RAW: u64 = 1 << 13;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_NICE: u64 = 1 << 23;
const MKNOD: u64 = 1 << 27;

fn the_defaults_are_safe(shop: &Deployment) {
    for machine in ["shop-plain", "shop-system"] {
        let (bounding, gains) = rights(shop, machine);
        assert!(!gains, "{machine} can gain privileges");
        assert_eq!(bounding & MKNOD, 0, "{machine}: {bounding:x}");
        assert_ne!(bounding & NET_RAW, 0, "{machine}: {bounding:x}");
    }
    assert_eq!(rights(shop, "shop-plain").0 & (SYS_ADMIN | SYS_NICE), 0);
    assert_ne!(rights(shop, "shop-system").0 & SYS_ADMIN, 0, "an init system needs it");
}

fn less_isolation_is_what_was_asked_for(shop: &Deployment) {
    let (bounding, gains) = rights(shop, "shop-able");
    assert!(gains, "new-privileges");
    assert_eq!(bounding & (SYS_NICE | NET_RAW | SYS_ADMIN), SYS_NICE, "{bounding:x}");
    let words = exec(shop, "shop/able", "tr '\\0' ' ' </proc/1/cmdline");
    assert!(!words.contains("syscall"), "{words}");
    let host = shop.lab().host(0);
    let lines = host.sh(
        "tr '\\0' ' ' </proc/$(systemctl show -p MainPID --value shoal-instance@shop-able)/cmdline",
    );
    let lines = lines.unwrap();
    assert!(lines.contains("--system-call-filter=@keyring "), "{lines}");
    let map = |machine: &str| {
        let leader = shop.container(0, machine).unwrap();
        let map = host.sh(&format!("cat /proc/{leader}/uid_map")).unwrap();
        map.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(map("shop-open"), ["0", "0", "4294967295"], "users are the host's");
    assert_eq!(map("shop-able")[2], "65536");
}

fn mounts_are_as_narrow_as_the_policy(shop: &Deployment) {
    let host = shop.lab().host(0);
    exec(
        shop,
        "shop/media",
        "echo root >/media/by-root; echo app >/media/by-app; chown 1000 /media/by-app",
    );
    let owners = host.sh("stat -c %u /srv/media/shop/by-root /srv/media/shop/by-app").unwrap();
    assert_eq!(owners, "0\n1000\n", "user numbers inside are those on the disk");
    let seen = exec(shop, "shop/media", "cat /etc/note /plain/note; ls /plain");
    assert_eq!(seen, "noted\nnoted\nlink\nnote\n");
    for path in ["/plain/x", "/etc/note"] {
        let said = exec(shop, "shop/media", &format!("(echo x >{path}) 2>&1 || true"));
        assert!(said.contains("ead-only"), "{path}: {said}");
    }
    let options = exec(shop, "shop/media", "grep -E ' (/media|/plain|/etc/note) ' /proc/mounts");
    assert_eq!(options.lines().count(), 3, "{options}");
    for line in options.lines() {
        assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
    }
    // What is mounted is held, not looked up again: a path that leads elsewhere by now means
    // nothing to a container that runs.
    host.sh("mv /srv/media/shop /srv/media/moved; ln -s /srv/secret /srv/media/shop").unwrap();
    assert_eq!(exec(shop, "shop/media", "cat /media/by-app"), "app\n");
    host.sh("rm /srv/media/shop; mv /srv/media/moved /srv/media/shop").unwrap();
}

fn roots_keep_what_they_promise(shop: &Deployment) {
    let host = shop.lab().host(0);
    exec(shop, "shop/memory", "echo x >/etc/mark");
    let scratch = host.sh("find /var/lib/shoal/instances/shop-memory -name mark; \
                           find /run/shoal/machines/shop-memory/memory -name mark");
    let scratch = scratch.unwrap();
    assert_eq!(scratch, "/run/shoal/machines/shop-memory/memory/upper/etc/mark\n");
    let memory = "findmnt -n -o FSTYPE,OPTIONS /run/shoal/machines/shop-memory/memory";
    let memory = host.sh(memory).unwrap();
    assert!(memory.starts_with("tmpfs") && memory.contains("nosuid,nodev"), "{memory}");
    let before = shop.container(0, "shop-memory").unwrap();
    shop.shoal(&["restart", "shop/memory"]).unwrap().ok().unwrap();
    let is_new = || Ok(shop.container(0, "shop-memory")? != before);
    wait_until("a new container", PATIENCE, is_new).unwrap();
    let after = exec(shop, "shop/memory", "ls /etc/mark 2>&1 || true");
    assert!(after.contains("No such file"), "{after}");
    let mounts = host.sh("grep -c ' /run/shoal/machines/shop-memory/memory ' /proc/mounts");
    assert_eq!(mounts.unwrap().trim(), "1", "the one before was unmounted");

    let script = "cat /etc/new/x.conf; echo kept >/var/store/x && echo data; echo x >/tmp/x && echo tmp; \
                  (echo x >/etc/x) 2>&1 || true; (echo x >/var/x) 2>&1 || true";
    let said = exec(shop, "shop/closed", script);
    assert!(said.starts_with("xdata\ntmp\n"), "{said}");
    assert_eq!(said.matches("ead-only").count(), 2, "{said}");
    let state = exec(
        shop,
        "shop/closed-system",
        "systemctl is-active app.service journal.service systemd-journald.service; (echo x >/etc/x) 2>&1 || true",
    );
    assert!(state.starts_with("active\n") && state.contains("ead-only"), "{state}");
    let failed =
        exec(shop, "shop/closed-system", "systemctl --failed --no-legend --plain | cut -d' ' -f1");
    assert_eq!(failed, "", "units that do not stand a root that is read-only");
}

fn names_are_there(shop: &Deployment) {
    for instance in ["shop/plain", "shop/closed", "shop/system"] {
        let hosts = exec(shop, instance, "cat /etc/hosts; stat -c %u:%g:%a /etc/hosts");
        assert!(hosts.contains("127.0.0.1 localhost\n"), "{instance}: {hosts}");
        assert!(hosts.ends_with("0:0:644\n"), "{instance}: {hosts}");
    }
}

fn running_containers_take_what_they_can(shop: &Deployment) {
    let host = shop.lab().host(0);
    let before = leaders(shop);
    shop.apply(&Shop { memory: "640M", ..SHOP }.text()).unwrap();
    assert!(shown(host, "shop-system", "MemoryMax").contains("MemoryMax=671088640"));
    assert_eq!(leaders(shop), before, "new limits restarted something");
    assert_eq!(exec(shop, "shop/system", "ls /var/app"), "greeting\n", "nothing was reloaded");

    shop.apply(&Shop { memory: "640M", word: "two", ..SHOP }.text()).unwrap();
    assert_eq!(leaders(shop), before, "a new word restarted something");
    let seen = exec(shop, "shop/system", "cat /etc/app.conf /var/app/reloaded");
    assert_eq!(seen, "the word is two\nthe word is two\n");
}

fn a_unit_that_cannot_be_reloaded_is_named(shop: &Deployment) {
    let before = leaders(shop);
    let fleet = Shop { memory: "640M", word: "three", unit: "nothing.service", ..SHOP };
    shop.file("fleet.toml", &fleet.text()).unwrap();
    shop.shoal(&["apply"]).unwrap().ok().unwrap();
    wait_for_message(shop, "system", &["nothing.service of shop/system", "no such unit"]);
    assert_eq!(leaders(shop), before);
    shop.apply(&Shop { word: "three", ..SHOP }.text()).unwrap();
    assert_eq!(leaders(shop), before);
    assert_eq!(exec(shop, "shop/system", "cat /var/app/reloaded"), "the word is three\n");
}

const ODD: &str = r#"
[instance.odd]
image   = "box:1"
hosts   = "h1"
command = ["/bin/sleep", "1000000"]
[instance.odd.mounts."/odd"]
source = "@SOURCE"
"#;

fn what_is_not_allowed_or_not_there_is_named(shop: &Deployment) {
    let before = leaders(shop);
    let with =
        |source: &str| Shop { word: "three", ..SHOP }.text() + &ODD.replace("@SOURCE", source);
    shop.file("fleet.toml", &with("/srv/secret")).unwrap();
    let ran = shop.shoal(&["apply"]).unwrap();
    assert!(!ran.success() && ran.stderr().contains("/srv/secret"), "{}", ran.stderr());
    for (source, words) in [
        ("/srv/plain/link", ["/srv/plain/link", "symbolic link"]),
        ("/srv/plain/none", ["/srv/plain/none", "is not there; make it on the host"]),
    ] {
        shop.file("fleet.toml", &with(source)).unwrap();
        shop.shoal(&["apply", "--replace"]).unwrap().ok().unwrap();
        wait_for_message(shop, "odd", &words);
    }
    let host = shop.lab().host(0);
    host.sh("mkdir /srv/plain/none").unwrap();
    shop.apply(&with("/srv/plain/none")).unwrap();
    shop.apply(&Shop { word: "three", ..SHOP }.text()).unwrap();
    let left = host.sh("ls /run/shoal/machines; grep -c shop-odd /proc/mounts || true").unwrap();
    assert!(!left.contains("odd") && left.ends_with("\n0\n"), "{left}");
    assert_eq!(leaders(shop), before);
}

fn the_policy_counts_at_every_start(shop: &Deployment) {
    let host = shop.lab().host(0);
    host.sh("systemctl stop shoal-agent").unwrap();
    set_policy(host, "");
    let before = shop.container(0, "shop-media").unwrap();
    host.sh(&format!("kill -9 {before}")).unwrap();
    let is_refused = || {
        let words = "the host's policy does not allow it any more";
        let log = host.sh("journalctl --no-pager -u shoal-instance@shop-media -n 20")?;
        ensure!(log.contains(words) && log.contains("/srv/media/shop"), "{log}");
        Ok(true)
    };
    wait_until("the start to be refused", PATIENCE, is_refused).unwrap();
    assert!(shop.container(0, "shop-media").is_err());
    host.sh("systemctl start shoal-agent").unwrap();
    wait_for_message(shop, "media", &["/srv/media/shop", "policy.toml"]);
    set_policy(host, MEDIA);
    host.sh("systemctl restart shoal-agent").unwrap();
    let is_back = || Ok(shop.container(0, "shop-media").is_ok());
    wait_until("it to be back", PATIENCE, is_back).unwrap();
    assert_eq!(exec(shop, "shop/media", "cat /media/by-app"), "app\n");
}
