//! Certificates for agents: the first by a join token, the next by renewal or recovery.
//!
//! Way in: [`EnrolApi`] on the enrolment port; [`renew`] for the agent's link. An agent keeps its
//! key for as long as it is enrolled, and its record holds that key's hash: whoever else shows a
//! certificate of that host is refused.
//!
//! Deliberately absent: a change of an agent's key, which is a new enrolment.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal_core::name::{HostId, HostName};
use shoal_proto::v1::enrol_server::Enrol;
use shoal_proto::v1::store::{HostNameRecord, HostRecord, TokenRecord, TokenUse};
use shoal_proto::v1::{CertificateResponse, JoinRequest, JoinResponse, RecoverRequest};
use shoal_tls::{Csr, IssuedCertificate, constant_time_eq, sha256, verify_for_recovery};
use tonic::{Request, Response, Status};

use crate::access::Caller;
use crate::app::App;
use crate::hosts_api::parse_name;
use crate::refusal::Refusal;
use crate::store::{Batch, Stored};
use crate::{audit, clock};
use shoal_core::cause::chain;

/// How long a refusal of a secret or of a certificate is held back, so that guessing is slow.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a join is tried again that another came before.
const TRIES: usize = 5;

/// The service.
#[derive(Debug)]
pub struct EnrolApi {
    app: Arc<App>,
}

#[tonic::async_trait]
impl Enrol for EnrolApi {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let request = request.into_inner();
        let (host, token) = (request.host_name.clone(), request.token_id.clone());
        match self.join_patiently(&request).await {
            Ok(response) => {
                tracing::info!(host, token, id = response.host_id, "host joined");
                Ok(Response::new(response))
            }
            Err(refusal) => {
                tracing::warn!(host, token, reason = %refusal, "join refused");
                Err(held_back(refusal).await.into())
            }
        }
    }

    async fn recover(
        &self,
        request: Request<RecoverRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        let RecoverRequest { certificate, csr } = request.into_inner();
        match self.recovered(&certificate, &csr).await {
            Ok(response) => Ok(Response::new(response)),
            Err(refusal) => {
                tracing::warn!(reason = %refusal, "recovery refused");
                Err(held_back(refusal).await.into())
            }
        }
    }
}

async fn held_back(refusal: Refusal) -> Refusal {
    if matches!(refusal, Refusal::Unauthenticated(_)) {
        tokio::time::sleep(PAUSE).await;
    }
    refusal
}

/// What a join asks for, checked as far as it can be without the store.
struct Join<'a> {
    token_id: &'a str,
    secret_sha256: [u8; 32],
    name: HostName,
    csr: &'a [u8],
    key_sha256: [u8; 32],
}

impl<'a> Join<'a> {
    fn parse(request: &'a JoinRequest) -> Result<Self, Refusal> {
        let JoinRequest { token_id, token_secret, host_name, csr } = request;
        let is_plain = token_id.bytes().all(|b| b.is_ascii_alphanumeric());
        if token_id.is_empty() || token_id.len() > 32 || !is_plain {
            return Err(unknown_token());
        }
        Ok(Self {
            token_id,
            secret_sha256: sha256(token_secret),
            name: parse_name(host_name)?,
            csr,
            key_sha256: key_of(csr)?,
        })
    }
}

impl EnrolApi {
    /// For `app`.
    #[must_use]
    pub fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    /// A conflict means that another join came between reading and writing: what it left decides.
    async fn join_patiently(&self, request: &JoinRequest) -> Result<JoinResponse, Refusal> {
        let join = Join::parse(request)?;
        for _ in 1..TRIES {
            match self.try_join(&join).await {
                Err(Refusal::Conflict(_)) => {}
                outcome => return outcome,
            }
        }
        self.try_join(&join).await
    }

    async fn try_join(&self, join: &Join<'_>) -> Result<JoinResponse, Refusal> {
        let token = self.app.records.get::<TokenRecord>(join.token_id).await?;
        let token = token.ok_or_else(unknown_token)?;
        if !constant_time_eq(&token.record.secret_sha256, &join.secret_sha256) {
            return Err(unknown_token());
        }
        if let Some(used) = &token.record.used {
            return self.again(join, used).await;
        }
        check(&token.record, join)?;
        self.enrol(join, &token).await
    }

