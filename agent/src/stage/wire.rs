//! Images from the controller, and from the agents of other hosts, by gRPC.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use shoal_core::name::{HostId, HostName};
use shoal_core::transfer::RecipeId;
use shoal_image::recipe::Head;
use shoal_proto::convert::{digest_bytes, recipe_bytes};
use shoal_proto::v1;
use shoal_proto::v1::plan_transfer_response::Message;
use shoal_proto::v1::segments_client::SegmentsClient;
use shoal_tls::diagnose;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tracing::warn;

use super::in_time;
use super::origin::{Bytestream, Origin, Peer, Plan, Progress, Sender, Wish};
use crate::connect::reason;
use crate::identity::Identity;
use crate::link::ControllerSource;

/// How long connecting to another host may take.
const DIAL: Duration = Duration::from_secs(5);
/// How often a quiet connection is tested, and how long the answer may take.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Bytes that may come ahead of their reader.
const WINDOW: u32 = 4 << 20;

/// The controller, and the hosts that it names.
#[derive(Debug)]
pub struct Wire {
    /// The way to the controller.
    pub controller: ControllerSource,
    /// Who we are.
    pub identity: Arc<Identity>,
}

#[async_trait]
impl Origin for Wire {
    async fn plan(&self, wish: Wish, progress: Progress<'_>) -> Result<Plan, String> {
        let Wish { digest, have, failed, whole } = wish;
        let request = v1::PlanTransferRequest {
            digest: digest_bytes(&digest),
            have: have.iter().map(digest_bytes).collect(),
            codecs: shoal_image::codecs(),
            failed_sources: failed.iter().map(ToString::to_string).collect(),
            whole,
        };
        let mut client = self.controller.client().await?;
        let asked = in_time(client.plan_transfer(request)).await?;
        let mut answers = asked.map_err(|status| reason(&status))?.into_inner();
        loop {
            let answer = in_time(answers.message()).await?.map_err(|status| reason(&status))?;
            let answer = answer.ok_or("the controller ended the plan early")?;
            match answer.message {
                Some(Message::Plan(plan)) => return read(plan),
                Some(Message::Making(v1::RecipeProgress { done, total })) => progress(done, total),
                None => return Err("the controller's plan is of a kind not known here".into()),
            }
        }
    }

    async fn segments(
        &self,
        sender: &Sender,
        recipe: RecipeId,
        first: usize,
    ) -> Result<Bytestream, String> {
        let channel = match sender {
            Sender::Controller => self.controller.channel().await?,
            Sender::Peer(peer) => self.dial(peer).await?,
        };
        let first = u32::try_from(first).map_err(|_| "there is no such segment")?;
        let request = v1::FetchSegmentsRequest { recipe: recipe_bytes(&recipe), first };
        let begun = SegmentsClient::new(channel).fetch(request).await;
        let stream = begun.map_err(|status| reason(&status))?.into_inner();
        Ok(stream
            .map(|chunk| chunk.map(|chunk| chunk.data).map_err(|status| reason(&status)))
            .boxed())
    }
}

impl Wire {
    /// A channel to another host, which has to be the one that was named.
    async fn dial(&self, peer: &Peer) -> Result<Channel, String> {
        let Identity { roots, certificate, .. } = &*self.identity;
        let tls = shoal_tls::peer_client_config(roots, certificate, &peer.identity);
        let (address, name) = (peer.address, ServerName::IpAddress(peer.address.ip().into()));
        let dialled = async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(tls).connect(name, stream).await
        };
        let dialled = tokio::time::timeout(DIAL, dialled).await;
        let dialled = dialled.map_err(|_| format!("{address} gave no answer within {DIAL:?}"))?;
        let stream = dialled.map_err(|error| match diagnose(&error) {
            Some(problem) => format!("{address} is not to be trusted: {problem}"),
            None => format!("can't reach {address}: {error}"),
        })?;
        let uri: Uri = format!("https://{address}").parse().map_err(|_| "no address")?;
        let mut stream = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_: Uri| {
            let taken = stream.take().ok_or_else(|| std::io::Error::other("it is over"));
            async move { taken }
        });
        let endpoint = Endpoint::from(uri)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let connected = endpoint.connect_with_connector(connector).await;
        connected.map_err(|error| crate::chain(&error))
    }
}

fn read(plan: v1::TransferPlan) -> Result<Plan, String> {
    let v1::TransferPlan { head, recipe, peers } = plan;
    let head = Head::decode(&head).map_err(|error| crate::chain(&error))?;
    if head.id().as_bytes()[..] != recipe[..] {
        return Err("the controller named a recipe other than the one that it sent".into());
    }
    // One that can't be read is left out: there are others, and the controller.
    let read = |source| peer(source).inspect_err(|why| warn!(why, "a host can't be asked")).ok();
    Ok(Plan { head, peers: peers.into_iter().filter_map(read).collect() })
}

fn peer(source: v1::PeerSource) -> Result<Peer, String> {
    let v1::PeerSource { host_id, host, address, port, identity } = source;
    let ip = address.parse().map_err(|_| format!("{address:?} is no address"))?;
    let port = u16::try_from(port).map_err(|_| format!("{port} is no port"))?;
    Ok(Peer {
        id: host_id.parse::<HostId>().map_err(|error| error.to_string())?,
        name: host.parse::<HostName>().map_err(|error| error.to_string())?,
        address: (std::net::IpAddr::clone(&ip), port).into(),
        identity: identity.parse::<shoal_tls::Identity>().map_err(|error| error.to_string())?,
    })
}
