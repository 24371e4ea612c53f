//! The journal of an instance: what its unit said on the host, and what a booted system inside
//! wrote into its own journal. Read through `journalctl -o json`.

use std::path::PathBuf;
use std::process::Stdio;

use serde::Deserialize;
use shoal_core::name::MachineName;
use shoal_core::spec::Start;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

use crate::paths::Paths;
use crate::record::Record;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Microseconds since the Unix epoch.
    pub time: u64,
    /// Syslog identifier.
    pub source: String,
    /// Syslog priority, 0 to 7.
    pub priority: u32,
    /// The text.
    pub message: String,
}

/// Which entries to read.
#[derive(Debug, Clone)]
pub struct Query {
    /// Whose.
    pub machine: MachineName,
    /// How many of the last ones.
    pub lines: u32,
    /// Whether to go on with new ones.
    pub follow: bool,
}

/// A journal to read, and which of its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// All that the unit said on the host's journal.
    Unit(String),
    /// What systemd said of the unit on the host's journal, but not the container's console,
    /// which repeats what is in the container's own.
    UnitWithoutConsole(String),
    /// The container's own journal.
    Directory(PathBuf),
}

/// Entries that may wait between the readers and whoever takes them: enough to keep journalctl
/// busy, and little enough that a slow terminal slows it down instead of filling memory.
const WAITING: usize = 256;

/// The fields that are read; journalctl leaves out the others.
const FIELDS: &str =
    "--output-fields=MESSAGE,SYSLOG_IDENTIFIER,PRIORITY,_TRANSPORT,_SOURCE_REALTIME_TIMESTAMP";

/// Entries that can be asked for at once; they are held in memory to be put in order.
const MOST_LINES: u32 = 50_000;

/// Reads the entries of a machine, oldest first. The stream ends when there are no more, or
/// never when following; dropping it ends the readers.
///
/// # Errors
/// Where journalctl can't be run.
pub fn read(paths: &Paths, query: &Query) -> std::io::Result<mpsc::Receiver<Entry>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let sources = sources(paths, &query.machine);
    let mut readers = Vec::new();
    for source in sources {
        readers.push(spawn(&source, query)?);
    }
    let (lines, follow) = (query.lines, query.follow);
    tokio::spawn(async move {
        if follow {
            interleave(readers, &sender).await
        } else {
            merge(readers, lines, &sender).await
        }
    });
    Ok(receiver)
}

/// Reads what a machine's unit and its container's console said on the host's journal.
///
/// # Errors
/// Where journalctl can't be run.
pub fn read_unit(query: &Query) -> std::io::Result<mpsc::Receiver<Entry>> {
    spawn(&Source::Unit(query.machine.unit()), query)
}

fn sources(paths: &Paths, machine: &MachineName) -> Vec<Source> {
    let record = Record::find(paths, machine).ok().flatten();
    let booted = record.is_none_or(|r| r.spec.config.settings.start == Start::Boot);
    if let Some(own) = own_journal(paths, machine).filter(|_| booted) {
        return vec![Source::UnitWithoutConsole(machine.unit()), Source::Directory(own)];
    }
    vec![Source::Unit(machine.unit())]
}

/// Where a machine's own journal can be read safely. The instance fills that directory, and a
/// link in it could lead journalctl, which is the host's root, to another's. While the container
/// is there, its journal is seen through a mount that follows no links; otherwise nothing can
/// change it while it is looked through.
fn own_journal(paths: &Paths, machine: &MachineName) -> Option<PathBuf> {
    let mounted = paths.machine_run(machine).join("data/.journal");
    if super::mount::is_mount_point(&mounted).unwrap_or(false) {
        return Some(mounted);
    }
    let own = paths.journal(machine);
    let is_link = |path: &PathBuf| path.symlink_metadata().is_ok_and(|m| m.is_symlink());
    let below = |dir: &PathBuf| -> Vec<PathBuf> {
        crate::files::names(dir).unwrap_or_default().iter().map(|name| dir.join(name)).collect()
    };
    let first = below(&own);
    let linked = first.iter().any(|path| is_link(path) || below(path).iter().any(is_link));
    (own.is_dir() && !linked).then_some(own)
}

fn spawn(source: &Source, query: &Query) -> std::io::Result<mpsc::Receiver<Entry>> {
    let mut command = tokio::process::Command::new("journalctl");
    // `--all`: without it, fields of over 4096 bytes come out empty.
    command.args(["--quiet", "--all", "--output=json"]).arg(FIELDS);
    command.arg("--lines").arg(query.lines.min(MOST_LINES).to_string());
    if query.follow {
        command.arg("--follow");
    }
    match source {
        Source::Unit(unit) => command.arg("--unit").arg(unit),
        Source::UnitWithoutConsole(unit) => command.arg("--unit").arg(unit),
        // `--merge`: without it, following shows one boot only, and a container that is restarted
        // boots anew (systemd 252; `--boot=all` does not help).
        Source::Directory(path) => command.arg("--merge").arg("--directory").arg(path),
    };
    let console = !matches!(source, Source::UnitWithoutConsole(_));
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let output = child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let mut lines = BufReader::new(output).lines();
        loop {
            // Waiting for a line can be dropped: what was read of it stays in the reader.
            let line = tokio::select! {
                () = sender.closed() => break,
                line = lines.next_line() => line,
            };
            let Ok(Some(line)) = line else { break };
            let Some((entry, transport)) = parse(&line) else { continue };
            if !console && transport == "stdout" {
                continue;
            }
            if sender.send(entry).await.is_err() {
                break;
            }
        }
        drop(child);
    });
    Ok(receiver)
}

