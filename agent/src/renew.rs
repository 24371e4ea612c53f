//! Certificates that renew by themselves, and lapsed ones that are recovered.

use std::time::{Duration, SystemTime};

use shoal_proto::v1;
use shoal_proto::v1::agent_link_client::AgentLinkClient;
use shoal_proto::v1::enrol_client::EnrolClient;
use tonic::Status;
use tonic::transport::Channel;
use tracing::info;

use crate::clock;
use crate::connect::{connect, reason};
use crate::identity::Identity;
use crate::paths::Paths;

/// The least time between two attempts.
const LEAST: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How long the controller may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long until the certificate should renew: at a random point between 50 and 80 % of its
/// life, so that the agents of a fleet do not all renew at once (swarmkit's way).
#[must_use]
pub fn due_in(identity: &Identity) -> Duration {
    let mut dice = [0; 4];
    let _ = getrandom::fill(&mut dice);
    let due = identity.certificate.info().renew_at(u32::from_le_bytes(dice));
    let wait = due.duration_since(clock::system_time()).unwrap_or(Duration::ZERO);
    wait.max(LEAST)
}

/// How long until the next attempt after a failed one: a tenth of what is left of the certificate's
/// life, so that a controller that refuses is not asked all the time, and it is asked more often
/// as the end comes near.
#[must_use]
pub fn again_in(identity: &Identity) -> Duration {
    let left = identity.certificate.info().not_after.duration_since(clock::system_time());
    (left.unwrap_or(Duration::ZERO) / 10).clamp(LEAST, LONGEST_PAUSE)
}

/// What comes within [`PATIENCE`].
async fn in_time<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => answer.map_err(|status| reason(&status)),
        Err(_) => Err(format!("the controller gave no answer within {PATIENCE:?}")),
    }
}

/// Gets a new certificate for the same key.
///
/// # Errors
/// Where the controller gives none, or it can't be kept; the old one stays in use.
pub async fn renew(identity: &Identity, paths: &Paths, channel: &Channel) -> Result<(), String> {
    let csr = identity.key.csr_der().map_err(|e| crate::chain(&e))?.into();
    let mut client = AgentLinkClient::new(channel.clone());
    let answer = in_time(client.renew(v1::RenewRequest { csr })).await?.into_inner();
    let v1::RenewResponse { certificate_chain, ca } = answer;
    identity.renew(paths, &certificate_chain, &ca).map_err(|e| crate::chain(&e))?;
    info!(expires = %expiry(identity), "renewed the certificate");
    Ok(())
}

fn expiry(identity: &Identity) -> String {
    jiff::Timestamp::try_from(identity.certificate.info().not_after)
        .map_or_else(|_| "unknown".into(), |at| at.to_string())
}

/// Where the certificate has expired (the host was off for long), gets a new one by proving to
/// have its key.
///
/// # Errors
/// Where the controller can't be reached or gives none, such as for a host that was removed.
pub async fn recover_if_expired(identity: &Identity, paths: &Paths) -> Result<(), String> {
    let info = identity.certificate.info();
    if !is_expired(info.not_after, clock::system_time()) {
        return Ok(());
    }
    let about = &identity.about;
    let tls = shoal_tls::anonymous_client_config(&identity.roots);
    let connection = connect(&about.controller, about.enrol_port, tls).await;
    let channel = connection.map_err(|e| crate::chain(&e))?.channel;
    let request = v1::RecoverRequest {
        certificate: identity.certificate_der().map_err(|e| crate::chain(&e))?.into(),
        csr: identity.key.csr_der().map_err(|e| crate::chain(&e))?.into(),
    };
    let answer = in_time(EnrolClient::new(channel).recover(request)).await?.into_inner();
    let v1::CertificateResponse { certificate_chain, ca } = answer;
    identity.renew(paths, &certificate_chain, &ca).map_err(|e| crate::chain(&e))?;
    info!("recovered an expired certificate");
    Ok(())
}

fn is_expired(not_after: SystemTime, now: SystemTime) -> bool {
    not_after <= now
}
