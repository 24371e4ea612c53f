//! How a host gets its certificate, keeps it, and what happens when it can't be reached. Needs
//! root.
#![allow(clippy::disallowed_methods, reason = "the tests look at clocks and programs from outside")]
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use shoal_lab::images::busybox_image;
use shoal_lab::{CONTROLLER_ADDR, Deployment, Host, Lab, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Exit code, as docs/exit-codes.md has it.
const REFUSED: i32 = 9;

/// Where an agent keeps who it is.
const IDENTITY: &str = "/var/lib/shoal/agent";

/// What `shoal-agent join` said: its exit code and its standard error.
#[derive(Debug)]
struct Joined {
    code: Option<i32>,
    said: String,
}

fn join(host: &Host, controller: &str, token: &str, more: &[&str]) -> Joined {
    let line = ["shoal-agent", "join", "--controller", controller, "--token", token];
    let output = host.run(&[&line, more].concat()).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Joined { code: output.status.code(), said }
}

impl Joined {
    #[track_caller]
    fn ok(self) {
        assert_eq!(self.code, Some(0), "the join failed: {}", self.said);
    }

    /// That it was refused in these words, and that the host has nothing of an identity but,
    /// perhaps, a key.
    #[track_caller]
    fn refused(self, host: &Host, words: &[&str]) {
        self.said(words);
        let files = format!("find {IDENTITY} -type f -printf '%f\\n' 2>/dev/null || true");
        let left = host.sh(&files).unwrap();
        assert!(left.is_empty() || left == "key.pem\n", "a refused join left:\n{left}");
    }

    #[track_caller]
    fn said(&self, words: &[&str]) {
        assert_eq!(self.code, Some(1), "exit code, with: {}", self.said);
        for word in words {
            assert!(self.said.contains(word), "{word:?} is not in: {}", self.said);
        }
    }
}

fn identity_of(host: &Host) -> String {
    host.sh(&format!("cd {IDENTITY} && sha256sum key.pem certificate.pem ca.pem host.json"))
        .unwrap()
}

fn enable(site: &Deployment, host: &Host) {
    host.sh("systemctl enable --now shoal-agent").unwrap();
    site.wait_online(host.name()).unwrap();
}

/// A controller and hosts with the agent on them that have not joined. `settings` are
/// controller.toml's.
fn site(hint: &str, hosts: usize, settings: &[(&str, u64)]) -> Deployment {
    let mut site = Deployment::without_hosts(hint).unwrap();
    if !settings.is_empty() {
        site.stop_controller().unwrap();
        set(&site.controller_dir(), settings);
        site.start_controller().unwrap();
    }
    site.lab_mut().boot_hosts(hosts).unwrap();
    for host in site.lab().hosts() {
        site.programs().install_agent(host).unwrap();
    }
    site
}

/// Changes numbers of a controller's configuration.
fn set(dir: &Path, settings: &[(&str, u64)]) {
    let path = dir.join("controller.toml");
    let mut text = fs::read_to_string(&path).unwrap();
    for (key, value) in settings {
        let at = text.find(&format!("{key} = ")).unwrap();
        let end = at + text[at..].find('\n').unwrap();
        text.replace_range(at..end, &format!("{key} = {value}"));
    }
    fs::write(path, text).unwrap();
}

fn audited(site: &Deployment, what: &str) -> usize {
    let audit = site.json(&["audit"]).unwrap();
    audit["entries"].as_array().unwrap().iter().filter(|entry| entry["what"] == what).count()
}

fn unix_seconds(iso: &Value) -> u64 {
    let output =
        Command::new("date").args(["+%s", "-u", "-d", iso.as_str().unwrap()]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// Waits until a moment that was shown to the second has passed.
fn wait_until_past(iso: &Value) {
    let end = unix_seconds(iso) + 1;
    wait_until("the time to pass", PATIENCE, || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        Ok(now.as_secs() > end)
    })
    .unwrap();
}

#[test]
fn a_token_is_good_once_in_time_and_for_its_host() {
    let mut site = site("tokens", 2, &[]);
    let token = site.token("h1", &["role=web"]).unwrap();
    mistyped(site.lab().host(0), &token);

    site.stop_controller().unwrap();
    let gone = join(site.lab().host(0), "controller", &token, &[]);
    gone.refused(
        site.lab().host(0),
        &["can't reach the controller at controller:7444", "is shoal-controller running"],
    );
    site.start_controller().unwrap();

    let (one, two) = (site.lab().host(0), site.lab().host(1));
    let wrong_port = join(one, "controller:7443", &token, &[]);
    wrong_port.refused(one, &["controller:7443", "certificate"]);
    let elsewhere = join(one, "no-such-name", &token, &[]);
    elsewhere.refused(one, &["can't reach the controller at no-such-name:7444"]);
    join(one, "controller", &token, &["--name", "H 1"]).refused(one, &["--name"]);
    join(two, "controller", &token, &[]).refused(two, &["is for host h1, not for h2"]);
    expired(&site, two);
    assert_eq!(audited(&site, "Enrol/Join"), 0);
    assert_eq!(site.json(&["host", "list"]).unwrap()["hosts"], serde_json::json!([]));
    // The unit does not start where there is no identity, and does not fail for ever either.
    one.sh("systemctl start shoal-agent && ! systemctl is-active shoal-agent").unwrap();

    join(one, "controller", &token, &[]).ok();
    enable(&site, one);
    assert_eq!(site.json(&["host", "show", "h1"]).unwrap()["labels"]["role"], "web");
    used(&site, one, two, &token);
    the_key_stays(&site, one, &token);
}

fn mistyped(host: &Host, token: &str) {
    let other = if token.ends_with('A') { "B" } else { "A" };
    let typo = format!("{}{other}", &token[..token.len() - 1]);
    join(host, "controller", &typo, &[]).refused(host, &["mistyped"]);
    let middle = token.find('.').unwrap() + 14;
    let other = if &token[middle..=middle] == "x" { "y" } else { "x" };
    let typo = format!("{}{other}{}", &token[..middle], &token[middle + 1..]);
    join(host, "controller", &typo, &[]).refused(host, &["checksum does not match"]);
    join(host, "controller", &token[..40], &[]).refused(host, &["cut off"]);
    join(host, "controller", "hunter2", &[]).refused(host, &["not a join token"]);
    join(host, "controller", "", &[]).refused(host, &["empty", "shoal host token create"]);
}

fn expired(site: &Deployment, host: &Host) {
    let made = site.json(&["host", "token", "create", "--name", "h2", "--ttl", "1s"]).unwrap();
    wait_until_past(&made["expires"]);
    let late = join(host, "controller", made["token"].as_str().unwrap(), &[]);
    late.refused(host, &["expired", "shoal host token create"]);
}

fn used(site: &Deployment, one: &Host, two: &Host, token: &str) {
    let again = join(two, "controller", token, &["--name", "h1"]);
    again.refused(two, &["used already", "shoal host token create"]);
    // Joining twice changes nothing, whatever the token.
    let before = identity_of(one);
    let anyone = site.json(&["host", "token", "create"]).unwrap();
    let anyone = anyone["token"].as_str().unwrap();
    for token in [token, anyone] {
        join(one, "controller", token, &[]).said(&["has joined controller as h1 before", IDENTITY]);
    }
    assert_eq!(identity_of(one), before);
    let taken = join(two, "controller", anyone, &["--name", "h1"]);
    taken.refused(two, &["h1 is enrolled already", "--name"]);
    assert_eq!(audited(site, "Enrol/Join"), 1);
    assert!(site.is_online("h1").unwrap());
}

/// What identifies the host is there, for root alone, and is nowhere else.
fn the_key_stays(site: &Deployment, host: &Host, token: &str) {
    let modes = host.sh(&format!("cd {IDENTITY} && stat -c '%a %U %n' . *.*")).unwrap();
    for line in modes.lines() {
        let wanted = if line.ends_with(" .") { "700 root " } else { "600 root " };
        assert!(line.starts_with(wanted), "{line} in\n{modes}");
    }
    assert!(modes.lines().count() >= 5, "{modes}");
    let pem = host.sh(&format!("cat {IDENTITY}/key.pem")).unwrap();
    let line = pem.lines().nth(1).unwrap();
    assert!(pem.contains("PRIVATE KEY") && line.len() > 40, "{} lines", pem.lines().count());
    let der = host
        .command(&["/bin/sh", "-c", &format!("sed /-----/d {IDENTITY}/key.pem | base64 -d")])
        .unwrap()
        .output()
        .unwrap()
        .stdout;
    let length = der.windows(2).position(|pair| pair == [4, 32]).expect("a key of 32 bytes");
    let key = &der[length + 2..length + 34];
    let secret = token.split('.').nth(2).unwrap();
    let about = host.sh(&format!("cat {IDENTITY}/host.json")).unwrap();
    let about: Value = serde_json::from_str(&about).unwrap();
    let id = about["host-id"].as_str().unwrap();
    let mut found_id = false;
    for file in files_below(site.dir()) {
        let bytes = fs::read(&file).unwrap();
        let has = |what: &[u8]| bytes.windows(what.len()).any(|part| part == what);
        assert!(!has(line.as_bytes()) && !has(key), "the host's key is in {}", file.display());
        assert!(!has(secret.as_bytes()), "the token's secret is in {}", file.display());
        found_id |= has(id.as_bytes());
    }
    assert!(found_id, "the search finds nothing, not even the host's id");
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(files_below(&path)),
            false => files.push(path),
        }
    }
    files
}

