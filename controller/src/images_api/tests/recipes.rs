//! Pushes of what is not there yet, and what the controller says for them.

use std::path::Path;

use shoal_image::recipe::{Base, Head, RecipeFile};
use shoal_image::{Index, MakeOptions, make, make_from_indexes};
use shoal_proto::v1::{
    DiffImagesRequest, DiffImagesResponse, ImageChange, NearestRequest, diff_images_response,
    nearest_response,
};

use super::*;

/// A controller that has `app:1`, and a file that is to be `app:2`: the same but for a line and a
/// new file.
struct Two {
    store: Store,
    old: PathBuf,
    new: PathBuf,
    bytes: Bytes,
}

impl Two {
    async fn new() -> Self {
        let store = Store::new().await;
        let tree = store.lab.dir.path().join("two");
        let noise = |seed: u32| -> Vec<u8> {
            (0..60_000)
                .flat_map(|n: u32| {
                    Sha256Sum::of(&(n ^ seed).to_le_bytes()).as_bytes()[..8].to_vec()
                })
                .collect()
        };
        std::fs::create_dir_all(tree.join("usr/lib")).unwrap();
        for number in 0..4 {
            std::fs::write(tree.join(format!("usr/lib/noise{number}")), noise(number << 20))
                .unwrap();
        }
        let text: String = (0..30_000).map(|line| format!("line {line} of a text\n")).collect();
        std::fs::write(tree.join("usr/lib/text"), &text).unwrap();
        let old = squashfs(tree.clone());
        let text = text.replace("line 777 ", "line 777 changed ");
        std::fs::write(tree.join("usr/lib/text"), text).unwrap();
        std::fs::write(tree.join("usr/lib/more"), noise(9 << 20)).unwrap();
        let bytes = squashfs(tree);
        let two = Self {
            old: store.lab.dir.path().join("old.squashfs"),
            new: store.lab.dir.path().join("new.squashfs"),
            bytes,
            store,
        };
        std::fs::write(&two.old, &old).unwrap();
        std::fs::write(&two.new, &two.bytes).unwrap();
        let whole = header(&old, digest_of(&old), 0, "app:1");
        two.push(messages(whole, old)).await.unwrap();
        two
    }

    async fn push(&self, sent: impl Iterator<Item = PushRequest> + Unpin) -> Result<(), Refusal> {
        self.store.images.push(stream::iter(sent.map(Ok)), ADA).await.map(|_| ())
    }

    fn digest(&self) -> Digest {
        digest_of(&self.bytes)
    }

    /// The first message of a push of `app:2` by a recipe, of which so many bytes are there.
    fn header(&self, head: &Head, offset: u64) -> PushHeader {
        let recipe = head.encode().into();
        PushHeader { recipe, ..header(&self.bytes, self.digest(), offset, "app:2") }
    }

    async fn received(&self) -> u64 {
        let (digest, size) = (convert::digest_bytes(&self.digest()), length(&self.bytes));
        self.store.images.begin_push(BeginPushRequest { digest, size }).await.unwrap().received
    }

    async fn nearest(&self, name: &str, target: Digest, base: Option<Digest>) -> Near {
        let request = NearestRequest {
            name: name.into(),
            digest: convert::digest_bytes(&target),
            base: base.map(|base| convert::digest_bytes(&base)).unwrap_or_default(),
        };
        let mut answers = self.store.images.nearest(request).await.unwrap();
        let mut near = Near::default();
        while let Some(answer) = answers.next().await {
            match answer.unwrap().message.unwrap() {
                nearest_response::Message::Header(header) => near.codecs = header.codecs,
                nearest_response::Message::Image(image) => {
                    near.images.push((image.reference, image.size, Vec::new()));
                }
                nearest_response::Message::Outline(piece) => {
                    near.images.last_mut().unwrap().2.extend_from_slice(&piece);
                }
            }
        }
        near
    }

    /// The recipe that a sender makes who has the new file only.
    async fn by_outline(&self) -> RecipeFile {
        let near = self.nearest("app", self.digest(), None).await;
        let (_, size, outline) = &near.images[0];
        let sum = Sha256Sum::of(&std::fs::read(&self.old).unwrap());
        let bases = [(Base { sum, size: *size }, Index::from_outline(outline).unwrap())];
        let out = self.store.lab.dir.path().join("recipe");
        let options = MakeOptions { level: 3, threads: 1 };
        make_from_indexes(&self.new, &bases, &out, &options, &mut |_, _| true).unwrap().0
    }

