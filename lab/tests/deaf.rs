//! A stop that comes too early to be heard: the container's first process does not listen yet. It is
//! told again, and is down long before its unit would be killed. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::time::{Duration, Instant};

use shoal_lab::images::busybox_image;
use shoal_lab::{Deployment, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// How long a unit has to stop before it is killed.
const KILLED: Duration = Duration::from_secs(90);

/// The kernel keeps from a first process what it has no handler for.
const FLEET: &str = r#"
fleet = "shop"
[instance.deaf]
image = "box:1"
hosts = "role=web"
boot  = true
[instance.deaf.data.store]
path = "/data"
[instance.deaf.files."/usr/lib/systemd/systemd"]
mode    = "0755"
content = """\
#!/bin/sh
touch /data/up
sleep 4
trap 'touch /data/heard; exit 0' 38
while sleep 0.1; do :; done
"""
"#;

#[test]
fn a_stop_that_was_not_heard_is_told_again() {
    let shop = Deployment::new("deaf", 1).unwrap();
    shop.push(&busybox_image("1").unwrap(), "box:1").unwrap();
    shop.file("fleet.toml", FLEET).unwrap();
    shop.shoal(&["apply"]).unwrap().ok().unwrap();
    let store = shop.lab().host(0).disk().join("shoal/instances/shop-deaf/data/store");
    wait_until("it to be up", PATIENCE, || Ok(store.join("up").exists())).unwrap();

    let told = Instant::now();
    shop.shoal(&["stop", "shop/deaf", "--no-wait"]).unwrap().ok().unwrap();
    let is_down = || {
        let show = "systemctl show shoal-instance@shop-deaf --property=ActiveState --value";
        Ok(shop.lab().host(0).sh(show)?.trim() == "inactive")
    };
    wait_until("it to be down", PATIENCE, is_down).unwrap();
    assert!(told.elapsed() < KILLED / 2, "it took {:?}", told.elapsed());
    assert!(store.join("heard").exists(), "it was killed, and not told");
}
