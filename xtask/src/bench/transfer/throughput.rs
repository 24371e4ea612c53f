//! A whole image to one, eight and thirty-two hosts at once, beside nginx with mutual TLS 1.3 and
//! beside scp.
//!
//! The hosts' images are on a tmpfs, and so are the peers' files: a disk would be what is
//! measured. Each way takes its turn in each round, to the same hosts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shoal_lab::{CONTROLLER_ADDR, images, wait_until};

use super::super::Run;
use super::super::report::{Row, Target, spread};
use super::super::stats::Sample;
use super::site::{Pushed, Site};
use super::tool::{nice, run, text};

/// To how many hosts an image of how many megabytes is sent, and how many times.
const STEPS: [(usize, u64, usize); 3] = [(1, 1024, 5), (8, 256, 5), (32, 64, 5)];
const MOST_HOSTS: usize = 32;

/// How fast Shoal should be beside nginx and beside scp.
const NGINX: f64 = 0.9;
const SCP: f64 = 2.0;

const PREPARE: &str =
    "mkdir -p /var/lib/shoal/images && mount -t tmpfs -o size=8G tmpfs /var/lib/shoal/images";

const HTTPS_PORT: u16 = 8443;
const SSH_PORT: u16 = 8022;

/// An authority, and a certificate of it for each side; keys as Shoal's own are.
const CERTIFICATES: &str = r#"
new() { openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -subj "/CN=$1" "${@:2}"; }
new ca -x509 -days 2 -out ca.crt
for side in server client; do
    new "$side" -out "$side.csr"
    openssl x509 -req -in "$side.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
        -extfile <(printf 'subjectAltName=IP:%s' "$1") -out "$side.crt"
done
ssh-keygen -q -t ed25519 -N '' -f host
ssh-keygen -q -t ed25519 -N '' -f user
"#;

pub(super) fn measure(run: &mut Run<'_>) -> Result<Vec<Row>> {
    let site = Site::open(run, "throughput", MOST_HOSTS, PREPARE)?;
    let peers = Peers::start(&site)?;
    let mut rows = Vec::new();
    for (hosts, megabytes, rounds) in STEPS {
        let (mut ours, mut nginx, mut scp) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=rounds {
            let image = peers.image(&site, hosts, megabytes, round)?;
            let times = [
                shoal(&site, hosts, &image)?,
                peers.nginx(&site, hosts)?,
                peers.scp(&site, hosts)?,
            ];
            // The first round warms up.
            if round > 0 {
                let speeds = times.map(|time| speed(hosts, image.bytes, time));
                ours.push(speeds[0]);
                nginx.push(speeds[1]);
                scp.push(speeds[2]);
            }
        }
        let what = format!(
            "a whole image of {megabytes} MiB to {hosts} host{}",
            if hosts == 1 { "" } else { "s" }
        );
        let (ours, nginx, scp) = (Sample::of(ours)?, Sample::of(nginx)?, Sample::of(scp)?);
        rows.push(row(&what, &ours, ("nginx with mutual TLS 1.3", &nginx), NGINX)?);
        rows.push(row(&what, &ours, ("scp", &scp), SCP)?);
    }
    Ok(rows)
}

/// Megabytes in a second, of all hosts together.
#[allow(clippy::cast_precision_loss, clippy::as_conversions, reason = "sizes are far below 2^52")]
fn speed(hosts: usize, bytes: u64, time: Duration) -> f64 {
    hosts as f64 * bytes as f64 / 1e6 / time.as_secs_f64()
}

fn row(what: &str, ours: &Sample, peer: (&str, &Sample), least: f64) -> Result<Row> {
    let ratio = ours.over(peer.1)?;
    let speed = |value: f64| format!("{value:.0} MB/s");
    Ok(Row {
        what: what.to_owned(),
        n: ours.n(),
        ours: spread(ours, speed),
        against: format!("{}: {}", peer.0, spread(peer.1, speed)),
        ratio: spread(&ratio, |value| format!("{value:.2}")),
        target: Some(Target::at_least(ratio.median(), least, format!("at least {least}"))),
    })
}

/// Brings an image to the first so many hosts, and lets them forget it.
fn shoal(site: &Site, hosts: usize, image: &Pushed) -> Result<Duration> {
    let positions: Vec<usize> = (0..hosts).collect();
    let label = label(hosts);
    let took = site.bring(&label, &positions, image)?;
    site.forget(&label, &positions, image)?;
    Ok(took)
}

/// The label of the first so many hosts.
fn label(hosts: usize) -> String {
    format!("first-{hosts}=yes")
}

/// The peers' servers, which end when this is dropped.
struct Peers {
    dir: PathBuf,
    servers: Vec<Child>,
}

impl Drop for Peers {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl Peers {
    /// Makes certificates and starts the servers in the lab's network.
    fn start(site: &Site) -> Result<Self> {
        let dir = site.deployment.dir().join("peers");
        fs::create_dir(&dir)?;
        for (hosts, _, _) in STEPS {
            for position in 0..hosts {
                let name = site.host(position).name().to_owned();
                let label = label(hosts);
                site.deployment.shoal(&["host", "label", &name, &label])?.ok()?;
            }
        }
        let mut bash = nice("bash");
        run(bash.args(["-euc", CERTIFICATES, "bench", CONTROLLER_ADDR]).current_dir(&dir))?;
        let mut peers = Self { dir, servers: Vec::new() };
        peers.start_nginx(site)?;
        peers.start_sshd(site)?;
        Ok(peers)
    }