    /// The one that a sender makes who has both.
    fn by_file(&self) -> RecipeFile {
        let out = self.store.lab.dir.path().join("recipe2");
        let options = MakeOptions { level: 3, threads: 1 };
        make(&self.new, &[&self.old], &out, &options, &mut |_, _| true).unwrap().0
    }

    fn is_there(&self) -> bool {
        let path = self.store.lab.dir.path().join("images");
        let path = path.join(format!("{}.squashfs", self.digest()));
        std::fs::read(path).is_ok_and(|there| there == self.bytes)
    }
}

#[derive(Debug, Default)]
struct Near {
    codecs: String,
    /// Name, size, outline.
    images: Vec<(String, u64, Vec<u8>)>,
}

fn segments(recipe: &RecipeFile, from: usize) -> Bytes {
    let all = from..recipe.head().segments.len();
    all.flat_map(|segment| recipe.read(segment).unwrap()).collect::<Vec<u8>>().into()
}

#[tokio::test]
async fn only_what_is_not_there_is_sent() {
    for by_file in [false, true] {
        let two = Two::new().await;
        let recipe = if by_file { two.by_file() } else { two.by_outline().await };
        let sent = segments(&recipe, 0);
        assert!(length(&sent) < length(&two.bytes) / 2, "{} of {}", sent.len(), two.bytes.len());
        two.push(messages(two.header(recipe.head(), 0), sent)).await.unwrap();
        assert!(two.is_there());
        let image = two.store.get("app:2").await.unwrap();
        assert_eq!((image.size, image.compression.as_str()), (length(&two.bytes), "zstd"));
    }
}

#[tokio::test]
async fn a_broken_push_goes_on_with_its_segment_whatever_it_began_by() {
    let two = Two::new().await;
    let recipe = two.by_outline().await;
    let all = segments(&recipe, 0);
    let cut = all.slice(..all.len() - 1);
    let sent = messages(two.header(recipe.head(), 0), cut).map(Ok);
    let broken = sent.chain([Err(Status::cancelled("gone"))]);
    two.store.images.push(stream::iter(broken), ADA).await.unwrap_err();
    let received = two.received().await;
    let (segment, begin) = recipe.head().segment_at(received).unwrap();
    assert!(received > 0 || segment == 0, "{received}");
    assert_eq!(begin, received, "whole segments only");
    let other = two.by_file();
    let (segment, _) = other.head().segment_at(received).unwrap();
    let rest = segments(&other, segment);
    two.push(messages(two.header(other.head(), received), rest)).await.unwrap();
    assert!(two.is_there());
}

#[tokio::test]
async fn bytes_that_are_not_the_recipes_are_found_and_do_no_harm() {
    let two = Two::new().await;
    let recipe = two.by_outline().await;
    let mut wrong = segments(&recipe, 0).to_vec();
    *wrong.last_mut().unwrap() ^= 1;
    let sent = messages(two.header(recipe.head(), 0), wrong.into());
    let refused = two.push(sent).await.unwrap_err();
    assert!(matches!(refused, Refusal::DataLoss(_)), "{refused}");
    let (received, rest) = (two.received().await, segments(&recipe, 0));
    let from = recipe.head().segment_at(received).map_or(0, |(segment, _)| segment);
    let skipped: u64 = recipe.head().segments[..from].iter().map(|s| u64::from(s.encoded)).sum();
    let rest = rest.slice(usize::try_from(skipped).unwrap()..);
    two.push(messages(two.header(recipe.head(), received), rest)).await.unwrap();
    assert!(two.is_there());
}

/// A sender that lies about what is in an image is found out by the digest of the whole.
#[tokio::test]
async fn a_recipe_for_another_image_makes_none() {
    let two = Two::new().await;
    let recipe = two.by_outline().await;
    let lie = Head { target: Sha256Sum::of(b"another"), ..recipe.head().clone() };
    let announced =
        PushHeader { digest: convert::digest_bytes(&digest_of(b"another")), ..two.header(&lie, 0) };
    let refused = two.push(messages(announced, segments(&recipe, 0))).await.unwrap_err();
    assert!(matches!(refused, Refusal::DataLoss(_)), "{refused}");
    let error = two.store.get(&digest_of(b"another").to_string()).await.unwrap_err();
    assert!(matches!(error, Refusal::NotFound(_)), "{error}");
    let refused = two.push(messages(two.header(&lie, 0), Bytes::new())).await.unwrap_err();
    assert!(refused.to_string().contains("makes another image"), "{refused}");
    let head = PushHeader { recipe: Bytes::from_static(b"junk"), ..two.header(recipe.head(), 0) };
    let refused = two.push(messages(head, Bytes::new())).await.unwrap_err();
    assert!(matches!(refused, Refusal::Invalid(_)), "{refused}");
}

