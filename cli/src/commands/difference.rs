//! `shoal image diff`.
//!
//! Two local files are compared here, without a controller; two images of the controller's there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shoal_image::{Diff, DiffError, ImageError, MakeError, MakeOptions, Summary, inspect, make};
use shoal_proto::convert::{Invalid, digest};
use shoal_proto::v1::diff_images_response::Message;
use shoal_proto::v1::{DiffImagesRequest, DiffSums};
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tonic::Request;

use super::{Shell, interrupted};
use crate::client::{Client, ReplyError};
use crate::exit::Failure;
use crate::output::Console;
use crate::output::progress::Transfer;
use crate::view::cost::CostView;
use crate::view::difference::{ChangeView, DiffView, NamedView};

/// Why two images were not compared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompareError {
    #[error(
        "{file} is a file here, and {other} is not: compare two files, or two images of the \
         controller's; `shoal image push --dry-run {file} NAME:TAG` says what a push would send"
    )]
    Mixed { file: String, other: String },
    #[error("there is no file {path}; an image of the controller's is named NAME:TAG")]
    NoFile { path: String },
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("what a push would send could not be worked out")]
    Make(#[from] MakeError),
    #[error("no temporary directory to work in; set TMPDIR to one with room")]
    Temporary(#[source] std::io::Error),
    #[error("interrupted; nothing was changed")]
    Interrupted,
}

impl From<DiffError> for CompareError {
    fn from(error: DiffError) -> Self {
        match error {
            DiffError::Image(error) => Self::Image(error),
            DiffError::Cancelled => Self::Interrupted,
        }
    }
}

/// What is compared.
enum Pair {
    Files(PathBuf, PathBuf),
    Named,
}

pub(super) async fn run(shell: &Shell, old: &str, new: &str, all: bool) -> Result<(), Failure> {
    let going = async {
        match pair(old, new)? {
            Pair::Files(before, after) => files(shell.console, before, after, all).await,
            Pair::Named => named(shell.console, &shell.client().await?, [old, new], all).await,
        }
    };
    let view = tokio::select! {
        view = going => view?,
        () = interrupted() => return Err(CompareError::Interrupted.into()),
    };
    Ok(shell.console.result(view.text(shell.console.color()), &view)?)
}

/// What is there as a file is one; what can only be one has to be there.
fn pair(old: &str, new: &str) -> Result<Pair, CompareError> {
    let is_file = |text: &str| {
        let looks_like_one = text.contains('/') || text.ends_with(".squashfs");
        match Path::new(text).exists() {
            true => Ok(true),
            false if looks_like_one => Err(CompareError::NoFile { path: text.to_owned() }),
            false => Ok(false),
        }
    };
    match (is_file(old)?, is_file(new)?) {
        (true, true) => Ok(Pair::Files(old.into(), new.into())),
        (false, false) => Ok(Pair::Named),
        (true, false) => Err(CompareError::Mixed { file: old.into(), other: new.into() }),
        (false, true) => Err(CompareError::Mixed { file: new.into(), other: old.into() }),
    }
}

async fn files(
    console: Console,
    old: PathBuf,
    new: PathBuf,
    all: bool,
) -> Result<DiffView, Failure> {
    let sizes = [inspect(&old), inspect(&new)].map(|info| info.map(|info| info.size));
    let [old_size, new_size] = sizes;
    let (old_size, new_size) =
        (old_size.map_err(CompareError::from)?, new_size.map_err(CompareError::from)?);
    let (told, mut at) = watch::channel((0, 0));
    let stopped = Arc::new(AtomicBool::new(false));
    let stop = StopOnDrop(Arc::clone(&stopped));
    let (before, after) = (old.clone(), new.clone());
    let mut comparing = tokio::task::spawn_blocking(move || {
        compare(&before, &after, all, &mut |done, total| {
            told.send_replace((done, total));
            !stopped.load(Ordering::Relaxed)
        })
    });
    let mut progress: Option<Transfer> = None;
    let compared = loop {
        tokio::select! {
            compared = &mut comparing => break compared,
            // The counts are of paths first, and of bytes then: only the latter make a bar.
            Ok(()) = at.changed(), if console.is_live() => {
                let (done, total) = *at.borrow_and_update();
                if total == new_size {
                    progress
                        .get_or_insert_with(|| Transfer::start(console, "comparing", total))
                        .at(done);
                }
            }
        }
    };
    if let Some(progress) = progress {
        progress.end();
    }
    drop(stop);
    // Only a panic ends it in another way, and that has been said.
    let (found, summary) = compared.expect("the comparison does not panic")?;
    let of = |path: &Path, size_bytes| NamedView {
        name: path.display().to_string(),
        size_bytes,
        digest: None,
    };
    let Diff { changes, unchanged, times_only } = found;
    let cost = CostView::from(&summary);
    Ok(DiffView {
        old: of(&old, old_size),
        new: of(&new, new_size),
        changes: changes.iter().map(ChangeView::from).collect(),
        unchanged,
        times_only,
        wire_bytes: cost.wire_bytes(),
        cost,
    })
}

fn compare(
    old: &Path,
    new: &Path,
    all: bool,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<(Diff, Summary), CompareError> {
    let found = shoal_image::diff(old, new, all, progress)?;
    let dir = tempfile::tempdir().map_err(CompareError::Temporary)?;
    let options = MakeOptions::default();
    let (_, summary) = make(new, &[old], &dir.path().join("recipe"), &options, progress)?;
    Ok((found, summary))
}

/// Ends the comparison where nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn named(
    console: Console,
    client: &Client,
    [old, new]: [&str; 2],
    all: bool,
) -> Result<DiffView, Failure> {
    let doing = || format!("compare {old} with {new}");
    // Not with the deadline of a question: it takes as long as the images are large.
    let request = Request::new(DiffImagesRequest { old: old.into(), new: new.into(), all });
    let reply = client.images().diff(request).await;
    let mut answers = reply.map_err(client.refused(doing()))?.into_inner();
    let mut changes = Vec::new();
    let mut progress: Option<Transfer> = None;
    let mut sums = None;
    while let Some(answer) = answers.next().await {
        match answer.map_err(client.refused(doing()))?.message {
            Some(Message::Progress(at)) if console.is_live() => {
                let start = || Transfer::start(console, "comparing", at.total);
                progress.get_or_insert_with(start).at(at.done);
            }
            Some(Message::Progress(_)) | None => {}
            Some(Message::Changes(more)) => {
                changes.extend(more.changes.into_iter().map(ChangeView::from));
            }
            Some(Message::Sums(all)) => sums = Some(all),
        }
    }
    if let Some(progress) = progress {
        progress.end();
    }
    let view = sums.ok_or(Invalid::Missing("sums"));
    let view = view.and_then(|sums| view_of([old, new], changes, sums));
    Ok(view.map_err(ReplyError::about("the two images"))?)
}

fn view_of(
    [old, new]: [&str; 2],
    changes: Vec<ChangeView>,
    sums: DiffSums,
) -> Result<DiffView, Invalid> {
    let DiffSums {
        old: old_digest,
        new: new_digest,
        old_size,
        new_size,
        unchanged,
        times_only,
        cost,
    } = sums;
    let of = |name: &str, size_bytes, bytes: &[u8]| {
        let digest = Some(digest("digest", bytes)?.to_string());
        Ok(NamedView { name: name.to_owned(), size_bytes, digest })
    };
    let cost = CostView::from(cost.ok_or(Invalid::Missing("cost"))?);
    Ok(DiffView {
        old: of(old, old_size, &old_digest)?,
        new: of(new, new_size, &new_digest)?,
        changes,
        unchanged,
        times_only,
        wire_bytes: cost.wire_bytes(),
        cost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_names_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "x").unwrap();
        let there = path.display().to_string();
        assert!(matches!(pair(&there, &there), Ok(Pair::Files(..))));
        assert!(matches!(pair("app:1", "abcdef"), Ok(Pair::Named)));
        let mixed = pair(&there, "app:1").err().unwrap().to_string();
        assert!(mixed.contains(&format!("push --dry-run {there} NAME:TAG")), "{mixed}");
        let mixed = pair("app:1", &there).err().unwrap().to_string();
        assert!(mixed.contains("and app:1 is not"), "{mixed}");
        for missing in ["./old", "old.squashfs"] {
            let error = pair(missing, "app:1").err().unwrap().to_string();
            assert!(error.contains(&format!("no file {missing}")), "{error}");
        }
    }
}
