//! Bytes on the wire from one image to the next, beside the other ways to do it and beside about
//! the least that can be.
//!
//! Shoal's own are counted at the cable of a host whose agent gets the image: the recipe, gRPC,
//! HTTP/2, TLS, TCP, IP and Ethernet, both ways, and what else agent and controller tell one
//! another meanwhile.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::super::Run;
use super::super::report::{Row, Target};
use super::limit::{Limit, limit};
use super::pairs::{self, Codec};
use super::peers::{Cost, Pair, Peer};
use super::site::{Site, only};
use super::tool::{Usage, measured, nice, run as told, text};
use super::tree::{Kind, Trees};

/// How much of the best peer's bytes, and of the limit's, Shoal may need.
const OF_PEER: f64 = 0.25;
const OF_LIMIT: f64 = 1.2;

/// What Shoal needs for one pair.
#[derive(Debug, Clone, Copy)]
struct Ours {
    /// Over the cable.
    cost: Cost,
    /// The recipe alone.
    recipe: u64,
}

/// All that is known of one pair.
#[derive(Debug)]
struct Found {
    kind: Kind,
    codec: Codec,
    ours: Ours,
    peers: Vec<(Peer, Cost)>,
}

pub(super) fn measure(run: &mut Run<'_>, codec: Codec) -> Result<Vec<Row>> {
    let trees = Trees::open()?;
    run.others.push(trees.versions("libssl3")?);
    run.others.push(format!("{} packages with updates", trees.updates()?));
    let limits: Vec<(Kind, Limit)> = Kind::ALL
        .into_iter()
        .map(|kind| Ok((kind, limit(&trees, kind)?)))
        .collect::<Result<_>>()?;
    let mut found = Vec::new();
    for (kind, ours) in Kind::ALL.into_iter().zip(ours(run, &trees, codec)?) {
        let peers = peers(&trees, kind, codec)?;
        found.push(Found { kind, codec, ours, peers });
    }
    run.tables.push(all_ways(&found, &limits));
    run.tables.push(costs(&found));
    let limit_of = |kind: Kind| limits.iter().find(|(other, _)| *other == kind);
    let rows =
        found.iter().flat_map(|found| rows(found, limit_of(found.kind).map(|found| found.1)));
    Ok(rows.collect())
}

/// Brings each kind of new image to a host of its own that has the old one.
fn ours(run: &mut Run<'_>, trees: &Trees, codec: Codec) -> Result<Vec<Ours>> {
    let site = Site::open(run, "bytes", Kind::ALL.len(), "true")?;
    let old = pairs::old(trees, codec)?;
    let pushed = site.push(&old, "web:old")?;
    for position in 0..Kind::ALL.len() {
        site.bring(&only(position), &[position], &pushed)?;
        site.settle(&only(position))?;
    }
    let each = Kind::ALL.into_iter().enumerate();
    each.map(|(position, kind)| {
        let new = pairs::new(trees, kind, codec)?;
        let (recipe, made) = made(&site, Pair { old: &old, new: &new })?;
        let (bytes, applied) = brought(&site, position, &new, kind)?;
        Ok(Ours { cost: Cost { bytes, made: Some(made), applied }, recipe })
    })
    .collect()
}

/// How large the recipe is, and what making it takes: by `shoal image diff` of the two files.
fn made(site: &Site, pair: Pair<'_>) -> Result<(u64, Usage)> {
    let shoal = site.deployment.programs().path("shoal");
    let shoal = text(&shoal)?;
    let diff = ["image", "diff", text(pair.old)?, text(pair.new)?, "-o", "json"];
    let json: serde_json::Value = serde_json::from_str(&told(nice(shoal).args(diff))?)?;
    let bytes = wire_bytes(&json).context("`shoal image diff` tells no wire_bytes")?;
    let dir = tempfile::tempdir()?;
    let usage = measured(nice("/usr/bin/time"), dir.path(), shoal, &diff)?;
    Ok((bytes, usage))
}

/// The sum, wherever in the answer it is.
fn wire_bytes(json: &serde_json::Value) -> Option<u64> {
    let within = |value: &serde_json::Value| match value {
        serde_json::Value::Object(_) => wire_bytes(value),
        _ => None,
    };
    json["wire_bytes"].as_u64().or_else(|| json.as_object()?.values().find_map(within))
}