    /// A token that was used: fine for the key that used it, which may not have got the answer.
    async fn again(&self, join: &Join<'_>, used: &TokenUse) -> Result<JoinResponse, Refusal> {
        let TokenUse { key_sha256, host_id, certificate_chain } = used;
        let host = self.app.records.get::<HostRecord>(host_id).await?;
        let is_same = constant_time_eq(key_sha256, &join.key_sha256)
            && host.is_some_and(|host| constant_time_eq(&host.record.key_sha256, &join.key_sha256));
        if !is_same {
            return Err(Refusal::Unauthenticated(
                "this join token was used already; every host needs one of its own, get another \
                 with `shoal host token create`"
                    .into(),
            ));
        }
        Ok(self.response(host_id.clone(), certificate_chain.clone()))
    }

    async fn enrol(
        &self,
        join: &Join<'_>,
        token: &Stored<TokenRecord>,
    ) -> Result<JoinResponse, Refusal> {
        self.must_be_free(&join.name).await?;
        let id: HostId = crate::random::hex::<8>().parse().expect("hex digits make a host id");
        let issued = self.app.issue(join.csr, &id)?;
        let key_sha256 = Bytes::copy_from_slice(&join.key_sha256);
        let now = clock::now();
        let host = HostRecord {
            id: id.to_string(),
            name: join.name.to_string(),
            labels: token.record.labels.clone(),
            facts: None,
            enrolled_ms: now.0,
            key_sha256: key_sha256.clone(),
            certificate_expires_ms: ends(&issued),
            cordon: None,
        };
        let used = Some(TokenUse {
            key_sha256,
            host_id: id.to_string(),
            certificate_chain: issued.chain_pem.clone(),
        });
        let who = self.app.agent(&id)?;
        let detail = format!("as {id}, with token {}", join.token_id);
        let (audit_id, entry) = audit::entry(&who, "Enrol/Join", join.name.as_str(), &detail, now);
        let mut batch = Batch::new();
        batch
            .replace(token, &TokenRecord { used, ..token.record.clone() })?
            .create(id.as_str(), &host)?
            .create(join.name.as_str(), &HostNameRecord { id: id.to_string() })?
            .create(&audit_id, &entry)?;
        self.app.records.commit(batch).await?;
        Ok(self.response(id.to_string(), issued.chain_pem))
    }

    async fn must_be_free(&self, name: &HostName) -> Result<(), Refusal> {
        match self.app.records.get::<HostNameRecord>(name.as_str()).await? {
            None => Ok(()),
            Some(_) => Err(Refusal::AlreadyExists(format!(
                "a host named {name} is enrolled already; join under another name (--name)"
            ))),
        }
    }

    fn response(&self, host_id: String, certificate_chain: String) -> JoinResponse {
        JoinResponse {
            host_id,
            certificate_chain,
            ca: self.app.authority.ca().cert_pem().into(),
            trust_domain: self.app.authority.trust_domain().to_string(),
        }
    }

    async fn recovered(
        &self,
        certificate: &[u8],
        csr: &[u8],
    ) -> Result<CertificateResponse, Refusal> {
        let roots = self.app.authority.roots();
        let old = verify_for_recovery(certificate, roots, clock::system_time())
            .map_err(|error| Refusal::Unauthenticated(chain(&error)))?;
        if key_of(csr)? != old.spki_sha256 {
            return Err(Refusal::Unauthenticated(
                "the request is not signed by the key of the old certificate".into(),
            ));
        }
        let host = old.identity.agent_id().and_then(|id| id.parse().ok());
        let host: HostId = host.ok_or_else(|| {
            Refusal::Unauthenticated(format!("{} is not the agent of a host", old.identity))
        })?;
        certify(&self.app, &host, csr, &old.spki_sha256, "Enrol/Recover").await
    }
}

