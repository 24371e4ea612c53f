//! A cable between two network namespaces, whose bytes are counted: Ethernet frames of the usual
//! size with all their headers, in both directions.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shoal_lab::wait_until;

use super::tool::{nice, run};

/// Where the end is that serves.
pub(super) const SERVER: &str = "10.78.0.1";
const CLIENT: &str = "10.78.0.2";
const LINK: &str = "wire";

/// The two namespaces; they go when this is dropped.
#[derive(Debug)]
pub(super) struct Wire {
    server: String,
    client: String,
}

/// A server that runs until this is dropped.
pub(super) struct Served(Child);

impl Wire {
    /// # Errors
    /// Where namespaces can't be made.
    pub(super) fn new() -> Result<Self> {
        let name = |end: &str| format!("bench-{}-{end}", std::process::id());
        let wire = Self { server: name("server"), client: name("client") };
        for end in [&wire.server, &wire.client] {
            ip(&["netns", "add", end])?;
        }
        let peer = ["peer", "name", LINK, "netns", &wire.client];
        ip(&[&["-n", &wire.server, "link", "add", LINK, "type", "veth"], &peer[..]].concat())?;
        for (end, address) in [(&wire.server, SERVER), (&wire.client, CLIENT)] {
            ip(&["-n", end, "addr", "add", &format!("{address}/24"), "dev", LINK])?;
            one_frame_each(end, LINK)?;
            ip(&["-n", end, "link", "set", LINK, "up"])?;
            ip(&["-n", end, "link", "set", "lo", "up"])?;
        }
        Ok(wire)
    }

    /// A program at the end that serves.
    pub(super) fn at_server(&self, program: &str) -> Command {
        inside(&self.server, program)
    }

    /// A program at the end that asks.
    pub(super) fn at_client(&self, program: &str) -> Command {
        inside(&self.client, program)
    }

    /// Starts a server and waits until it answers on this port.
    ///
    /// # Errors
    /// Where it does not.
    pub(super) fn serve(&self, command: &mut Command, port: u16) -> Result<Served> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let mut served = Served(child.with_context(|| format!("can't start {command:?}"))?);
        let answers = || {
            ensure!(served.0.try_wait()?.is_none(), "{command:?} has ended");
            let try_it = format!("exec 3<>/dev/tcp/{SERVER}/{port}");
            let tried = self.at_client("bash").args(["-c", &try_it]).stderr(Stdio::null()).status();
            Ok(tried?.success())
        };
        wait_until("the server to answer", Duration::from_secs(20), answers)?;
        Ok(served)
    }

    /// How many bytes went over the cable so far, both ways.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub(super) fn bytes(&self) -> Result<u64> {
        bytes(&self.client, LINK)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for end in [&self.server, &self.client] {
            if let Err(error) = ip(&["netns", "delete", end]) {
                eprintln!("bench: {error:#}");
            }
        }
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Served").field(&self.0.id()).finish()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has each frame sent as one packet: else the kernel hands over many at a time, and counts the
/// headers of one.
///
/// # Errors
/// Where there is no such interface.
pub(super) fn one_frame_each(netns: &str, link: &str) -> Result<()> {
    ip(&["-n", netns, "link", "set", "dev", link, "gso_max_segs", "1"])
}

/// How many bytes an interface has sent and received so far.
///
/// # Errors
/// Where there is no such interface.
pub(super) fn bytes(netns: &str, link: &str) -> Result<u64> {
    let told = run(Command::new("ip").args(["-n", netns, "-json", "-s", "link", "show", link]))?;
    counted(&told)
}

fn counted(told: &str) -> Result<u64> {
    let links: serde_json::Value = serde_json::from_str(told)?;
    let count = |way: &str| links[0]["stats64"][way]["bytes"].as_u64();
    let (Some(received), Some(sent)) = (count("rx"), count("tx")) else {
        anyhow::bail!("no counters in {told}");
    };
    Ok(received + sent)
}

/// A program in a namespace, at a low priority.
fn inside(netns: &str, program: &str) -> Command {
    let mut command = nice("nsenter");
    command.arg(format!("--net=/run/netns/{netns}")).arg("--").arg(program);
    command
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments)).map(drop)
}

/// An nginx that serves a directory over plain HTTP.
///
/// # Errors
/// Where it does not start.
pub(super) fn nginx(wire: &Wire, dir: &Path, files: &Path) -> Result<Served> {
    let config = format!(
        "daemon off; master_process off; pid {0}/pid; error_log {0}/errors;\n\
         events {{}}\n\
         http {{ access_log off; sendfile on; keepalive_requests 1000000;\n\
         server {{ listen {SERVER}:8080; root {1}; }} }}\n",
        dir.display(),
        files.display(),
    );
    let path: PathBuf = dir.join("nginx.conf");
    std::fs::write(&path, config)?;
    let mut command = wire.at_server("nginx");
    wire.serve(command.arg("-c").arg(&path).arg("-e").arg(dir.join("errors")), 8080)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_count() {
        let told = r#"[{"ifname":"wire","stats64":{"rx":{"bytes":5},"tx":{"bytes":7}}}]"#;
        assert_eq!(counted(told).unwrap(), 12);
        assert!(counted("[]").is_err());
    }
}
