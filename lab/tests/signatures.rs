//! Images that a key signed, on a host whose root pinned it: what is signed runs, and nothing else
//! takes its place, whatever the controller says. On a real host, through the command alone. Needs
//! root.
#![allow(clippy::disallowed_methods, reason = "minisign is one of the programs under test")]
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use shoal_lab::images::busybox_image;
use shoal_lab::{Deployment, Host, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

const FLEET: &str = r#"
fleet = "shop"

[instance.web]
image   = "@IMAGE"
hosts   = "h1"
command = ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"]
network = "host"
[instance.web.health]
tcp      = "127.0.0.1:8080"
grace    = "10s"
interval = "1s"
"#;

/// A host that takes images called box only where the key ci signed them.
struct Site {
    shop: Deployment,
    /// The number of that key.
    ci: String,
}

impl Site {
    fn new() -> Self {
        let shop = Deployment::new("signed", 1).unwrap();
        let site = Self { ci: key(&shop, "ci.key"), shop };
        key(&site.shop, "other.key");
        let public = fs::read_to_string(site.shop.dir().join("ci.pub")).unwrap();
        let public = public.lines().nth(1).unwrap();
        let policy = format!("[trust.keys]\nbox = [\"{public}\"]\n");
        site.host().put_file("/etc/shoal/policy.toml", policy.as_bytes(), 0o600).unwrap();
        site.host().sh("systemctl restart shoal-agent").unwrap();
        site.shop.wait_online("h1").unwrap();
        site
    }

    fn host(&self) -> &Host {
        self.shop.lab().host(0)
    }

    /// Pushes the image of this marker with what follows.
    fn push(&self, marker: &str, name: &str, signing: &[&str]) {
        let image = busybox_image(marker).unwrap();
        let line = [&["image", "push", image.to_str().unwrap(), name], signing].concat();
        self.shop.shoal(&line).unwrap().ok().unwrap();
    }

    /// Applies the fleet with this image, and waits until it is ready.
    fn apply(&self, image: &str) {
        self.shop.apply(&FLEET.replace("@IMAGE", image)).unwrap();
    }

    /// Applies it with one that the host must not run. Gives what is said; the container that was
    /// there runs on.
    fn refused(&self, image: &str) -> String {
        let before = self.container().unwrap();
        self.shop.file("fleet.toml", &FLEET.replace("@IMAGE", image)).unwrap();
        let ran = self.shop.shoal(&["apply", "--wait", "--timeout", "60s"]).unwrap();
        assert!(!ran.success(), "{}", ran.stdout());
        let said = format!("{}{}", ran.stdout(), ran.stderr());
        let about = format!("host h1 does not trust image {image}: ");
        assert!(said.contains(&about), "{said}");
        assert_eq!(self.container().unwrap(), before, "the old one runs on");
        said
    }

    fn container(&self) -> Result<u32> {
        self.shop.container(0, "shop-web")
    }

    fn is_on_host(&self, name: &str) -> bool {
        let shown = self.shop.json(&["image", "show", name]).unwrap();
        let file = format!("images/{}.squashfs", shown["digest"].as_str().unwrap());
        self.host().disk().join("shoal").join(file).exists()
    }

    fn wait_for(&self, marker: &str) {
        let serves = || {
            let version = format!("/proc/{}/root/etc/os-release", self.container()?);
            let release = self.host().sh(&format!("cat {version}"))?;
            ensure!(release.contains(marker), "{release}");
            ensure!(self.shop.json(&["ps", "shop"])?["instances"][0]["ready"] == true, "not ready");
            Ok(true)
        };
        wait_until(&format!("{marker} to run"), PATIENCE, serves).unwrap();
    }
}

/// A new pair of keys; gives its number.
fn key(shop: &Deployment, file: &str) -> String {
    let made = shop.json(&["image", "keygen", file, "--no-password"]).unwrap();
    made["key_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_host_runs_what_its_keys_signed_and_nothing_else() {
    let site = Site::new();
    let image = busybox_image("signed-1").unwrap();
    let file = site.shop.dir().join("box.squashfs");
    fs::copy(image, &file).unwrap();
    let sign = ["image", "sign", "box.squashfs", "box:1", "--key", "ci.key", "--release", "1"];
    site.shop.shoal(&sign).unwrap().ok().unwrap();
    agrees_with_minisign(&site.shop).unwrap();
    let push = ["image", "push", "box.squashfs", "box:1", "--manifest", "box.squashfs.manifest"];
    site.shop.shoal(&push).unwrap().ok().unwrap();
    site.apply("box:1");
    site.wait_for("signed-1");

    site.push("signed-2", "box:2", &[]);
    let said = site.refused("box:2");
    assert!(
        said.contains(&format!("it is not signed, and has to be by key {}", site.ci)),
        "{said}"
    );
    assert!(!site.is_on_host("box:2"), "what may not run need not come");
    site.push("signed-2", "box:2", &["--sign-key", "other.key", "--release", "2"]);
    assert!(site.refused("box:2").contains("it is signed by key "));
    site.push("signed-2", "box:2", &["--sign-key", "ci.key", "--release", "5"]);
    site.apply("box:2");
    site.wait_for("signed-2");

    site.push("signed-3", "box:3", &["--sign-key", "ci.key", "--release", "3"]);
    let said = site.refused("box:3");
    assert!(said.contains("it is release 3, this host has run release 5"), "{said}");
    site.apply("box:1");
    site.wait_for("signed-1");
    expires(&site);
    tampered(&site);
}

/// What has expired goes on where it runs, through a reboot, and is begun nowhere.
fn expires(site: &Site) {
    let short = ["--sign-key", "ci.key", "--release", "6", "--expires", "20s"];
    site.push("signed-4", "box:4", &short);
    site.push("signed-5", "box:5", &short);
    site.apply("box:4");
    site.wait_for("signed-4");
    let until = site.shop.json(&["image", "show", "box:5"]).unwrap();
    let until = until["signatures"][0]["expires"].as_str().unwrap().to_owned();
    let is_past = format!("[ $(date +%s) -gt $(date -d {until} +%s) ] && echo past || true");
    let is_past = || Ok(site.host().sh(&is_past)?.contains("past"));
    wait_until("the signatures to expire", PATIENCE, is_past).unwrap();
    site.host().reboot().unwrap();
    site.wait_for("signed-4");
    site.shop.wait_online("h1").unwrap();
    assert!(site.refused("box:5").contains(" signed expired at 20"));
}

/// A record that was tampered with starts nothing, and the agent puts it right.
fn tampered(site: &Site) {
    let digest = |name: &str| {
        let shown = site.shop.json(&["image", "show", name]).unwrap();
        shown["digest"].as_str().unwrap().to_owned()
    };
    let record = "/var/lib/shoal/instances/shop-web/instance.json";
    let (from, to) = (digest("box:4"), digest("box:1"));
    let unit = "shoal-instance@shop-web";
    let exchange = format!(
        "systemctl stop shoal-agent; sed -i 's/\"digest\": \"{from}/\"digest\": \"{to}/' {record}; \
         grep -q '\"digest\": \"{to}' {record}; ! systemctl restart {unit}; journalctl --no-pager -u {unit} -n 30"
    );
    let said = site.host().sh(&exchange).unwrap();
    assert!(said.contains("signed is of box:4 ("), "{said}");
    site.host().sh("systemctl start shoal-agent").unwrap();
    site.shop.wait_online("h1").unwrap();
    site.wait_for("signed-4");
}

/// The files are minisign's, both ways.
fn agrees_with_minisign(shop: &Deployment) -> Result<()> {
    let minisign = |line: &str| {
        let ran = Command::new("minisign").args(line.split(' ')).current_dir(shop.dir()).output();
        let ran = ran.context("could not run minisign")?;
        ensure!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
        Ok(())
    };
    minisign("-V -p ci.pub -m box.squashfs.manifest")?;
    ensure!(minisign("-V -p other.pub -m box.squashfs.manifest").is_err(), "by the wrong key");
    minisign("-G -W -p theirs.pub -s theirs.key")?;
    fs::copy(shop.dir().join("box.squashfs.manifest"), shop.dir().join("theirs"))?;
    minisign("-S -s theirs.key -m theirs")?;
    let verify = ["image", "verify", "box.squashfs", "--manifest", "theirs", "--key", "theirs.pub"];
    shop.shoal(&verify)?.ok()?;
    let sign = ["image", "sign", "box.squashfs", "box:1", "--key", "theirs.key"];
    shop.shoal(&sign)?.ok()?;
    minisign("-V -p theirs.pub -m box.squashfs.manifest")?;
    // As it was.
    let sign = ["image", "sign", "box.squashfs", "box:1", "--key", "ci.key", "--release", "1"];
    shop.shoal(&sign)?.ok().map(drop)
}
