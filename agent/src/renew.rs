//! Certificates that renew by themselves, and lapsed ones that are recovered.

use std::time::{Duration, SystemTime};

use shoal_proto::v1;
use shoal_proto::v1::agent_link_client::AgentLinkClient;
use shoal_proto::v1::enrol_client::EnrolClient;
use tonic::transport::Channel;
use tracing::info;

use crate::clock;
use crate::connect::{connect, reason};
use crate::identity::Identity;
use crate::paths::Paths;

/// The least time between two attempts.
const LEAST: Duration = Duration::from_secs(1);

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

/// Gets a new certificate for the same key.
///
/// # Errors
/// Where the controller gives none, or it can't be kept; the old one stays in use.
pub async fn renew(identity: &Identity, paths: &Paths, channel: &Channel) -> Result<(), String> {
    let csr = identity.key.csr_der().map_err(|e| crate::chain(&e))?.into();
    let mut client = AgentLinkClient::new(channel.clone());
    let answer = client.renew(v1::RenewRequest { csr }).await;
    let answer = answer.map_err(|status| reason(&status))?.into_inner();
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
    let answer = EnrolClient::new(channel).recover(request).await;
    let answer = answer.map_err(|status| reason(&status))?.into_inner();
    let v1::CertificateResponse { certificate_chain, ca } = answer;
    identity.renew(paths, &certificate_chain, &ca).map_err(|e| crate::chain(&e))?;
    info!("recovered an expired certificate");
    Ok(())
}

fn is_expired(not_after: SystemTime, now: SystemTime) -> bool {
    not_after <= now
}
