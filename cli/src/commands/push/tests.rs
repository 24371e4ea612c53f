use std::sync::{Arc, Mutex};

use shoal_image::recipe::Head;
use shoal_image::{Assembler, Index};

use shoal_proto::v1::images_server::{Images, ImagesServer};
use shoal_proto::v1::{
    BeginPushResponse, DiffImagesRequest, GetImageRequest, GetImageResponse, ListImagesRequest,
    ListImagesResponse, ListStagedRequest, ListStagedResponse, NearImage, NearestHeader,
    NearestRequest, NearestResponse, PruneImagesRequest, PruneImagesResponse, PushResponse,
    RemoveImageRequest, RemoveImageResponse, SetImagePinRequest, SetImagePinResponse,
    SetTagResponse, StageImageRequest, StageImageResponse, UnstageImageRequest,
    UnstageImageResponse, nearest_response,
};
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};

use super::*;
use crate::args::{Color, Format};
use crate::output::Surroundings;
use crate::testing::Site;
use crate::view::samples;

/// A controller's images: the bytes of one, and what is done to it.
#[derive(Debug, Clone, Default)]
struct Fake(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    present: bool,
    received: Vec<u8>,
    /// Each push breaks after so many messages of data, and so, while there are any.
    breaks: Vec<(usize, Code)>,
    pushes: usize,
    tagged: Vec<String>,
    /// Where it keeps images, of which it knows this one; `None`: it is an older controller.
    near: Option<(PathBuf, Sha256Sum)>,
    /// It has lost that image, although it says that it has it.
    lost: bool,
    /// Bytes of segments that came.
    segments: usize,
}

