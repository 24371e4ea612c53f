//! `shoal image …`, but for `push`.

use serde::Serialize;
use shoal_core::image::ImageRef;
use shoal_proto::convert::{Invalid, digest};
use shoal_proto::v1::{
    GetImageRequest, Image, ListImagesRequest, PruneImagesRequest, RemoveImageRequest,
    SetImagePinRequest, SetTagRequest,
};

use super::{Shell, difference, lint, push, signature, stage};
use crate::args::image::ImageCommand;
use crate::client::{Client, ReplyError};
use crate::clock;
use crate::exit::{Exit, Failure};
use crate::view::image::{ImageView, ImagesView};
use crate::view::image_prune::PrunedView;

pub(super) async fn run(shell: &Shell, command: ImageCommand) -> Result<Exit, Failure> {
    match command {
        ImageCommand::Push(args) => push::run(shell, args).await?,
        ImageCommand::Diff { old, new, all } => difference::run(shell, &old, &new, all).await?,
        ImageCommand::Lint { file } => return lint::run(shell, file).await,
        ImageCommand::Stage(args) => stage::run(shell, args).await?,
        ImageCommand::Staged { name } => stage::list(shell, name).await?,
        ImageCommand::Keygen(args) => signature::keygen(shell, args).await?,
        ImageCommand::Sign(args) => signature::sign(shell, args).await?,
        ImageCommand::Verify(args) => signature::verify(shell, args)?,
        ImageCommand::List => list(shell, &shell.client().await?).await?,
        ImageCommand::Show { name } => show(shell, &shell.client().await?, &name).await?,
        ImageCommand::Tag { source, reference } => {
            tag(shell, &shell.client().await?, &source, &reference).await?;
        }
        ImageCommand::Pin { name } => pin(shell, &shell.client().await?, name, true).await?,
        ImageCommand::Unpin { name } => pin(shell, &shell.client().await?, name, false).await?,
        ImageCommand::Prune { dry_run, older_than, all } => {
            let older_than_ms = u64::try_from(older_than.as_millis()).ok();
            let request = PruneImagesRequest { older_than_ms, tagged: all, dry_run };
            prune(shell, &shell.client().await?, request).await?;
        }
        ImageCommand::Rm { name } => remove(shell, &shell.client().await?, name).await?,
    }
    Ok(Exit::Done)
}

async fn list(shell: &Shell, client: &Client) -> Result<(), Failure> {
    let reply = client.images().list(client.ask(ListImagesRequest {})).await;
    let reply = reply.map_err(client.refused("list images"))?.into_inner();
    let view = ImagesView::read(reply.images).map_err(ReplyError::about("images"))?;
    Ok(shell.console.result(view.table(clock::now(), shell.console.color()), &view)?)
}

async fn show(shell: &Shell, client: &Client, name: &str) -> Result<(), Failure> {
    let doing = format!("show image {name}");
    let view = read(name, get(client, name, doing).await?)?;
    Ok(shell.console.result(view.details(clock::now()), &view)?)
}

async fn get(client: &Client, name: &str, doing: String) -> Result<Image, Failure> {
    let request = client.ask(GetImageRequest { name: name.to_owned() });
    let reply = client.images().get(request).await.map_err(client.refused(doing))?.into_inner();
    require(name, reply.image)
}

/// The image of an answer about `name`.
pub(super) fn require(name: &str, image: Option<Image>) -> Result<Image, Failure> {
    let missing = || ReplyError::about(format!("image {name}"))(Invalid::Missing("image"));
    Ok(image.ok_or_else(missing)?)
}

/// What a tag points to now, and what it pointed to before.
#[derive(Debug, Serialize)]
struct TagView {
    reference: String,
    digest: String,
    previous: Option<String>,
}

async fn tag(
    shell: &Shell,
    client: &Client,
    source: &str,
    reference: &ImageRef,
) -> Result<(), Failure> {
    let image = get(client, source, format!("tag image {source}")).await?;
    let view = set_tag(client, reference, image.digest).await?;
    let short = |digest: &str| digest.chars().take(12).collect::<String>();
    let before = match &view.previous {
        Some(previous) if *previous == view.digest => " (as before)".to_owned(),
        Some(previous) => format!(" (it was {})", short(previous)),
        None => String::new(),
    };
    let said = format!("{reference} is now {}{before}", short(&view.digest));
    Ok(shell.console.result(said, &view)?)
}

async fn set_tag(
    client: &Client,
    reference: &ImageRef,
    wire: bytes::Bytes,
) -> Result<TagView, Failure> {
    let about = || format!("image {reference}");
    let named = digest("digest", &wire).map_err(ReplyError::about(about()))?;
    let request = SetTagRequest { reference: reference.to_string(), digest: wire, signed: None };
    let reply = client.images().set_tag(client.ask(request)).await;
    let reply = reply.map_err(client.refused(format!("set the tag {reference}")))?.into_inner();
    let previous = reply.previous.map(|previous| digest("previous", &previous)).transpose();
    let previous = previous.map_err(ReplyError::about(about()))?;
    let (digest, previous) = (named.to_string(), previous.map(|digest| digest.to_string()));
    Ok(TagView { reference: reference.to_string(), digest, previous })
}

#[derive(Debug, Serialize)]
struct RemovedView {
    name: String,
    file_removed: bool,
}

async fn remove(shell: &Shell, client: &Client, name: String) -> Result<(), Failure> {
    let reply = client.images().remove(client.ask(RemoveImageRequest { name: name.clone() })).await;
    let reply = reply.map_err(client.refused(format!("remove image {name}")))?.into_inner();
    let said = if reply.file_removed {
        format!("removed {name} and its file")
    } else {
        format!("removed the name {name}; the image itself stays: remove it by its digest")
    };
    let view = RemovedView { name, file_removed: reply.file_removed };
    Ok(shell.console.result(said, &view)?)
}

async fn pin(shell: &Shell, client: &Client, name: String, pinned: bool) -> Result<(), Failure> {
    let request = SetImagePinRequest { name: name.clone(), pinned };
    let reply = client.images().set_pin(client.ask(request)).await;
    let doing = if pinned { "pin" } else { "unpin" };
    let reply = reply.map_err(client.refused(format!("{doing} image {name}")))?.into_inner();
    let view = read(&name, require(&name, reply.image)?)?;
    let said = match pinned {
        true => format!("{name} ({}) stays until it is unpinned", view.short()),
        false => format!("{name} ({}) goes when nothing needs it", view.short()),
    };
    Ok(shell.console.result(said, &view)?)
}

async fn prune(shell: &Shell, client: &Client, request: PruneImagesRequest) -> Result<(), Failure> {
    let dry_run = request.dry_run;
    let reply = client.images().prune(client.ask(request)).await;
    let reply = reply.map_err(client.refused("prune images"))?.into_inner();
    let view = PrunedView::read(reply, dry_run).map_err(ReplyError::about("pruned images"))?;
    Ok(shell.console.result(view.text(clock::now(), shell.console.color()), &view)?)
}

/// An image, ready to be shown.
pub(super) fn read(name: &str, image: Image) -> Result<ImageView, ReplyError> {
    ImageView::try_from(image).map_err(ReplyError::about(format!("image {name}")))
}