/// What went over the cable of a host until it had an image, and what its agent used for it.
fn brought(site: &Site, position: usize, new: &Path, kind: Kind) -> Result<(u64, Usage)> {
    let image = site.push(new, &format!("web:{}", kind.name()))?;
    site.count_frames(position)?;
    let agent = site.agent(position)?;
    agent.forget_peak()?;
    let (bytes, cpu) = (site.bytes(position)?, agent.cpu()?);
    site.bring(&only(position), &[position], &image)?;
    let (bytes, cpu) = (site.bytes(position)? - bytes, agent.cpu()?.saturating_sub(cpu));
    let memory = agent.peak()?;
    site.settle(&only(position))?;
    Ok((bytes, Usage { cpu, memory }))
}

fn peers(trees: &Trees, kind: Kind, codec: Codec) -> Result<Vec<(Peer, Cost)>> {
    let (old, new) = (pairs::old(trees, codec)?, pairs::new(trees, kind, codec)?);
    let pair = Pair { old: &old, new: &new };
    // What these make of other compressions is much the same, and takes minutes.
    let more: &[Peer] = if codec == Codec::Zstd { &Peer::OF_PAIRS } else { &[] };
    let all = Peer::OF_FILES.iter().chain(more);
    all.map(|peer| {
        eprintln!("bench: {}, {}: {}", kind.name(), codec.name(), peer.name());
        Ok((*peer, peer.cost(pair)?))
    })
    .collect()
}

fn rows(found: &Found, limit: Option<Limit>) -> Vec<Row> {
    let what = format!("{}, {}", words(found.kind), found.codec.name());
    let ours = found.ours.cost.bytes;
    let row = |against: String, ratio: f64, most: f64| Row {
        what: what.clone(),
        n: 1,
        ours: shown(ours),
        against,
        ratio: format!("{ratio:.3}"),
        target: Some(Target::at_most(ratio, most, format!("at most {most}"))),
    };
    let of_files = found.peers.iter().filter(|(peer, _)| Peer::OF_FILES.contains(peer));
    let best = of_files.min_by_key(|(_, cost)| cost.bytes);
    let mut rows = Vec::new();
    if let Some((peer, cost)) = best {
        let against = format!("{}: {}", peer.name(), shown(cost.bytes));
        rows.push(row(against, over(ours, cost.bytes), OF_PEER));
    }
    if let Some(limit) = limit.filter(|limit| limit.bytes > 0) {
        let against = format!("delta of the changed files: {}", shown(limit.bytes));
        rows.push(row(against, over(ours, limit.bytes), OF_LIMIT));
    }
    rows
}

fn words(kind: Kind) -> &'static str {
    match kind {
        Kind::Small => "a library and some settings changed",
        Kind::Security => "security updates",
        Kind::Added => "packages added",
        Kind::Times => "the same files with new times",
    }
}

/// All ways beside one another, in bytes.
fn all_ways(found: &[Found], limits: &[(Kind, Limit)]) -> String {
    let mut table = String::from("Bytes to the host and back, in MB:\n\n| change | compression |");
    let ways = Peer::OF_FILES.iter().chain(&Peer::OF_PAIRS);
    table += " Shoal | the recipe alone |";
    for peer in ways.clone() {
        let _infallible = write!(table, " {} |", peer.name());
    }
    table += " delta of the changed files | changed files, plain |\n|---|---|---|---|";
    table += &"---|".repeat(Peer::OF_FILES.len() + Peer::OF_PAIRS.len() + 2);
    for one in found {
        let (ours, recipe) = (shown(one.ours.cost.bytes), shown(one.ours.recipe));
        let kind = one.kind.name();
        let _infallible = write!(table, "\n| {kind} | {} | {ours} | {recipe} |", one.codec.name());
        for peer in ways.clone() {
            let cost = one.peers.iter().find(|(other, _)| other == peer);
            let cell = cost.map_or("–".to_owned(), |(_, cost)| shown(cost.bytes));
            let _infallible = write!(table, " {cell} |");
        }
        if let Some((_, limit)) = limits.iter().find(|(kind, _)| *kind == one.kind) {
            let files = format!("{} in {} files", shown(limit.plain), limit.files);
            let _infallible = write!(table, " {} | {files} |", shown(limit.bytes));
        }
    }
    table + "\n"
}

