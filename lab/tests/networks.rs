//! Networks of instances: fixed addresses on a bridge, in a zone and on a link of their own, ports
//! of the host that lead to them, and checks made from inside them. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use shoal_lab::images::{self, DebianRecipe};
use shoal_lab::{Deployment, Host, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a host's own root sets up, here as at any boot.
const BRIDGE: &str = "\
[Unit]
Before=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'ip link add br1 type bridge && ip addr add 10.0.0.1/24 dev br1 && ip link set br1 up'
[Install]
WantedBy=multi-user.target
";

const HEAD: &str = "fleet = \"net\"\n";

/// A web server on port 80, with these keys besides.
fn web(name: &str, keys: &str) -> String {
    format!(
        "[instance.{name}]\nimage = \"box:1\"\nhosts = \"h1\"\n\
         command = [\"/bin/httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/www\"]\n{keys}\n\
         [instance.{name}.health]\nhttp = \"http://127.0.0.1:80/\"\n"
    )
}

const ONE: &str = r#"
network = "bridge:br1"
address = "10.0.0.11/24"
gateway = "10.0.0.1"
ports   = ["8001:80/tcp"]
"#;

/// Its answers don't find their way by themselves: it knows only its neighbours.
const NEIGHBOURLY: &str = r#"
network = "bridge:br1"
address = "10.0.0.12/24"
ports   = ["8002:80/tcp"]
"#;

const ZONED: &str = r#"
network = "zone:shop"
address = "10.1.0.2/24"
gateway = "10.1.0.1"
"#;

const LINKED: &str = r#"
network = "veth"
address = "10.2.0.2/24"
gateway = "10.2.0.1"
ports   = ["8003:80/tcp"]
"#;

const SIX: &str = r#"
network = "zone:six"
address = "fd00:6::2/64"
gateway = "fd00:6::1"
"#;

/// It checks its neighbour by a program, with its own environment.
const ASKER: &str = r#"
[instance.asker]
image   = "box:1"
hosts   = "h1"
command = ["/bin/sleep", "1000000"]
network = "zone:shop"
address = "10.1.0.3/24"
gateway = "10.1.0.1"
env     = { NEIGHBOUR = "10.1.0.2" }
[instance.asker.health]
exec = ["/bin/sh", "-c", "wget -q -O - http://$NEIGHBOUR/"]
"#;

/// Two systems that boot: one without a network daemon, one with systemd's.
const BOOTED: &str = r#"
[instance.plain]
image   = "plain:1"
hosts   = "h1"
boot    = true
network = "bridge:br1"
address = "10.0.0.21/24"
gateway = "10.0.0.1"
[instance.networkd]
image   = "networkd:1"
hosts   = "h1"
boot    = true
network = "bridge:br1"
address = "10.0.0.22/24"
gateway = "10.0.0.1"
[instance.networkd.health]
unit = "systemd-networkd.service"
"#;

fn whole_fleet() -> String {
    let webs = [
        web("one", ONE),
        web("neighbourly", NEIGHBOURLY),
        web("zoned", ZONED),
        web("linked", LINKED),
        web("six", SIX).replace("127.0.0.1", "[::1]"),
    ];
    format!("{HEAD}{}{ASKER}{BOOTED}", webs.concat())
}

fn plain_image() -> Result<PathBuf> {
    let recipe = DebianRecipe { name: "plain", packages: &[], revision: "networks 1" };
    images::debian_image(recipe, |root| {
        images::run_in_root(root, &["systemctl", "disable", "systemd-networkd"])
    })
}

fn networkd_image() -> Result<PathBuf> {
    let recipe = DebianRecipe { name: "networkd", packages: &[], revision: "networks 1" };
    images::debian_image(recipe, |root| {
        images::run_in_root(root, &["systemctl", "enable", "systemd-networkd"])
    })
}

fn exec(net: &Deployment, instance: &str, script: &str) -> String {
    net.shoal(&["exec", instance, "--", "/bin/sh", "-c", script]).unwrap().ok().unwrap()
}

/// What a page says to a host.
fn page(host: &Host, url: &str) -> Result<String> {
    Ok(host.sh(&format!("busybox wget -q -O - {url}"))?.trim().to_owned())
}

/// What `ip` tells of a container's end of its link.
fn inside(net: &Deployment, machine: &str, words: &str) -> String {
    let leader = net.container(0, machine).unwrap();
    let shown = net.lab().host(0).sh(&format!("nsenter -t {leader} --net ip -brief {words}"));
    shown.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn row(net: &Deployment, instance: &str) -> Value {
    let rows = net.json(&["ps", "net"]).unwrap();
    let rows = rows["instances"].as_array().unwrap().iter();
    let id = format!("net/{instance}");
    rows.into_iter().find(|row| row["id"] == id || row["instance"] == id).unwrap().clone()
}

#[test]
fn instances_have_networks_of_their_own() {
    let net = Deployment::new("networks", 2).unwrap();
    net.push(&images::busybox_image("1").unwrap(), "box:1").unwrap();
    net.push(&plain_image().unwrap(), "plain:1").unwrap();
    net.push(&networkd_image().unwrap(), "networkd:1").unwrap();

    a_missing_bridge_is_told_and_nothing_is_left(&net);
    a_bridge_that_is_made_is_used_by_itself(&net);
    net.apply(&whole_fleet()).unwrap();
    neighbours_on_a_bridge_reach_one_another(&net);
    ports_lead_to_their_instance_from_everywhere(&net);
    a_zone_and_its_host_reach_one_another(&net);
    booted_systems_have_the_address_that_was_given(&net);
    one_whose_supervisor_is_killed_comes_back(&net);
    a_taken_port_is_told(&net);
    nothing_runs_without_the_network_that_it_was_to_have(&net);
    checks_that_fail_are_told(&net);
    all_is_there_again_after_a_reboot(&net);
    what_is_stopped_leaves_nothing(&net);
}

fn a_missing_bridge_is_told_and_nothing_is_left(net: &Deployment) {
    net.file("fleet.toml", &format!("{HEAD}{}", web("one", ONE))).unwrap();
    net.shoal(&["apply"]).unwrap().ok().unwrap();
    let told = || {
        let status = net.shoal(&["status", "net"])?;
        Ok(status.stdout().contains("bridge br1 is not on this host")
            && status.stdout().contains("ip link add br1 type bridge"))
    };
    wait_until("the missing bridge to be told", PATIENCE, told).unwrap();
    net.shoal(&["status", "net"]).unwrap().fails_with(1).unwrap();
    let host = net.lab().host(0);
    assert_eq!(host.sh("nft list ruleset").unwrap(), "");
    assert_eq!(host.sh("findmnt -rn -o TARGET | grep /run/shoal/machines/ || true").unwrap(), "");
}

fn a_bridge_that_is_made_is_used_by_itself(net: &Deployment) {
    let host = net.lab().host(0);
    host.put_file("/etc/systemd/system/br1.service", BRIDGE.as_bytes(), 0o644).unwrap();
    host.sh("systemctl daemon-reload; systemctl enable --now br1").unwrap();
    let healthy = || Ok(row(net, "one")["ready"] == true);
    wait_until("the instance to be on the new bridge", PATIENCE, healthy).unwrap();
    assert_eq!(page(host, "http://10.0.0.11/").unwrap(), "1");
}

fn neighbours_on_a_bridge_reach_one_another(net: &Deployment) {
    assert_eq!(exec(net, "net/one", "wget -q -O - http://10.0.0.12/"), "1\n");
    assert_eq!(exec(net, "net/neighbourly", "wget -q -O - http://10.0.0.11/"), "1\n");
    assert_eq!(row(net, "one")["addresses"], serde_json::json!(["10.0.0.11"]));
    assert_eq!(row(net, "six")["addresses"], serde_json::json!(["fd00:6::2"]));
    let routes = exec(net, "net/neighbourly", "ip route");
    assert!(!routes.contains("default"), "a way out that nobody gave: {routes}");
    assert_eq!(
        exec(net, "net/one", "ip route | grep default"),
        "default via 10.0.0.1 dev host0 \n"
    );
}

fn ports_lead_to_their_instance_from_everywhere(net: &Deployment) {
    let (here, there) = (net.lab().host(0), net.lab().host(1));
    for port in [8001, 8002, 8003] {
        let url = format!("http://{}:{port}/", here.addr());
        assert_eq!(page(there, &url).unwrap(), "1", "port {port} from another host");
        assert_eq!(page(here, &url).unwrap(), "1", "port {port} from the host itself");
        let own = exec(net, "net/one", &format!("wget -q -O - {url}"));
        assert_eq!(own, "1\n", "port {port} from an instance");
    }
    assert_eq!(here.sh("cat /proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");
    let log = here.sh("journalctl -o cat -u 'shoal-instance@net-one'").unwrap();
    assert!(log.contains("net.ipv4.ip_forward was off; switched on"), "{log}");
    // The caller is seen as itself where the host is the way back to it.
    let (one, linked) = (callers(net, "one"), callers(net, "linked"));
    assert_eq!((one.as_str(), linked.as_str()), (there.addr(), there.addr()));
    assert_eq!(callers(net, "neighbourly"), "10.0.0.1");
}

/// Whom an instance sees when the other host calls its port.
fn callers(net: &Deployment, instance: &str) -> String {
    let ports = [("one", 8001), ("neighbourly", 8002), ("linked", 8003)];
    let (_, port) = ports.iter().find(|(name, _)| *name == instance).unwrap();
    let (here, there) = (net.lab().host(0), net.lab().host(1));
    let leader = net.container(0, &format!("net-{instance}")).unwrap();
    // A connection that is open for a while, so that it can be seen.
    let call = format!("(sleep 3 | busybox nc {} {port}) >/dev/null 2>&1 &", here.addr());
    there.sh(&call).unwrap();
    let mut caller = String::new();
    wait_until("the call to be seen", PATIENCE, || {
        let seen = here.sh(&format!(
            "nsenter -t {leader} --net ss -Htn state established 'sport = :80' | awk '{{print $4}}'"
        ))?;
        let seen = seen.trim().trim_start_matches("[::ffff:").to_owned();
        caller = seen.split([']', ':']).next().unwrap_or_default().to_owned();
        Ok(!caller.is_empty())
    })
    .unwrap();
    caller
}

fn a_zone_and_its_host_reach_one_another(net: &Deployment) {
    let host = net.lab().host(0);
    assert_eq!(page(host, "http://10.1.0.2/").unwrap(), "1");
    assert_eq!(page(host, "http://[fd00:6::2]/").unwrap(), "1");
    host.sh("mkdir -p /tmp/www; echo host >/tmp/www/index.html").unwrap();
    host.sh("systemd-run --unit=www busybox httpd -f -p 9000 -h /tmp/www").unwrap();
    for (instance, gateway) in [("zoned", "10.1.0.1"), ("linked", "10.2.0.1")] {
        let fetch = format!("wget -q -O - http://{gateway}:9000/");
        assert_eq!(exec(net, &format!("net/{instance}"), &fetch), "host\n");
    }
    assert_eq!(exec(net, "net/six", "wget -q -O - 'http://[fd00:6::1]:9000/'"), "host\n");
    assert_eq!(
        exec(net, "net/zoned", "ping -c 1 -W 5 10.1.0.3 | grep -c ' 0% packet loss'"),
        "1\n"
    );
    host.sh("systemctl stop www").unwrap();
}

fn booted_systems_have_the_address_that_was_given(net: &Deployment) {
    let configured = || {
        let said = exec(net, "net/networkd", "cat /run/systemd/netif/links/*");
        Ok(said.contains("ADMIN_STATE=configured") && said.contains("10-shoal-host0.network"))
    };
    wait_until("networkd inside to be done", PATIENCE, configured).unwrap();
    for (machine, address) in [("plain", "10.0.0.21"), ("networkd", "10.0.0.22")] {
        let machine = format!("net-{machine}");
        let shown = inside(net, &machine, "-4 address show dev host0");
        assert!(shown.ends_with(&format!("UP {address}/24")), "{machine}: {shown}");
        let routes = inside(net, &machine, "route show default");
        assert!(routes.starts_with("default via 10.0.0.1 dev host0"), "{machine}: {routes}");
        assert!(!routes[1..].contains("default"), "{machine}: {routes}");
        net.lab().host(0).sh(&format!("ping -c 1 -W 5 {address}")).unwrap();
    }
}

fn one_whose_supervisor_is_killed_comes_back(net: &Deployment) {
    let (here, there) = (net.lab().host(0), net.lab().host(1));
    let before = net.container(0, "net-linked").unwrap();
    here.sh("systemctl kill -s KILL --kill-whom=main shoal-instance@net-linked").unwrap();
    let back = || Ok(net.container(0, "net-linked").is_ok_and(|leader| leader != before));
    wait_until("the container to be made again", PATIENCE, back).unwrap();
    let url = format!("http://{}:8003/", here.addr());
    wait_until("its port to lead to it again", PATIENCE, || Ok(page(there, &url).is_ok())).unwrap();
}

fn a_taken_port_is_told(net: &Deployment) {
    let host = net.lab().host(0);
    host.sh("systemd-run --unit=taker busybox httpd -f -p 8009 -h /tmp/www").unwrap();
    let taken = web("one", &ONE.replace("8001", "8009"));
    net.file("fleet.toml", &whole_fleet().replace(&web("one", ONE), &taken)).unwrap();
    net.shoal(&["apply"]).unwrap().ok().unwrap();
    let told = || {
        let status = net.shoal(&["status", "net"])?.stdout();
        Ok(status.contains("port 8009/tcp of this host is in use by another program"))
    };
    wait_until("the taken port to be told", PATIENCE, told).unwrap();
    assert_eq!(page(host, &format!("http://{}:8009/", host.addr())).unwrap(), "host");
    host.sh("systemctl stop taker").unwrap();
    net.apply(&whole_fleet()).unwrap();
}

fn nothing_runs_without_the_network_that_it_was_to_have(net: &Deployment) {
    let host = net.lab().host(0);
    host.sh("mv /usr/bin/ip /usr/bin/ip.away").unwrap();
    let said = net.shoal(&["restart", "net/zoned"]).unwrap().fails_with(3).unwrap();
    assert!(said.contains("no network: can't run ip; is it installed?"), "{said}");
    assert!(net.container(0, "net-zoned").is_err(), "it runs without its network");
    host.sh("mv /usr/bin/ip.away /usr/bin/ip").unwrap();
    wait_until("it to be there again", PATIENCE, || Ok(row(net, "zoned")["ready"] == true))
        .unwrap();
}

fn checks_that_fail_are_told(net: &Deployment) {
    let whole = whole_fleet();
    let missing = whole.replacen("http://127.0.0.1:80/", "http://127.0.0.1:80/missing", 1);
    let asks = whole.replace("wget -q -O - http://$NEIGHBOUR/", "echo no $NEIGHBOUR >&2; exit 3");
    for (fleet, told) in [
        (missing, "http://127.0.0.1:80/missing answers with 404 Not Found"),
        (asks, "ended with 3: no 10.1.0.2"),
    ] {
        let fleet = fleet.replace(".health]\n", ".health]\ngrace = \"1s\"\n");
        net.file("fleet.toml", &fleet).unwrap();
        let said = net.shoal(&["apply", "--wait", "--timeout", "60s"]).unwrap();
        let said = said.fails_with(4).unwrap();
        assert!(said.contains(told), "{told:?} is not in: {said}");
    }
    net.apply(&whole).unwrap();
}

fn all_is_there_again_after_a_reboot(net: &Deployment) {
    let (here, there) = (net.lab().host(0), net.lab().host(1));
    here.sh("systemctl disable shoal-agent").unwrap();
    here.reboot().unwrap();
    for port in [8001, 8002, 8003] {
        let url = format!("http://{}:{port}/", here.addr());
        let answers = || Ok(page(there, &url).is_ok_and(|page| page == "1"));
        wait_until(&format!("port {port} after a reboot"), PATIENCE, answers).unwrap();
    }
    here.sh("systemctl enable --now shoal-agent").unwrap();
    net.wait_online("h1").unwrap();
}

fn what_is_stopped_leaves_nothing(net: &Deployment) {
    let host = net.lab().host(0);
    let tables = host.sh("nft list tables").unwrap();
    assert_eq!(tables.lines().count(), 3, "the check for rules sees {tables}");
    net.shoal(&["stop", "net/linked"]).unwrap().ok().unwrap();
    let closed = || Ok(!host.sh("nft list tables")?.contains("net-linked"));
    wait_until("the rules of a stopped instance to go", PATIENCE, closed).unwrap();
    assert!(!host.sh("ip -brief link").unwrap().contains("ve-net-linked"));
    net.apply("fleet = \"net\"\n[instance]\n").unwrap();
    let gone = || {
        let links = host.sh("ls /sys/class/net")?;
        let links: Vec<_> = links.split_whitespace().collect();
        anyhow::ensure!(links == ["br1", "host0", "lo"], "interfaces: {links:?}");
        let rules = host.sh("nft list ruleset")?;
        anyhow::ensure!(rules.is_empty(), "rules: {rules}");
        let files = host.sh("ls /run/systemd/network /run/shoal/machines 2>/dev/null || true")?;
        anyhow::ensure!(!files.contains("net-") && !files.contains(".network"), "files: {files}");
        Ok(true)
    };
    wait_until("all that belonged to the networks to be gone", PATIENCE, gone).unwrap();
    let left = host.sh("ls /sys/fs/cgroup/machine.slice | grep shoal-instance || true").unwrap();
    assert_eq!(left, "", "control groups");
    assert!(fs::read_dir(host.disk().join("shoal/instances")).unwrap().next().is_none());
}
