//! Images by recipe, and from host to host. Needs root.
#![allow(clippy::disallowed_methods, reason = "the tests make images with the machine's tools")]
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use shoal_lab::images::busybox_image;
use shoal_lab::{Deployment, Lab, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes of noise in an image.
const NOISE: u64 = 48 << 20;

/// A runnable image: that of `base`, and a file of noise.
fn noisy(dir: &Path, name: &str, base: &Path, bytes: u64) -> PathBuf {
    let (image, noise) = (dir.join(format!("{name}.squashfs")), dir.join(format!("{name}.bin")));
    fs::copy(base, &image).unwrap();
    let mut random = fs::File::open("/dev/urandom").unwrap().take(bytes);
    std::io::copy(&mut random, &mut fs::File::create(&noise).unwrap()).unwrap();
    let mut command = Command::new("mksquashfs");
    command.args([&noise, &image]).args(["-quiet", "-no-progress"]).stdout(Stdio::null());
    assert!(command.status().unwrap().success(), "mksquashfs failed");
    fs::remove_file(noise).unwrap();
    image
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

fn push(site: &Deployment, image: &Path, reference: &str) -> String {
    let pushed = site.json(&["image", "push", image.to_str().unwrap(), reference]).unwrap();
    pushed["image"]["digest"].as_str().unwrap().to_owned()
}

/// A fleet of one instance of `image` on every host, all of them at once.
fn fleet(site: &Deployment, image: &str) {
    let text = format!(
        "fleet = \"test\"\n[rollout]\nbatches = [\"100%\"]\nmonitor = \"1s\"\n\
         [instance.web]\nimage = \"{image}\"\nhosts = \"*\"\n\
         command = [\"/bin/httpd\", \"-f\", \"-p\", \"8080\", \"-h\", \"/www\"]\n"
    );
    site.file("fleet.toml", &text).unwrap();
}

fn apply(site: &Deployment, image: &str) {
    fleet(site, image);
    site.shoal(&["apply", "fleet.toml", "--wait", "--timeout", "180s"]).unwrap().ok().unwrap();
}

fn begin(site: &Deployment, image: &str) {
    fleet(site, image);
    site.shoal(&["apply", "fleet.toml"]).unwrap().ok().unwrap();
}

/// How `image` is coming, or came, to a host.
fn transfer(site: &Deployment, host: &str, image: &str) -> Option<Value> {
    let shown = site.json(&["host", "show", host]).unwrap();
    let transfers = shown["transfers"].as_array().unwrap();
    transfers.iter().find(|transfer| transfer["image"] == image).cloned()
}

fn arrived(site: &Deployment, host: &str, image: &str) -> Value {
    let mut found = None;
    wait_until(&format!("{image} to be on {host}"), PATIENCE, || {
        found = transfer(site, host, image).filter(|transfer| transfer["phase"] == "done");
        Ok(found.is_some())
    })
    .unwrap();
    found.unwrap()
}

fn partial(host: &shoal_lab::Host, digest: &str) -> u64 {
    let path = format!("/var/lib/shoal/images/{digest}.partial");
    let script = format!("stat -c %s {path} 2>/dev/null || echo 0");
    host.sh(&script).unwrap().trim().parse().unwrap()
}

fn wait_for_partial(host: &shoal_lab::Host, digest: &str, more_than: u64) -> u64 {
    let mut length = 0;
    wait_until("a transfer to be in its middle", PATIENCE, || {
        length = partial(host, digest);
        Ok(length > more_than)
    })
    .unwrap();
    length
}

/// Has the controller send no faster.
fn limit(site: &mut Deployment, rate: &str) {
    let path = site.controller_dir().join("controller.toml");
    let text = fs::read_to_string(&path).unwrap();
    let begin = text.find("[transfers]").unwrap();
    let transfers = format!("[transfers]\nkeep = \"1G\"\nrate = \"{rate}\"\n");
    let end = text[begin + 1..].find("\n[").map_or(text.len(), |end| begin + 1 + end + 1);
    fs::write(&path, format!("{}{transfers}{}", &text[..begin], &text[end..])).unwrap();
    site.stop_controller().unwrap();
    site.start_controller().unwrap();
}

#[test]
fn what_a_host_has_is_not_sent_again_and_what_was_cut_goes_on() {
    let mut site = Deployment::new("transfer", 1).unwrap();
    let dir = site.dir().to_owned();
    let one = noisy(&dir, "one", &busybox_image("1").unwrap(), NOISE);
    let two = noisy(&dir, "two", &one, 200_000);
    push(&site, &one, "app:1");
    apply(&site, "app:1");
    let first = arrived(&site, "h1", "app:1");
    assert_eq!(first["wire_bytes"], size(&one), "{first}");

    push(&site, &two, "app:2");
    apply(&site, "app:2");
    let second = arrived(&site, "h1", "app:2");
    let wire = second["wire_bytes"].as_u64().unwrap();
    assert!(wire < 2_000_000, "{second}");
    assert_eq!(second["saved_bytes"].as_u64().unwrap(), size(&two) - wire, "{second}");
    let events = site.shoal(&["events"]).unwrap().ok().unwrap();
    assert!(events.contains("image app:2 came from the controller"), "{events}");

    // Nothing like the one before, and slowly: killed in the middle, first here, then there.
    limit(&mut site, "6M");
    site.wait_online("h1").unwrap();
    let three = noisy(&dir, "three", &busybox_image("3").unwrap(), NOISE);
    let digest = push(&site, &three, "app:3");
    begin(&site, "app:3");
    let host = &site.lab().hosts()[0];
    let before = wait_for_partial(host, &digest, 4 << 20);
    host.sh("systemctl kill -s KILL shoal-agent.service").unwrap();
    assert!(partial(host, &digest) >= before, "what came was lost");
    let before = wait_for_partial(host, &digest, before + (4 << 20));
    site.kill_controller().unwrap();
    site.start_controller().unwrap();
    let host = &site.lab().hosts()[0];
    assert!(partial(host, &digest) >= before, "what came was lost");
    let third = arrived(&site, "h1", "app:3");
    let wire = third["wire_bytes"].as_u64().unwrap();
    // The agent counts anew when it is killed; what came before is not sent again.
    assert!(wire < size(&three) - (3 << 20), "{third}");
    let path = format!("sha256sum /var/lib/shoal/images/{digest}.squashfs");
    assert!(host.sh(&path).unwrap().starts_with(&digest));
}

/// Bytes that the controller's end of the lab's network has sent.
fn sent(site: &Deployment) -> u64 {
    let mut command = site.lab().netns_command("ip");
    let output = command.args(["-s", "-json", "link", "show", "br0"]).output().unwrap();
    let links: Value = serde_json::from_slice(&output.stdout).unwrap();
    links[0]["stats64"]["tx"]["bytes"].as_u64().unwrap()
}

#[test]
fn hosts_pass_images_on_and_the_controller_sends_them_once() {
    let mut lab = Lab::new("peers").unwrap();
    lab.boot_hosts(3).unwrap();
    let policy = b"[peers]\nlisten = \"0.0.0.0:7445\"\n";
    for host in lab.hosts() {
        host.sh("mkdir -p /etc/shoal").unwrap();
        host.put_file("/etc/shoal/policy.toml", policy, 0o644).unwrap();
    }
    let mut site = Deployment::in_lab(lab).unwrap();
    for position in 0..3 {
        site.join(position, &["role=web"]).unwrap();
    }
    limit(&mut site, "16M");
    let names: Vec<String> = site.lab().hosts().iter().map(|host| host.name().to_owned()).collect();
    names.iter().for_each(|name| site.wait_online(name).unwrap());
    let dir = site.dir().to_owned();
    let one = noisy(&dir, "one", &busybox_image("1").unwrap(), NOISE);
    push(&site, &one, "app:1");
    let before = sent(&site);
    apply(&site, "app:1");
    let came: Vec<Value> = names.iter().map(|name| arrived(&site, name, "app:1")).collect();
    let carried = sent(&site) - before;
    assert!(carried < size(&one) * 3 / 2, "{carried} bytes for {}: {came:?}", size(&one));
    let peers = came.iter().filter(|transfer| transfer["source"] != "controller").count();
    assert_eq!(peers, 2, "{came:?}");

    // The same of what differs.
    let two = noisy(&dir, "two", &one, 4 << 20);
    push(&site, &two, "app:2");
    let before = sent(&site);
    apply(&site, "app:2");
    for name in &names {
        let transfer = arrived(&site, name, "app:2");
        assert!(transfer["wire_bytes"].as_u64().unwrap() < 8 << 20, "{transfer}");
    }
    let carried = sent(&site) - before;
    assert!(carried < 10 << 20, "{carried} bytes");
}
