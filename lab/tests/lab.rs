//! The lab itself, on real hosts. Needs root.
#![allow(clippy::disallowed_methods, reason = "the tests look at the machine from outside")]
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use shoal_lab::images::{self, DebianRecipe};
use shoal_lab::{Host, Lab, wait_until};

const SHORT: Duration = Duration::from_secs(10);

/// The lines of the machine's loop devices, mounts, namespaces, processes and cgroups that bear
/// the mark of `lab`, whether they are named after it or point below its directory.
fn traces_of(lab: &str) -> String {
    let script = r#"
        losetup --list --noheadings --output NAME,BACK-FILE
        cat /proc/self/mountinfo
        ip netns
        ps -eo pid,args
        find /sys/fs/cgroup -path '*shoal-lab*' -type d
        find /var/lib/shoal-lab -maxdepth 1
    "#;
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| line.contains(lab)).map(|line| format!("{line}\n")).collect()
}

fn loop_files() -> String {
    let output = Command::new("losetup")
        .args(["--list", "--noheadings", "--output", "BACK-INO,BACK-FILE"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn pings(from: &Host, to: &str) -> bool {
    from.run(&["ping", "-c1", "-W1", to]).unwrap().status.success()
}

#[test]
fn hosts_boot_survive_what_happens_to_them_and_leave_nothing() {
    let mut lab = Lab::new("lab test").unwrap();
    lab.boot_hosts(2).unwrap();
    let (one, two) = (lab.host(0), lab.host(1));
    let name = lab.name().to_owned();
    assert!(traces_of(&name).contains("nspawn"), "the check for traces sees nothing");

    assert_eq!(one.sh("hostname").unwrap().trim(), "h1");
    assert!(pings(one, two.addr()) && pings(two, "controller"));
    one.cut_off().unwrap();
    assert!(!pings(two, one.addr()));
    one.reconnect().unwrap();
    wait_until("the cable", SHORT, || Ok(pings(two, one.addr()))).unwrap();

    keeps_its_disk(one, "a clean reboot", Host::reboot);
    keeps_its_disk(one, "a power cut", |host| {
        host.power_kill()?;
        assert!(!host.is_running());
        assert!(host.sh("true").is_err());
        host.start()
    });
    keeps_its_disk(two, "a stop", |host| {
        host.stop()?;
        host.start()
    });

    // One each on the real file system, deleted, on a tmpfs and on the root's overlay.
    let left = ["/var/lib/shoal/left-1", "/var/lib/shoal/left-2", "/run/left-3", "/root/left-4"];
    for file in left {
        one.sh(&format!("truncate -s 1M {file} && losetup -f {file}")).unwrap();
        assert!(loop_files().contains(file));
    }
    one.sh("rm /var/lib/shoal/left-2").unwrap();
    drop(lab);
    assert_eq!(traces_of(&name), "");
    assert!(!loop_files().contains("left-"), "still attached:\n{}", loop_files());
}

fn keeps_its_disk(host: &Host, what: &str, happens: impl Fn(&Host) -> anyhow::Result<()>) {
    let boot = "cat /var/lib/shoal/mark /etc/mark; test ! -e /run/mark && journalctl -q -t lab-mark -o cat";
    host.sh("echo data >/var/lib/shoal/mark; echo root >/etc/mark; touch /run/mark; losetup -f /etc/mark")
        .unwrap();
    host.sh("echo logged | systemd-cat -t lab-mark; journalctl --sync").unwrap();
    happens(host).unwrap_or_else(|error| panic!("{what}: {error:#}"));
    let seen = host.sh(boot).unwrap_or_else(|error| panic!("{what}: {error:#}"));
    assert!(seen.starts_with("data\nroot\n") && seen.contains("logged"), "{what}: {seen}");
    assert!(!loop_files().contains("/etc/mark"), "{what} left a loop device: {}", loop_files());
    host.sh("systemctl is-system-running").unwrap();
}

#[test]
fn files_and_programs_get_into_a_host() {
    let mut lab = Lab::new("files").unwrap();
    let host = lab.boot_host("web-1").unwrap();
    host.put_file("/etc/deep/er/file", b"bytes", 0o640).unwrap();
    assert_eq!(
        host.sh("cat /etc/deep/er/file; stat -c %a /etc/deep/er/file").unwrap(),
        "bytes640\n"
    );
    for (program, says) in [("/bin/echo", "hello\n"), ("/bin/true", "")] {
        host.install(Path::new(program), "/opt/bin/tool").unwrap();
        assert_eq!(host.sh("/opt/bin/tool hello").unwrap(), says);
    }
    let error = format!("{:#}", host.sh("echo out; echo err >&2; exit 7").unwrap_err());
    assert!(
        ["web-1", "out", "err", "status: 7"].iter().all(|part| error.contains(part)),
        "{error}"
    );
}

#[test]
fn a_kept_lab_is_opened_again_and_destroyed() {
    let mut lab = Lab::new("kept").unwrap();
    lab.boot_hosts(1).unwrap();
    let name = lab.name().to_owned();
    assert!(Lab::open(&name).is_err(), "it is not kept yet");
    lab.keep().unwrap();
    drop(lab);
    Lab::sweep().unwrap();
    let lab = Lab::open(&name).unwrap();
    assert_eq!(lab.host(0).sh("hostname").unwrap().trim(), "h1");
    lab.host(0).reboot().unwrap();
    drop(lab);
    assert!(Lab::list().unwrap().contains(&name));
    Lab::destroy(&name).unwrap();
    assert_eq!(traces_of(&name), "");
    assert!(Lab::destroy(&name).unwrap_err().to_string().contains("there is no lab"));
}

#[test]
fn a_killed_owner_leaves_nothing() {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "owner_that_waits_to_be_killed"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let name =
        lines.map_while(Result::ok).find_map(|l| Some(l.split_once("lab is ")?.1.to_owned()));
    let name = name.expect("the owner says its lab's name");
    assert!(traces_of(&name).contains("nspawn"));
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until("the watchdog", SHORT * 3, || {
        let left = traces_of(&name);
        anyhow::ensure!(left.is_empty(), "left: {left}");
        Ok(true)
    })
    .unwrap();
}

#[test]
#[ignore = "the other half of a_killed_owner_leaves_nothing"]
fn owner_that_waits_to_be_killed() {
    let mut lab = Lab::new("killed").unwrap();
    lab.boot_hosts(1).unwrap();
    let mut controller = lab.netns_command("sleep").arg("600").spawn().unwrap();
    println!("lab is {}", lab.name());
    controller.wait().unwrap();
}

#[test]
fn images_are_cached_by_recipe_and_run_in_a_host() {
    let (a, b) = (images::busybox_image("a").unwrap(), images::busybox_image("b").unwrap());
    assert_eq!(images::busybox_image("a").unwrap(), a);
    assert_ne!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
    let recipe = DebianRecipe { name: "plain", packages: &[], revision: "1" };
    let debian = images::debian_image(recipe, |root| {
        images::run_in_root(root, &["useradd", "--uid", "1000", "app"])
    })
    .unwrap();

    let mut lab = Lab::new("images").unwrap();
    let host = lab.boot_host("h1").unwrap();
    for (image, name) in [(a, "a"), (debian, "debian")] {
        std::fs::copy(image, host.disk().join("shoal").join(name)).unwrap();
        host.sh(&format!(
            "mkdir -p /run/img/{name} && mount -t squashfs -o ro,loop /var/lib/shoal/{name} /run/img/{name}"
        ))
        .unwrap();
    }
    let nspawn = "systemd-nspawn --quiet --keep-unit --register=no --timezone=off --read-only --pipe --directory=/run/img";
    let said = host.sh(&format!("{nspawn}/a /bin/cat /www/index.html /etc/os-release")).unwrap();
    assert!(said.starts_with("a\n") && said.contains("IMAGE_VERSION=\"a\""), "{said}");
    let said = host.sh(&format!("{nspawn}/debian /usr/bin/id -u app")).unwrap();
    assert_eq!(said.trim(), "1000");
    boots_as_a_service(host, "/run/img/debian");
}

/// As the product runs it: in a unit of its own that is ready when the system inside is.
fn boots_as_a_service(host: &Host, root: &str) {
    host.sh(&format!(
        "systemd-run --unit=guest --property=Type=notify --property=NotifyAccess=all \
         --property=Delegate=yes --slice=machine.slice systemd-nspawn --keep-unit --boot \
         --machine=guest --directory={root} --volatile=overlay --notify-ready=yes --private-network"
    ))
    .unwrap();
    let leader = host.sh("machinectl show guest --property=Leader --value").unwrap();
    let state = host
        .sh(&format!("nsenter --target {} --all systemctl is-system-running", leader.trim()))
        .unwrap();
    assert_eq!(state.trim(), "running");
    host.sh("systemctl stop guest").unwrap();
}
