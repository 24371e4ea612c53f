//! Benchmarks: how fast Shoal is beside a peer, on real test hosts, through the real command.
//!
//! Way in: [`bench`]. Each benchmark takes turns with its peer within one run, so that what else
//! the machine does falls on both; the figure is their ratio. Tables go to docs/benchmarks.md. A
//! missed target is told and is no failure: these are measurements, not tests.

mod about;
mod agent;
mod apply;
mod bare;
mod hundred;
mod peer;
mod ps;
mod report;
mod rollout;
mod stand;
mod start;
mod stats;
mod transfer;
mod usage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use shoal_lab::deployment::Programs;
use shoal_lab::{Host, packages};

use crate::run::cargo;
use report::Row;
use transfer::Codec;

const PAGE: &str = "docs/benchmarks.md";

/// A benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// A one-line change, until the instance is healthy
    Apply,
    /// The start of an instance whose image is there
    Start,
    /// Memory and CPU of the agent at rest
    Agent,
    /// `shoal ps` over three hosts
    Ps,
    /// A host with a hundred instances
    Hundred,
    /// A rollout over two hundred simulated agents
    Rollout,
    /// Transfers of images: the six that follow
    Transfer,
    /// Bytes from one image to the next, compressed with zstd
    TransferZstd,
    /// The same with gzip
    TransferGzip,
    /// The same with xz
    TransferXz,
    /// A whole image to many hosts
    TransferThroughput,
    /// Memory of agent and controller in a transfer
    TransferMemory,
    /// Hosts behind a slow link that pass an image on
    TransferFanout,
}

impl Name {
    fn text(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The benchmarks that it stands for, each with a table of its own.
    fn parts(&self) -> &[Self] {
        match self {
            Self::Transfer => &[
                Self::TransferZstd,
                Self::TransferGzip,
                Self::TransferXz,
                Self::TransferThroughput,
                Self::TransferMemory,
                Self::TransferFanout,
            ],
            one => std::slice::from_ref(one),
        }
    }

    fn measure(self, run: &mut Run<'_>) -> Result<Vec<Row>> {
        match self {
            Self::Apply => apply::measure(run),
            Self::Start => start::measure(run),
            Self::Agent => agent::measure(run),
            Self::Ps => ps::measure(run),
            Self::Hundred => hundred::measure(run),
            Self::Rollout => rollout::measure(run),
            Self::Transfer => bail!("it is measured in parts"),
            Self::TransferZstd => transfer::bytes(run, Codec::Zstd),
            Self::TransferGzip => transfer::bytes(run, Codec::Gzip),
            Self::TransferXz => transfer::bytes(run, Codec::Xz),
            Self::TransferThroughput => transfer::throughput(run),
            Self::TransferMemory => transfer::memory(run),
            Self::TransferFanout => transfer::fanout(run),
        }
    }
}

/// What a benchmark runs with, and what it has met.
#[derive(Debug, Clone)]
struct Run<'a> {
    root: &'a Path,
    /// What the programs were built from.
    source: String,
    programs: Programs,
    /// Versions of what was measured beside Shoal.
    others: Vec<String>,
    /// What is to be told below the table of results.
    tables: Vec<String>,
}

impl Run<'_> {
    /// Notes what a host runs.
    fn met(&mut self, host: &Host) -> Result<()> {
        self.others.push(format!("hosts with {}", about::systemd(host)?));
        Ok(())
    }
}

/// Runs these benchmarks, or all; of the programs in `built`, or of a release build.
///
/// # Errors
/// Where one could not be run; a missed target is none.
pub(crate) fn bench(
    root: &Path,
    names: &[Name],
    built: Option<PathBuf>,
    print: bool,
) -> Result<()> {
    packages::ensure()?;
    // Asked before the build: the commit may be another one when the tables are written.
    let source = if built.is_none() { about::commit(root) } else { "built before".to_owned() };
    let built = built.map_or_else(|| release(root), Ok)?;
    let programs = Programs::built_at(&built)?;
    let run = Run { root, source, programs, others: Vec::new(), tables: Vec::new() };
    let usual = [Name::Apply, Name::Start, Name::Agent, Name::Ps, Name::Hundred, Name::Rollout];
    let all = [&usual[..], Name::Transfer.parts()].concat();
    let names = if names.is_empty() { &all[..] } else { names };
    let (mut missed, mut failed) = (Vec::new(), Vec::new());
    for name in names.iter().flat_map(Name::parts) {
        match one(run.clone(), *name, print) {
            Ok(rows) => missed.extend(report::missed(&rows)),
            Err(error) => {
                eprintln!("bench: {} could not be run: {error:#}", name.text());
                failed.push(name.text());
            }
        }
    }
    for miss in &missed {
        println!("missed: {miss}");
    }
    if missed.is_empty() && failed.is_empty() {
        println!("every target is reached");
    }
    if !failed.is_empty() {
        bail!("could not be run: {}", failed.join(", "));
    }
    Ok(())
}

fn one(mut run: Run<'_>, name: Name, print: bool) -> Result<Vec<Row>> {
    eprintln!("bench: {} …", name.text());
    let began = Instant::now();
    let rows = name.measure(&mut run)?;
    let about = about::line(&run.source, &run.programs, &run.others)?;
    let mut table = report::table(&rows);
    for further in &run.tables {
        table += &format!("\n{further}");
    }
    println!("{}: {about}\n\n{table}", name.text());
    eprintln!("bench: {} took {:.0} s", name.text(), began.elapsed().as_secs_f64());
    if !print {
        let path = run.root.join(PAGE);
        let failed = || format!("can't put the results into {PAGE}");
        let page = fs::read_to_string(&path).with_context(failed)?;
        let page = report::put(&page, &name.text(), &format!("{about}\n\n{table}"));
        fs::write(&path, page.with_context(failed)?).with_context(failed)?;
    }
    Ok(rows)
}

/// Builds what is measured, as it is shipped, and gives where it is.
fn release(root: &Path) -> Result<PathBuf> {
    let packages = ["-p", "shoal", "-p", "shoal-agent", "-p", "shoal-controller"];
    cargo(root, &[&["build", "--release", "--locked", "--bins"][..], &packages].concat())?;
    let output = Command::new("cargo")
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let target = metadata["target_directory"].as_str().context("metadata without a target")?;
    Ok(Path::new(target).join("release"))
}

/// The time since 1970, which the hosts' clocks tell, too: they are the machine's.
fn now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?)
}