impl Fake {
    /// Carries out a recipe, or as much of it as has come.
    fn assemble(&self, head: &[u8], mut bytes: &[u8]) -> Result<(), Status> {
        let mut inner = self.0.lock().unwrap();
        let (dir, _) = inner.near.clone().unwrap();
        if inner.lost {
            return Err(Status::failed_precondition("the image is not there any more"));
        }
        inner.segments += bytes.len();
        let head = Head::decode(head).unwrap();
        let mut assembler = Assembler::open(head, &dir, &dir, 0).unwrap();
        while let Some(next) = assembler.next() {
            let length = usize::try_from(assembler.head().segments[next].encoded).unwrap();
            let Some((segment, rest)) = bytes.split_at_checked(length) else { break };
            assembler.apply(next, segment).unwrap();
            bytes = rest;
        }
        if assembler.next().is_none() {
            inner.received = std::fs::read(assembler.finish().unwrap()).unwrap();
        } else {
            inner.received = vec![0; usize::try_from(assembler.received()).unwrap()];
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Images for Fake {
    async fn begin_push(
        &self,
        _: Request<BeginPushRequest>,
    ) -> Result<Response<BeginPushResponse>, Status> {
        let inner = self.0.lock().unwrap();
        let received = u64::try_from(inner.received.len()).unwrap();
        Ok(Response::new(BeginPushResponse { present: inner.present, received }))
    }

    async fn push(
        &self,
        request: Request<Streaming<PushRequest>>,
    ) -> Result<Response<PushResponse>, Status> {
        let mut stream = request.into_inner();
        let left = {
            let mut inner = self.0.lock().unwrap();
            inner.pushes += 1;
            inner.breaks.pop()
        };
        let mut messages = 0;
        let (mut recipe, mut segments) = (Bytes::new(), Vec::new());
        while let Some(request) = stream.next().await {
            match request?.message.unwrap() {
                Message::Header(header) => {
                    recipe = header.recipe.clone();
                    let received = self.0.lock().unwrap().received.len();
                    assert_eq!(header.offset, u64::try_from(received).unwrap());
                    assert_eq!(header.reference, "shop:1");
                }
                Message::Data(data) => {
                    match recipe.is_empty() {
                        true => self.0.lock().unwrap().received.extend_from_slice(&data),
                        false => segments.extend_from_slice(&data),
                    }
                    messages += 1;
                    if let Some((_, code)) = left.filter(|(after, _)| *after == messages) {
                        if let Some((_, came)) = segments.split_last() {
                            self.assemble(&recipe, came)?;
                        }
                        return Err(Status::new(code, "so it was told"));
                    }
                }
            }
        }
        if !recipe.is_empty() {
            self.assemble(&recipe, &segments)?;
        }
        Ok(Response::new(PushResponse { image: Some(samples::image(1, &["shop:1"])) }))
    }

    async fn set_tag(
        &self,
        request: Request<SetTagRequest>,
    ) -> Result<Response<SetTagResponse>, Status> {
        self.0.lock().unwrap().tagged.push(request.into_inner().reference);
        let image = Some(samples::image(1, &["shop:1"]));
        Ok(Response::new(SetTagResponse { image, previous: None }))
    }

    async fn list(
        &self,
        _: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn get(&self, _: Request<GetImageRequest>) -> Result<Response<GetImageResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn remove(
        &self,
        _: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn set_pin(
        &self,
        _: Request<SetImagePinRequest>,
    ) -> Result<Response<SetImagePinResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn prune(
        &self,
        _: Request<PruneImagesRequest>,
    ) -> Result<Response<PruneImagesResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    type NearestStream = tokio_stream::Iter<std::vec::IntoIter<Result<NearestResponse, Status>>>;

    async fn nearest(
        &self,
        request: Request<NearestRequest>,
    ) -> Result<Response<Self::NearestStream>, Status> {
        let NearestRequest { name, base, .. } = request.into_inner();
        let near = self.0.lock().unwrap().near.clone();
        let Some((dir, sum)) = near else { return Err(Status::unimplemented("an older one")) };
        assert_eq!(name, "shop");
        let codecs = shoal_image::codecs();
        let mut answers = vec![nearest_response::Message::Header(NearestHeader { codecs })];
        let path = dir.join(format!("{sum}.squashfs"));
        let digest = Bytes::copy_from_slice(sum.as_bytes());
        if base.is_empty() || base == digest {
            let size = std::fs::metadata(&path).unwrap().len();
            let image = NearImage { digest, size, reference: "shop:0".into() };
            answers.push(nearest_response::Message::Image(image));
        }
        if base.is_empty() {
            let outline = Index::read(&path).unwrap().outline();
            let pieces = outline.chunks(1000).map(Bytes::copy_from_slice);
            answers.extend(pieces.map(nearest_response::Message::Outline));
        }
        let answers = answers.into_iter();
        let answers = answers.map(|message| Ok(NearestResponse { message: Some(message) }));
        Ok(Response::new(tokio_stream::iter(answers.collect::<Vec<_>>())))
    }

    type DiffStream = tokio_stream::Empty<Result<shoal_proto::v1::DiffImagesResponse, Status>>;

    async fn diff(
        &self,
        _: Request<DiffImagesRequest>,
    ) -> Result<Response<Self::DiffStream>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn stage(
        &self,
        _: Request<StageImageRequest>,
    ) -> Result<Response<StageImageResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn unstage(
        &self,
        _: Request<UnstageImageRequest>,
    ) -> Result<Response<UnstageImageResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn list_staged(
        &self,
        _: Request<ListStagedRequest>,
    ) -> Result<Response<ListStagedResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }
}

fn console() -> Console {
    let around = Surroundings {
        stdout_is_terminal: false,
        stderr_is_terminal: false,
        no_color: true,
        plain: true,
    };
    Console::new(Format::Table, Color::Never, around)
}

/// Some bytes in a file, a little over three chunks.
fn file() -> (tempfile::NamedTempFile, Vec<u8>) {
    let bytes: Vec<u8> =
        (0..u32::try_from(3 * CHUNK + 17).unwrap()).map(|at| at.to_le_bytes()[1]).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    (file, bytes)
}

async fn pusher(fake: &Fake, path: &Path, bytes: &[u8]) -> Pusher {
    let router = Server::builder().add_service(ImagesServer::new(fake.clone()));
    let prepared = Prepared {
        path: path.to_owned(),
        size: u64::try_from(bytes.len()).unwrap(),
        digest: Sha256Sum::of(bytes),
        reference: "shop:1".parse().unwrap(),
        platform: Platform::default(),
        signed: None,
        base: None,
    };
    let client = Site::new().client(router).await;
    Pusher::new(client, prepared, console())
}

#[tokio::test]
async fn an_image_arrives_whole() {
    let ((file, bytes), fake) = (file(), Fake::default());
    let mut pusher = pusher(&fake, file.path(), &bytes).await;
    pusher.push().await.unwrap();
    assert_eq!(fake.0.lock().unwrap().received, bytes);
    assert_eq!(pusher.sent, pusher.prepared.size);
}

#[tokio::test]
async fn what_is_there_is_not_sent_again() {
    let ((file, bytes), fake) = (file(), Fake::default());
    fake.0.lock().unwrap().received = bytes[..CHUNK + 5].to_vec();
    let mut pusher = pusher(&fake, file.path(), &bytes).await;
    pusher.push().await.unwrap();
    assert_eq!(fake.0.lock().unwrap().received, bytes);
    assert_eq!(pusher.sent, u64::try_from(bytes.len() - CHUNK - 5).unwrap());
}

#[tokio::test]
async fn an_image_that_is_there_gets_only_its_name() {
    let ((file, bytes), fake) = (file(), Fake::default());
    fake.0.lock().unwrap().present = true;
    let mut pusher = pusher(&fake, file.path(), &bytes).await;
    pusher.push().await.unwrap();
    let inner = fake.0.lock().unwrap();
    assert_eq!(
        (inner.pushes, inner.tagged.as_slice(), pusher.sent),
        (0, &["shop:1".to_owned()][..], 0)
    );
}

#[tokio::test]
async fn a_controller_that_restarts_gets_the_rest() {
    let ((file, bytes), fake) = (file(), Fake::default());
    // Last first. After a restart, what is left of the old stream may still hold the image.
    fake.0.lock().unwrap().breaks = vec![(1, Code::Aborted), (2, Code::Unavailable)];
    let mut pusher = pusher(&fake, file.path(), &bytes).await;
    pusher.push().await.unwrap();
    let inner = fake.0.lock().unwrap();
    assert_eq!((inner.pushes, &inner.received), (3, &bytes));
}

#[tokio::test]
async fn a_push_of_someone_else_is_not_fought() {
    let ((file, bytes), fake) = (file(), Fake::default());
    fake.0.lock().unwrap().breaks = vec![(1, Code::Aborted)];
    let mut pusher = pusher(&fake, file.path(), &bytes).await;
    let failure = pusher.push().await.unwrap_err();
    assert_eq!(failure.exit(), crate::exit::Exit::Conflict, "{failure}");
    assert_eq!(fake.0.lock().unwrap().pushes, 1);
}

#[tokio::test]
async fn a_file_that_shrinks_meanwhile_is_said() {
    let ((file, bytes), fake) = (file(), Fake::default());
    let mut pusher = pusher(&fake, file.path(), &bytes).await;
    std::fs::write(file.path(), &bytes[..10]).unwrap();
    let failure = pusher.push().await.unwrap_err();
    assert!(failure.to_string().contains("did it change?"), "{failure}");
}

#[test]
fn what_is_no_image_is_refused_before_anyone_is_called() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![b'x'; 5000]).unwrap();
    let error = prepare(console(), file.path(), &"shop:1".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("is not a squashfs file"), "{error}");
    assert_eq!(Failure::from(error).exit(), crate::exit::Exit::Usage);
}

/// A controller that has an image, and files of that image and the next one.
struct Next {
    fake: Fake,
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
}

impl Next {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let old = image(dir.path(), "old", "line 7 ");
        let new = image(dir.path(), "new", "line 7, changed ");
        let sum = Sha256Sum::of(&std::fs::read(&old).unwrap());
        let store = dir.path().join("store");
        std::fs::create_dir(&store).unwrap();
        std::fs::copy(&old, store.join(format!("{sum}.squashfs"))).unwrap();
        let fake = Fake::default();
        fake.0.lock().unwrap().near = Some((store, sum));
        Self { fake, bytes: std::fs::read(&new).unwrap(), dir }
    }

    async fn pusher(&self, base: bool) -> Pusher {
        let mut pusher = pusher(&self.fake, &self.dir.path().join("new"), &self.bytes).await;
        pusher.prepared.base = base.then(|| self.dir.path().join("old"));
        pusher
    }

    fn received(&self) -> Vec<u8> {
        self.fake.0.lock().unwrap().received.clone()
    }
}

#[allow(clippy::disallowed_methods, reason = "the image under test is made by the real tool")]
fn image(dir: &Path, name: &str, seventh: &str) -> PathBuf {
    let (tree, path) = (dir.join(format!("{name}.tree")), dir.join(name));
    std::fs::create_dir(&tree).unwrap();
    let noise: Vec<u8> = (0..40_000_u32)
        .flat_map(|n| Sha256Sum::of(&n.to_le_bytes()).as_bytes()[..16].to_vec())
        .collect();
    std::fs::write(tree.join("noise"), noise).unwrap();
    let text: String = (0..30_000).map(|line| format!("line {line} of a text\n")).collect();
    std::fs::write(tree.join("text"), text.replace("line 7 ", seventh)).unwrap();
    let made = std::process::Command::new("mksquashfs")
        .args([&tree, &path])
        .args(["-quiet", "-no-progress", "-all-root", "-all-time", "1", "-mkfs-time", "1"])
        .args(["-comp", "zstd"])
        .output()
        .expect("squashfs-tools are installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_controller_lacks_is_sent() {
    let mut sent = Vec::new();
    for base in [false, true] {
        let next = Next::new();
        let would = next.pusher(base).await.dry_run().await.unwrap();
        assert_eq!(next.received(), [0; 0], "a dry run sends nothing");
        let mut pusher = next.pusher(base).await;
        pusher.push().await.unwrap();
        assert_eq!(next.received(), next.bytes);
        let would = serde_json::to_value(&would).unwrap();
        assert_eq!(would["wire_bytes"], pusher.sent, "{would}");
        sent.push(pusher.sent);
    }
    let all = u64::try_from(Next::new().bytes.len()).unwrap();
    assert!(sent[0] < all / 4, "{} of {all}", sent[0]);
    assert!(sent[1] < sent[0] / 2, "{} with the file at hand, {} without", sent[1], sent[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_by_recipe_is_begun_again_where_it_broke() {
    let next = Next::new();
    next.fake.0.lock().unwrap().breaks = vec![(1, Code::Unavailable)];
    let mut pusher = next.pusher(false).await;
    pusher.push().await.unwrap();
    assert_eq!(next.received(), next.bytes);
    assert_eq!(next.fake.0.lock().unwrap().pushes, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_base_was_removed_meanwhile_all_is_sent() {
    let next = Next::new();
    next.fake.0.lock().unwrap().lost = true;
    let mut pusher = next.pusher(false).await;
    pusher.push().await.unwrap();
    assert_eq!(next.received(), next.bytes);
    assert!(pusher.sent > u64::try_from(next.bytes.len()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_the_controller_does_not_have_is_done_without() {
    let next = Next::new();
    image(next.dir.path(), "third", "line seven ");
    let mut pusher = next.pusher(false).await;
    pusher.prepared.base = Some(next.dir.path().join("third"));
    pusher.push().await.unwrap();
    assert_eq!(next.received(), next.bytes);
    assert!(pusher.sent < u64::try_from(next.bytes.len()).unwrap() / 4);
}

#[test]
fn the_result_says_what_was_sent_and_saved() {
    let text = |sent, saved| {
        let image = image_view();
        let reference = "shop:1".parse().unwrap();
        PushView::new(&reference, sent, saved, 97 << 20, image).text()
    };
    assert!(text(6 << 20, 91 << 20).ends_with("(6.0 MiB of 97.0 MiB sent, the rest was there)"));
    assert!(text(97 << 20, 0).ends_with("(97.0 MiB sent)"));
    assert!(text(0, 97 << 20).ends_with("(already there, nothing sent)"));
}

fn image_view() -> crate::view::image::ImageView {
    samples::image(1, &["shop:1"]).try_into().unwrap()
}
