//! The `Controller` service: what it is, and what was done through it.

use std::sync::Arc;

use shoal_proto::v1::controller_server::Controller;
use shoal_proto::v1::{GetVersionRequest, GetVersionResponse, ListAuditRequest, ListAuditResponse};
use tonic::{Request, Response, Status};

use crate::app::App;
use crate::{audit, clock};

/// How many audit entries are listed where no number is asked for.
const DEFAULT_AUDIT: u32 = 100;
/// The most that are listed at once, which keeps an answer far below the largest message.
const MOST_AUDIT: u32 = 1000;

/// The service.
#[derive(Debug)]
pub struct ControllerApi {
    app: Arc<App>,
}

impl ControllerApi {
    /// For `app`.
    #[must_use]
    pub fn new(app: Arc<App>) -> Self {
        Self { app }
    }
}

#[tonic::async_trait]
impl Controller for ControllerApi {
    async fn get_version(
        &self,
        _: Request<GetVersionRequest>,
    ) -> Result<Response<GetVersionResponse>, Status> {
        Ok(Response::new(GetVersionResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            trust_domain: self.app.authority.trust_domain().to_string(),
            epoch: self.app.epoch,
        }))
    }

    async fn list_audit(
        &self,
        request: Request<ListAuditRequest>,
    ) -> Result<Response<ListAuditResponse>, Status> {
        let ListAuditRequest { limit } = request.into_inner();
        let limit = if limit == 0 { DEFAULT_AUDIT } else { limit.min(MOST_AUDIT) };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let entries = audit::newest(&self.app.records, limit, clock::now()).await?;
        Ok(Response::new(ListAuditResponse { entries }))
    }
}
