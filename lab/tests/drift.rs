//! What someone else changes on a host, and how it is put right: noticed, named, repaired with its
//! reason, and nothing else touched. On a real host. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

mod app;

use std::time::Duration;

use anyhow::{Result, ensure};
use shoal_lab::{Deployment, Host, images, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

const FLEET: &str = r#"
fleet = "shop"

[instance.system]
image = "app:1"
hosts = "h1"
boot  = true
[instance.system.data.var]
path  = "/var/app"
owner = "1000:1000"
[instance.system.files."/etc/app.conf"]
content = "right\n"
reload  = "app.service"
[instance.system.health]
unit = "app.service"

[instance.web]
image   = "box:1"
hosts   = "h1"
command = ["/bin/sleep", "1000000"]
[instance.web.data.store]
path = "/data"
[instance.web.files."/etc/site.conf"]
content = "right\n"
[instance.web.limits]
tasks = 100

# Where there is a user namespace, the kernel keeps everyone from unmounting what is bound in it.
[instance.other]
image   = "box:2"
hosts   = "h1"
command = ["/bin/sleep", "1000000"]
[instance.other.data.store]
path = "/data"
[instance.other.security]
private-users = false
"#;

const DROP_IN: &str = "/etc/systemd/system/shoal-instance@shop-web.service.d/50-shoal.conf";
const TEMPLATE: &str = "/etc/systemd/system/shoal-instance@.service";

fn leaders(shop: &Deployment) -> [u32; 3] {
    ["shop-system", "shop-web", "shop-other"].map(|machine| shop.container(0, machine).unwrap())
}

fn exec(shop: &Deployment, instance: &str, script: &str) -> String {
    shop.shoal(&["exec", instance, "--", "/bin/sh", "-c", script]).unwrap().ok().unwrap()
}

/// Waits until a script on the host says this.
#[track_caller]
fn wait_for(host: &Host, script: &str, wanted: &str) {
    let says = || {
        let said = host.sh(script)?;
        ensure!(said.trim() == wanted, "{script} says {said:?}");
        Ok(true)
    };
    wait_until(&format!("{script} to say {wanted:?}"), PATIENCE, says).unwrap();
}

/// Waits until the agent has told of a step with this reason.
#[track_caller]
fn wait_for_reason(host: &Host, reason: &str) {
    let is_told = || {
        let log = host.sh("journalctl --no-pager -u shoal-agent -o cat")?;
        ensure!(log.contains(reason), "{log}");
        Ok(true)
    };
    wait_until(&format!("the reason {reason:?}"), PATIENCE, is_told).unwrap();
}

fn is_ready(shop: &Deployment) -> Result<bool> {
    shop.shoal(&["status", "shop"])?.ok().map(|_| true)
}

#[track_caller]
fn wait_until_ready(shop: &Deployment) {
    wait_until("every instance to be ready", PATIENCE, || is_ready(shop)).unwrap();
}

#[test]
fn what_someone_else_changes_is_put_right() {
    let shop = Deployment::new("drift", 1).unwrap();
    shop.push(&app::image().unwrap(), "app:1").unwrap();
    shop.push(&images::busybox_image("1").unwrap(), "box:1").unwrap();
    shop.push(&images::busybox_image("2").unwrap(), "box:2").unwrap();
    let host = shop.lab().host(0);
    host.put_file("/etc/shoal/policy.toml", b"user-namespace = \"optional\"\n", 0o600).unwrap();
    // The controller has to have heard of the policy.
    host.sh("systemctl stop shoal-agent").unwrap();
    wait_until("h1 to be offline", PATIENCE, || Ok(!shop.is_online("h1")?)).unwrap();
    host.sh("systemctl start shoal-agent").unwrap();
    shop.wait_online("h1").unwrap();
    shop.apply(FLEET).unwrap();
    let before = leaders(&shop);

    a_rendered_file(&shop);
    a_drop_in(&shop);
    the_template(&shop);
    a_mask(&shop);
    the_names(&shop);
    what_is_not_shoals_is_told_and_left_alone(&shop);
    a_new_agent_finds_nothing(&shop);
    assert_eq!(leaders(&shop), before, "none of this is a reason to restart anything");

    a_file_that_was_exchanged(&shop);
    a_volume_that_was_unmounted(&shop);
    a_damaged_image(&shop);
}

fn a_rendered_file(shop: &Deployment) {
    let host = shop.lab().host(0);
    host.sh("echo wrong >/run/shoal/machines/shop-web/files/0").unwrap();
    host.sh("chmod 666 /run/shoal/machines/shop-system/files/0").unwrap();
    wait_for(host, "cat /run/shoal/machines/shop-web/files/0", "right");
    wait_for(host, "stat -c %a /run/shoal/machines/shop-system/files/0", "644");
    assert_eq!(exec(shop, "shop/web", "cat /etc/site.conf"), "right\n");
    wait_for_reason(host, "file /etc/site.conf was changed");
    wait_for_reason(host, "file /etc/app.conf was changed");
    let reloaded = || Ok(exec(shop, "shop/system", "cat /var/app/reloaded || true") == "right\n");
    wait_until("its unit to have read it again", PATIENCE, reloaded).unwrap();
}

fn tasks(host: &Host) -> String {
    host.sh("systemctl show shoal-instance@shop-web --property=TasksMax --value").unwrap()
}

fn a_drop_in(shop: &Deployment) {
    let host = shop.lab().host(0);
    for change in [format!("sed -i s/100/7/ {DROP_IN}"), format!("rm {DROP_IN}")] {
        host.sh(&format!("{change}; systemctl daemon-reload")).unwrap();
        assert_ne!(tasks(host).trim(), "100");
        wait_for(host, &format!("grep -c ^TasksMax=100 {DROP_IN} || true"), "1");
        wait_for(host, "systemctl show shoal-instance@shop-web --property=TasksMax --value", "100");
    }
    wait_for_reason(host, &format!("{DROP_IN} was edited"));
    let group = "/sys/fs/cgroup/machine.slice/shoal-instance@shop-web.service/pids.max";
    let set = host.sh(&format!("cat {group} 2>/dev/null || echo none")).unwrap();
    assert!(["100", "none"].contains(&set.trim()), "{set}");
}

fn the_template(shop: &Deployment) {
    let host = shop.lab().host(0);
    let sum = host.sh(&format!("sha256sum {TEMPLATE}")).unwrap();
    host.sh(&format!("echo '# by hand' >>{TEMPLATE}; systemctl daemon-reload")).unwrap();
    wait_for(host, &format!("sha256sum {TEMPLATE}"), sum.trim());
    wait_for(host, &format!("tail -n1 {TEMPLATE}.replaced"), "# by hand");
    wait_for(host, "systemctl show shoal-instance@shop-web -p NeedDaemonReload --value", "no");
}

fn a_mask(shop: &Deployment) {
    let host = shop.lab().host(0);
    host.sh("systemctl mask shoal-instance@shop-other").unwrap();
    wait_for(host, "systemctl is-enabled shoal-instance@shop-other || true", "enabled");
    wait_for_reason(host, "/etc/systemd/system/shoal-instance@shop-other.service was edited");
}

fn the_names(shop: &Deployment) {
    let host = shop.lab().host(0);
    let file = "/var/lib/shoal/instances/shop-web/hosts";
    let before = host.sh(&format!("cat {file}")).unwrap();
    host.sh(&format!("echo 10.0.0.1 evil >>{file}")).unwrap();
    wait_for(host, &format!("cat {file}"), before.trim());
    assert_eq!(exec(shop, "shop/web", "cat /etc/hosts"), before);
}

fn what_is_not_shoals_is_told_and_left_alone(shop: &Deployment) {
    let host = shop.lab().host(0);
    let file = "/etc/systemd/system/shoal-instance@shop-web.service.d/local.conf";
    host.put_file(file, b"[Service]\nNice=5\n", 0o644).unwrap();
    let problems =
        || -> Result<String> { Ok(shop.json(&["host", "show", "h1"])?["problems"].to_string()) };
    wait_until("it to be told", PATIENCE, || Ok(problems()?.contains(file))).unwrap();
    host.sh(&format!("test -e {file} && rm {file}")).unwrap();
    wait_until("it to be forgotten", PATIENCE, || Ok(problems()? == "[]")).unwrap();
}

fn a_new_agent_finds_nothing(shop: &Deployment) {
    let host = shop.lab().host(0);
    host.sh("systemctl restart shoal-agent").unwrap();
    shop.wait_online("h1").unwrap();
    wait_until_ready(shop);
}

/// Waits until the container of `machine` is another one, and gives how the rest is.
#[track_caller]
fn wait_for_another(shop: &Deployment, position: usize, machine: &str, before: [u32; 3]) {
    let is_another = || Ok(shop.container(0, machine)? != before[position]);
    wait_until(&format!("another container of {machine}"), PATIENCE, is_another).unwrap();
    wait_until_ready(shop);
    let after = leaders(shop);
    for other in (0..3).filter(|other| *other != position) {
        assert_eq!(after[other], before[other], "another instance was restarted");
    }
}

fn a_file_that_was_exchanged(shop: &Deployment) {
    let (host, before) = (shop.lab().host(0), leaders(shop));
    host.sh("cd /run/shoal/machines/shop-web/files; cp 0 new; mv new 0").unwrap();
    wait_for_another(shop, 1, "shop-web", before);
    assert_eq!(exec(shop, "shop/web", "cat /etc/site.conf"), "right\n");
}

fn a_volume_that_was_unmounted(shop: &Deployment) {
    let (host, before) = (shop.lab().host(0), leaders(shop));
    exec(shop, "shop/other", "echo kept >/data/mark");
    host.sh(&format!("nsenter --target {} --mount umount -l /data", before[2])).unwrap();
    wait_for_another(shop, 2, "shop-other", before);
    wait_for_reason(host, "/data is not mounted any more");
    assert_eq!(exec(shop, "shop/other", "cat /data/mark"), "kept\n");
}

fn a_damaged_image(shop: &Deployment) {
    let (host, before) = (shop.lab().host(0), leaders(shop));
    let images = shop.json(&["image", "list"]).unwrap();
    let images = images["images"].as_array().unwrap();
    let image = images.iter().find(|image| image.to_string().contains("box:1")).unwrap();
    let digest = image["digest"].as_str().unwrap();
    let file = format!("/var/lib/shoal/images/{digest}.squashfs");
    // In the middle, where the squashfs file has data, and where one byte is hardly what it was.
    let size = host.sh(&format!("stat -c %s {file}")).unwrap();
    let middle = size.trim().parse::<u64>().unwrap() / 2;
    let flip = format!(
        "printf '\\252\\125\\252\\125' | dd of={file} bs=1 seek={middle} conv=notrunc 2>/dev/null"
    );
    exec(shop, "shop/web", "echo kept >/data/mark");
    host.sh(&flip).unwrap();
    wait_for_another(shop, 1, "shop-web", before);
    let sum = host.sh(&format!("sha256sum <{file}")).unwrap();
    assert_eq!(sum.split(' ').next(), Some(digest), "the file was fetched anew");
    wait_for_reason(host, "its image file was damaged");
    assert_eq!(exec(shop, "shop/web", "cat /data/mark"), "kept\n");
    let mounted = host.sh(&format!("grep -c /run/shoal/images/{digest} /proc/mounts")).unwrap();
    assert_eq!(mounted.trim(), "1", "the damaged file is still mounted");
    let problems = shop.json(&["host", "show", "h1"]).unwrap()["problems"].to_string();
    assert_eq!(problems, "[]");
}
