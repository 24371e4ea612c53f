//! An image that boots, with a service of uid 1000 that keeps what reached it in /var/app: its
//! environment when it starts, and its configuration when it is reloaded.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::Result;
use shoal_lab::images::{self, DebianRecipe};

const UNIT: &str = r#"[Unit]
Description=App
[Service]
User=app
ExecStart=/bin/sh -c 'printenv GREETING >/var/app/greeting; echo the app is up; exec sleep infinity'
ExecReload=/bin/sh -c 'cat /etc/app.conf >/var/app/reloaded'
[Install]
WantedBy=multi-user.target
"#;

/// The image; built once, then cached.
pub(crate) fn image() -> Result<PathBuf> {
    let recipe = DebianRecipe { name: "app", packages: &[], revision: "3" };
    images::debian_image(recipe, |root| {
        images::run_in_root(root, &["useradd", "--uid", "1000", "app"])?;
        let unit = root.join("etc/systemd/system/app.service");
        fs::write(&unit, UNIT)?;
        fs::set_permissions(&unit, fs::Permissions::from_mode(0o644))?;
        fs::create_dir_all(root.join("var/app"))?;
        images::run_in_root(root, &["systemctl", "enable", "app.service"])
    })
}
