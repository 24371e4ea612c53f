//! What keeps running, and what goes on by itself, whatever is killed: on real hosts, through the
//! command alone. Needs root.
#![allow(clippy::disallowed_methods, reason = "the tests run the command beside themselves")]
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

mod app;

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use shoal_lab::{Deployment, Host, images, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Every machine of the fleet, which each host runs.
const MACHINES: [&str; 2] = ["shop-system", "shop-web"];

const FLEET: &str = r#"
fleet = "shop"

[instance.system]
image = "app:1"
hosts = "role=web"
boot  = true
[instance.system.data.var]
path  = "/var/app"
owner = "1000:1000"
[instance.system.health]
unit = "app.service"

[instance.web]
image   = "box:1"
hosts   = "role=web"
command = ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"]
network = "host"
env     = { COLOUR = "@COLOUR" }
[instance.web.data.store]
path = "/data"
[instance.web.health]
tcp = "127.0.0.1:8080"
"#;

fn fleet(colour: &str) -> String {
    FLEET.replace("@COLOUR", colour)
}

/// Two hosts that run the fleet.
fn shop(hint: &str) -> Deployment {
    let shop = Deployment::new(hint, 2).unwrap();
    shop.push(&app::image().unwrap(), "app:1").unwrap();
    shop.push(&images::busybox_image("1").unwrap(), "box:1").unwrap();
    shop.apply(&fleet("blue")).unwrap();
    shop
}

fn leaders(shop: &Deployment) -> Vec<u32> {
    let places = [0, 1].into_iter().flat_map(|host| MACHINES.map(|machine| (host, machine)));
    places.map(|(host, machine)| shop.container(host, machine).unwrap()).collect()
}

fn is_ready(shop: &Deployment) -> Result<bool> {
    shop.shoal(&["status", "shop"])?.ok().map(|_| true)
}

fn wait_until_ready(shop: &Deployment) {
    wait_until("every instance to be ready", PATIENCE, || is_ready(shop)).unwrap();
}

/// Whether both instances of a host work, as seen on the host itself.
fn works(shop: &Deployment, position: usize) -> Result<bool> {
    let host = shop.lab().host(position);
    let system = shop.container(position, "shop-system")?;
    host.sh(&format!("nsenter --target {system} --all systemctl is-active app.service"))?;
    host.sh("bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080'")?;
    let units = "systemctl is-active shoal-instance@shop-system shoal-instance@shop-web";
    let states = host.sh(units)?;
    ensure!(states == "active\nactive\n", "the units: {states}");
    Ok(true)
}

fn exec(shop: &Deployment, instance: &str, script: &str) -> String {
    shop.shoal(&["exec", instance, "--", "/bin/sh", "-c", script]).unwrap().ok().unwrap()
}

#[test]
fn instances_outlive_their_controller_agent_and_host() {
    let mut shop = shop("stays up");
    a_killed_controller(&mut shop);
    a_killed_agent(&shop);
    a_stopped_agent(&shop);
    comes_back_alone(&mut shop, "a reboot", Host::reboot);
    comes_back_alone(&mut shop, "a power cut", |host| {
        host.power_kill()?;
        host.start()
    });
}

fn a_killed_controller(shop: &mut Deployment) {
    let before = leaders(shop);
    shop.kill_controller().unwrap();
    shop.shoal(&["ps"]).unwrap().fails_with(8).unwrap();
    for host in [0, 1] {
        assert!(works(shop, host).unwrap());
    }
    shop.start_controller().unwrap();
    for host in ["h1", "h2"] {
        shop.wait_online(host).unwrap();
    }
    wait_until_ready(shop);
    assert_eq!(leaders(shop), before, "a killed controller took instances along");
}

fn main_pid(host: &Host) -> Result<u32> {
    Ok(host.sh("systemctl show shoal-agent --property=MainPID --value")?.trim().parse()?)
}

fn a_killed_agent(shop: &Deployment) {
    let before = leaders(shop);
    let host = shop.lab().host(0);
    for _ in 0..3 {
        let agent = main_pid(host).unwrap();
        host.sh(&format!("kill -9 {agent}")).unwrap();
        let is_back = || {
            Ok(![0, agent].contains(&main_pid(host)?)
                && host.sh("systemctl is-active shoal-agent").is_ok())
        };
        wait_until("systemd to start the agent again", PATIENCE, is_back).unwrap();
    }
    shop.wait_online("h1").unwrap();
    wait_until_ready(shop);
    assert_eq!(leaders(shop), before, "a killed agent took instances along");
}

fn a_stopped_agent(shop: &Deployment) {
    let host = shop.lab().host(0);
    host.sh("systemctl stop shoal-agent").unwrap();
    wait_until("h1 to be offline", PATIENCE, || Ok(!shop.is_online("h1")?)).unwrap();
    let ps = shop.shoal(&["ps"]).unwrap().ok().unwrap();
    assert!(ps.contains("offline, last seen"), "ps with a host that is offline:\n{ps}");
    for machine in MACHINES {
        let leader = shop.container(0, machine).unwrap();
        host.sh(&format!("kill -9 {leader}")).unwrap();
        let what = format!("{machine} to be back without the agent");
        let is_back = || Ok(shop.container(0, machine)? != leader && works(shop, 0)?);
        wait_until(&what, PATIENCE, is_back).unwrap();
    }
    let before = leaders(shop);
    host.sh("systemctl start shoal-agent").unwrap();
    shop.wait_online("h1").unwrap();
    wait_until_ready(shop);
    assert_eq!(leaders(shop), before, "an agent that starts restarted something");
}

fn comes_back_alone(shop: &mut Deployment, what: &str, happens: impl Fn(&Host) -> Result<()>) {
    exec(shop, "shop/web@h1", &format!("echo '{what}' >/data/mark; sync /data/mark"));
    exec(shop, "shop/system@h1", &format!("echo '{what}' >/var/app/mark; sync /var/app/mark"));
    shop.kill_controller().unwrap();
    let other = shop.container(1, "shop-web").unwrap();
    happens(shop.lab().host(0)).unwrap_or_else(|error| panic!("{what}: {error:#}"));
    wait_until(&format!("instances to be back after {what}"), PATIENCE, || works(shop, 0)).unwrap();
    shop.start_controller().unwrap();
    shop.wait_online("h1").unwrap();
    wait_until_ready(shop);
    assert_eq!(exec(shop, "shop/web@h1", "cat /data/mark").trim(), what);
    assert_eq!(exec(shop, "shop/system@h1", "cat /var/app/mark").trim(), what);
    let after = shop.container(1, "shop-web").unwrap();
    assert_eq!(after, other, "{what} of h1 restarted an instance of h2");
}

/// The newest revision, and how its rollout stands.
fn newest(shop: &Deployment) -> Result<(u64, String)> {
    let list = shop.json(&["rollout", "list", "shop"])?;
    let rollout = &list["rollouts"][0];
    let state = rollout["state"].as_str().unwrap_or("no rollout");
    Ok((rollout["revision"].as_u64().unwrap_or_default(), state.to_owned()))
}

fn is_completed(shop: &Deployment, revision: u64) -> Result<bool> {
    let (newest, state) = newest(shop)?;
    ensure!(newest == revision && state == "completed", "revision {newest} is {state}");
    is_ready(shop)
}

#[test]
fn an_apply_goes_on_when_the_controller_is_killed() {
    let mut shop = shop("killed apply");
    let system = [0, 1].map(|host| shop.container(host, "shop-system").unwrap());
    killed_after_the_apply(&mut shop);
    killed_during_the_apply(&mut shop);
    let after = [0, 1].map(|host| shop.container(host, "shop-system").unwrap());
    assert_eq!(after, system, "an instance that never changed was restarted");
}

/// An apply that was acknowledged is carried to its end, whenever the controller dies.
fn killed_after_the_apply(shop: &mut Deployment) {
    for moment in [0, 100, 500] {
        let colour = format!("after-{moment}");
        shop.file("fleet.toml", &fleet(&colour)).unwrap();
        shop.shoal(&["apply"]).unwrap().ok().unwrap();
        let (revision, _) = newest(shop).unwrap();
        // The moment of the kill is what differs; there is nothing to wait for.
        std::thread::sleep(Duration::from_millis(moment));
        shop.kill_controller().unwrap();
        shop.start_controller().unwrap();
        let what = format!("revision {revision}, whose controller died after {moment} ms");
        wait_until(&what, PATIENCE, || is_completed(shop, revision)).unwrap();
        for host in ["h1", "h2"] {
            let seen = exec(shop, &format!("shop/web@{host}"), "echo $COLOUR");
            assert_eq!(seen.trim(), colour, "on {host}");
        }
    }
}

/// An apply that was cut off is there as a whole or not at all, and can be repeated.
fn killed_during_the_apply(shop: &mut Deployment) {
    for moment in [5, 40] {
        let colour = format!("during-{moment}");
        shop.file("fleet.toml", &fleet(&colour)).unwrap();
        let (before, _) = newest(shop).unwrap();
        let mut apply = quiet(shop, &["apply"]);
        std::thread::sleep(Duration::from_millis(moment));
        shop.kill_controller().unwrap();
        let acknowledged = apply.wait().unwrap().success();
        shop.start_controller().unwrap();
        let (after, _) = newest(shop).unwrap();
        assert!(after > before || !acknowledged, "an acknowledged revision was lost");
        shop.shoal(&["apply", "--wait", "--timeout", "60s"]).unwrap().ok().unwrap();
        assert_eq!(newest(shop).unwrap().0, before + 1, "repeating made a second revision");
        let seen = exec(shop, "shop/web@h2", "echo $COLOUR");
        assert_eq!(seen.trim(), colour);
    }
}

/// Whether a process runs there whose whole command line matches. Asked without a shell, whose own
/// command line would.
fn runs(host: &Host, line: &str) -> Result<bool> {
    Ok(host.run(&["pgrep", "--full", "--exact", line])?.status.success())
}

/// `shoal` with `arguments`, in the background and unheard.
fn quiet(shop: &Deployment, arguments: &[&str]) -> Child {
    let mut command = shop.shoal_command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Works, and is never healthy.
const DEAF: &str = r#"
[instance.deaf]
image   = "box:1"
hosts   = "h1"
command = ["/bin/sleep", "1000000"]
[instance.deaf.health]
tcp = "127.0.0.1:9"
"#;

#[test]
fn a_controller_that_is_told_to_end_does_and_hosts_that_were_away_catch_up() {
    let mut shop = shop("ends");
    streams_do_not_hold_it_up(&mut shop);
    a_host_that_is_away_delays_only_itself(&mut shop);
}

fn streams_do_not_hold_it_up(shop: &mut Deployment) {
    shop.file("fleet.toml", &(fleet("blue") + DEAF)).unwrap();
    let mut apply = quiet(shop, &["apply", "--wait", "--timeout", "50s"]);
    let mut logs = quiet(shop, &["logs", "-f", "shop/web@h2"]);
    let mut exec = quiet(shop, &["exec", "shop/web@h2", "--", "sleep", "100"]);
    let is_under_way = || {
        let (_, state) = newest(shop)?;
        ensure!(["staging", "changing"].contains(&&*state), "the rollout is {state}");
        let host = shop.lab().host(1);
        Ok(runs(host, "journalctl .*--follow.*")? && runs(host, "sleep 100")?)
    };
    wait_until("the streams to be open", PATIENCE, is_under_way).unwrap();
    let began = Instant::now();
    shop.stop_controller().unwrap();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(8), "it took {took:?} to end");
    let ended = |child: &mut Child| child.wait().unwrap().code();
    assert_eq!(ended(&mut exec), Some(125), "exec of a controller that went away");
    assert!(apply.try_wait().unwrap().is_none(), "apply --wait did not wait for the controller");
    assert!(logs.try_wait().unwrap().is_none(), "logs -f did not wait for the controller");
    let command_is_gone = || Ok(!runs(shop.lab().host(1), "sleep 100")?);
    wait_until("the cut-off command to be gone", PATIENCE, command_is_gone).unwrap();

    shop.start_controller().unwrap();
    assert!(apply.try_wait().unwrap().is_none(), "apply --wait gave up");
    shop.apply(&fleet("blue")).unwrap();
    assert_eq!(ended(&mut apply), Some(7), "its revision was superseded");
    assert!(logs.try_wait().unwrap().is_none(), "logs -f gave up");
    logs.kill().unwrap();
    logs.wait().unwrap();
}

fn a_host_that_is_away_delays_only_itself(shop: &mut Deployment) {
    let (one, two) =
        (shop.container(0, "shop-web").unwrap(), shop.container(1, "shop-web").unwrap());
    shop.lab().host(1).cut_off().unwrap();
    wait_until("h2 to be offline", PATIENCE, || Ok(!shop.is_online("h2")?)).unwrap();
    shop.file("fleet.toml", &fleet("green")).unwrap();
    let plan = shop.shoal(&["plan"]).unwrap();
    assert!(plan.stdout().contains("h2: replace; the host is offline"), "{}", plan.stdout());
    let ran = shop.shoal(&["apply", "--wait", "--timeout", "5s"]).unwrap();
    let said = ran.fails_with(5).unwrap();
    let error = &said[said.find("error: ").unwrap_or_default()..];
    assert!(error.contains("h2") && !error.contains("h1"), "a partial rollout says: {said}");
    assert_ne!(shop.container(0, "shop-web").unwrap(), one, "h1 was held up");
    assert_eq!(shop.container(1, "shop-web").unwrap(), two, "h2 was cut off");
    assert!(works(shop, 1).unwrap(), "an instance needs its controller");
    shop.shoal(&["status", "shop"]).unwrap().fails_with(1).unwrap();

    shop.lab().host(1).reconnect().unwrap();
    wait_until_ready(shop);
    assert_ne!(shop.container(1, "shop-web").unwrap(), two, "h2 did not catch up");
    assert_eq!(exec(shop, "shop/web@h2", "echo $COLOUR").trim(), "green");
    // The rollout ended as partial all the same; applied again, it is proven, and restarts nothing.
    let before = leaders(shop);
    shop.apply(&fleet("green")).unwrap();
    assert_eq!(leaders(shop), before, "applying again restarted something");
}
