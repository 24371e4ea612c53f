//! A container without Shoal: the systemd-nspawn command of a running instance, with the same
//! image mount and the same arguments, as a plain unit that systemd starts and stops.
//!
//! What belongs to the one container (its overlay, data and rendered files) gets a copy, since
//! both run side by side; all else is taken over word by word.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shoal_lab::Host;

use super::stand::{bash, timed_in};

/// Where the copy's mounts and files are, on a tmpfs like those of instances.
const FILES: &str = "/run/shoal-bench";
/// Where its overlay and data are, on the disk of the instances.
const DISK: &str = "/var/lib/shoal/bench";

/// Copies what an instance's start prepared: arguments RUN FILES DISK OWNER MOUNTPOINT…
const PREPARE: &str = r#"
run=$1 files=$2 disk=$3 owner=$4; shift 4
mkdir -p "$files/lower" "$files/root" "$disk/upper" "$disk/work" "$disk/data"
options=$(findmnt --noheadings --output OPTIONS --mountpoint "$run/root")
lower=${options#*lowerdir=}
mount --bind "${lower%%,*}" "$files/lower"
chown "$owner:$owner" "$disk/upper"
mount -t overlay -o "lowerdir=$files/lower,upperdir=$disk/upper,workdir=$disk/work" overlay "$files/root"
for part in "$run"/*; do
    case ${part##*/} in root | lower | data) ;; *) cp -a "$part" "$files/" ;; esac
done
if [ -d "$run/data" ]; then
    for name in $(ls -A "$run/data"); do mkdir -p "$disk/data/$name"; done
fi
for point; do mkdir -p "$files/root$(dirname "$point")"; done
"#;

/// Runs a command on a unit, then waits until something answers inside its container on a port,
/// where one is named: arguments UNIT PORT COMMAND…
const UNTIL_READY: &str = r#"
unit=$1 port=$2; shift 2
"$@" "$unit"
[ "$port" != 0 ] || exit 0
read -r leader <"/sys/fs/cgroup/machine.slice/$unit/payload/cgroup.procs"
nsenter --target "$leader" --net bash -c '
    for try in $(seq 2000); do
        ! (exec 3<>"/dev/tcp/127.0.0.1/$0") 2>/dev/null || exit 0
        sleep 0.005
    done
    exit 1' "$port"
"#;

/// The copy of an instance's container, not running.
#[derive(Debug)]
pub(super) struct Bare<'a> {
    host: &'a Host,
    unit: String,
    /// Where it answers when it is ready; 0 where it tells systemd by itself.
    port: String,
}

impl<'a> Bare<'a> {
    /// Of the machine's container, which must be running. It is ready when it says so, or where
    /// it has a `port`, when that answers: of a command, systemd-nspawn says so before it runs.
    ///
    /// # Errors
    /// Where it is not, or was started in a way that is not known here.
    pub(super) fn beside(host: &'a Host, machine: &str, port: Option<u16>) -> Result<Self> {
        let service = format!("shoal-instance@{machine}.service");
        let pid = host.sh(&format!("systemctl show {service} --property=MainPID --value"))?;
        let words = host.sh(&format!("tr '\\0' '\\n' </proc/{}/cmdline", pid.trim()))?;
        let words: Vec<String> = words.lines().map(str::to_owned).collect();
        let copy = Copied::of(machine, &words)?;
        copy.prepare(host)?;
        let settings = host.sh(&format!("systemctl cat {service}"))?;
        let unit = format!("bare-{machine}.service");
        let text = unit_file(&settings, &copy.words);
        host.put_file(&format!("/run/systemd/system/{unit}"), text.as_bytes(), 0o644)?;
        host.sh("systemctl daemon-reload")?;
        Ok(Self { host, unit, port: port.unwrap_or(0).to_string() })
    }

    /// How long `systemctl start` takes until the container is ready.
    pub(super) fn start(&self) -> Result<Duration> {
        self.until_ready("start")
    }

    /// How long `systemctl restart` takes until it is ready again.
    pub(super) fn restart(&self) -> Result<Duration> {
        self.until_ready("restart")
    }

    fn until_ready(&self, verb: &str) -> Result<Duration> {
        let words = ["bash", "-euc", UNTIL_READY, "bench", &self.unit, &self.port];
        timed_in(self.host, &[&words[..], &["systemctl", verb]].concat())
    }

    /// Stops it.
    pub(super) fn stop(&self) -> Result<()> {
        self.host.sh(&format!("systemctl stop {}", self.unit)).map(drop)
    }
}

/// A container's command with other places for what is its own.
#[derive(Debug, PartialEq, Eq)]
struct Copied {
    machine: String,
    /// Where the instance's mounts and files are.
    run: String,
    /// The owner of its files outside.
    owner: String,
    /// Where something is mounted inside.
    points: Vec<String>,
    /// The command and its arguments.
    words: Vec<String>,
}

impl Copied {
    fn of(machine: &str, words: &[String]) -> Result<Self> {
        let value = |option: &str| words.iter().find_map(|word| word.strip_prefix(option));
        let root = value("--directory=").context("its systemd-nspawn has no --directory=")?;
        let run = root.strip_suffix("/root").context("its --directory= is no .../root")?;
        let owner = value("--private-users=").and_then(|range| range.split(':').next());
        let mut copied = Self {
            machine: machine.to_owned(),
            run: run.to_owned(),
            owner: owner.unwrap_or("0").to_owned(),
            points: Vec::new(),
            words: Vec::new(),
        };
        for word in words {
            let word = copied.translated(word)?;
            copied.words.push(word);
        }
        Ok(copied)
    }

