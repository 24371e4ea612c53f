//! The project's own tasks: `cargo xtask demo | test | fuzz | bench | check | codegen`.
//!
//! Each does all of its set-up itself. Runs commands, so the ban on that is lifted here.
#![allow(clippy::disallowed_methods, reason = "running commands is what xtask is for")]

mod bench;
mod check;
mod codegen;
mod demo;
mod fuzz;
mod run;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Shoal's own tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Boot real test hosts, enrol them, push an image, apply a fleet, roll it to a new version
    Demo {
        /// Leave it all running at the end, and say how to use it
        #[arg(long)]
        keep: bool,
        #[command(subcommand)]
        verb: Option<DemoVerb>,
    },
    /// Run everything that CI runs: the checks, the unit tests, the tests on real hosts
    Test,
    /// Try inputs on the readers of images and recipes, from the corpus in fuzz/
    Fuzz {
        /// How long each target runs
        #[arg(long, default_value_t = fuzz::SECONDS)]
        seconds: u64,
    },
    /// Measure how fast Shoal is beside its peers, on real test hosts, into docs/benchmarks.md
    Bench {
        /// Only these [default: all]
        names: Vec<bench::Name>,
        /// Measure the programs in this directory instead of building them
        #[arg(long, value_name = "DIR")]
        programs: Option<PathBuf>,
        /// Only print the tables
        #[arg(long)]
        print: bool,
    },
    /// Check formatting, lints, licences, and the invariants of ARCHITECTURE.md
    Check,
    /// Make the generated wire types anew from proto/
    Codegen,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum DemoVerb {
    /// Remove what `demo --keep` left running
    Down,
}

fn main() -> ExitCode {
    match carry_out(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(task: Task) -> Result<()> {
    let root = root();
    match task {
        Task::Demo { verb: Some(DemoVerb::Down), .. } => demo::down(),
        Task::Demo { keep, verb: None } => demo::demo(&root, keep),
        Task::Test => test::test(&root),
        Task::Fuzz { seconds } => fuzz::fuzz(&root, seconds),
        Task::Bench { names, programs, print } => bench::bench(&root, &names, programs, print),
        Task::Check => check::check(&root),
        Task::Codegen => codegen::write(&root),
    }
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask is a folder of the repository").to_owned()
}
