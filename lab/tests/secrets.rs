//! Secrets, from `shoal secret set` to the programs that use them, and nowhere else. On real hosts,
//! through the command alone. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use shoal_lab::images::{self, DebianRecipe};
use shoal_lab::{Deployment, Host, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Values that are nowhere by accident.
const VALUES: [&str; 3] = ["correct-Horse-7f3a19", "battery-Staple-c04d52", "other-Staple-99e1b8"];

/// A service of uid 1000 that keeps a digest of the credential that reached it.
const UNIT: &str = r#"[Unit]
Description=App
[Service]
User=app
LoadCredential=db-password
RuntimeDirectory=app
ExecStart=/bin/sh -c 'sha256sum <"$CREDENTIALS_DIRECTORY/db-password" >/run/app/sum; exec sleep infinity'
ExecReload=/bin/true
[Install]
WantedBy=multi-user.target
"#;

const FLEET: &str = r#"
fleet = "shop"
[vars]
colour = "@COLOUR"

[instance.system]
image = "app:1"
hosts = "h1"
boot  = true
[instance.system.secrets]
db-password = "db/creator"
[instance.system.files."/etc/app.conf"]
template = "app.conf.in"
mode     = "0640"
owner    = "0:1000"
reload   = "app.service"
[instance.system.health]
unit = "app.service"

[instance.web]
image   = "box:1"
hosts   = "h1"
command = ["/bin/sh", "-c", 'cat "$CREDENTIALS_DIRECTORY/token" | wc -c >/tmp/length; exec sleep 1000000']
[instance.web.secrets]
token = "api/token"

[instance.plain]
image   = "box:1"
hosts   = "role=web"
command = ["/bin/sleep", "1000000"]
"#;

const TEMPLATE: &str = "colour={{ colour }}\npassword={{ secret('db-password') }}\n";

/// Where the host keeps them, encrypted.
const KEPT: &str = "/var/lib/shoal/agent/secrets";

fn image() -> Result<PathBuf> {
    let recipe = DebianRecipe { name: "secrets", packages: &[], revision: "2" };
    images::debian_image(recipe, |root| {
        images::run_in_root(root, &["useradd", "--uid", "1000", "app"])?;
        let unit = root.join("etc/systemd/system/app.service");
        fs::write(&unit, UNIT)?;
        fs::set_permissions(&unit, fs::Permissions::from_mode(0o644))?;
        images::run_in_root(root, &["systemctl", "enable", "app.service"])
    })
}

fn said(shop: &Deployment, arguments: &[&str]) -> String {
    shop.shoal(arguments).unwrap().ok().unwrap()
}

fn write(shop: &Deployment, colour: &str) {
    shop.file("fleet.toml", &FLEET.replace("@COLOUR", colour)).unwrap();
}

fn apply(shop: &Deployment) {
    said(shop, &["apply", "--wait", "--timeout", "90s"]);
}

fn set(shop: &Deployment, name: &str, value: &str) {
    let mut command = shop.shoal_command(&["secret", "set", name]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{value}").unwrap();
    assert!(child.wait().unwrap().success());
}

fn leader(shop: &Deployment, machine: &str) -> u32 {
    shop.container(0, machine).unwrap()
}

/// Runs a script inside a container, without the controller.
fn inside(shop: &Deployment, machine: &str, script: &str) -> Result<String> {
    let leader = shop.container(0, machine)?;
    let enter = format!("nsenter -t {leader} -m -p -- /bin/sh -c '{script}'");
    Ok(shop.lab().host(0).sh(&enter)?.trim().to_owned())
}

#[track_caller]
fn wait_for(what: &str, says: impl Fn() -> Result<String>, wanted: &str) {
    let holds = || {
        let said = says()?;
        ensure!(said == wanted, "{said:?}");
        Ok(true)
    };
    wait_until(&format!("{what} to be {wanted:?}"), PATIENCE, holds).unwrap();
}

/// Whether all that names a secret has this value of it.
#[track_caller]
fn check_values(shop: &Deployment, colour: &str, value: &str) {
    let sum = format!("printf %s {value} | sha256sum");
    let sum = shop.lab().host(0).sh(&sum).unwrap().trim().to_owned();
    wait_for("the service's", || inside(shop, "shop-system", "cat /run/app/sum"), &sum);
    let conf = || inside(shop, "shop-system", "cat /etc/app.conf");
    wait_for("the file", conf, &format!("colour={colour}\npassword={value}"));
    wait_for("the command's", || inside(shop, "shop-web", "cat /tmp/length"), "32");
}

fn files(host: &Host) -> Vec<String> {
    let found = host.sh(&format!("cd {KEPT} && find . -type f | sort")).unwrap();
    found.lines().map(str::to_owned).collect()
}

#[test]
fn secrets_reach_those_who_name_them_and_nobody_else() {
    let mut shop = Deployment::new("secrets", 2).unwrap();
    shop.push(&image().unwrap(), "app:1").unwrap();
    shop.push(&images::busybox_image("1").unwrap(), "box:1").unwrap();
    shop.file("app.conf.in", TEMPLATE).unwrap();
    write(&shop, "blue");
    what_is_not_there_is_refused(&shop);
    set(&shop, "db/creator", VALUES[0]);
    said(&shop, &["secret", "generate", "api/token"]);
    apply(&shop);
    check_values(&shop, "blue", VALUES[0]);
    inside_they_are_credentials(&shop);
    they_are_nowhere_else(&shop);
    files_are_changed_and_put_right_with_them(&shop);
    a_new_version_is_rolled_out_to_those_who_use_it(&shop);
    they_are_back_after_a_reboot_without_the_controller(&mut shop);
    what_cant_be_opened_is_sent_anew(&shop);
    what_cant_be_kept_is_told(&shop);
    a_paused_instance_that_crashes_stays_down(&shop);
    they_are_nowhere_else(&shop);
}

fn what_is_not_there_is_refused(shop: &Deployment) {
    for verb in ["plan", "apply"] {
        let ran = shop.shoal(&[verb]).unwrap();
        let why = ran.stderr();
        assert!(!ran.success() && why.contains("shoal secret set db/creator"), "{why}");
        assert!(why.contains("api/token"), "all at once: {why}");
    }
    assert!(shop.json(&["ps"]).unwrap()["instances"].as_array().unwrap().is_empty());
}

fn inside_they_are_credentials(shop: &Deployment) {
    let list = inside(shop, "shop-system", "systemd-creds --system list --no-legend").unwrap();
    assert!(list.contains("db-password"), "{list}");
    let look = |machine, path: &str| {
        inside(shop, machine, &format!("stat -c \"%a %u:%g\" {path}")).unwrap()
    };
    // The host's numbers: those of the container's root, and of its group 1000.
    let base = look("shop-system", "/run/host/credentials/db-password");
    let root = base.strip_prefix("400 ").unwrap().split(':').next().unwrap();
    let group = root.parse::<u32>().unwrap() + 1000;
    assert_ne!(root, "0");
    assert_eq!(look("shop-system", "/etc/app.conf"), format!("640 {root}:{group}"));
    let exec = ["exec", "shop/system", "--", "setpriv", "--reuid=1000", "--clear-groups"];
    let ran =
        shop.shoal(&[&exec[..], &["cat", "/run/host/credentials/db-password"]].concat()).unwrap();
    assert!(!ran.success() && !ran.stdout().contains(VALUES[0]), "not for everyone inside");
    let why = shop.shoal(&["secret", "rm", "db/creator"]).unwrap();
    assert!(!why.success() && why.stderr().contains("shop"), "{}", why.stderr());
}

/// Looks for every value where none must be.
fn they_are_nowhere_else(shop: &Deployment) {
    for host in shop.lab().hosts() {
        host.put_file("/run/values", VALUES.join("\n").as_bytes(), 0o600).unwrap();
        let found = |script: &str| host.sh(&format!("{script} || true")).unwrap();
        let on_disk = "grep -rlF -f /run/values /var/lib/shoal /etc /var/log /var/tmp /tmp";
        assert_eq!(found(on_disk), "", "{}", host.name());
        assert_eq!(found("journalctl --no-pager --all | grep -F -f /run/values"), "");
        let told = "grep -alF -f /run/values /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null";
        assert_eq!(found(told), "");
        let in_memory = found("grep -rlF -f /run/values /run/shoal /run/systemd 2>/dev/null");
        let rendered = "/run/shoal/machines/shop-system/files/0\n";
        assert_eq!(in_memory, if host.name() == "h1" { rendered } else { "" });
        assert_eq!(host.sh("stat -f -c %T /run/shoal").unwrap().trim(), "tmpfs");
        host.sh("rm /run/values").unwrap();
    }
    let h1 = shop.lab().host(0);
    let modes = format!("stat -c %a {KEPT} {KEPT}/db/creator/@* /run/shoal/machines/shop-system");
    assert_eq!(h1.sh(&modes).unwrap(), "700\n600\n700\n");
    assert_eq!(files(shop.lab().host(1)), [""; 0], "h2 runs none that names one");
    for arguments in [
        &["status"][..],
        &["ps"],
        &["events"],
        &["secret", "list"],
        &["host", "show", "h1"],
        &["rollout", "list", "shop"],
        &["audit"],
    ] {
        let ran = shop.shoal(&[arguments, &["-o", "json"]].concat()).unwrap();
        let all = ran.stdout() + &ran.stderr();
        assert!(!all.is_empty() && VALUES.iter().all(|value| !all.contains(value)), "{all}");
    }
    for dir in [shop.controller_dir(), shop.controller_log()] {
        assert!(!has_value(&dir), "{}", dir.display());
    }
}

fn has_value(path: &Path) -> bool {
    if path.is_dir() {
        return fs::read_dir(path).unwrap().any(|entry| has_value(&entry.unwrap().path()));
    }
    let bytes = fs::read(path).unwrap_or_default();
    let has = |value: &str| bytes.windows(value.len()).any(|part| part == value.as_bytes());
    VALUES.into_iter().any(has)
}

fn files_are_changed_and_put_right_with_them(shop: &Deployment) {
    let before = leader(shop, "shop-system");
    write(shop, "green");
    apply(shop);
    check_values(shop, "green", VALUES[0]);
    let host = shop.lab().host(0);
    host.sh("echo wrong >/run/shoal/machines/shop-system/files/0").unwrap();
    check_values(shop, "green", VALUES[0]);
    assert_eq!(leader(shop, "shop-system"), before, "it took both as it ran");
}

fn a_new_version_is_rolled_out_to_those_who_use_it(shop: &Deployment) {
    let before = ["shop-system", "shop-web", "shop-plain"].map(|machine| leader(shop, machine));
    set(shop, "db/creator", VALUES[1]);
    let plan = shop.shoal(&["plan"]).unwrap();
    plan.fails_with(1).unwrap();
    assert!(plan.stdout().contains("version 2"), "{}", plan.stdout());
    assert!(!plan.stdout().contains(VALUES[1]));
    check_values(shop, "green", VALUES[0]);
    apply(shop);
    check_values(shop, "green", VALUES[1]);
    let after = ["shop-system", "shop-web", "shop-plain"].map(|machine| leader(shop, machine));
    assert_ne!(before[0], after[0]);
    assert_eq!(before[1..], after[1..], "these use another, or none");
    let kept = || Ok(files(shop.lab().host(0)).join(" "));
    wait_for("what is kept", kept, "./api/token/@1.cred ./db/creator/@2.cred");
}

fn they_are_back_after_a_reboot_without_the_controller(shop: &mut Deployment) {
    shop.stop_controller().unwrap();
    shop.lab().host(0).reboot().unwrap();
    let is_up = || Ok(shop.container(0, "shop-system").is_ok());
    wait_until("the container to be back", PATIENCE, is_up).unwrap();
    check_values(shop, "green", VALUES[1]);
    shop.start_controller().unwrap();
    shop.wait_online("h1").unwrap();
}

/// The host's key is replaced, and with it all that was kept is worth nothing.
fn what_cant_be_opened_is_sent_anew(shop: &Deployment) {
    let host = shop.lab().host(0);
    let before = leader(shop, "shop-system");
    host.sh("rm /var/lib/systemd/credential.secret && systemctl restart shoal-agent").unwrap();
    let open = format!("systemd-creds decrypt --name= {KEPT}/db/creator/@2.cred -");
    wait_for("what is kept", || host.sh(&open), VALUES[1]);
    assert_eq!(leader(shop, "shop-system"), before, "what runs has its own");
    said(shop, &["restart", "shop/system"]);
    check_values(shop, "green", VALUES[1]);
    assert_ne!(leader(shop, "shop-system"), before);
}

/// Without the tool nothing is stopped, it is said why, and all goes on once it is back.
fn what_cant_be_kept_is_told(shop: &Deployment) {
    let host = shop.lab().host(0);
    host.sh("mv /usr/bin/systemd-creds /usr/bin/systemd-creds.away").unwrap();
    let before = leader(shop, "shop-system");
    set(shop, "db/creator", VALUES[2]);
    said(shop, &["apply"]);
    let is_told = || {
        let status = shop.shoal(&["status", "shop"])?.stdout();
        ensure!(status.contains("can't keep secret db/creator version 3"), "{status}");
        ensure!(status.contains("can't run systemd-creds"), "{status}");
        Ok(true)
    };
    wait_until("it to be told", PATIENCE, is_told).unwrap();
    assert_eq!(leader(shop, "shop-system"), before);
    host.sh("mv /usr/bin/systemd-creds.away /usr/bin/systemd-creds").unwrap();
    check_values(shop, "green", VALUES[2]);
    wait_until("all to be ready", PATIENCE, || Ok(shop.shoal(&["status"])?.success())).unwrap();
}

fn a_paused_instance_that_crashes_stays_down(shop: &Deployment) {
    let host = shop.lab().host(0);
    let show = |property: &str| {
        let show = format!("systemctl show -P {property} shoal-instance@shop-web");
        Ok(host.sh(&show)?.trim().to_owned())
    };
    said(shop, &["pause", "shop/web"]);
    assert_eq!(show("Restart").unwrap(), "no");
    host.sh(&format!("kill -9 {}", leader(shop, "shop-web"))).unwrap();
    wait_for("its unit", || show("ActiveState"), "failed");
    said(shop, &["restart", "shop/system"]);
    assert_eq!(show("ActiveState").unwrap(), "failed", "and stays so");
    let about = shop.json(&["host", "show", "h1"]).unwrap();
    assert!(!about.to_string().contains("is not Shoal's"), "{about}");
    said(shop, &["unpause", "shop/web"]);
    wait_for("its unit", || show("ActiveState"), "active");
    assert_eq!(show("Restart").unwrap(), "always");
    wait_until("all to be ready", PATIENCE, || Ok(shop.shoal(&["status"])?.success())).unwrap();
    check_values(shop, "green", VALUES[2]);
}
