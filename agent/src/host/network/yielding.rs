//! Asking the host's own network daemon to leave an interface alone.
//!
//! systemd comes with network files for systemd-nspawn's interfaces, and its network daemon,
//! where the host runs it, would take away the gateway's address and choose another.

use std::fs;
use std::path::{Path, PathBuf};

use super::NetworkError;
use crate::files::failed;
use crate::host::command;

const FILES: &str = "/run/systemd/network";

/// Asks, before the interface is there. Without a daemon, for the case that one is started later.
pub(super) fn ask(interface: &str) -> Result<(), NetworkError> {
    let path = file(interface);
    let text = format!("[Match]\nName={interface}\n\n[Link]\nUnmanaged=yes\n");
    fs::create_dir_all(FILES).map_err(failed("make the directory", Path::new(FILES)))?;
    let new = !fs::read(&path).is_ok_and(|before| before == text.as_bytes());
    fs::write(&path, text).map_err(failed("write", &path))?;
    // It reads its files only when it is told to.
    if new && command::run("systemctl", &["is-active", "--quiet", "systemd-networkd"]).is_ok() {
        command::run("networkctl", &["reload"])?;
    }
    Ok(())
}

/// Takes the file away once the interface is gone: another container may be on the same bridge.
pub(super) fn forget(interface: &str) -> Result<(), NetworkError> {
    if Path::new("/sys/class/net").join(interface).exists() {
        return Ok(());
    }
    let path = file(interface);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("remove", &path)(error).into())
        }
        _ => Ok(()),
    }
}

/// Before systemd's own, which begin with 80.
fn file(interface: &str) -> PathBuf {
    Path::new(FILES).join(format!("10-shoal-{interface}.network"))
}
