//! What a program can check of the code without running it: formatting, lints, licences, and the
//! invariants of ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::codegen;
use crate::run::{Tool, cargo, run};

/// Looks at licences, sources and bans.
const DENY: Tool<'_> =
    Tool { name: "cargo-deny", version: "0.20.2", options: &["--debug"], environment: &[] };

/// What a crate must not have anywhere below it (its dev-dependencies aside), and why.
const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    ("shoal-core", &["tokio", "tonic", "prost", "rustls", "zbus", "rusqlite"], "core is pure"),
    ("shoal-image", &["tokio", "tonic", "rustls"], "image is files in, files out"),
    ("shoal-tls", &["tonic", "prost"], "tls knows no RPCs"),
    (
        "shoal-agent",
        &["shoal-controller", "shoal", "rusqlite"],
        "agent and controller meet on the wire only",
    ),
    (
        "shoal-controller",
        &["shoal-agent", "shoal", "zbus"],
        "agent and controller meet on the wire only",
    ),
    (
        "shoal",
        &["shoal-agent", "shoal-controller", "zbus", "rusqlite"],
        "the command knows the wire only",
    ),
    (
        "shoal-lab",
        &["shoal-core", "shoal-agent", "shoal-controller", "shoal", "tokio"],
        "the lab drives programs, not crates",
    ),
];

/// Words that would lift a lint, and the files in which they may stand.
const MARKED: &[(&str, &[&str])] = &[
    (
        "clippy::disallowed_methods",
        &[
            "agent/src/host/mod.rs",
            "/src/clock.rs",
            "/tests/",
            "/testing.rs",
            "/tests.rs",
            "conformance.rs",
            "lab/",
            "xtask/",
        ],
    ),
    ("unsafe_code", &["agent/src/host/idmap.rs", "agent/src/host/enter.rs"]),
    (
        "Command::new",
        &["agent/src/host/", "lab/", "xtask/", "/tests.rs", "/tests/", "conformance.rs"],
    ),
];

/// Runs every check; stops at the first kind that fails.
pub(crate) fn check(root: &Path) -> Result<()> {
    cargo(root, &["fmt", "--all", "--check"])?;
    cargo(&root.join("fuzz"), &["fmt", "--check"])?;
    codegen::check(root)?;
    dependencies(root)?;
    marks(root)?;
    cargo(
        root,
        &["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"],
    )?;
    deny(root)
}

/// Licences, sources and bans of every dependency. Advisories need a database from the network
/// and are left to a machine that may fetch it: `cargo deny check advisories`.
fn deny(root: &Path) -> Result<()> {
    let program = DENY.path(root)?;
    run(
        root,
        &program.display().to_string(),
        &["--offline", "--log-level", "error", "check", "bans", "licenses", "sources"],
    )
}

/// Follows every crate's dependencies, and compares with [`FORBIDDEN`].
fn dependencies(root: &Path) -> Result<()> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .current_dir(root)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let graph = Graph::read(&serde_json::from_slice(&output.stdout)?)?;
    for (package, forbidden, why) in FORBIDDEN {
        let below = graph.below(package)?;
        if let Some(found) = forbidden.iter().find(|name| below.contains(**name)) {
            bail!("{package} depends on {found}, and must not: {why} (ARCHITECTURE.md)");
        }
    }
    Ok(())
}

/// Which package depends on which, by name, but for tests and build scripts.
struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    fn read(metadata: &Value) -> Result<Self> {
        let packages = metadata["packages"].as_array().context("metadata without packages")?;
        let name_of: BTreeMap<&str, &str> = packages
            .iter()
            .filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?)))
            .collect();
        let nodes = metadata["resolve"]["nodes"].as_array().context("metadata without nodes")?;
        let mut graph = BTreeMap::new();
        for node in nodes {
            let id = node["id"].as_str().context("a node without id")?;
            let deps = node["deps"].as_array().context("a node without deps")?;
            let names = deps
                .iter()
                .filter(|dep| is_normal(dep))
                .filter_map(|dep| name_of.get(dep["pkg"].as_str()?).map(|name| (*name).to_owned()));
            graph.insert((*name_of.get(id).unwrap_or(&id)).to_owned(), names.collect());
        }
        Ok(Self(graph))
    }

    fn below<'a>(&'a self, package: &'a str) -> Result<BTreeSet<&'a str>> {
        let mut found = BTreeSet::new();
        let mut open: Vec<&str> = vec![package];
        while let Some(name) = open.pop() {
            let next = self.0.get(name).with_context(|| format!("no package {name}"))?;
            open.extend(next.iter().map(String::as_str).filter(|name| found.insert(*name)));
        }
        Ok(found)
    }
}

fn is_normal(dependency: &Value) -> bool {
    let kinds = dependency["dep_kinds"].as_array();
    kinds.is_none_or(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
}

/// Looks for the words of [`MARKED`] outside their places.
fn marks(root: &Path) -> Result<()> {
    let mut found = Vec::new();
    for path in sources(root)? {
        let name = path.strip_prefix(root)?.display().to_string();
        let text = fs::read_to_string(&path)?;
        for (word, places) in MARKED {
            let allowed = places.iter().any(|place| name.contains(place));
            let line = text.lines().position(|line| line.contains(word));
            if let Some(line) = line.filter(|_| !allowed) {
                found.push(format!("{name}:{}: {word}", line + 1));
            }
        }
    }
    ensure!(found.is_empty(), "no place for these here (ARCHITECTURE.md):\n{}", found.join("\n"));
    Ok(())
}

/// Every Rust file of the crates that are shipped or test what is, generated ones aside.
fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let crates = ["core", "image", "proto", "tls", "agent", "controller", "cli", "lab"];
    let mut open: Vec<PathBuf> = crates.iter().map(|name| root.join(name)).collect();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() && !path.ends_with("gen") {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    Ok(files)
}