fn check(token: &TokenRecord, join: &Join<'_>) -> Result<(), Refusal> {
    if clock::now().0 >= token.expires_ms {
        return Err(Refusal::Unauthenticated(
            "this join token has expired; get another with `shoal host token create`".into(),
        ));
    }
    match &token.host_name {
        Some(bound) if *bound != join.name.as_str() => Err(Refusal::Denied(format!(
            "this join token is for host {bound}, not for {}; join as that one (--name {bound}), \
             or get another token",
            join.name
        ))),
        _ => Ok(()),
    }
}

/// The same words for an unknown id and a wrong secret, so that neither tells of the other.
fn unknown_token() -> Refusal {
    Refusal::Unauthenticated(
        "this controller does not know this join token; get one with `shoal host token create`"
            .into(),
    )
}

/// The next certificate of an agent that has one.
///
/// # Errors
/// [`Refusal::Invalid`] where the request is for another key.
pub async fn renew(app: &App, caller: &Caller, csr: &[u8]) -> Result<CertificateResponse, Refusal> {
    if key_of(csr)? != caller.key_sha256 {
        return Err(Refusal::Invalid(
            "a renewal keeps the key of the certificate that it comes with; another key is a new \
             enrolment"
                .into(),
        ));
    }
    certify(app, &caller.host()?, csr, &caller.key_sha256, "AgentLink/Renew").await
}

/// Signs for an enrolled host and notes the new end. Tried again where the record changed.
async fn certify(
    app: &App,
    host: &HostId,
    csr: &[u8],
    key_sha256: &[u8; 32],
    what: &str,
) -> Result<CertificateResponse, Refusal> {
    for _ in 1..TRIES {
        match try_certify(app, host, csr, key_sha256, what).await {
            Err(Refusal::Conflict(_)) => {}
            outcome => return outcome,
        }
    }
    try_certify(app, host, csr, key_sha256, what).await
}

async fn try_certify(
    app: &App,
    host: &HostId,
    csr: &[u8],
    key_sha256: &[u8; 32],
    what: &str,
) -> Result<CertificateResponse, Refusal> {
    let stored = app.records.get::<HostRecord>(host.as_str()).await?;
    let stored = stored
        .filter(|stored| constant_time_eq(&stored.record.key_sha256, key_sha256))
        .ok_or_else(|| removed(host))?;
    let issued = app.issue(csr, host)?;
    let record = HostRecord { certificate_expires_ms: ends(&issued), ..stored.record.clone() };
    let detail = format!("certificate {}", issued.info.serial);
    let (id, entry) = audit::entry(&app.agent(host)?, what, &record.name, &detail, clock::now());
    let mut batch = Batch::new();
    batch.replace(&stored, &record)?.create(&id, &entry)?;
    app.records.commit(batch).await?;
    let ca = app.authority.ca().cert_pem().into();
    Ok(CertificateResponse { certificate_chain: issued.chain_pem, ca })
}

fn removed(host: &HostId) -> Refusal {
    Refusal::Unauthenticated(format!(
        "host {host} was removed from this controller, or has enrolled again with another key; \
         run `shoal-agent join` with a new token"
    ))
}

fn key_of(csr: &[u8]) -> Result<[u8; 32], Refusal> {
    let csr = Csr::verify(csr).map_err(|error| Refusal::Invalid(chain(&error)))?;
    Ok(csr.spki_sha256())
}

fn ends(issued: &IssuedCertificate) -> u64 {
    shoal_core::time::Timestamp::from(issued.info.not_after).0
}

impl App {
    fn issue(&self, csr: &[u8], host: &HostId) -> Result<IssuedCertificate, Refusal> {
        let life = self.config.agent_certificate_life();
        self.authority
            .issue_agent(csr, host, clock::system_time(), life)
            .map_err(|error| Refusal::Internal(chain(&error)))
    }

    fn agent(&self, host: &HostId) -> Result<shoal_tls::Identity, Refusal> {
        self.authority.agent(host).map_err(|error| Refusal::Internal(chain(&error)))
    }
}
