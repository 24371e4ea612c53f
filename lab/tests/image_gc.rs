//! Disks don't fill with images that were needed once: on a host by themselves, on the controller
//! when someone prunes. What is needed stays, and what a way back needs. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use shoal_lab::images::noisy_image;
use shoal_lab::{Deployment, Host, wait_until};

const PATIENCE: Duration = Duration::from_secs(90);

/// Exit code, as docs/exit-codes.md has it.
const PRECONDITION: i32 = 11;

const STATE: &str = "/var/lib/shoal";
const IMAGES: &str = "/var/lib/shoal/images";

/// Of 256 MiB on the host, 64 stay free, so that three images have room and four have not.
const DISK: &str = "256m";
const IMAGE: u64 = 56 << 20;

const FLEET: &str = r#"fleet = "shop"

[rollout]
monitor = "1s"

[instance.web]
image   = "app:new"
hosts   = "*"
command = ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"]
[instance.web.health]
tcp = "127.0.0.1:8080"
"#;

/// A host whose images have a small file system of their own.
fn site() -> Deployment {
    let mut site = Deployment::without_hosts("image gc").unwrap();
    site.lab_mut().boot_hosts(1).unwrap();
    let small =
        format!("mkdir -p {STATE} && mount -t tmpfs -o size={DISK},mode=0755 small {STATE}");
    site.lab().host(0).sh(&small).unwrap();
    site.join(0, &[]).unwrap();
    site.file("fleet.toml", FLEET).unwrap();
    site
}

/// Pushes another image under the same name and gives its digest; the one before has none then.
fn push(site: &Deployment, path: &Path) -> String {
    noisy_image(path, IMAGE).unwrap();
    let pushed = site.json(&["image", "push", path.to_str().unwrap(), "app:new"]).unwrap();
    std::fs::remove_file(path).unwrap();
    pushed["image"]["digest"].as_str().unwrap().to_owned()
}

fn staged(host: &Host) -> Vec<String> {
    let listed = host.sh(&format!("ls {IMAGES} | sed -n 's/.squashfs$//p'")).unwrap();
    listed.lines().map(str::to_owned).collect()
}

/// That just these are on the host.
#[track_caller]
fn only(host: &Host, wanted: &[&String]) {
    let mut wanted: Vec<&str> = wanted.iter().map(|digest| digest.as_str()).collect();
    wanted.sort_unstable();
    assert_eq!(staged(host), wanted);
}

fn received(host: &Host) -> u64 {
    let bytes = host.sh("cat /sys/class/net/host0/statistics/rx_bytes").unwrap();
    bytes.trim().parse().unwrap()
}

fn prune(site: &Deployment, more: &[&str]) -> Value {
    site.json(&[&["image", "prune", "--older-than", "0s"], more].concat()).unwrap()
}

fn pruned(view: &Value) -> Vec<&str> {
    let images = view["images"].as_array().unwrap().iter();
    images.map(|image| image["digest"].as_str().unwrap()).collect()
}

#[test]
fn disks_do_not_fill_with_images() {
    let site = site();
    let images = versions_go_through_a_small_disk(&site);
    the_way_back_needs_no_transfer(&site, &images);
    an_image_that_is_removed_by_hand_comes_again(&site, &images[3]);
    the_controller_prunes_what_is_not_pinned(&site, &images[0]);
}

fn versions_go_through_a_small_disk(site: &Deployment) -> Vec<String> {
    let (host, file) = (site.lab().host(0), site.dir().join("app.squashfs"));
    let mut images = Vec::new();
    for version in 1..=5 {
        images.push(push(site, &file));
        let apply = ["apply", "--wait", "--timeout", "60s"];
        site.shoal(&apply).unwrap().ok().unwrap();
        let last = images.len().saturating_sub(3);
        only(host, &images[last..].iter().collect::<Vec<_>>());
        let log = "journalctl --unit=shoal-agent --output=cat --no-pager";
        let refused = host.sh(&format!("{log} | grep -c 'cannot stage' || true")).unwrap();
        assert_eq!(refused.trim(), "0", "version {version} had to wait for room");
    }
    let told = || Ok(site.shoal(&["events"])?.ok()?.matches("removed image").count() == 2);
    wait_until("the agent to have told what it removed", PATIENCE, told).unwrap();
    let events = site.shoal(&["events"]).unwrap().ok().unwrap();
    let first = events.lines().find(|line| line.contains("removed image")).unwrap();
    for word in ["of app", "58 MiB", "its room is needed"] {
        assert!(first.contains(word), "{word:?} is not in: {first}");
    }
    let shown = site.json(&["host", "show", "h1"]).unwrap();
    let bytes = shown["image_bytes"].as_u64().unwrap();
    assert!((3 * IMAGE..4 * IMAGE).contains(&bytes), "{bytes}");
    images
}

