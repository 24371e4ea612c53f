use std::path::PathBuf;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use shoal_image::Sha256Sum;
use shoal_proto::v1::store::AuditRecord;
use shoal_proto::v1::{ImageSignature, PushHeader, SignedManifest, push_request};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

mod recipes;

use super::*;
use crate::fleets_api::tests_support::{ADA, Lab, NOON};
use crate::fleets_api::world;

mod prune;

/// A controller's images, and a real image.
struct Store {
    lab: Lab,
    images: Images,
    bytes: Bytes,
}

impl Store {
    async fn new() -> Self {
        let lab = Lab::new().await;
        let blobs = Blobs::new(&lab.dir.path().join("images"));
        let (records, live) = (lab.records.clone(), lab.live.clone());
        let transfers = lab.transfers().await;
        let images = Images::over(records, blobs, live, transfers, CancellationToken::new());
        let bytes = squashfs(lab.dir.path().join("tree"));
        Self { lab, images, bytes }
    }

    fn digest(&self) -> Digest {
        digest_of(&self.bytes)
    }

    async fn pushed(reference: &str) -> Self {
        let store = Self::new().await;
        store.push(reference, 0, store.bytes.clone()).await.unwrap();
        store
    }

    /// Pushes `bytes` as those of the image from `offset` on.
    async fn push(
        &self,
        reference: &str,
        offset: u64,
        bytes: Bytes,
    ) -> Result<PushResponse, Refusal> {
        let header = header(&self.bytes, self.digest(), offset, reference);
        self.images.push(stream::iter(messages(header, bytes).map(Ok)), ADA).await
    }

    async fn begin(&self) -> BeginPushResponse {
        let digest = convert::digest_bytes(&self.digest());
        let request = BeginPushRequest { digest, size: length(&self.bytes) };
        self.images.begin_push(request).await.unwrap()
    }

    async fn remove(&self, name: &str) -> Result<RemoveImageResponse, Refusal> {
        self.images.remove(RemoveImageRequest { name: name.into() }, ADA, NOON).await
    }

    async fn get(&self, name: &str) -> Result<shoal_proto::v1::Image, Refusal> {
        let response = self.images.get(GetImageRequest { name: name.into() }).await?;
        Ok(response.image.unwrap())
    }

    async fn set_tag(&self, reference: &str, digest: Digest) -> Result<SetTagResponse, Refusal> {
        let digest = convert::digest_bytes(&digest);
        let request = SetTagRequest { reference: reference.into(), digest, signed: None };
        self.images.set_tag(request, ADA, NOON).await
    }

    fn files(&self) -> usize {
        let dir = self.lab.dir.path().join("images");
        std::fs::read_dir(dir).map_or(0, |entries| entries.count())
    }
}