    fn start_nginx(&mut self, site: &Site) -> Result<()> {
        let dir = self.dir.display();
        let config = format!(
            "user root; daemon off; worker_processes auto; pid {dir}/pid;\n\
             events {{}}\n\
             http {{ access_log off; sendfile on; tcp_nopush on;\n\
             server {{ listen {CONTROLLER_ADDR}:{HTTPS_PORT} ssl; root {dir};\n\
             ssl_protocols TLSv1.3; ssl_certificate {dir}/server.crt;\n\
             ssl_certificate_key {dir}/server.key; ssl_client_certificate {dir}/ca.crt;\n\
             ssl_verify_client on; }} }}\n"
        );
        let path = self.dir.join("nginx.conf");
        fs::write(&path, config)?;
        let mut command = site.deployment.lab().netns_command("nginx");
        self.start_server(command.arg("-c").arg(&path).arg("-e").arg(self.dir.join("errors")))?;
        self.wait_for(site, HTTPS_PORT)
    }

    fn start_sshd(&mut self, site: &Site) -> Result<()> {
        let dir = self.dir.display();
        let config = format!(
            "ListenAddress {CONTROLLER_ADDR}\nPort {SSH_PORT}\nHostKey {dir}/host\n\
             AuthorizedKeysFile {dir}/user.pub\nPermitRootLogin prohibit-password\n\
             StrictModes no\nUsePAM no\nPidFile none\nMaxStartups 100\n\
             Subsystem sftp internal-sftp\n"
        );
        let path = self.dir.join("sshd_config");
        fs::write(&path, config)?;
        // It refuses to start without this directory, which its service would make.
        fs::create_dir_all("/run/sshd")?;
        let mut command = site.deployment.lab().netns_command("/usr/sbin/sshd");
        self.start_server(command.args(["-D", "-e", "-f"]).arg(&path))?;
        self.wait_for(site, SSH_PORT)
    }

    fn start_server(&mut self, command: &mut Command) -> Result<()> {
        let log = fs::File::create(self.dir.join("log"))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        self.servers.push(child.with_context(|| format!("can't start {command:?}"))?);
        Ok(())
    }

    fn wait_for(&self, site: &Site, port: u16) -> Result<()> {
        let answers = || {
            let mut bash = site.deployment.lab().netns_command("bash");
            let connect = format!("exec 3<>/dev/tcp/{CONTROLLER_ADDR}/{port}");
            Ok(bash.args(["-c", &connect]).stderr(Stdio::null()).status()?.success())
        };
        wait_until("a peer's server to answer", Duration::from_secs(20), answers)
            .with_context(|| fs::read_to_string(self.dir.join("log")).unwrap_or_default())
    }

    /// A new image, which the peers' servers have too. Each round has its own: what a host has, it
    /// is not sent again.
    fn image(&self, site: &Site, hosts: usize, megabytes: u64, round: usize) -> Result<Pushed> {
        let path = self.dir.join("image");
        images::noisy_image(&path, megabytes << 20)?;
        // Read by everyone from memory.
        run(nice("sync").arg(&path))?;
        site.push(&path, &format!("noise:{hosts}-{round}"))
    }

    fn nginx(&self, site: &Site, hosts: usize) -> Result<Duration> {
        let url = format!("https://{CONTROLLER_ADDR}:{HTTPS_PORT}/image");
        let dir = self.dir.display();
        self.all(site, hosts, |to| {
            let words = format!(
                "curl --silent --show-error --fail --cacert {dir}/ca.crt --cert {dir}/client.crt \
                 --key {dir}/client.key --output {to} {url}"
            );
            words.split(' ').map(str::to_owned).collect()
        })
    }

    fn scp(&self, site: &Site, hosts: usize) -> Result<Duration> {
        let dir = self.dir.display();
        self.all(site, hosts, |to| {
            let words = format!(
                "scp -q -P {SSH_PORT} -i {dir}/user -o StrictHostKeyChecking=no \
                 -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
                 root@{CONTROLLER_ADDR}:{dir}/image {to}"
            );
            words.split(' ').map(str::to_owned).collect()
        })
    }

    /// Runs a command for each host at once, in its network and with its file, and compares the
    /// first of these; how long all took.
    fn all(
        &self,
        site: &Site,
        hosts: usize,
        words: impl Fn(&str) -> Vec<String>,
    ) -> Result<Duration> {
        let mut commands = Vec::new();
        let mut files = Vec::new();
        for position in 0..hosts {
            let leader = site.host(position).leader()?;
            let to = format!("/proc/{leader}/root/var/lib/shoal/images/.peer");
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/proc/{leader}/ns/net")).arg("--").args(words(&to));
            command.stdin(Stdio::null()).stdout(Stdio::null());
            commands.push(command);
            files.push(PathBuf::from(to));
        }
        let began = Instant::now();
        let running: Vec<Child> =
            commands.iter_mut().map(Command::spawn).collect::<Result<_, _>>()?;
        let mut ended = Vec::new();
        for mut child in running {
            ended.push(child.wait()?);
        }
        let took = began.elapsed();
        ensure!(ended.iter().all(|status| status.success()), "a peer's command failed: {ended:?}");
        same(&files[0], &self.dir.join("image"))?;
        files.iter().try_for_each(fs::remove_file)?;
        Ok(took)
    }
}

fn same(one: &Path, other: &Path) -> Result<()> {
    run(nice("cmp").args([text(one)?, text(other)?])).map(drop)
}
