//! Hosts that get images through the real controller, agents and command, and what that costs
//! them.
//!
//! A host gets an image as it does in use: a fleet file names it, and `shoal apply` is run.
//! A transfer counts from the first byte on some host's disk to the last file that is complete and
//! verified; the rollout around it does not.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use shoal_lab::{Deployment, Host, Lab, Suite};

use super::super::Run;
use super::tool::{nice, run, text};
use super::wire;

/// How long a transfer may take.
const PATIENCE: Duration = Duration::from_secs(600);
const PERIOD: Duration = Duration::from_millis(2);

/// The label that the host with this position has, and no other.
pub(super) fn only(position: usize) -> String {
    format!("only=h{}", position + 1)
}

/// A lab with a controller and hosts that have joined it, with the labels `role=web` and
/// [`only`].
#[derive(Debug)]
pub(super) struct Site {
    pub(super) deployment: Deployment,
}

/// An image that is pushed.
#[derive(Debug, Clone)]
pub(super) struct Pushed {
    /// Its NAME:TAG.
    pub(super) name: String,
    /// Its SHA-256.
    pub(super) digest: String,
    pub(super) bytes: u64,
}

/// Where the images of a host are, as the machine sees it.
fn images(host: &Host) -> Result<PathBuf> {
    Ok(PathBuf::from(format!("/proc/{}/root/var/lib/shoal/images", host.leader()?)))
}

/// Lets thirty-two systemds and what runs below them watch files: all test hosts are of one user,
/// and 128 is what the kernel gives one.
fn allow_watches() -> Result<()> {
    const PATH: &str = "/proc/sys/fs/inotify/max_user_instances";
    const ENOUGH: u32 = 4096;
    let now: u32 = fs::read_to_string(PATH)?.trim().parse()?;
    if now < ENOUGH {
        fs::write(PATH, ENOUGH.to_string())?;
    }
    Ok(())
}

impl Site {
    /// Boots hosts; `prepare` is run in each before its agent is there.
    ///
    /// # Errors
    /// Where they don't come up.
    pub(super) fn open(run: &mut Run<'_>, hint: &str, hosts: usize, prepare: &str) -> Result<Self> {
        allow_watches()?;
        let lab = Lab::of(&format!("bench {hint}"), Suite::Bookworm)?;
        let mut deployment = Deployment::with(lab, run.programs.clone())?;
        deployment.lab_mut().boot_hosts(hosts)?;
        run.met(deployment.lab().host(0))?;
        for position in 0..hosts {
            deployment.lab().host(position).sh(prepare)?;
            deployment.join(position, &["role=web", &only(position)])?;
        }
        Ok(Self { deployment })
    }

    pub(super) fn host(&self, position: usize) -> &Host {
        self.deployment.lab().host(position)
    }

    /// Pushes an image.
    ///
    /// # Errors
    /// Where it is refused.
    pub(super) fn push(&self, image: &Path, name: &str) -> Result<Pushed> {
        self.deployment.push(image, name)?;
        let told = run(nice("sha256sum").arg(image))?;
        let digest = told.split_whitespace().next().context("sha256sum says nothing")?.to_owned();
        Ok(Pushed { name: name.to_owned(), digest, bytes: fs::metadata(image)?.len() })
    }

    /// Has the hosts with `label` get an image; does not wait for them.
    ///
    /// # Errors
    /// Where the apply is refused.
    pub(super) fn want(&self, label: &str, image: &Pushed) -> Result<()> {
        let name = name_of(label);
        let fleet = format!(
            "fleet = \"{name}\"\n\
             [instance.main]\nimage = \"{}\"\nhosts = \"{label}\"\n\
             command = [\"/bin/sleep\", \"infinity\"]\n\
             [rollout]\nbatches = [\"100%\"]\nstage-ahead = true\n",
            image.name
        );
        let file = self.deployment.file(&format!("{name}.toml"), &fleet)?;
        self.deployment.shoal(&["apply", "--replace", text(&file)?])?.ok().map(drop)
    }

    /// Has the hosts with `label`, which are at these positions, get an image; how long that took
    /// from the first of them on that began.
    ///
    /// # Errors
    /// As [`Site::want`], and where it takes too long.
    pub(super) fn bring(
        &self,
        label: &str,
        positions: &[usize],
        image: &Pushed,
    ) -> Result<Duration> {
        let dirs: Vec<PathBuf> =
            positions.iter().map(|&position| images(self.host(position))).collect::<Result<_>>()?;
        std::thread::scope(|scope| {
            let mut wanting = Some(scope.spawn(|| self.want(label, image)));
            arrival(&dirs, &image.digest, || {
                match wanting.take_if(|wanting| wanting.is_finished()).map(|ended| ended.join()) {
                    Some(Ok(wanted)) => wanted,
                    Some(Err(_)) => bail!("the apply broke"),
                    None => Ok(()),
                }
            })
        })
        .with_context(|| format!("{} to {} hosts", image.name, positions.len()))
    }