#[allow(clippy::disallowed_methods, reason = "the image under test is made by the real tool")]
fn squashfs(tree: PathBuf) -> Bytes {
    std::fs::create_dir_all(tree.join("usr/lib")).unwrap();
    let release = "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian 12\"\n";
    std::fs::write(tree.join("usr/lib/os-release"), release).unwrap();
    // Something that does not compress, so that the image has a few blocks.
    let noise =
        (0..4000_u32).flat_map(|n| Sha256Sum::of(&n.to_le_bytes()).as_bytes()[..8].to_vec());
    std::fs::write(tree.join("usr/lib/noise"), noise.collect::<Vec<u8>>()).unwrap();
    let image = tree.with_extension("squashfs");
    let output = std::process::Command::new("mksquashfs")
        .args([&tree, &image])
        .args(["-noappend", "-no-progress", "-quiet", "-all-root", "-comp", "zstd"])
        .output()
        .expect("squashfs-tools are installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(image).unwrap().into()
}

fn digest_of(bytes: &[u8]) -> Digest {
    <[u8; 32]>::from(Sha256Sum::of(bytes)).into()
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap()
}

fn header(bytes: &[u8], digest: Digest, offset: u64, reference: &str) -> PushHeader {
    let digest = convert::digest_bytes(&digest);
    let (size, reference) = (length(bytes), reference.into());
    PushHeader { digest, size, offset, reference, recipe: Bytes::new(), signed: None }
}

fn messages(header: PushHeader, bytes: Bytes) -> impl Iterator<Item = PushRequest> + Unpin {
    let chunks: Vec<Bytes> = bytes.chunks(1000).map(Bytes::copy_from_slice).collect();
    let data = chunks.into_iter().map(push_request::Message::Data);
    let all = [push_request::Message::Header(header)].into_iter().chain(data);
    all.map(|message| PushRequest { message: Some(message) })
}

#[tokio::test]
async fn a_push_is_verified_read_recorded_and_tagged() {
    let store = Store::new().await;
    assert_eq!(store.begin().await, BeginPushResponse { present: false, received: 0 });
    let image = store.push("deb:12", 0, store.bytes.clone()).await.unwrap().image.unwrap();
    assert_eq!(image.digest, convert::digest_bytes(&store.digest()));
    assert_eq!((image.size, image.references), (length(&store.bytes), vec!["deb:12".to_owned()]));
    assert_eq!((image.os_id.as_deref(), image.os_version.as_deref()), (Some("debian"), Some("12")));
    assert_eq!((image.compression.as_str(), image.pushed_by.as_str()), ("zstd", ADA));
    let received = length(&store.bytes);
    assert_eq!(store.begin().await, BeginPushResponse { present: true, received });
    let audit = store.lab.records.list::<AuditRecord>().await.unwrap().records;
    let entry = &audit[0].record;
    assert_eq!((entry.what.as_str(), entry.target.as_str()), ("Images/Push", "deb:12"));
}

#[tokio::test]
async fn a_broken_push_goes_on_where_it_was() {
    let store = Store::new().await;
    let header = header(&store.bytes, store.digest(), 0, "deb:12");
    let first = messages(header, store.bytes.slice(..2000)).map(Ok);
    let broken = first.chain([Err(Status::cancelled("gone"))]);
    let error = store.images.push(stream::iter(broken), ADA).await.unwrap_err();
    assert!(matches!(&error, Refusal::Unavailable(text) if text.contains("push again")), "{error}");
    assert_eq!(store.begin().await, BeginPushResponse { present: false, received: 2000 });
    let error = store.push("deb:12", 1000, store.bytes.slice(1000..)).await.unwrap_err();
    assert!(
        matches!(&error, Refusal::Precondition(text) if text.contains("2000 bytes")),
        "{error}"
    );
    // One that ends too early is told so, and keeps its bytes too.
    let error = store.push("deb:12", 2000, store.bytes.slice(2000..3000)).await.unwrap_err();
    assert!(matches!(error, Refusal::Invalid(_)), "{error}");
    store.push("deb:12", 3000, store.bytes.slice(3000..)).await.unwrap();
    assert!(store.begin().await.present);
}

#[tokio::test]
async fn a_push_ends_with_the_controller_and_goes_on_with_the_next() {
    let store = Store::new().await;
    let (sender, receiver) = mpsc::channel(1);
    let images = store.images.clone();
    let push = tokio::spawn(async move { images.push(ReceiverStream::new(receiver), ADA).await });
    for message in
        messages(header(&store.bytes, store.digest(), 0, "deb:12"), store.bytes.clone()).take(4)
    {
        sender.send(Ok(message)).await.unwrap();
    }
    store.images.shutdown.cancel();
    let error = push.await.unwrap().unwrap_err();
    assert!(matches!(error, Refusal::Unavailable(_)), "{error}");
    let kept = store.begin().await.received;
    assert!(kept <= 3000, "{kept}");
}

#[tokio::test]
async fn bytes_of_another_digest_are_thrown_away() {
    let store = Store::new().await;
    let mut wrong = store.bytes.to_vec();
    wrong[100] ^= 1;
    let error = store.push("deb:12", 0, wrong.into()).await.unwrap_err();
    assert!(matches!(&error, Refusal::DataLoss(text) if text.contains("SHA-256")), "{error}");
    assert_eq!(store.begin().await, BeginPushResponse { present: false, received: 0 });
    assert!(matches!(store.get("deb:12").await, Err(Refusal::NotFound(_))));
}

#[tokio::test]
async fn what_is_no_squashfs_is_removed_and_not_recorded() {
    let store = Store::new().await;
    let records = store.lab.records.list::<ImageRecord>().await.unwrap().records.len();
    let script = Bytes::from_static(b"#!/bin/sh\necho hello\n");
    let truncated = store.bytes.slice(..store.bytes.len() - 8192);
    for (bytes, wanted) in [(script, "not a squashfs"), (truncated, "is truncated")] {
        let header = header(&bytes, digest_of(&bytes), 0, "deb:12");
        let pushed = store.images.push(stream::iter(messages(header, bytes).map(Ok)), ADA).await;
        let error = pushed.unwrap_err();
        assert!(matches!(&error, Refusal::Invalid(text) if text.contains(wanted)), "{error}");
        assert_eq!(store.files(), 0);
    }
    assert_eq!(store.lab.records.list::<ImageRecord>().await.unwrap().records.len(), records);
    assert!(store.lab.records.list::<AuditRecord>().await.unwrap().records.is_empty());
}

#[tokio::test]
async fn of_two_pushers_one_is_told_to_wait() {
    let store = Store::new().await;
    let (sender, receiver) = mpsc::channel(1);
    let images = store.images.clone();
    let first = tokio::spawn(async move { images.push(ReceiverStream::new(receiver), ADA).await });
    let header = header(&store.bytes, store.digest(), 0, "deb:12");
    for message in messages(header, store.bytes.clone()).take(4) {
        sender.send(Ok(message)).await.unwrap();
    }
    let error = store.push("deb:13", 0, store.bytes.clone()).await.unwrap_err();
    assert!(matches!(&error, Refusal::Conflict(text) if text.contains("being pushed")), "{error}");
    let error = store.remove(&store.digest().to_string()).await.unwrap_err();
    assert!(matches!(error, Refusal::NotFound(_)), "{error}");
    drop(sender);
    assert!(first.await.unwrap().is_err());
    let received = store.begin().await.received;
    let rest = store.bytes.slice(usize::try_from(received).unwrap()..);
    store.push("deb:13", received, rest).await.unwrap();
}

#[tokio::test]
async fn bad_announcements_are_refused_before_a_byte_is_taken() {
    let store = Store::new().await;
    let good = header(&store.bytes, store.digest(), 0, "deb:12");
    let cases = [
        (PushHeader { reference: "../x:1".into(), ..good.clone() }, "reference"),
        (PushHeader { reference: "deb".into(), ..good.clone() }, "no tag"),
        (PushHeader { size: 0, ..good.clone() }, "empty"),
        (PushHeader { size: (64 << 30) + 1, ..good.clone() }, "64 GiB"),
        (PushHeader { digest: Bytes::from_static(b"short"), ..good.clone() }, "32 bytes"),
        (with(&good, manifest("deb:11", &store.bytes)), "the manifest is of deb:11 ("),
        (with(&good, manifest("deb:12", b"other")), "and the image is deb:12 ("),
        (with(&good, b"deb:12".to_vec()), "the manifest of deb:12: it is no manifest"),
        (with(&good, vec![b'#'; 5000]), "5000 bytes"),
        (without_signature(&good, &store.bytes), "the signature of deb:12: the signature is dam"),
    ];
    for (header, wanted) in cases {
        let all = messages(header, store.bytes.clone()).map(Ok);
        let error = store.images.push(stream::iter(all), ADA).await.unwrap_err();
        assert!(matches!(&error, Refusal::Invalid(text) if text.contains(wanted)), "{error}");
    }
    let data = PushRequest { message: Some(push_request::Message::Data(store.bytes.clone())) };
    let error = store.images.push(stream::iter([Ok(data)]), ADA).await.unwrap_err();
    assert!(error.to_string().contains("first message"), "{error}");
    assert_eq!(store.files(), 0);
}

#[tokio::test]
async fn a_whole_file_without_a_record_is_taken_over() {
    let store = Store::pushed("deb:12").await;
    let mut batch = Batch::new();
    batch.delete::<ImageRecord>(&store.digest().to_string()).unwrap();
    store.lab.records.commit(batch).await.unwrap();
    let received = length(&store.bytes);
    assert_eq!(store.begin().await, BeginPushResponse { present: false, received });
    let image = store.push("deb:13", received, Bytes::new()).await.unwrap().image.unwrap();
    assert_eq!(image.os_id.as_deref(), Some("debian"));
    assert!(store.begin().await.present);
    let mut batch = Batch::new();
    batch.delete::<ImageRecord>(&store.digest().to_string()).unwrap();
    store.lab.records.commit(batch).await.unwrap();
    remove_orphans(&store.lab.records, &store.images.blobs).await.unwrap();
    assert_eq!(store.files(), 0);
}

#[tokio::test]
async fn tags_move_and_say_where_they_were() {
    let store = Store::pushed("deb:12").await;
    let set = store.set_tag("deb:new", store.digest()).await.unwrap();
    assert_eq!(set.previous, None);
    assert_eq!(set.image.unwrap().references, ["deb:12", "deb:new"]);
    let moved = store.set_tag("deb:12", [1; 32].into()).await.unwrap();
    assert_eq!(moved.previous, Some(convert::digest_bytes(&store.digest())));
    let again = store.set_tag("deb:12", [1; 32].into()).await.unwrap();
    assert_eq!(again.previous, Some(Bytes::from_static(&[1; 32])));
    let error = store.set_tag("deb:12", [9; 32].into()).await.unwrap_err();
    assert!(matches!(error, Refusal::NotFound(_)), "{error}");
}

/// The manifest of an image.
fn manifest(reference: &str, bytes: &[u8]) -> Vec<u8> {
    let (name, tag) = reference.split_once(':').unwrap();
    let (digest, size) = (digest_of(bytes), bytes.len());
    let text = format!(
        "manifest = 1\nname = \"{name}\"\ntag = \"{tag}\"\ndigest = \"{digest}\"\nsize = {size}\n\
         release = 7\ncreated = \"2026-11-20T09:00:00Z\"\n"
    );
    text.into_bytes()
}

/// That is signed, though not of what it is kept with: nobody here would know.
fn signed(manifest: Vec<u8>) -> SignedManifest {
    let signature = "untrusted comment: x\n\
        RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\n\
        trusted comment: timestamp:1633700835\tfile:test\tprehashed\n\
        wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==\n";
    SignedManifest { manifest: manifest.into(), signature: signature.into() }
}

fn with(header: &PushHeader, manifest: Vec<u8>) -> PushHeader {
    PushHeader { signed: Some(signed(manifest)), ..header.clone() }
}

fn without_signature(header: &PushHeader, bytes: &[u8]) -> PushHeader {
    let (manifest, signature) = (manifest(&header.reference, bytes).into(), "damaged".into());
    PushHeader { signed: Some(SignedManifest { manifest, signature }), ..header.clone() }
}

#[tokio::test]
async fn what_is_signed_stays_with_its_name_and_goes_with_the_image() {
    let store = Store::new().await;
    let header = header(&store.bytes, store.digest(), 0, "deb:12");
    let header = with(&header, manifest("deb:12", &store.bytes));
    let all = messages(header, store.bytes.clone()).map(Ok);
    store.images.push(stream::iter(all), ADA).await.unwrap();
    let wanted = ImageSignature {
        reference: "deb:12".into(),
        key: "E7620F1842B4E81F".into(),
        release: 7,
        created_ms: 1_795_165_200_000,
        expires_ms: None,
    };
    assert_eq!(store.get("deb:12").await.unwrap().signatures, vec![wanted.clone()]);
    let audit = store.lab.records.list::<AuditRecord>().await.unwrap().records;
    assert!(audit[0].record.detail.ends_with("signed by key E7620F1842B4E81F"));
    // Another name is not signed, and the same again takes nothing away.
    store.set_tag("deb:latest", store.digest()).await.unwrap();
    store.set_tag("deb:12", store.digest()).await.unwrap();
    assert_eq!(store.get("deb:latest").await.unwrap().signatures, vec![wanted]);
    let pin = |reference: &'static str| async {
        let reference = reference.parse().unwrap();
        let tagged = world::image(&store.lab.records, &reference).await.unwrap().unwrap();
        tagged.signed.is_some()
    };
    assert!(pin("deb:12").await && !pin("deb:latest").await);
    // What is signed anew takes the place of what was.
    let digest = convert::digest_bytes(&store.digest());
    let newer = String::from_utf8(manifest("deb:12", &store.bytes)).unwrap();
    let newer = Some(signed(newer.replace("release = 7", "release = 8").into_bytes()));
    let request = SetTagRequest { reference: "deb:12".into(), digest, signed: newer };
    let image = store.images.set_tag(request.clone(), ADA, NOON).await.unwrap().image.unwrap();
    assert_eq!(image.signatures[0].release, 8);
    // Of another name, it is refused.
    let wrong = SetTagRequest { reference: "deb:13".into(), ..request };
    let error = store.images.set_tag(wrong, ADA, NOON).await.unwrap_err();
    assert!(error.to_string().contains("the manifest is of deb:12"), "{error}");
    // Another image under the name is not signed.
    store.lab.image("other:1", 3).await;
    store.set_tag("deb:12", [3; 32].into()).await.unwrap();
    assert!(!pin("deb:12").await);
}