/// The last `lines` of all readers together, by time.
async fn merge(readers: Vec<mpsc::Receiver<Entry>>, lines: u32, out: &mpsc::Sender<Entry>) {
    let mut entries = Vec::new();
    for mut reader in readers {
        while let Some(entry) = reader.recv().await {
            entries.push(entry);
        }
    }
    entries.sort_by_key(|entry| entry.time);
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    let skip = entries.len().saturating_sub(lines);
    for entry in entries.into_iter().skip(skip) {
        if out.send(entry).await.is_err() {
            return;
        }
    }
}

/// What the readers give, as it comes.
async fn interleave(readers: Vec<mpsc::Receiver<Entry>>, out: &mpsc::Sender<Entry>) {
    let streams = readers.into_iter().map(tokio_stream::wrappers::ReceiverStream::new);
    let mut all = futures_util::stream::select_all(streams);
    loop {
        tokio::select! {
            () = out.closed() => return,
            entry = futures_util::StreamExt::next(&mut all) => {
                let Some(entry) = entry else { return };
                if out.send(entry).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    time: String,
    #[serde(rename = "_SOURCE_REALTIME_TIMESTAMP")]
    source_time: Option<String>,
    #[serde(rename = "MESSAGE", default)]
    message: serde_json::Value,
    #[serde(rename = "SYSLOG_IDENTIFIER", default)]
    identifier: serde_json::Value,
    #[serde(rename = "PRIORITY", default)]
    priority: serde_json::Value,
    #[serde(rename = "_TRANSPORT", default)]
    transport: String,
}

/// An entry and how it came into the journal; `None` for a line that is none.
fn parse(line: &str) -> Option<(Entry, String)> {
    let line: Line = serde_json::from_str(line).ok()?;
    let time = line.source_time.as_deref().unwrap_or(&line.time).parse().ok()?;
    let priority = text(&line.priority).parse().ok().filter(|p| *p < 8).unwrap_or(6);
    let source = text(&line.identifier);
    Some((Entry { time, source, priority, message: text(&line.message) }, line.transport))
}

/// journalctl gives texts that are not UTF-8 as lists of bytes, and repeated fields as lists.
fn text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(parts) => {
            let bytes: Option<Vec<u8>> =
                parts.iter().map(|p| p.as_u64().and_then(|n| u8::try_from(n).ok())).collect();
            match bytes {
                Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                None => parts.first().map(text).unwrap_or_default(),
            }
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journalctls_forms_are_read() {
        let (entry, transport) = parse(
            r#"{"__REALTIME_TIMESTAMP":"2","MESSAGE":"hello","SYSLOG_IDENTIFIER":"app","PRIORITY":"3","_TRANSPORT":"stdout"}"#,
        )
        .unwrap();
        assert_eq!(transport, "stdout");
        let wanted = Entry { time: 2, source: "app".into(), priority: 3, message: "hello".into() };
        assert_eq!(entry, wanted);
        let bytes = r#"{"__REALTIME_TIMESTAMP":"2","MESSAGE":[104,105,255]}"#;
        assert_eq!(parse(bytes).unwrap().0.message, "hi\u{fffd}");
        let twice = r#"{"__REALTIME_TIMESTAMP":"2","MESSAGE":["one","two"]}"#;
        assert_eq!(parse(twice).unwrap().0.message, "one");
        assert_eq!(parse(r#"{"__REALTIME_TIMESTAMP":"2","MESSAGE":null}"#).unwrap().0.message, "");
        assert!(parse("-- No entries --").is_none());
    }

    #[tokio::test]
    async fn several_journals_are_one_by_time() {
        let entry =
            |time| Entry { time, source: String::new(), priority: 6, message: String::new() };
        let mut readers = Vec::new();
        for times in [[1, 4, 9], [2, 3, 8]] {
            let (sender, receiver) = mpsc::channel(8);
            for time in times {
                sender.send(entry(time)).await.unwrap();
            }
            readers.push(receiver);
        }
        let (sender, mut receiver) = mpsc::channel(16);
        merge(readers, 4, &sender).await;
        drop(sender);
        let mut times = Vec::new();
        while let Some(entry) = receiver.recv().await {
            times.push(entry.time);
        }
        assert_eq!(times, [3, 4, 8, 9]);
    }
}
