//! Where images come from, as a transfer sees it.

use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use shoal_core::image::Digest;
use shoal_core::name::{HostId, HostName};
use shoal_core::transfer::RecipeId;
use shoal_image::recipe::Head;
use shoal_tls::Identity;

/// What the controller is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The image.
    pub digest: Digest,
    /// Images that are here and verified.
    pub have: Vec<Digest>,
    /// Hosts that sent wrong bytes of it, or none.
    pub failed: Vec<HostId>,
    /// That it should come whole, whatever is here.
    pub whole: bool,
}

/// How an image is to come.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its recipe.
    pub head: Head,
    /// Hosts to ask for it, before the controller.
    pub peers: Vec<Peer>,
}

/// A host that serves others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The controller's name for it.
    pub id: HostId,
    /// People's name for it.
    pub name: HostName,
    /// Where its agent listens.
    pub address: SocketAddr,
    /// Whom its certificate has to name.
    pub identity: Identity,
}

/// Whom segments come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sender {
    /// The controller.
    Controller,
    /// The agent of another host.
    Peer(Peer),
}

impl Sender {
    /// `controller`, or the host's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Controller => "controller",
            Self::Peer(peer) => peer.name.as_str(),
        }
    }
}

/// How far the making of a recipe is: bytes of the image that are done, and all of them.
pub type Progress<'a> = &'a mut (dyn FnMut(u64, u64) + Send);

/// The bytes of segments, cut anywhere.
pub type Bytestream = BoxStream<'static, Result<Bytes, String>>;

/// Where images come from.
#[async_trait]
pub trait Origin: Send + Sync {
    /// Asks the controller how an image is to come. May take as long as making a recipe does;
    /// `progress` hears of it.
    async fn plan(&self, wish: Wish, progress: Progress<'_>) -> Result<Plan, String>;

    /// The segments of a recipe from `first` on, one after the other.
    async fn segments(
        &self,
        sender: &Sender,
        recipe: RecipeId,
        first: usize,
    ) -> Result<Bytestream, String>;
}
