//! Starting a container of an image that is already on the host, until the system inside is up,
//! against other tools for systemd-nspawn, on a host of Debian 13: sdme needs its systemd.

use anyhow::{Context, Result};
use shoal_lab::{Deployment, Suite};

use super::Run;
use super::peer::{self, MACHINECTL, Peer};
use super::report::{Row, Target};
use super::stand;
use super::stats::Sample;

const ROUNDS: usize = 8;
const FASTER: &str = "faster than the peer";

const FLEET: &str = r#"
fleet = "bench"
[instance.system]
image = "debian:1"
hosts = "role=web"
boot = true
"#;

pub(super) fn measure(run: &mut Run<'_>) -> Result<Vec<Row>> {
    let deployment = stand::open(&run.programs, "start", Suite::Trixie, 1)?;
    let host = deployment.lab().host(0);
    run.met(host)?;
    stand::push_debian(&deployment)?;
    stand::apply(&deployment, FLEET)?;
    peer::unpack(host, &digest(&deployment)?)?;
    let (mut peers, mut rows) = (vec![MACHINECTL], Vec::new());
    match peer::sdme(run.root, host) {
        Ok(sdme) => {
            run.others.push(format!("sdme {}", peer::SDME.version));
            peers.push(sdme);
        }
        Err(error) => rows.push(Row::missing("start against sdme", &format!("{error:#}"), FASTER)),
    }
    rows.extend(against(&deployment, &peers)?);
    Ok(rows)
}

fn digest(deployment: &Deployment) -> Result<String> {
    let images = deployment.json(&["ps"])?;
    let digest = images["instances"][0]["digest"].as_str().context("`shoal ps` has no digest")?;
    Ok(digest.trim_start_matches("sha256:").to_owned())
}

/// All of them in turns; only one runs at a time.
fn against(deployment: &Deployment, peers: &[Peer]) -> Result<Vec<Row>> {
    let host = deployment.lab().host(0);
    let mut ours = Vec::new();
    let mut theirs: Vec<Vec<_>> = peers.iter().map(|_| Vec::new()).collect();
    stand::timed(deployment, &["stop", "bench/system"])?;
    // The first round unpacks, shifts owners and warms caches up: it does not count.
    for round in 0..=ROUNDS {
        let start = peer::shoal_start(deployment, "bench/system")?;
        stand::timed(deployment, &["stop", "bench/system"])?;
        if round > 0 {
            ours.push(start);
        }
        for (peer, times) in peers.iter().zip(&mut theirs) {
            let start = peer.start(host)?;
            peer.stop(host)?;
            if round > 0 {
                times.push(start);
            }
        }
    }
    let ours = Sample::of_times(&ours)?;
    let row = |(peer, times): (&Peer, &Vec<_>)| {
        let what = "start of a Debian whose image is there, until its system is up";
        let row = Row::times(what, &ours, (peer.name, &Sample::of_times(times)?), Some(1.0))?;
        let target = row.target.map(|target| Target { text: FASTER.into(), ..target });
        Ok(Row { target, ..row })
    };
    peers.iter().zip(&theirs).map(row).collect()
}
