//! Memory: of an agent that receives an image of 2 GiB, and of a controller that sends to many.

use std::fs;
use std::path::Path;

use anyhow::Result;
use shoal_lab::images::noisy_image;

use super::super::Run;
use super::super::report::{Row, Target};
use super::pairs;
use super::site::{Site, only};
use super::tool::{nice, run};
use super::tree::{Kind, Trees};

/// Megabytes.
const MOST_IN_AGENT: f64 = 96.0;
const MOST_FOR_EACH: f64 = 8.0;
const HOSTS: usize = 32;

const NOISE: u64 = 1920 << 20;

pub(super) fn measure(run: &mut Run<'_>) -> Result<Vec<Row>> {
    let mut rows = of_agent(run)?;
    rows.push(of_controller(run)?);
    Ok(rows)
}

fn of_agent(run: &mut Run<'_>) -> Result<Vec<Row>> {
    let trees = Trees::open()?;
    let site = Site::open(run, "memory", 1, "true")?;
    let dir = site.deployment.dir().join("images");
    fs::create_dir(&dir)?;
    let noise = dir.join("noise");
    let mut old = None;
    let mut rows = Vec::new();
    for (name, what) in [("big:1", "whole"), ("big:2", "as a delta, of many packages")] {
        let image = dir.join(name);
        if old.is_none() {
            noisy_image(&image, NOISE)?;
            fs::rename(&image, &noise)?;
            with_noise(&trees.old(), &noise, &image)?;
        } else {
            trees.with(Kind::Security, |root| with_noise(root, &noise, &image))?;
        }
        let image = site.push(&image, name)?;
        let agent = site.agent(0)?;
        agent.forget_peak()?;
        site.bring(&only(0), &[0], &image)?;
        rows.push(agent_row(what, image.bytes, agent.peak()?));
        site.settle(&only(0))?;
        old = Some(image);
    }
    Ok(rows)
}

/// An image of a tree and of a file that nothing makes smaller.
fn with_noise(tree: &Path, noise: &Path, image: &Path) -> Result<()> {
    let mut command = nice("mksquashfs");
    command.args([tree, noise, image]).args(pairs::OPTIONS).args(["-comp", "zstd"]);
    run(command.env_remove("SOURCE_DATE_EPOCH")).map(drop)
}

fn agent_row(what: &str, bytes: u64, peak: u64) -> Row {
    let peak = megabytes(peak);
    Row {
        what: format!("most memory of an agent that receives {} MB {what}", bytes / 1_000_000),
        n: 1,
        ours: format!("{peak:.1} MB"),
        against: "–".into(),
        ratio: "–".into(),
        target: Some(Target::at_most(peak, MOST_IN_AGENT, "at most 96 MB")),
    }
}

/// What a controller has more that sends to all hosts than one that sends to one of them.
fn of_controller(run: &mut Run<'_>) -> Result<Row> {
    let prepare =
        "mkdir -p /var/lib/shoal/images; mount -t tmpfs -o size=1G tmpfs /var/lib/shoal/images";
    let site = Site::open(run, "senders", HOSTS, prepare)?;
    let dir = site.deployment.dir().join("images");
    fs::create_dir(&dir)?;
    let mut peaks = Vec::new();
    for (label, hosts) in [(only(0), 1), ("role=web".to_owned(), HOSTS)] {
        let image = dir.join(label.replace('=', "-"));
        noisy_image(&image, 128 << 20)?;
        let image = site.push(&image, &format!("noise:{hosts}"))?;
        let controller = site.controller()?;
        controller.forget_peak()?;
        let positions: Vec<usize> = (0..hosts).collect();
        site.bring(&label, &positions, &image)?;
        peaks.push(controller.peak()?);
        site.forget(&label, &positions, &image)?;
    }
    let more = u32::try_from(HOSTS - 1)?;
    let each = (megabytes(peaks[1]) - megabytes(peaks[0])) / f64::from(more);
    Ok(Row {
        what: format!("memory of the controller for each of {HOSTS} transfers at once, beyond one"),
        n: 1,
        ours: format!("{each:.2} MB"),
        against: format!(
            "all of it with 1: {:.1} MB, with {HOSTS}: {:.1} MB",
            megabytes(peaks[0]),
            megabytes(peaks[1])
        ),
        ratio: "–".into(),
        target: Some(Target::at_most(each, MOST_FOR_EACH, "at most 8 MB")),
    })
}

#[allow(clippy::cast_precision_loss, clippy::as_conversions, reason = "sizes are far below 2^52")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