#[tokio::test]
async fn images_are_found_by_tag_digest_and_first_digits() {
    let store = Store::pushed("deb:12").await;
    let digest = store.digest().to_string();
    for name in ["deb:12", &digest, &digest[..6], &format!("sha256:{digest}")] {
        assert_eq!(store.get(name).await.unwrap().references, ["deb:12"], "{name}");
    }
    assert!(matches!(store.get("ffffff").await, Err(Refusal::NotFound(_))));
    let similar = format!("{}{}", &digest[..8], "0".repeat(56));
    let record = ImageRecord::default();
    store.lab.put(&similar, &record).await;
    let error = store.get(&digest[..7]).await.unwrap_err();
    assert!(error.to_string().contains("2 images"), "{error}");
}

#[tokio::test]
async fn the_list_shows_who_uses_and_who_has_an_image() {
    let store = Store::pushed("zoo:1").await;
    store.lab.apply("shop", &[("main", "app:1", "role=web")]).await.unwrap();
    let agent = store.lab.connect("h3");
    store.lab.apply("mail", &[("mx", "app:2", "h3")]).await.unwrap();
    store.lab.advance("mail", 1, NOON).await;
    agent.converge(&store.lab.spec("h3").await);
    let images = store.images.list().await.unwrap().images;
    let shown: Vec<_> = images
        .iter()
        .map(|i| (i.references.join(" "), i.used_by.join(" "), i.staged_on.join(" ")))
        .collect();
    let wanted = [
        ("app:1", "shop/main@h1 shop/main@h2", ""),
        ("app:2", "mail/mx@h3", "h3"),
        ("app:3", "", ""),
        ("zoo:1", "", ""),
    ];
    assert_eq!(shown, wanted.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
}

#[tokio::test]
async fn an_image_in_use_stays_and_its_users_are_named() {
    let store = Store::pushed("deb:12").await;
    store.lab.apply("shop", &[("main", "deb:12", "*")]).await.unwrap();
    for name in ["deb:12", &store.digest().to_string()] {
        let error = store.remove(name).await.unwrap_err();
        let Refusal::Precondition(text) = error else { panic!("{error}") };
        assert!(text.contains("in use by shop/main@h1, shop/main@h2, shop/main@h3;"), "{text}");
    }
    // A tag that is not its last goes.
    store.set_tag("deb:new", store.digest()).await.unwrap();
    assert!(!store.remove("deb:12").await.unwrap().file_removed);
    assert!(store.remove("deb:new").await.is_err());
    // An older revision's image stays while a host still has it.
    store.lab.advance("shop", 1, NOON).await;
    store.lab.apply("shop", &[("main", "app:1", "*")]).await.unwrap();
    assert!(store.remove("deb:new").await.is_err());
    store.lab.advance("shop", 2, NOON).await;
    assert!(store.remove("deb:new").await.unwrap().file_removed);
    assert_eq!(store.files(), 0);
    assert!(matches!(store.get("deb:new").await, Err(Refusal::NotFound(_))));
}

#[tokio::test]
async fn many_users_are_counted() {
    let store = Store::pushed("deb:12").await;
    for number in 0..6 {
        store.lab.host(&format!("x{number}"), "many").await;
    }
    store.lab.apply("shop", &[("main", "deb:12", "role=many")]).await.unwrap();
    let text = store.remove("deb:12").await.unwrap_err().to_string();
    assert!(text.contains("shop/main@x4 and 1 more"), "{text}");
}

#[tokio::test]
async fn a_digest_takes_the_image_with_all_its_tags() {
    let store = Store::pushed("deb:12").await;
    store.set_tag("deb:new", store.digest()).await.unwrap();
    assert!(store.remove(&store.digest().short()).await.unwrap().file_removed);
    for name in ["deb:12", "deb:new"] {
        assert!(matches!(store.get(name).await, Err(Refusal::NotFound(_))), "{name}");
    }
    assert_eq!(store.files(), 0);
}

/// The one who removes has looked before the apply and writes after it.
#[tokio::test]
async fn a_removal_that_an_apply_overtakes_fails() {
    let store = Store::pushed("deb:12").await;
    let found = store.images.find("deb:12").await.unwrap();
    store.lab.apply("shop", &[("main", "deb:12", "h1")]).await.unwrap();
    let mut batch = Batch::new();
    batch.remove(&found.image).unwrap();
    let outcome = store.lab.records.commit(batch).await;
    assert!(matches!(outcome, Err(CommitError::Conflict { .. })), "{outcome:?}");
}
