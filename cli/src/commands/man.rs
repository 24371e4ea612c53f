//! `shoal man`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use serde::Serialize;

use super::Shell;
use crate::args::{Cli, ManArgs};
use crate::exit::{Exit, Failure};
use crate::man::pages;
use crate::output::text::count;

/// Why the pages could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}; name a directory that you may write to", .path.display())]
pub(crate) struct ManError {
    path: PathBuf,
    source: io::Error,
}

#[derive(Debug, Serialize)]
struct ManView {
    directory: String,
    pages: Vec<String>,
}

pub(super) fn run(shell: &Shell, args: &ManArgs) -> Result<Exit, Failure> {
    let ManArgs { directory } = args;
    let pages = write(directory)?;
    let view = ManView { directory: directory.display().to_string(), pages };
    let said = format!("{} in {}", count(view.pages.len(), "page"), view.directory);
    shell.console.result(said, &view)?;
    Ok(Exit::Done)
}

/// Writes every page; the names of their files.
fn write(directory: &Path) -> Result<Vec<String>, ManError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ManError { path, source }
    };
    fs::create_dir_all(directory).map_err(failed(directory))?;
    let write_page = |page: crate::man::Page| {
        let path = directory.join(&page.file_name);
        fs::write(&path, page.text).map_err(failed(&path))?;
        Ok(page.file_name)
    };
    pages(Cli::command()).into_iter().map(write_page).collect()
}
