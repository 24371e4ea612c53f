//! Other ways to run a systemd-nspawn container of the same image on the same host: sdme, and
//! systemd's own `machinectl start`.
//!
//! Each is set up as its own documentation says, with its defaults.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shoal_lab::{Deployment, Host};

use super::stand::bash;
use crate::run::Tool;

/// What is compared with; it needs systemd 255. Its probes for Kubernetes pods would be built by
/// a second cargo, and are left out.
pub(super) const SDME: Tool<'_> = Tool {
    name: "sdme",
    version: "0.22.0",
    options: &[],
    environment: &[("SDME_SKIP_PROBE", "1")],
};

/// Unpacks the image of which mounts are at hand, and puts the peers' directories onto the real
/// file system: on the overlay that is a test host's root they could not mount overlays.
const UNPACK: &str = r#"
disk=/var/lib/shoal/bench
for place in machines sdme; do
    mkdir -p "$disk/$place" "/var/lib/$place"
    mount --bind "$disk/$place" "/var/lib/$place"
done
image=$(findmnt --noheadings --output TARGET --types squashfs | grep -m 1 "^/run/shoal/images/$1")
mkdir /var/lib/machines/peer
cp -a "$image/." /var/lib/machines/peer/
"#;

/// Waits until the system in a machine is up, and tells the time. `--wait` is of no use before
/// the machine answers at all.
const UNTIL_UP: &str = r#"
machine=$1; shift
began=$(date +%s%N)
[ $# = 0 ] || "$@" >&2
up() {
    case $(systemctl --machine="$machine" is-system-running --wait 2>/dev/null) in
        running | degraded) ;;
        *) return 1 ;;
    esac
}
until up; do
    [ $(($(date +%s%N) - began)) -lt 60000000000 ] || { echo "$machine is not up after 60 s" >&2; exit 1; }
    sleep 0.01
done
echo "$began $(date +%s%N)"
"#;

/// Has a shell wait to be told before it goes on.
const WHEN_TOLD: &str = "echo there; read -r told";

/// One of them, with its container made and not running.
#[derive(Debug)]
pub(super) struct Peer {
    /// What it is called in a table.
    pub(super) name: &'static str,
    machine: &'static str,
    start: &'static [&'static str],
    stop: &'static [&'static str],
}

/// `machinectl start`, with the unit systemd-nspawn@.service as systemd ships it.
pub(super) const MACHINECTL: Peer = Peer {
    name: "`machinectl start`",
    machine: "peer",
    start: &["machinectl", "start", "peer"],
    stop: &["systemctl", "stop", "systemd-nspawn@peer.service"],
};

const SDME_PEER: Peer = Peer {
    name: "`sdme start`",
    machine: "peer-sdme",
    start: &["sdme", "start", "peer-sdme"],
    stop: &["sdme", "stop", "peer-sdme"],
};

/// Puts the image with this digest into /var/lib/machines, as `peer`.
///
/// # Errors
/// Where no instance uses it.
pub(super) fn unpack(host: &Host, digest: &str) -> Result<()> {
    bash(host, UNPACK, &[digest]).map(drop)
}

/// Installs sdme, imports the unpacked image and makes a container of it.
///
/// # Errors
/// Where it can't be installed, or refuses.
pub(super) fn sdme(root: &Path, host: &Host) -> Result<Peer> {
    host.install(&SDME.path(root)?, "/usr/local/bin/sdme")?;
    let import = ["sdme", "fs", "import", "--name", "peer", "/var/lib/machines/peer"];
    bash(host, r#""$@" >&2"#, &import)?;
    let create = ["sdme", "create", "--name", SDME_PEER.machine, "--fs", "peer"];
    bash(host, r#""$@" >&2"#, &create)?;
    Ok(SDME_PEER)
}

impl Peer {
    /// How long its start takes until the system inside is up.
    pub(super) fn start(&self, host: &Host) -> Result<Duration> {
        let (began, up) = until_up(host, self.machine, self.start)?;
        Ok(up.saturating_sub(began))
    }

    /// Stops it, and waits until it is down.
    pub(super) fn stop(&self, host: &Host) -> Result<()> {
        bash(host, r#""$@" >&2"#, self.stop).map(drop)
    }
}

/// Starts an instance by `shoal start`; how long that takes until the system inside is up. The shell
/// that asks is there before, as is that of the peers, which runs their commands.
pub(super) fn shoal_start(deployment: &Deployment, instance: &str) -> Result<Duration> {
    let machine = instance.replace('/', "-");
    let script = format!("{WHEN_TOLD}\n{UNTIL_UP}");
    let mut shell =
        deployment.lab().host(0).command(&["bash", "-euc", &script, "bench", &machine])?;
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut said = BufReader::new(shell.stdout.take().context("its output")?);
    let mut text = String::new();
    said.read_line(&mut text)?;
    let began = super::now()?;
    super::stand::timed(deployment, &["start", instance])?;
    writeln!(shell.stdin.take().context("its input")?)?;
    text.clear();
    said.read_to_string(&mut text)?;
    ensure!(shell.wait()?.success(), "{instance} was started and is not up");
    let (_, up) = times(&text)?;
    Ok(up.saturating_sub(began))
}

/// When waiting began and when the machine's system was up, since 1970.
fn until_up(host: &Host, machine: &str, words: &[&str]) -> Result<(Duration, Duration)> {
    times(&bash(host, UNTIL_UP, &[&[machine], words].concat())?)
}

fn times(text: &str) -> Result<(Duration, Duration)> {
    let times: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
    match times.ok().as_deref() {
        Some([began, up]) => Ok((Duration::from_nanos(*began), Duration::from_nanos(*up))),
        _ => Err(anyhow::anyhow!("{text:?}")).context("no two times"),
    }
}
