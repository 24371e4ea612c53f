use std::sync::{Arc, Mutex};

use shoal_proto::v1::images_server::{Images, ImagesServer};
use shoal_proto::v1::{
    BeginPushResponse, GetImageRequest, GetImageResponse, ListImagesRequest, ListImagesResponse,
    PushResponse, RemoveImageRequest, RemoveImageResponse, SetTagResponse,
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
        while let Some(request) = stream.next().await {
            match request?.message.unwrap() {
                Message::Header(header) => {
                    let received = self.0.lock().unwrap().received.len();
                    assert_eq!(header.offset, u64::try_from(received).unwrap());
                    assert_eq!(header.reference, "shop:1");
                }
                Message::Data(data) => {
                    self.0.lock().unwrap().received.extend_from_slice(&data);
                    messages += 1;
                    if let Some((_, code)) = left.filter(|(after, _)| *after == messages) {
                        return Err(Status::new(code, "so it was told"));
                    }
                }
            }
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
