//! Sixteen hosts behind a slow link of the controller, which pass on to one another what they
//! have.

use std::time::Duration;

use anyhow::Result;
use shoal_lab::images::noisy_image;

use super::super::Run;
use super::super::report::{Row, Target, time};
use super::site::{Site, only};
use super::tool::{nice, run};

const HOSTS: usize = 16;
const BYTES: u64 = 100_000_000;
/// How much longer all may take than one does.
const MOST: f64 = 2.5;

/// The port is the agents' own choice of this lab.
const PREPARE: &str = r#"
mkdir -p /etc/shoal
address=$(ip -4 -o addr show dev host0 | awk '{ split($4, part, "/"); print part[1] }')
printf '[peers]\nlisten = "%s:7445"\n' "$address" >/etc/shoal/policy.toml
"#;

/// What a link of 50 Mbit/s lets through, with a queue as switches have it.
const CAP: &[&str] = &["root", "tbf", "rate", "50mbit", "burst", "32kb", "latency", "50ms"];

pub(super) fn measure(run: &mut Run<'_>) -> Result<Vec<Row>> {
    let site = Site::open(run, "fanout", HOSTS, PREPARE)?;
    let image = |name: &str| {
        let path = site.deployment.dir().join(name);
        noisy_image(&path, BYTES)?;
        site.push(&path, &format!("{name}:1"))
    };
    let (first, second) = (image("one")?, image("all")?);
    cap(&site)?;
    let one = site.bring(&only(0), &[0], &first)?;
    site.settle(&only(0))?;
    let positions: Vec<usize> = (0..HOSTS).collect();
    let before = sent(&site)?;
    let all = site.bring("role=web", &positions, &second)?;
    let sent = sent(&site)?.saturating_sub(before);
    Ok(vec![row(one, all, sent, second.bytes)])
}

/// Slows down the controller's link and those of all hosts, both ways.
fn cap(site: &Site) -> Result<()> {
    let netns = site.deployment.lab().netns();
    let tc = |link: &str| {
        let words = [&["-n", netns, "qdisc", "add", "dev", link][..], CAP].concat();
        run(nice("tc").args(words)).map(drop)
    };
    // What the controller itself sends goes out here; what hosts send one another does not.
    tc("br0")?;
    for position in 0..HOSTS {
        tc(&site.port(position)?)?;
        let words = format!("tc qdisc add dev host0 {}", CAP.join(" "));
        site.host(position).sh(&words)?;
    }
    Ok(())
}

/// What the controller has sent so far.
fn sent(site: &Site) -> Result<u64> {
    let netns = site.deployment.lab().netns();
    let told = run(nice("ip").args(["-n", netns, "-json", "-s", "link", "show", "br0"]))?;
    let links: serde_json::Value = serde_json::from_str(&told)?;
    Ok(links[0]["stats64"]["tx"]["bytes"].as_u64().unwrap_or_default())
}

fn row(one: Duration, all: Duration, sent: u64, bytes: u64) -> Row {
    let ratio = all.as_secs_f64() / one.as_secs_f64();
    let shown = |took: Duration| time(took.as_secs_f64() * 1e3);
    Row {
        what: format!(
            "an image of 100 MB to {HOSTS} hosts, all links 50 Mbit/s; the controller sent {} MB, \
             the image is {} MB",
            sent / 1_000_000,
            bytes / 1_000_000
        ),
        n: 1,
        ours: shown(all),
        against: format!("to one host: {}", shown(one)),
        ratio: format!("{ratio:.2}"),
        target: Some(Target::at_most(ratio, MOST, "ratio at most 2.5")),
    }
}
