//! `shoal image lint`: of a file, without a controller.

use std::path::PathBuf;

use shoal_image::DiffError;

use super::difference::CompareError;
use super::{Shell, interrupted};
use crate::exit::{Exit, Failure};
use crate::view::lint::LintView;

pub(super) async fn run(shell: &Shell, file: PathBuf) -> Result<Exit, Failure> {
    let path = file.clone();
    // Where it is interrupted, the process ends and this with it.
    let looking = tokio::task::spawn_blocking(move || shoal_image::lint(&path, &mut |_, _| true));
    let looked = tokio::select! {
        looked = looking => looked.unwrap_or(Err(DiffError::Cancelled)),
        () = interrupted() => Err(DiffError::Cancelled),
    };
    let view = LintView::new(file.display().to_string(), looked.map_err(CompareError::from)?);
    shell.console.result(view.text(), &view)?;
    Ok(if view.is_clean() { Exit::Done } else { Exit::Differs })
}