/// A second controller, with a CA of its own, in the same lab.
struct Other<'a> {
    site: &'a Deployment,
    child: Child,
}

impl<'a> Other<'a> {
    /// Its ports: 8443 and 8444.
    fn start(site: &'a Deployment) -> Self {
        let arguments = "init --dir other --trust-domain other.test --address 10.77.0.1 \
                         --address controller --context-out other.toml";
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let made = site.controller_command(&arguments).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let path = site.dir().join("other/controller.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(":7443") && text.contains(":7444"), "{text}");
        fs::write(path, text.replace(":744", ":844")).unwrap();
        let context = fs::read_to_string(site.dir().join("other.toml")).unwrap();
        fs::write(site.dir().join("other.toml"), context.replace(":7443", ":8443")).unwrap();
        let log = File::create(site.dir().join("other.log")).unwrap();
        let mut command = site.controller_command(&["run", "--dir", "other"]);
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let other = Self { site, child };
        wait_until("the other controller serves", PATIENCE, || {
            Ok(site.shoal(&["--config", "other.toml", "version"])?.success())
        })
        .unwrap();
        other
    }

    fn log(&self) -> String {
        fs::read_to_string(self.site.dir().join("other.log")).unwrap()
    }

    /// A context that calls the first controller with an identity of this one, or of a host.
    fn stranger(&self, name: &str, certificate: &str, key: &str) -> String {
        let own = fs::read_to_string(self.site.context()).unwrap();
        let ca = block(&own[own.find("\nca = ").unwrap()..]);
        let text = format!(
            "current = \"x\"\n[context.x]\ncontroller = \"{CONTROLLER_ADDR}:7443\"\n\
             ca = '''{ca}'''\ncertificate = '''{certificate}'''\nkey = '''{key}'''\n"
        );
        let path = self.site.file(name, &text).unwrap();
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        name.to_owned()
    }
}

impl Drop for Other<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Between a host and a controller: counts what goes up encrypted, and can swallow all answers.
#[derive(Debug)]
struct Between {
    /// Bytes of the client's encrypted TLS records.
    encrypted: AtomicUsize,
    /// Whether answers are let through once the client has sent the first such record, which ends
    /// its handshake.
    answers: bool,
    begun: AtomicBool,
}

impl Between {
    /// Takes one connection at `from`, in the lab's network, and leads it to `to`.
    fn start(lab: &Lab, from: u16, to: u16, answers: bool) -> Arc<Self> {
        let between =
            Arc::new(Self { encrypted: AtomicUsize::new(0), answers, begun: false.into() });
        let netns = File::open(format!("/run/netns/{}", lab.netns())).unwrap();
        let (shared, ready) = (between.clone(), std::sync::mpsc::channel());
        std::thread::spawn(move || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let listener = TcpListener::bind((CONTROLLER_ADDR, from)).unwrap();
            ready.0.send(()).unwrap();
            let (client, _) = listener.accept().unwrap();
            let server = TcpStream::connect((CONTROLLER_ADDR, to)).unwrap();
            let (up, down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let upward = shared.clone();
            std::thread::spawn(move || upward.upward(up, server));
            shared.downward(down, client);
        });
        ready.1.recv().unwrap();
        between
    }

