//! Pieces of files that several transfers read at about the same time, read once.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use shoal_core::transfer::RecipeId;
use shoal_image::recipe::RecipeFile;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

/// Bytes of a piece. Larger than what goes in a message, so that a read is worth its way to
/// another thread.
const PIECE: u64 = 1 << 20;

/// Pieces that are kept for others, in all: their memory is this and what is on its way.
const KEPT: usize = 16;

type Key = (RecipeId, u64);

/// The pieces that were read last. Whoever wants one that is being read waits for it.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    recent: Mutex<VecDeque<(Key, Arc<OnceCell<Bytes>>)>>,
}

impl Chunks {
    /// Bytes of the file of the recipe `id`, from `offset` to at most `end`, and at least one where
    /// `offset` is less than that: up to the end of the piece.
    pub(super) async fn read(
        &self,
        id: RecipeId,
        recipe: &Arc<RecipeFile>,
        offset: u64,
        end: u64,
    ) -> io::Result<Bytes> {
        let begin = offset - offset % PIECE;
        let length = PIECE.min(end.saturating_sub(begin));
        let cell = self.cell((id, begin));
        let read = || async {
            let recipe = Arc::clone(recipe);
            let read = spawn_blocking(move || read(recipe.file(), begin, length)).await;
            read.unwrap_or_else(|error| Err(error.into()))
        };
        let piece = cell.get_or_try_init(read).await?;
        let from = usize::try_from(offset - begin).expect("within a piece");
        Ok(piece.slice(from.min(piece.len())..))
    }

    fn cell(&self, key: Key) -> Arc<OnceCell<Bytes>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let there = recent.iter().position(|(kept, _)| *kept == key);
        let entry = match there.and_then(|at| recent.remove(at)) {
            Some(entry) => entry,
            None => (key, Arc::default()),
        };
        recent.push_back(entry.clone());
        if recent.len() > KEPT {
            recent.pop_front();
        }
        entry.1
    }
}

fn read(file: &File, offset: u64, length: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(length).expect("at most a piece")];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use shoal_image::Sha256Sum;
    use shoal_image::recipe::{Head, Kind, SegmentHead};

    use super::*;

    /// A whole image of `size` bytes, each the number of its mebibyte; its file can be written to.
    fn whole(dir: &std::path::Path, size: u64) -> (File, Arc<RecipeFile>) {
        let path = dir.join("image");
        let bytes: Vec<u8> = (0..size).map(|at| u8::try_from(at / PIECE).unwrap()).collect();
        std::fs::write(&path, &bytes).unwrap();
        let encoded = u32::try_from(size).unwrap();
        let segments = vec![SegmentHead { output: size, encoded, hash: [0; 32] }];
        let target = Sha256Sum::of(&bytes);
        let head = Head { target, size, kind: Kind::Whole, segments };
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        (file, Arc::new(RecipeFile::of_image(head, &path).unwrap()))
    }

    #[tokio::test]
    async fn a_piece_is_read_once_while_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let size = PIECE * 20 + 5;
        let (mut file, recipe) = whole(dir.path(), size);
        let (chunks, id) = (Chunks::default(), RecipeId::from([1; 32]));
        let read = |offset| chunks.read(id, &recipe, offset, size);
        assert_eq!(read(PIECE + 7).await.unwrap(), vec![1; 1_048_569]);
        assert_eq!(read(PIECE * 20).await.unwrap(), [20; 5].as_slice());
        assert_eq!(read(size - 1).await.unwrap(), [20].as_slice());
        // What is on the disk by now is not looked at again.
        file.seek(io::SeekFrom::Start(PIECE)).unwrap();
        file.write_all(b"changed").unwrap();
        assert_eq!(read(PIECE).await.unwrap()[..7], [1; 7]);
        for piece in 2..=17 {
            read(piece * PIECE).await.unwrap();
        }
        assert_eq!(&read(PIECE).await.unwrap()[..7], b"changed");
        assert_eq!(chunks.recent.lock().unwrap().len(), KEPT);
    }

    #[tokio::test]
    async fn what_can_not_be_read_is_tried_again_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let (file, recipe) = whole(dir.path(), PIECE);
        let (chunks, id) = (Chunks::default(), RecipeId::from([1; 32]));
        file.set_len(5).unwrap();
        assert!(chunks.read(id, &recipe, 0, PIECE).await.is_err());
        file.set_len(PIECE).unwrap();
        assert_eq!(chunks.read(id, &recipe, 0, PIECE).await.unwrap().len(), 1 << 20);
    }
}
