use shoal_image::recipe::{Base, SegmentHead};
use shoal_image::{Compressor, Sha256Sum};

use super::*;

/// A recipe of two segments of five bytes each.
fn delta() -> Head {
    let segment = |hash| SegmentHead { output: 50, encoded: 5, hash: [hash; 32] };
    let kind = Kind::Delta {
        sources: vec![Base { sum: Sha256Sum::of(b"old"), size: 3 }],
        codecs: "some".into(),
        compressor: Compressor::Zstd,
        options: vec![],
        block_size: 131_072,
    };
    let target = Sha256Sum::of(b"new");
    Head { target, size: 100, kind, segments: vec![segment(1), segment(2)] }
}

fn id(head: &Head) -> RecipeId {
    RecipeId::from(*head.id().as_bytes())
}

fn shelf(dir: &Path) -> Shelf {
    Shelf::open(dir.to_owned(), dir.join("images"))
}

#[tokio::test]
async fn segments_are_kept_as_they_come_and_known_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (first, head) = (shelf(dir.path()), delta());
    let mut shelved = first.begin(&head, Some(0)).await.unwrap();
    shelved.keep(0, b"first");
    assert_eq!(first.serves(), []);
    let item = first.find(id(&head)).await.unwrap();
    assert!(item.wait_for(0).await);
    // Cut off here, it goes on with the second.
    drop(shelved);
    assert!(!item.wait_for(1).await);
    let second = shelf(dir.path());
    let mut shelved = second.begin(&head, Some(1)).await.unwrap();
    shelved.keep(1, b"other");
    shelved.finish().await;
    for shelf in [second, shelf(dir.path())] {
        assert_eq!(shelf.serves(), [id(&head)]);
        let item = shelf.find(id(&head)).await.unwrap();
        assert_eq!(std::io::read_to_string(item.open().unwrap()).unwrap(), "firstother");
    }
}

#[tokio::test]
async fn a_recipe_whose_beginning_is_not_here_is_not_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let (shelf, head) = (shelf(dir.path()), delta());
    assert!(shelf.begin(&head, Some(1)).await.is_none());
    assert!(Shelf::none().begin(&head, Some(0)).await.is_none());
}

#[tokio::test]
async fn few_are_kept_and_none_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = shelf(dir.path());
    let heads = (0..6).map(|number| Head { target: Sha256Sum::of(&[number]), ..delta() });
    let heads: Vec<Head> = heads.collect();
    for head in &heads {
        let mut shelved = shelf.begin(head, Some(0)).await.unwrap();
        shelved.keep(0, b"first");
        shelved.keep(1, b"other");
        shelved.finish().await;
    }
    // One more than the most, since room is made before one is begun.
    assert_eq!(shelf.serves().len(), MOST + 1);
    assert!(shelf.serves().contains(&id(&heads[5])));
    let old = crate::clock::system_time() - 2 * KEPT;
    for path in shelf.shared.as_ref().unwrap().files(SEGMENTS) {
        OpenOptions::new().write(true).open(path).unwrap().set_modified(old).unwrap();
    }
    shelf.shared.as_ref().unwrap().clear();
    assert_eq!(shelf.serves(), []);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_gone_is_not_promised() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    fs::create_dir(&images).unwrap();
    let shelf = shelf(dir.path());
    let segment = SegmentHead { output: 3, encoded: 3, hash: [0; 32] };
    let target = Sha256Sum::of(b"new");
    let head = Head { target, size: 3, kind: Kind::Whole, segments: vec![segment] };
    let path = images.join(format!("{target}.squashfs"));
    fs::write(&path, b"new").unwrap();
    shelf.begin(&head, None).await.unwrap().finish().await;
    assert_eq!(shelf.serves(), [id(&head)]);
    fs::remove_file(path).unwrap();
    assert_eq!(shelf.serves(), []);
}