    /// Takes away what [`Site::bring`] brought.
    ///
    /// # Errors
    /// Where it is still in use.
    pub(super) fn forget(&self, label: &str, positions: &[usize], image: &Pushed) -> Result<()> {
        self.settle(label)?;
        let name = name_of(label);
        let file = self
            .deployment
            .file(&format!("{name}.toml"), &format!("fleet = \"{name}\"\n[instance]\n"))?;
        self.deployment.shoal(&["apply", "--wait", "--timeout", "5m", text(&file)?])?.ok()?;
        for &position in positions {
            let path = images(self.host(position))?.join(format!("{}.squashfs", image.digest));
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Waits until the rollout of a fleet that [`Site::want`] made has ended.
    ///
    /// # Errors
    /// Where it does not end well.
    pub(super) fn settle(&self, label: &str) -> Result<()> {
        let file = format!("{}.toml", name_of(label));
        self.deployment.shoal(&["apply", "--wait", "--timeout", "5m", &file])?.ok().map(drop)
    }

    /// Has each frame of a host's cable sent as one packet, so that all headers count.
    ///
    /// # Errors
    /// Where the host is not running.
    pub(super) fn count_frames(&self, position: usize) -> Result<()> {
        self.host(position).sh("ip link set dev host0 gso_max_segs 1")?;
        wire::one_frame_each(self.deployment.lab().netns(), &self.port(position)?)
    }

    /// How many bytes have gone over a host's cable so far, both ways.
    ///
    /// # Errors
    /// Where the host is not running.
    pub(super) fn bytes(&self, position: usize) -> Result<u64> {
        wire::bytes(self.deployment.lab().netns(), &self.port(position)?)
    }

    /// The lab's end of a host's cable.
    ///
    /// # Errors
    /// Where the host is not running.
    pub(super) fn port(&self, position: usize) -> Result<String> {
        let index = self.host(position).sh("cat /sys/class/net/host0/iflink")?;
        let index: u64 = index.trim().parse()?;
        let netns = self.deployment.lab().netns();
        let links = run(nice("ip").args(["-n", netns, "-json", "link", "show"]))?;
        let links: serde_json::Value = serde_json::from_str(&links)?;
        let mut links = links.as_array().into_iter().flatten();
        let link = links.find(|link| link["ifindex"] == index);
        let name = link.and_then(|link| link["ifname"].as_str());
        Ok(name.with_context(|| format!("no interface {index} in {netns}"))?.to_owned())
    }

    /// The agent's process.
    ///
    /// # Errors
    /// Where it does not run.
    pub(super) fn agent(&self, position: usize) -> Result<Process> {
        let host = self.host(position);
        let pid = host.sh("systemctl show shoal-agent --property=MainPID --value")?;
        Ok(Process(format!("/proc/{}/root/proc/{}", host.leader()?, pid.trim())))
    }

    /// The controller's process.
    ///
    /// # Errors
    /// Where it does not run.
    pub(super) fn controller(&self) -> Result<Process> {
        let pid = self.deployment.controller_pid()?;
        Ok(Process(format!("/proc/{pid}")))
    }
}

/// The name of the fleet of the hosts with a label.
fn name_of(label: &str) -> String {
    label.replace('=', "-")
}

/// Waits until the image is in all of these directories; how long that took from when something
/// of it was in one of them. `check` may end the waiting.
fn arrival(
    dirs: &[PathBuf],
    digest: &str,
    mut check: impl FnMut() -> Result<()>,
) -> Result<Duration> {
    let complete = format!("{digest}.squashfs");
    let waiting = Instant::now();
    let mut began = None;
    loop {
        check()?;
        if began.is_none() && dirs.iter().any(|dir| has_begun(dir, digest)) {
            began = Some(Instant::now());
        }
        if dirs.iter().all(|dir| dir.join(&complete).exists()) {
            return Ok(began.unwrap_or(waiting).elapsed());
        }
        ensure!(waiting.elapsed() < PATIENCE, "not all have it after {PATIENCE:?}");
        std::thread::sleep(PERIOD);
    }
}

fn has_begun(dir: &Path, digest: &str) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    let mut names = entries.flatten().map(|entry| entry.file_name());
    names.any(|name| name.to_string_lossy().starts_with(digest))
}

/// A process, by its directory in /proc.
#[derive(Debug, Clone)]
pub(super) struct Process(String);

impl Process {
    /// Forgets the most memory that it had so far.
    ///
    /// # Errors
    /// Where it has ended.
    pub(super) fn forget_peak(&self) -> Result<()> {
        let path = format!("{}/clear_refs", self.0);
        fs::write(&path, "5").with_context(|| path.clone())
    }

    /// The most memory that it had resident, in bytes.
    ///
    /// # Errors
    /// Where it has ended.
    pub(super) fn peak(&self) -> Result<u64> {
        let path = format!("{}/status", self.0);
        peak(&fs::read_to_string(&path).with_context(|| path.clone())?)
    }

    /// The CPU time that it has used.
    ///
    /// # Errors
    /// Where it has ended.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let path = format!("{}/stat", self.0);
        cpu(&fs::read_to_string(&path).with_context(|| path.clone())?)
    }
}

fn peak(status: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no VmHWM")?;
    Ok(kib.trim().parse::<u64>()? << 10)
}

/// Of a line of /proc/PID/stat, in which the kernel counts in hundredths of a second.
fn cpu(stat: &str) -> Result<Duration> {
    // The program's name stands in brackets, and may have spaces.
    let (_, rest) = stat.rsplit_once(')').context("no stat")?;
    let ticks = |field: usize| -> Result<u64> {
        Ok(rest.split_whitespace().nth(field).context("a short stat")?.parse()?)
    };
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_of_a_process_is_read() {
        assert_eq!(peak("VmPeak:\t 9 kB\nVmHWM:\t   2048 kB\n").unwrap(), 2 << 20);
        let stat = "12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0";
        assert_eq!(cpu(stat).unwrap(), Duration::from_millis(1750));
        assert!(peak("").is_err() && cpu("12 (a) S 1").is_err());
    }
}