fn the_way_back_needs_no_transfer(site: &Deployment, images: &[String]) {
    let host = site.lab().host(0);
    let before = received(host);
    let undo = ["rollout", "undo", "shop", "--wait"];
    site.shoal(&undo).unwrap().ok().unwrap();
    let taken = received(host) - before;
    assert!(taken < 4 << 20, "{taken} bytes were sent for an image that was there");
    let rows = site.json(&["ps"]).unwrap();
    assert_eq!(rows["instances"][0]["digest"], *images[3], "{rows}");
    only(host, &images[2..].iter().collect::<Vec<_>>());
}

fn an_image_that_is_removed_by_hand_comes_again(site: &Deployment, digest: &String) {
    let host = site.lab().host(0);
    let leader = site.container(0, "shop-web").unwrap();
    host.sh(&format!("rm {IMAGES}/{digest}.squashfs")).unwrap();
    let is_back = || Ok(staged(host).contains(digest));
    wait_until("the image to be there again", PATIENCE, is_back).unwrap();
    // What differed would be put right by the time that the agent has taken two more wishes.
    for wish in ["pause", "unpause"] {
        site.shoal(&[wish, "shop/web"]).unwrap().ok().unwrap();
        let seen = || {
            let shown = site.json(&["host", "show", "h1"])?;
            Ok(shown["observed_generation"] == shown["generation"])
        };
        wait_until("the agent to have seen it", PATIENCE, seen).unwrap();
    }
    site.shoal(&["status", "shop"]).unwrap().ok().unwrap();
    assert_eq!(site.container(0, "shop-web").unwrap(), leader, "what ran was disturbed");
}

/// Of five images, those of the last five revisions stay, which are all but the first.
fn the_controller_prunes_what_is_not_pinned(site: &Deployment, first: &String) {
    let file = site.controller_dir().join("images").join(format!("{first}.squashfs"));
    let short = &first[..12];
    site.shoal(&["image", "pin", short]).unwrap().ok().unwrap();
    assert!(pruned(&prune(site, &[])).is_empty(), "it is pinned");
    let refused = site.shoal(&["image", "rm", short]).unwrap();
    let said = refused.fails_with(PRECONDITION).unwrap();
    assert!(said.contains("pinned by") && said.contains("shoal image unpin"), "{said}");
    let shown = site.shoal(&["image", "show", short]).unwrap().ok().unwrap();
    assert!(shown.contains("Pinned"), "{shown}");
    assert!(file.exists());

    site.shoal(&["image", "unpin", short]).unwrap().ok().unwrap();
    let nothing = site.shoal(&["image", "prune"]).unwrap().ok().unwrap();
    assert!(nothing.contains("Nothing to prune"), "it was needed lately: {nothing}");
    let listed = prune(site, &["--dry-run"]);
    assert_eq!(pruned(&listed), [first]);
    assert!(file.exists(), "a dry run removes nothing");
    let gone = prune(site, &[]);
    assert_eq!(pruned(&gone), [first]);
    assert!(gone["freed_bytes"].as_u64().unwrap() > IMAGE, "{gone}");
    assert!(!file.exists());
    let audit = site.json(&["audit"]).unwrap().to_string();
    assert!(audit.contains("Images/Prune") && audit.contains("Images/SetPin"), "{audit}");
    site.shoal(&["status", "shop"]).unwrap().ok().unwrap();
}
