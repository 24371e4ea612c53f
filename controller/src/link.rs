//! The `AgentLink` service: everything that agents call.
//!
//! Way in: [`LinkApi`]. Each agent holds one [`conversation`] open; image bytes ([`fetch`]) and
//! sessions ([`crate::sessions`]) come in calls of their own, so that neither holds up the other.
//! [`desired`] tells the conversations when there is something new to say.
//!
//! Answers to streaming calls begin before the first message is read, so that an agent that waits
//! for one and an agent that does not both get on.

use std::sync::Arc;

use shoal_proto::v1::agent_link_server::AgentLink;
use shoal_proto::v1::{
    AgentMessage, CertificateResponse, ControllerMessage, FetchAgentRequest, FetchImageRequest,
    ImageChunk, PlanTransferRequest, PlanTransferResponse, RenewRequest, RenewResponse,
    SessionDown, SessionUp,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::access::caller;
use crate::app::App;
use crate::enrol;

mod conversation;
pub mod desired;
mod fetch;
mod order;
mod values;

pub(crate) use self::values::MOST_SECRETS;

/// Messages to an agent that it has not taken yet. Few: a desired state may be megabytes, and an
/// agent that takes none of eight is cut off and gets the newest when it is back.
const OUTBOX: usize = 8;
/// Messages down a session that the agent has not taken yet.
const SESSION_OUTBOX: usize = 4;

/// The service.
#[derive(Debug)]
pub struct LinkApi {
    app: Arc<App>,
}

impl LinkApi {
    /// For `app`.
    #[must_use]
    pub fn new(app: Arc<App>) -> Self {
        Self { app }
    }
}

#[tonic::async_trait]
impl AgentLink for LinkApi {
    type ConnectStream = ReceiverStream<Result<ControllerMessage, Status>>;
    type PlanTransferStream = ReceiverStream<Result<PlanTransferResponse, Status>>;
    type FetchImageStream = ReceiverStream<Result<ImageChunk, Status>>;
    type FetchAgentStream = ReceiverStream<Result<ImageChunk, Status>>;
    type SessionStream = ReceiverStream<Result<SessionDown, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let host = caller(&request)?.host()?;
        let (outbox, stream) = mpsc::channel(OUTBOX);
        let app = Arc::clone(&self.app);
        self.app.tasks.spawn(conversation::hold(app, host, request.into_inner(), outbox));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn plan_transfer(
        &self,
        request: Request<PlanTransferRequest>,
    ) -> Result<Response<Self::PlanTransferStream>, Status> {
        let host = caller(&request)?.host()?;
        Ok(Response::new(self.app.transfers.plan(host, request.into_inner()).await?))
    }

    async fn fetch_image(
        &self,
        request: Request<FetchImageRequest>,
    ) -> Result<Response<Self::FetchImageStream>, Status> {
        let host = caller(&request)?.host()?;
        let stream = fetch::start(&self.app, &host, request.into_inner()).await?;
        Ok(Response::new(stream))
    }

    async fn fetch_agent(
        &self,
        request: Request<FetchAgentRequest>,
    ) -> Result<Response<Self::FetchAgentStream>, Status> {
        let host = caller(&request)?.host()?;
        let stream = fetch::start_agent(&self.app, &host, request.into_inner()).await?;
        Ok(Response::new(stream))
    }

    async fn session(
        &self,
        request: Request<Streaming<SessionUp>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let host = caller(&request)?.host()?;
        let (down, stream) = mpsc::channel(SESSION_OUTBOX);
        let app = Arc::clone(&self.app);
        self.app.tasks.spawn(async move {
            let shutdown = app.shutdown.clone();
            app.live.sessions().accept(&host, request.into_inner(), down, shutdown).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        let caller = caller(&request)?;
        let RenewRequest { csr } = request.into_inner();
        let CertificateResponse { certificate_chain, ca } =
            enrol::renew(&self.app, &caller, &csr).await?;
        Ok(Response::new(RenewResponse { certificate_chain, ca }))
    }
}