#[tokio::test]
async fn where_the_base_is_gone_the_whole_image_is_asked_for() {
    let two = Two::new().await;
    let recipe = two.by_outline().await;
    two.store.remove("app:1").await.unwrap();
    let sent = messages(two.header(recipe.head(), 0), segments(&recipe, 0));
    let refused = two.push(sent).await.unwrap_err();
    assert!(matches!(refused, Refusal::Precondition(_)), "{refused}");
    let whole = header(&two.bytes, two.digest(), 0, "app:2");
    two.push(messages(whole, two.bytes.clone())).await.unwrap();
    assert!(two.is_there());
}

#[tokio::test]
async fn more_segments_than_there_are_are_refused() {
    let two = Two::new().await;
    let recipe = two.by_outline().await;
    let more = [segments(&recipe, 0), Bytes::from_static(b"more")].concat();
    let refused = two.push(messages(two.header(recipe.head(), 0), more.into())).await.unwrap_err();
    assert!(matches!(refused, Refusal::Invalid(_)), "{refused}");
}

#[tokio::test]
async fn near_are_the_newest_of_the_name() {
    let two = Two::new().await;
    for (tag, number) in [("app:3", 3_u8), ("app:4", 4), ("other:1", 5)] {
        // Records whose files are not there: they are left out.
        two.store.lab.image(tag, number).await;
    }
    let target = digest_of(b"new");
    let near = two.nearest("app", target, None).await;
    let names: Vec<&str> = near.images.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!((near.codecs, names), (shoal_image::codecs(), vec!["app:1"]));
    let old = digest_of(&std::fs::read(&two.old).unwrap());
    assert_eq!(two.nearest("app", old, None).await.images, [], "itself is not near");
    assert_eq!(two.nearest("none", target, None).await.images, []);
    let (_, size, outline) = two.nearest("app", target, Some(old)).await.images.remove(0);
    assert_eq!((size, outline.len()), (std::fs::metadata(&two.old).unwrap().len(), 0));
    assert_eq!(two.nearest("app", target, Some(digest_of(b"x"))).await.images, []);
}

async fn compared(two: &Two, old: &str, new: &str) -> Vec<diff_images_response::Message> {
    let request = DiffImagesRequest { old: old.into(), new: new.into(), all: false };
    let answers = two.store.images.diff(request).await.unwrap();
    let all: Vec<Result<DiffImagesResponse, Status>> = answers.collect().await;
    all.into_iter().map(|answer| answer.unwrap().message.unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_images_are_compared_file_by_file_and_by_what_is_sent() {
    let two = Two::new().await;
    let whole = header(&two.bytes, two.digest(), 0, "app:2");
    two.push(messages(whole, two.bytes.clone())).await.unwrap();
    let messages = compared(&two, "app:1", "app:2").await;
    let changes: Vec<ImageChange> = messages
        .iter()
        .flat_map(|message| match message {
            diff_images_response::Message::Changes(changes) => changes.changes.clone(),
            _ => Vec::new(),
        })
        .collect();
    let paths: Vec<&str> = changes.iter().map(|change| change.path.as_str()).collect();
    assert!(paths.contains(&"/usr/lib/more") && paths.contains(&"/usr/lib/text"), "{paths:?}");
    let Some(diff_images_response::Message::Sums(sums)) = messages.last() else {
        panic!("the sums come last")
    };
    let cost = sums.cost.unwrap();
    let recipe = two.by_file();
    let sent = recipe.head().encoded() + u64::try_from(recipe.head().encode().len()).unwrap();
    assert!(cost.wire_bytes < sent + sent / 10, "{} for {sent}", cost.wire_bytes);
    assert_eq!(cost.copied + cost.rebuilt + cost.literal + cost.metadata, sums.new_size);
    assert_eq!(left_over(two.store.lab.dir.path()), [""; 0]);
}

/// Files of comparisons.
fn left_over(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("images")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.ends_with(".squashfs")).collect()
}