    fn files(&self) -> String {
        format!("{FILES}/{}", self.machine)
    }

    fn disk(&self) -> String {
        format!("{DISK}/{}", self.machine)
    }

    /// A word of the command as the copy needs it.
    fn translated(&mut self, word: &str) -> Result<String> {
        if word.starts_with("--machine=") {
            return Ok(format!("--machine=bare-{}", self.machine));
        }
        for option in ["--bind=", "--bind-ro="] {
            if let Some(value) = word.strip_prefix(option) {
                let (from, to) = value.split_once(':').context("a --bind= of one path")?;
                self.points.push(to.split(':').next().unwrap_or_default().to_owned());
                return Ok(format!("{option}{}:{to}", self.moved(from)));
            }
        }
        let moved = match word.split_once('=') {
            Some((option, value)) => format!("{option}={}", self.moved(value)),
            None => word.to_owned(),
        };
        ensure!(
            !moved.contains(&format!("{}/", self.run)),
            "its argument {word} names a place that the benchmark does not copy"
        );
        Ok(moved)
    }

    fn moved(&self, path: &str) -> String {
        match path.strip_prefix(&self.run) {
            Some(rest) if rest.starts_with("/data/") => format!("{}{rest}", self.disk()),
            Some(rest) if rest.starts_with('/') => format!("{}{rest}", self.files()),
            _ => path.to_owned(),
        }
    }

    fn prepare(&self, host: &Host) -> Result<()> {
        let places = [&self.run, &self.files(), &self.disk(), &self.owner];
        let arguments: Vec<&str> =
            places.into_iter().chain(&self.points).map(String::as_str).collect();
        bash(host, PREPARE, &arguments).map(drop)
    }
}

/// A unit that runs `words` with the settings of the instance's own, which `systemctl cat` shows,
/// but for the commands around it and for restarting by itself.
fn unit_file(settings: &str, words: &[String]) -> String {
    let left_out = ["Exec", "Restart", "SyslogIdentifier", "#"];
    let kept = settings
        .lines()
        .skip_while(|line| *line != "[Service]")
        .take_while(|line| *line != "[Install]")
        .filter(|line| !left_out.iter().any(|start| line.starts_with(start)));
    let command: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    let kept: Vec<&str> = kept.collect();
    format!("{}\nExecStart=/usr/bin/{}\n", kept.join("\n"), command.join(" "))
}

/// A word as systemd.service(5) reads it in `ExecStart=`.
fn quoted(word: &str) -> String {
    if word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=@,+".contains(c)) {
        return word.to_owned();
    }
    let word = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("\"{}\"", word.replace('$', "$$"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_the_containers_own_is_moved_and_the_rest_is_not() {
        let copied = Copied::of(
            "shop-web",
            &words(
                "systemd-nspawn --quiet --machine=shop-web --directory=/run/shoal/m/shop-web/root \
                 --private-users=524288:65536 --bind=/run/shoal/m/shop-web/data/var:/var/x:idmap \
                 --bind-ro=/run/shoal/m/shop-web/files/0:/etc/x --bind=/srv/in:/in --boot",
            ),
        );
        let copied = copied.unwrap();
        assert_eq!(
            copied.words,
            words(
                "systemd-nspawn --quiet --machine=bare-shop-web \
                 --directory=/run/shoal-bench/shop-web/root --private-users=524288:65536 \
                 --bind=/var/lib/shoal/bench/shop-web/data/var:/var/x:idmap \
                 --bind-ro=/run/shoal-bench/shop-web/files/0:/etc/x --bind=/srv/in:/in --boot"
            )
        );
        assert_eq!(copied.owner, "524288");
        assert_eq!(copied.points, ["/var/x", "/etc/x", "/in"]);
    }

    #[test]
    fn a_place_that_would_not_be_there_is_refused() {
        let odd = words("systemd-nspawn --directory=/run/m/root --odd=x:/run/m/files/0");
        let error = Copied::of("m", &odd).unwrap_err().to_string();
        assert!(error.contains("--odd=x:/run/m/files/0"), "{error}");
        assert!(Copied::of("m", &words("systemd-nspawn --boot")).is_err());
    }

    #[test]
    fn the_unit_keeps_the_settings_and_not_the_commands() {
        let settings = "# /etc/x\n[Unit]\nAfter=y\n[Service]\nType=notify\nExecStart=/a %i\n\
                        ExecStopPost=/b\nRestart=always\nRestartSec=1\nDelegate=yes\n# why\n\
                        \n[Install]\nWantedBy=z\n";
        let unit = unit_file(settings, &["systemd-nspawn".into(), "--setenv=A=50% $x\"".into()]);
        assert_eq!(
            unit,
            "[Service]\nType=notify\nDelegate=yes\n\n\
             ExecStart=/usr/bin/systemd-nspawn \"--setenv=A=50%% $$x\\\"\"\n"
        );
    }
}
