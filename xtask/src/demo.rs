//! The demo: a first fleet on three real test hosts, every command shown, so that the transcript
//! teaches.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use shoal_lab::deployment::{Deployment, INIT, RUN};
use shoal_lab::{Host, Lab, images, packages, wait_until};

use crate::run::cargo;

/// What a lab of the demo is called, before its random digits.
const NAME: &str = "demo";
/// How long things may take that end by themselves.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demo. With `keep` everything is left running.
pub(crate) fn demo(root: &Path, keep: bool) -> Result<()> {
    packages::ensure()?;
    cargo(root, &["build", "--workspace", "--bins", "--locked"])?;
    say("Two versions of an image are built from Debian packages (a while, the first time)");
    let images = [images::belenios_image("1")?, images::belenios_image("2")?];
    let began = Instant::now();
    let mut stage = Stage::open(root, images)?;
    stage.controller()?;
    stage.hosts()?;
    stage.first_fleet()?;
    stage.look_inside()?;
    stage.second_version()?;
    stage.reboot()?;
    say(&format!("Done, in {:.0} s after the build", began.elapsed().as_secs_f64()));
    if keep { stage.leave() } else { Ok(()) }
}

/// Removes what `demo --keep` left running.
pub(crate) fn down() -> Result<()> {
    let labs: Vec<String> =
        Lab::list()?.into_iter().filter(|name| name.starts_with(&format!("{NAME}-"))).collect();
    if labs.is_empty() {
        println!("no demo is running");
    }
    for name in labs {
        Lab::destroy(&name)?;
        println!("removed {name}");
    }
    Ok(())
}

fn say(text: &str) {
    println!("\n{}", coloured("1", &format!("# {text}")));
    let _ = std::io::stdout().flush();
}

fn show(place: &str, words: &[&str]) {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    println!("{} {}", coloured("36", &format!("{place}$")), words.join(" "));
    let _ = std::io::stdout().flush();
}

/// A text in a colour of ECMA-48, where someone is looking at a terminal.
fn coloured(code: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() {
        return format!("\x1b[{code}m{text}\x1b[0m");
    }
    text.to_owned()
}

/// A word as a shell would need it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

struct Stage {
    deployment: Deployment,
    images: [PathBuf; 2],
}

impl Stage {
    fn open(root: &Path, images: [PathBuf; 2]) -> Result<Self> {
        say("Three hosts boot, each a Debian with systemd, and a network that only they see");
        let mut lab = Lab::new(NAME)?;
        lab.boot_hosts(3)?;
        let deployment = Deployment::bare(lab)?;
        copy(&root.join("deploy/examples/belenios"), &deployment.dir().join("belenios"))?;
        Ok(Self { deployment, images })
    }

    fn controller(&mut self) -> Result<()> {
        say("A controller: its CA, its store, and the context of its first admin");
        show("controller", &[&["shoal-controller"], INIT].concat());
        finish(&mut self.deployment.controller_command(INIT))?;
        show("controller", &[&["shoal-controller"], RUN].concat());
        self.deployment.start_controller()?;
        self.shoal(&["version"])
    }

    fn hosts(&self) -> Result<()> {
        say("Each host gets the agent, and joins with a one-time token");
        for host in self.deployment.lab().hosts() {
            self.deployment.programs().install_agent(host)?;
        }
        self.on(0, &["shoal-agent", "doctor"])?;
        for host in self.deployment.lab().hosts() {
            self.join(host)?;
        }
        for host in self.deployment.lab().hosts() {
            self.deployment.wait_online(host.name())?;
        }
        self.shoal(&["host", "list"])?;
        self.shoal(&["host", "show", "h1"])
    }

    fn join(&self, host: &Host) -> Result<()> {
        let words =
            ["shoal", "host", "token", "create", "--name", host.name(), "--label", "role=web"];
        show("workstation", &words);
        let token = self.deployment.token(host.name(), &["role=web"])?;
        let join = ["shoal-agent", "join", "--controller", "controller", "--token"];
        show(host.name(), &[&join[..], &["TOKEN"]].concat());
        finish(&mut host.command(&[&join[..], &[&token]].concat())?)?;
        let enable = ["systemctl", "enable", "--now", "--quiet", "shoal-agent"];
        show(host.name(), &enable);
        finish(&mut host.command(&enable)?)
    }

    fn first_fleet(&self) -> Result<()> {
        say("The image goes to the controller, once");
        self.push(0, "belenios:1")?;
        self.push(0, "belenios:1")?;
        self.shoal(&["image", "list"])?;
        say("The fleet, declared in one file");
        show("workstation", &["cat", "belenios/fleet.toml"]);
        println!("{}", fs::read_to_string(self.fleet_file())?);
        self.shoal(&["check", "belenios/fleet.toml"])?;
        self.shoal_exits(&["plan", "belenios/fleet.toml"], 1)?;
        self.shoal(&["apply", "belenios/fleet.toml", "--wait"])?;
        self.shoal(&["ps"])?;
        say("Applied again, it changes nothing and restarts nothing");
        self.shoal(&["apply", "belenios/fleet.toml", "--wait"])?;
        self.shoal(&["plan", "belenios/fleet.toml"])
    }

