//! A hundred instances of one image on one host. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use shoal_lab::images::busybox_image;
use shoal_lab::{Deployment, Host, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

const ALL: usize = 100;

/// How many may be on their way up at once, as docs/hosts.md has it: two for each processor, and
/// at least four.
fn at_once() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).saturating_mul(2).max(4)
}

/// How much more memory the agent may have with all of them than with none.
const MOST_GROWTH: u64 = 12 << 20;

fn fleet(count: usize) -> String {
    let instance = |number| {
        format!(
            "[instance.i{number}]\nimage = \"box:1\"\nhosts = \"role=web\"\n\
             command = [\"/bin/sleep\", \"infinity\"]\n"
        )
    };
    format!("fleet = \"many\"\n[instance]\n{}", (1..=count).map(instance).collect::<String>())
}

/// What one line of shell counts.
fn count(host: &Host, script: &str) -> usize {
    host.sh(script).unwrap().trim().parse().unwrap()
}

fn mounts(host: &Host) -> usize {
    count(host, "grep -c ' /run/shoal/images/[0-9a-f]* ' /proc/self/mountinfo || true")
}

/// Every mount that is Shoal's.
fn all_mounts(host: &Host) -> usize {
    count(host, "grep -c ' /run/shoal/' /proc/self/mountinfo || true")
}

/// The loop devices of image files. All loop devices are the machine's, also those of others.
fn loops(host: &Host, digest: &str) -> usize {
    let list = "losetup --list --raw --noheadings --output BACK-INO,BACK-FILE";
    let inode = format!("stat -c %i /var/lib/shoal/images/{digest}.squashfs");
    count(
        host,
        &format!("inode=$({inode}); {list} | grep {digest} | grep -c \"^ *$inode \" || true"),
    )
}

/// Bytes of memory of the agent.
fn resident(host: &Host) -> u64 {
    let pid = "$(systemctl show --property=MainPID --value shoal-agent)";
    let kilobytes = format!("awk '/^VmRSS/ {{ print $2 }}' /proc/{pid}/status");
    host.sh(&kilobytes).unwrap().trim().parse::<u64>().unwrap() << 10
}

/// The first process of each container, by machine.
fn leaders(host: &Host) -> Vec<String> {
    let script = "for unit in $(systemctl list-units --plain --no-legend 'shoal-instance@many-*' \
                  | cut -d' ' -f1); do systemctl show --property=Id,MainPID,InvocationID \
                  --value $unit | paste -sd' '; done | sort";
    host.sh(script).unwrap().lines().map(str::to_owned).collect()
}

fn starting(host: &Host) -> usize {
    count(
        host,
        "systemctl list-units --plain --no-legend --state=activating 'shoal-instance@*' | wc -l",
    )
}

fn rows(site: &Deployment) -> Vec<Value> {
    site.json(&["ps"]).unwrap()["instances"].as_array().unwrap().clone()
}

#[test]
fn a_hundred_instances_of_one_image() {
    let site = Deployment::new("hundred", 1).unwrap();
    site.push(&busybox_image("1").unwrap(), "box:1").unwrap();
    let host = site.lab().host(0);
    let before = resident(host);

    // They come up, a few at a time.
    site.file("fleet.toml", &fleet(ALL)).unwrap();
    let began = Instant::now();
    let apply = site.spawn(&["apply", "--wait", "--timeout", "3m"], Stdio::piped()).unwrap();
    let mut most = 0;
    let all_up = || {
        most = most.max(starting(host));
        Ok(leaders(host).len() == ALL && starting(host) == 0)
    };
    wait_until("all of them to be up", Duration::from_secs(180), all_up).unwrap();
    apply.wait().unwrap().ok().unwrap();
    let took = began.elapsed();
    assert!(most > 0, "they were not looked at while they came up");
    assert!(most <= at_once(), "{most} were on their way up at once");

    let rows = rows(&site);
    assert_eq!(rows.len(), ALL);
    assert!(rows.iter().all(|row| row["state"] == "running" && row["ready"] == true), "{rows:?}");
    let digest = rows[0]["digest"].as_str().unwrap();
    assert_eq!((mounts(host), loops(host, digest)), (1, 1), "mounts and loop devices of the image");
    let full = resident(host);
    eprintln!(
        "{ALL} instances: {took:?} to apply, at most {most} at once; agent {} KiB with none, {} KiB \
         with all",
        before >> 10,
        full >> 10
    );
    assert!(full < before + MOST_GROWTH, "the agent grew from {before} to {full} bytes");

    an_agent_that_starts_anew_touches_none(&site);
    nothing_is_left_of_them(&site, digest);
}

fn an_agent_that_starts_anew_touches_none(site: &Deployment) {
    let host = site.lab().host(0);
    let before = leaders(host);
    assert_eq!(before.len(), ALL);
    host.sh("systemctl kill --signal=KILL shoal-agent").unwrap();
    let is_back = || Ok(host.sh("systemctl is-active shoal-agent").is_ok());
    wait_until("systemd to start the agent again", PATIENCE, is_back).unwrap();
    site.wait_online("h1").unwrap();
    let is_ready = || site.shoal(&["status", "many"])?.ok().map(|_| true);
    wait_until("all of them to be ready", PATIENCE, is_ready).unwrap();
    assert_eq!(leaders(host), before, "an agent that starts restarted something");
    assert_eq!(mounts(host), 1);
}

fn nothing_is_left_of_them(site: &Deployment, digest: &str) {
    let host = site.lab().host(0);
    let began = Instant::now();
    site.apply(&fleet(0)).unwrap();
    eprintln!("{ALL} instances: {:?} to take them away", began.elapsed());
    assert!(rows(site).is_empty());
    assert!(leaders(host).is_empty(), "{:?}", leaders(host));
    let unmounted = || Ok(all_mounts(host) == 0 && loops(host, digest) == 0);
    wait_until("the image to be unmounted", PATIENCE, unmounted).unwrap();
    let left = |dir: &str| host.sh(&format!("ls -A {dir}")).unwrap();
    assert_eq!(left("/var/lib/shoal/instances"), "");
    assert_eq!(left("/run/shoal/machines"), "");
    let wants = left("/etc/systemd/system/multi-user.target.wants");
    assert!(!wants.contains("many-"), "{wants}");
    let drop_ins = left("/etc/systemd/system");
    assert!(!drop_ins.contains("many-"), "{drop_ins}");
}