    /// Record by record, as TLS cuts them.
    fn upward(&self, mut client: TcpStream, mut server: TcpStream) {
        let mut header = [0; 5];
        while client.read_exact(&mut header).is_ok() {
            let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
            if client.read_exact(&mut body).is_err() {
                break;
            }
            if header[0] == 23 {
                self.begun.store(true, Ordering::SeqCst);
                self.encrypted.fetch_add(body.len(), Ordering::SeqCst);
            }
            if server.write_all(&[&header[..], &body].concat()).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
    }

    fn downward(&self, mut server: TcpStream, mut client: TcpStream) {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = server.read(&mut buffer) {
            let passes = self.answers || !self.begun.load(Ordering::SeqCst);
            if passes && client.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
    }

    fn encrypted(&self) -> usize {
        self.encrypted.load(Ordering::SeqCst)
    }
}

#[test]
fn a_secret_goes_to_its_own_controller_and_an_answer_may_get_lost() {
    let mut site = site("other-ca", 2, &[]);
    let token = site.token("h1", &[]).unwrap();
    lost_answer(&mut site, &token);
    let other = Other::start(&site);
    another_ca(&site, &other);
    strangers(&site, &other);
}

/// The host refuses a controller of another CA before it sends anything of its own.
fn another_ca(site: &Deployment, other: &Other<'_>) {
    let (host, token) = (site.lab().host(1), site.token("h2", &[]).unwrap());
    let words = ["another CA than the join token", "nothing secret was sent"];
    join(host, "controller:8444", &token, &[]).refused(host, &words);
    let between = Between::start(site.lab(), 9445, 8444, true);
    join(host, "controller:9445", &token, &[]).refused(host, &words);
    // An alert is all that it says: 2 bytes, their type, and a tag of 16.
    let sent = between.encrypted();
    assert!(sent <= 32, "{sent} encrypted bytes went to a controller of another CA");
    let log = other.log();
    assert!(!log.contains("join"), "the other controller was asked to join:\n{log}");
    let audit = site.json(&["--config", "other.toml", "audit"]).unwrap();
    assert!(!audit.to_string().contains("Enrol/"), "{audit}");
}

/// The controller takes the token and dies before its answer arrives; the same command then gives
/// the same host.
fn lost_answer(site: &mut Deployment, token: &str) {
    let between = Between::start(site.lab(), 9444, 7444, false);
    let line = ["shoal-agent", "join", "--controller", "controller:9444", "--token", token];
    let host = site.lab().host(0);
    let mut command = host.command(&line).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let joining = command.spawn().unwrap();
    wait_until("the controller to take the token", PATIENCE, || {
        Ok(audited(site, "Enrol/Join") == 1)
    })
    .unwrap();
    site.kill_controller().unwrap();
    let output = joining.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let host = site.lab().host(0);
    Joined { code: output.status.code(), said }.refused(host, &["controller"]);
    assert!(between.encrypted() > 300, "a join is more than {} bytes", between.encrypted());
    let key = host.sh(&format!("sha256sum {IDENTITY}/key.pem")).unwrap();

    site.start_controller().unwrap();
    let host = site.lab().host(0);
    join(host, "controller", token, &[]).ok();
    enable(site, host);
    assert_eq!(host.sh(&format!("sha256sum {IDENTITY}/key.pem")).unwrap(), key);
    assert_eq!(audited(site, "Enrol/Join"), 1, "the second join made another host");
    assert_eq!(site.json(&["host", "list"]).unwrap()["hosts"].as_array().unwrap().len(), 1);
}

/// The first block of PEM in `text`.
fn block(text: &str) -> String {
    let end = text.find("-----END").unwrap();
    let end = end + text[end..].find('\n').unwrap_or(text.len() - end);
    let line = text[..end].trim_end_matches(['"', '\'', ' ']);
    format!("{}\n", &line[line.find("-----BEGIN").unwrap()..])
}

/// On the main port nobody is served who shows no certificate, one of another CA, or a host's.
fn strangers(site: &Deployment, other: &Other<'_>) {
    let theirs = fs::read_to_string(site.dir().join("other.toml")).unwrap();
    let certificate = &theirs[theirs.find("\ncertificate = ").unwrap()..];
    let key = &theirs[theirs.find("\nkey = ").unwrap()..];
    let context = other.stranger("stranger.toml", &block(certificate), &block(key));
    let said = site.shoal(&["--config", &context, "host", "list"]).unwrap();
    let said = said.fails_with(REFUSED).unwrap();
    assert!(said.contains("does not know the CA of this side's certificate"), "{said}");

    // The other's context as it is, but for the address: the command refuses the controller.
    let context = site.file("misled.toml", &theirs.replace(":8443", ":7443")).unwrap();
    let said = site.shoal(&["--config", context.to_str().unwrap(), "host", "list"]).unwrap();
    let said = said.fails_with(REFUSED).unwrap();
    assert!(said.contains("signed by an unknown CA"), "{said}");

    let read = |name: &str| {
        fs::read_to_string(site.lab().host(0).disk().join("shoal/agent").join(name)).unwrap()
    };
    let context = other.stranger("host.toml", &read("certificate.pem"), &read("key.pem"));
    for command in [&["host", "list"][..], &["host", "token", "create"], &["audit"]] {
        let line = [&["--config", &context], command].concat();
        let said = site.shoal(&line).unwrap().fails_with(REFUSED).unwrap();
        assert!(said.contains("agent"), "{said}");
    }

    // Joining shows no certificate, so that port is no way in.
    let (host, token) = (site.lab().host(1), site.token("h2", &[]).unwrap());
    let words = ["controller:7443", "asks for a client certificate and got none"];
    join(host, "controller:7443", &token, &[]).refused(host, &words);
    // After all of that, the host joins as if nothing had been.
    join(host, "controller", &token, &[]).ok();
    enable(site, host);
}

/// The machine's PID of the first process of an instance, which changes when it is restarted.
fn leader(host: &Host, machine: &str) -> String {
    let pid = host.sh(&format!("machinectl show {machine} --property=Leader --value")).unwrap();
    assert!(pid.trim().parse::<u32>().is_ok(), "{machine} has no leader: {pid}");
    pid
}

/// Has `test/web` run on every host.
fn run_an_instance(site: &Deployment) {
    let image = busybox_image("1").unwrap();
    site.shoal(&["image", "push", image.to_str().unwrap(), "busybox:1"]).unwrap().ok().unwrap();
    let text = "fleet = \"test\"\n[instance.web]\nimage = \"busybox:1\"\nhosts = \"*\"\n\
                command = [\"/bin/httpd\", \"-f\", \"-p\", \"8080\", \"-h\", \"/www\"]\n";
    site.file("fleet.toml", text).unwrap();
    site.shoal(&["apply", "--wait"]).unwrap().ok().unwrap();
}

fn shown(site: &Deployment, field: &str) -> Value {
    site.json(&["host", "show", "h1"]).unwrap()[field].clone()
}

#[test]
fn certificates_renew_by_themselves_and_lapsed_ones_are_recovered() {
    let site = site("renewal", 1, &[("agent-certificate-seconds", 10), ("heartbeat-ms", 500)]);
    let host = site.lab().host(0);
    join(host, "controller", &site.token("h1", &[]).unwrap(), &[]).ok();
    enable(&site, host);
    run_an_instance(&site);

    let (pid, online_since) = (leader(host, "test-web"), shown(&site, "since"));
    let key = host.sh(&format!("sha256sum {IDENTITY}/key.pem")).unwrap();
    let since = |site: &Deployment| site.json(&["ps"]).unwrap()["instances"][0]["since"].clone();
    let running_since = since(&site);
    let mut exec = site.shoal_command(&["exec", "test/web", "--", "cat"]);
    let mut exec = exec.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    exec.stdin.as_mut().unwrap().write_all(b"before\n").unwrap();
    for renewal in ["first", "second"] {
        let before = unix_seconds(&shown(&site, "certificate_expires"));
        wait_until(&format!("the {renewal} renewal"), PATIENCE, || {
            Ok(unix_seconds(&shown(&site, "certificate_expires")) > before)
        })
        .unwrap();
    }
    exec.stdin.take().unwrap().write_all(b"after\n").unwrap();
    let output = exec.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said == "before\nafter\n", "a session was cut: {output:?}");
    assert_eq!(leader(host, "test-web"), pid, "a renewal restarted an instance");
    assert_eq!(since(&site), running_since);
    assert_eq!(host.sh(&format!("sha256sum {IDENTITY}/key.pem")).unwrap(), key);
    assert_eq!(shown(&site, "since"), online_since, "a renewal showed the host as offline");
    assert!(audited(&site, "AgentLink/Renew") >= 2);

    // Off for longer than the certificate lives.
    host.power_kill().unwrap();
    wait_until("the host shows as offline", PATIENCE, || Ok(!site.is_online("h1")?)).unwrap();
    wait_until_past(&shown(&site, "certificate_expires"));
    let lapsed = unix_seconds(&shown(&site, "certificate_expires"));
    assert_eq!(audited(&site, "Enrol/Recover"), 0);
    host.start().unwrap();
    site.wait_online("h1").unwrap();
    assert!(unix_seconds(&shown(&site, "certificate_expires")) > lapsed);
    assert!(audited(&site, "Enrol/Recover") >= 1, "it did not recover");
    assert_eq!(host.sh(&format!("sha256sum {IDENTITY}/key.pem")).unwrap(), key);
    wait_until("the instance is ready again", PATIENCE, || {
        Ok(site.json(&["ps"])?["instances"][0]["ready"] == true)
    })
    .unwrap();
}

#[test]
fn a_host_that_is_cut_off_shows_as_offline_and_keeps_running() {
    let heartbeat = 1000;
    let site = site("cut-off", 1, &[("heartbeat-ms", heartbeat)]);
    let host = site.lab().host(0);
    join(host, "controller", &site.token("h1", &[]).unwrap(), &[]).ok();
    enable(&site, host);
    run_an_instance(&site);
    let (pid, agent) = (leader(host, "test-web"), agent_pid(host));
    let generation = shown(&site, "generation");

    host.cut_off().unwrap();
    let cut = Instant::now();
    wait_until("the host shows as offline", PATIENCE, || Ok(!site.is_online("h1")?)).unwrap();
    let took = cut.elapsed();
    // Three silent periods, and as much again for a busy machine to say so.
    assert!(took < Duration::from_millis(heartbeat) * 6, "it took {took:?}");
    let (since, heard) = (shown(&site, "since"), shown(&site, "last_heard"));
    let silent = unix_seconds(&since) - unix_seconds(&heard);
    assert!((2..=6).contains(&silent), "offline since {since}, last heard {heard}");
    let list = site.shoal(&["host", "list"]).unwrap().ok().unwrap();
    assert!(list.contains("offline") && list.contains("ago"), "{list}");
    let instances = site.json(&["ps"]).unwrap();
    assert_eq!(instances["instances"][0]["host_online"], false, "{instances}");
    assert_eq!(instances["instances"][0]["ready"], false, "{instances}");
    assert_eq!(leader(host, "test-web"), pid, "an instance was touched because its host is silent");
    assert_eq!(shown(&site, "generation"), generation, "something was done to a silent host");

    host.reconnect().unwrap();
    site.wait_online("h1").unwrap();
    assert!(unix_seconds(&shown(&site, "since")) >= unix_seconds(&since));
    wait_until("the instance shows as ready", PATIENCE, || {
        Ok(site.json(&["ps"])?["instances"][0]["ready"] == true)
    })
    .unwrap();
    assert_eq!(leader(host, "test-web"), pid, "coming back restarted an instance");
    assert_eq!(agent_pid(host), agent, "the agent itself was restarted");
}

fn agent_pid(host: &Host) -> String {
    host.sh("systemctl show --property=MainPID --value shoal-agent").unwrap()
}