    fn look_inside(&self) -> Result<()> {
        say("Logs and commands, on any host, from the workstation");
        self.shoal(&["logs", "-n", "5", "belenios/main@h1"])?;
        self.shoal(&["exec", "belenios/main@h1", "--", "cat", "/etc/belenios/ocsigenserver.conf"])?;
        self.shoal(&["exec", "belenios/main@h1", "--", "systemctl", "is-active", "belenios"])?;
        say("Data is written into the instance's volume");
        let script = "echo 'one vote' > /var/belenios/www/ballot.txt";
        self.shoal(&["exec", "belenios/main@h1", "--", "sh", "-c", script])?;
        self.fetch("ballot.txt", "one vote")?;
        self.fetch("version", "1")
    }

    fn second_version(&self) -> Result<()> {
        say("Version 2 of the image: one line of the fleet file changes");
        self.push(1, "belenios:2")?;
        let file = self.fleet_file();
        let text = fs::read_to_string(&file)?;
        ensure!(text.contains("belenios:1"), "{} names no belenios:1", file.display());
        show("workstation", &["sed", "-i", "s/belenios:1/belenios:2/", "belenios/fleet.toml"]);
        fs::write(&file, text.replace("belenios:1", "belenios:2"))?;
        self.shoal_exits(&["plan", "belenios/fleet.toml"], 1)?;
        self.shoal(&["apply", "belenios/fleet.toml", "--wait"])?;
        self.shoal(&["ps"])?;
        say("The new version serves, and the data is where it was");
        self.fetch("version", "2")?;
        self.fetch("ballot.txt", "one vote")
    }

    fn reboot(&self) -> Result<()> {
        say("A host reboots; its instance comes back by itself, with its data");
        show("h1", &["systemctl", "reboot"]);
        self.deployment.lab().host(0).reboot()?;
        self.deployment.wait_online("h1")?;
        let healthy = || {
            let rows = self.deployment.json(&["ps"])?.to_string();
            Ok(rows.matches("\"healthy\"").count() >= 3)
        };
        wait_until("every instance is healthy again", PATIENCE, healthy)?;
        self.shoal(&["ps"])?;
        self.fetch("ballot.txt", "one vote")
    }

    fn leave(mut self) -> Result<()> {
        let lab = self.deployment.lab_mut();
        lab.keep()?;
        let name = lab.name().to_owned();
        let shoal = self.deployment.programs().path("shoal");
        let context = self.deployment.context();
        self.deployment.leave_controller();
        say("It is all still running");
        let network = format!("nsenter --net=/run/netns/{}", self.deployment.lab().netns());
        println!(
            "alias shoal='env SHOAL_CONFIG={} {network} {}'",
            context.display(),
            shoal.display()
        );
        println!("cd {}", self.deployment.dir().display());
        println!("shoal ps");
        println!("\nThis removes it ({name}):\ncargo xtask demo down");
        Ok(())
    }

    fn fleet_file(&self) -> PathBuf {
        self.deployment.dir().join("belenios/fleet.toml")
    }

    fn push(&self, image: usize, reference: &str) -> Result<()> {
        let file = self.images[image].display().to_string();
        show("workstation", &["shoal", "image", "push", "rootfs.squashfs", reference]);
        finish(&mut self.deployment.shoal_command(&["image", "push", &file, reference]))
    }

    fn shoal(&self, arguments: &[&str]) -> Result<()> {
        self.shoal_exits(arguments, 0)
    }

    /// Runs `shoal` where it exits with `code`, such as 1 for a plan that has changes.
    fn shoal_exits(&self, arguments: &[&str], code: i32) -> Result<()> {
        show("workstation", &[&["shoal"], arguments].concat());
        let status = self.deployment.shoal_command(arguments).status()?;
        ensure!(status.code() == Some(code), "that exited with {status}, not with {code}");
        Ok(())
    }

    fn on(&self, host: usize, words: &[&str]) -> Result<()> {
        let host = self.deployment.lab().host(host);
        show(host.name(), words);
        finish(&mut host.command(words)?)
    }

    /// Fetches a page of the server on h1, as a visitor would, and looks for `wanted` in it.
    fn fetch(&self, page: &str, wanted: &str) -> Result<()> {
        let url = format!("http://127.0.0.1:8001/{page}");
        let get = format!(
            "exec 3<>/dev/tcp/127.0.0.1/8001; printf 'GET /{page} HTTP/1.0\\r\\nHost: h1\\r\\n\\r\\n' >&3; cat <&3"
        );
        println!("{} a visitor gets {url}", coloured("36", "h1:"));
        let output = self.deployment.lab().host(0).run(&["bash", "-c", &get])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let body = text.split_once("\r\n\r\n").context("no answer from the server")?.1;
        println!("{}", body.trim_end());
        if !body.contains(wanted) {
            bail!("{url} does not hold {wanted:?}");
        }
        Ok(())
    }
}

/// Runs a command to its end, its output going to the terminal.
fn finish(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status()?;
    ensure!(status.success(), "that failed: {status}");
    Ok(())
}

/// Copies a directory.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
