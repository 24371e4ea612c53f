//! The example fleet deploy/examples/rebuild on three hosts by role: containers are destroyed and
//! made afresh where an apply asks for it, and nowhere else; their data stays. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::time::Duration;

use serde_json::Value;
use shoal_lab::{Deployment, Host, images, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

const FLEET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/rebuild/fleet.toml");

/// The roles of the hosts, which are what their instances are called.
const ROLES: [&str; 3] = ["web", "log", "ci"];
const LOG: usize = 1;

/// The three hosts are neighbours on one bridge, as the example wants it: each has its link in it.
fn bridge(host: &Host, number: usize) -> String {
    format!(
        "[Unit]\nBefore=network.target\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart=/bin/sh -c 'ip link add br1 address $(cat /sys/class/net/host0/address) type \
         bridge && ip addr flush dev host0 && ip link set host0 master br1 && \
         ip addr add {}/24 dev br1 && ip addr add 10.30.0.{number}/24 dev br1 && \
         ip link set br1 up'\n[Install]\nWantedBy=multi-user.target\n",
        host.addr()
    )
}

fn three_hosts() -> Deployment {
    let mut site = Deployment::without_hosts("rebuild").unwrap();
    site.lab_mut().boot_hosts(ROLES.len()).unwrap();
    for (position, role) in ROLES.iter().enumerate() {
        let host = site.lab().host(position);
        let unit = bridge(host, position + 1);
        host.put_file("/etc/systemd/system/br1.service", unit.as_bytes(), 0o644).unwrap();
        host.sh("systemctl daemon-reload; systemctl enable --now br1").unwrap();
        site.join(position, &[&format!("role={role}")]).unwrap();
    }
    site
}

/// The first process of each role's container.
fn leaders(site: &Deployment) -> Vec<u32> {
    let leader = |(position, role)| site.container(position, &format!("rebuild-{role}")).unwrap();
    ROLES.into_iter().enumerate().map(leader).collect()
}

fn exec(site: &Deployment, instance: &str, script: &str) -> String {
    site.shoal(&["exec", instance, "--", "/bin/sh", "-c", script]).unwrap().ok().unwrap()
}

fn lines(site: &Deployment) -> String {
    exec(site, "rebuild/log", "cd /var/log/rebuild; test ! -e lines || cat lines")
}

/// A visitor of the web host, of whom the log is told at its fixed address.
fn visit(site: &Deployment) {
    let told = || lines(site).matches("web: visit").count();
    let before = told();
    let said = site.lab().host(0).sh("busybox wget -q -O - http://10.30.0.11/cgi-bin/visit");
    assert_eq!(said.unwrap(), "kept\n");
    assert_eq!(told(), before + 1, "{}", lines(site));
}

fn revision(site: &Deployment) -> Value {
    let status = site.json(&["status", "rebuild"]).unwrap();
    status["revision"].clone()
}

#[test]
fn roles_are_destroyed_and_rebuilt_and_their_data_stays() {
    let site = three_hosts();
    site.push(&images::rebuild_image().unwrap(), "rebuild:1").unwrap();
    site.shoal(&["check", FLEET]).unwrap().ok().unwrap();
    site.shoal(&["apply", FLEET, "--wait", "--timeout", "90s"]).unwrap().ok().unwrap();
    visit(&site);
    let reported = || Ok(lines(&site).contains("ci: passed"));
    wait_until("the job to have passed and the log to know it", PATIENCE, reported).unwrap();

    what_is_meant_has_to_be_there(&site);
    one_role_is_rebuilt(&site);
    what_does_not_come_back_leaves_the_others_alone(&site);
}

fn what_is_meant_has_to_be_there(site: &Deployment) {
    let before = (leaders(site), revision(site));
    for verb in ["plan", "apply"] {
        let said = site.shoal(&[verb, FLEET, "--recreate", "-l", "role=lgo"]).unwrap();
        let said = said.fails_with(2).unwrap();
        assert!(said.contains("none of the hosts of fleet rebuild matches role=lgo"), "{said}");
        assert!(said.contains("h1 (role=web), h2 (role=log), h3 (role=ci)"), "{said}");
        let said = site.shoal(&[verb, FLEET, "-l", "role=log"]).unwrap().fails_with(2).unwrap();
        assert!(said.contains("--recreate"), "{said}");
    }
    assert_eq!((leaders(site), revision(site)), before);
}

fn one_role_is_rebuilt(site: &Deployment) {
    exec(site, "rebuild/log", "echo precious >>/var/log/rebuild/lines");
    exec(
        site,
        "rebuild/log",
        "echo 1 >/srv/garbage; echo 1 >/etc/garbage; rm /srv/log/cgi-bin/append",
    );
    let before = leaders(site);
    let plan = site.shoal(&["plan", FLEET, "--recreate", "-l", "role=log"]).unwrap();
    plan.fails_with(1).unwrap();
    let plan = plan.stdout();
    let says = "  ~ log on h2: destroy and make afresh\n      its data stays: lines\n";
    assert!(plan.contains(says) && !plan.contains(" on h1"), "{plan}");
    assert!(plan.contains("0 to replace, 1 to recreate, 0 to remove, 2 unchanged"), "{plan}");
    assert_eq!(
        (leaders(site), revision(site)),
        (before.clone(), 1.into()),
        "a plan changes nothing"
    );

    let apply = ["apply", FLEET, "--recreate", "-l", "role=log", "--wait", "--timeout", "90s"];
    let applied = site.shoal(&apply).unwrap().ok().unwrap();
    assert!(applied.contains("revision 2"), "{applied}");
    let after = leaders(site);
    assert_ne!(after[LOG], before[LOG], "it is another container");
    assert_eq!((after[0], after[2]), (before[0], before[2]), "the others were not asked for");
    let left = exec(site, "rebuild/log", "ls /srv /etc /srv/log/cgi-bin");
    assert!(!left.contains("garbage") && left.contains("append"), "{left}");
    assert!(lines(site).contains("precious"), "{}", lines(site));
    visit(site);
    site.shoal(&["plan", FLEET]).unwrap().ok().unwrap();
    let audit = site.shoal(&["audit"]).unwrap().ok().unwrap();
    assert!(audit.contains("containers made afresh on host h2"), "{audit}");
}

fn what_does_not_come_back_leaves_the_others_alone(site: &Deployment) {
    let before = leaders(site);
    let host = site.lab().host(LOG);
    host.sh("mv /usr/bin/ip /usr/bin/ip.away").unwrap();
    let apply = ["apply", FLEET, "--recreate", "--wait", "--timeout", "90s"];
    let said = site.shoal(&apply).unwrap().fails_with(3).unwrap();
    assert!(said.contains("no network: can't run ip; is it installed?"), "{said}");
    let after: Vec<u32> = [(0, "web"), (2, "ci")]
        .map(|(h, r)| site.container(h, &format!("rebuild-{r}")).unwrap())
        .into();
    assert_eq!(after, [before[0], before[2]], "the log comes first, and nobody after it");
    host.sh("mv /usr/bin/ip.away /usr/bin/ip").unwrap();
    let ready = || Ok(site.json(&["ps", "rebuild/log"])?["instances"][0]["ready"] == true);
    wait_until("the log to be there again, by itself", PATIENCE, ready).unwrap();
    // The rollout has failed all the same, and so a plan says that an apply tries it again.
    site.shoal(&["plan", FLEET]).unwrap().fails_with(1).unwrap();
    assert!(lines(site).contains("precious"), "{}", lines(site));

    let broken = leaders(site);
    site.shoal(&apply).unwrap().ok().unwrap();
    let rebuilt = leaders(site);
    assert!(broken.iter().zip(&rebuilt).all(|(old, new)| old != new), "{broken:?} {rebuilt:?}");
    assert!(lines(site).contains("precious"), "{}", lines(site));
    visit(site);
}
