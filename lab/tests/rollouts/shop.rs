//! The fleet of these tests: one web server on each host, in versions that work and others.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use shoal_lab::{Deployment, images, wait_until};

pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// Exit codes, as docs/exit-codes.md has them.
pub(super) const DIFFERS: i32 = 1;
pub(super) const ROLLED_BACK: i32 = 4;
pub(super) const PARTIAL: i32 = 5;
pub(super) const PRECONDITION: i32 = 11;
pub(super) const STOPPED: i32 = 14;

/// Each start of the container leaves a line in its data.
const FLEET: &str = r#"
fleet = "shop"

[instance.web]
image   = "box:@IMAGE"
hosts   = "role=web"
command = ["/bin/sh", "-c", """
echo $VERSION >>/data/starts
case $(cat /www/index.html) in
  exits) echo this image is bad >&2; exit 3;;
  deaf)  exec sleep 1000000;;
esac
case $VERSION in
  needy-*) until test -e /data/mended; do sleep 1; done;;
  picky-*) test ! -e /data/broken || exit 4;;
esac
. /etc/app.conf
exec httpd -f -p $PORT -h /www
"""]
network = "host"
env     = { VERSION = "@VERSION" }
[instance.web.data.store]
path = "/data"
[instance.web.files."/etc/app.conf"]
content = "PORT=@PORT\n"
[instance.web.health]
tcp      = "127.0.0.1:8080"
grace    = "5s"
interval = "1s"
timeout  = "1s"

[rollout]
batches = ["1", "100%"]
@POLICY
"#;

/// A version of the fleet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version<'a> {
    pub(super) name: &'a str,
    pub(super) image: &'a str,
    /// It works where this is 8080.
    pub(super) port: u16,
    pub(super) policy: &'a str,
}

/// One that works.
pub(super) const GOOD: Version<'_> =
    Version { name: "1", image: "good", port: 8080, policy: "batch-timeout = \"1m\"" };

impl Version<'_> {
    fn text(&self) -> String {
        let Self { name, image, port, policy } = self;
        let text = FLEET.replace("@VERSION", name).replace("@IMAGE", image);
        text.replace("@PORT", &port.to_string()).replace("@POLICY", policy)
    }
}

/// Three hosts that run the fleet, from images of these names.
pub(super) fn shop(hint: &str, others: &[&str]) -> Deployment {
    let shop = Deployment::new(hint, 3).unwrap();
    for image in ["good"].iter().chain(others) {
        shop.push(&images::busybox_image(image).unwrap(), &format!("box:{image}")).unwrap();
    }
    shop.apply(&GOOD.text()).unwrap();
    shop
}

/// Makes `version` what an apply applies.
pub(super) fn put(shop: &Deployment, version: Version<'_>) {
    shop.file("fleet.toml", &version.text()).unwrap();
}

/// The first processes of the containers of these hosts, counted from 0.
pub(super) fn leaders<const N: usize>(shop: &Deployment, hosts: [usize; N]) -> [u32; N] {
    hosts.map(|host| shop.container(host, "shop-web").unwrap())
}

/// The versions that were started on a host, in order.
pub(super) fn starts(shop: &Deployment, host: usize) -> Vec<String> {
    let file = "cat /var/lib/shoal/instances/shop-web/data/store/starts";
    let lines = shop.lab().host(host).sh(file).unwrap();
    lines.lines().map(str::to_owned).collect()
}

pub(super) fn is_serving(shop: &Deployment, host: usize) -> Result<bool> {
    shop.lab().host(host).sh("bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080'").map(|_| true)
}

/// Puts a file into the data of a host's instance, for its script to find.
pub(super) fn mark(shop: &Deployment, host: usize, name: &str) {
    let path = format!("/var/lib/shoal/instances/shop-web/data/store/{name}");
    shop.lab().host(host).sh(&format!("touch {path}")).unwrap();
}

/// The newest rollout.
pub(super) fn rollout(shop: &Deployment) -> Value {
    shop.json(&["rollout", "show", "shop"]).unwrap()
}

/// One host of a rollout.
pub(super) fn progress<'a>(rollout: &'a Value, host: &str) -> &'a Value {
    let mut hosts = rollout["hosts"].as_array().unwrap().iter();
    hosts.find(|progress| progress["host"] == host).unwrap()
}

/// What `shoal status` says, which must end with `code`.
pub(super) fn status(shop: &Deployment, code: i32) -> String {
    let ran = shop.shoal(&["status", "shop"]).unwrap();
    assert_eq!(ran.code(), code, "{}{}", ran.stdout(), ran.stderr());
    ran.stdout() + &ran.stderr()
}

pub(super) fn wait_until_as_wanted(shop: &Deployment) {
    let is_ready = || shop.shoal(&["status", "shop"])?.ok().map(|_| true);
    wait_until("every instance to be as wanted", PATIENCE, is_ready).unwrap();
}