/// What the ways cost both ends.
fn costs(found: &[Found]) -> String {
    let mut table = String::from(
        "CPU time and most memory, of making it once and of applying it:\n\n\
         | change | compression | by | making | applying |\n|---|---|---|---|---|\n",
    );
    for one in found {
        let ours = [("Shoal", one.ours.cost)].into_iter();
        let peers = one.peers.iter().map(|(peer, cost)| (peer.name(), *cost));
        for (name, cost) in ours.chain(peers) {
            let (kind, codec) = (one.kind.name(), one.codec.name());
            let made = cost.made.map_or("–".to_owned(), used);
            let applied = used(cost.applied);
            let _infallible = writeln!(table, "| {kind} | {codec} | {name} | {made} | {applied} |");
        }
    }
    table
}

fn used(usage: Usage) -> String {
    format!("{:.1} s, {} MB", usage.cpu.as_secs_f64(), usage.memory / 1_000_000)
}

/// Bytes in megabytes, with as many digits as mean something.
#[allow(clippy::cast_precision_loss, clippy::as_conversions, reason = "sizes are far below 2^52")]
fn shown(bytes: u64) -> String {
    let megabytes = bytes as f64 / 1e6;
    if megabytes < 1.0 { format!("{megabytes:.3} MB") } else { format!("{megabytes:.2} MB") }
}

#[allow(clippy::cast_precision_loss, clippy::as_conversions, reason = "sizes are far below 2^52")]
fn over(one: u64, other: u64) -> f64 {
    one as f64 / other as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cost(bytes: u64) -> Cost {
        let used = Usage { cpu: Duration::from_millis(730), memory: 14_000_000 };
        Cost { bytes, made: None, applied: used }
    }

    fn found(ours: u64) -> Found {
        let peers = vec![
            (Peer::Rsync, cost(2_140_000)),
            (Peer::Casync, cost(2_280_000)),
            (Peer::Zstd, cost(1_000)),
        ];
        let ours = Ours { cost: cost(ours), recipe: ours };
        Found { kind: Kind::Small, codec: Codec::Gzip, ours, peers }
    }

    #[test]
    fn the_best_peer_of_files_counts_and_the_limit() {
        let limit = Limit { files: 2, plain: 5_000_000, bytes: 430_000 };
        let rows = rows(&found(449_000), Some(limit));
        assert_eq!(rows[0].against, "rsync: 2.14 MB");
        assert_eq!(rows[0].ratio, "0.210");
        assert_eq!(rows[1].ratio, "1.044");
        assert!(rows.iter().all(|row| row.target.as_ref().unwrap().reached));
    }

    #[test]
    fn where_no_content_changed_there_is_no_limit() {
        let nothing = Limit { files: 0, plain: 0, bytes: 0 };
        let rows = rows(&found(600_000), Some(nothing));
        assert_eq!(rows.len(), 1);
        assert!(!rows[0].target.as_ref().unwrap().reached);
    }

    #[test]
    fn every_line_of_the_tables_has_as_many_cells_as_its_head() {
        let limits = [(Kind::Small, Limit { files: 2, plain: 5_000_000, bytes: 430_000 })];
        for table in [all_ways(&[found(1)], &limits), costs(&[found(1)])] {
            let lines: Vec<usize> =
                table.lines().skip(2).map(|line| line.matches('|').count()).collect();
            assert!(lines.len() > 2 && lines.iter().all(|cells| *cells == lines[0]), "{table}");
        }
    }

    #[test]
    fn the_sum_is_found_wherever_it_is() {
        let json = serde_json::json!({ "old": "a", "cost": { "wire_bytes": 7 } });
        assert_eq!(wire_bytes(&json), Some(7));
        assert_eq!(wire_bytes(&serde_json::json!({ "old": 1 })), None);
    }
}
