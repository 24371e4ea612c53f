//! The rustls configurations of Shoal: TLS 1.3, HTTP/2, no session resumption.
//!
//! Way in: one function for each end of each port. Every function that needs a certificate takes
//! a [`ReloadableIdentity`], so a renewed certificate needs no new configuration; a changed set
//! of [`Roots`] does.
//!
//! Deliberately absent: revocation. It is checked by the controller for each connection, which is
//! why no connection may skip the handshake by resuming an earlier session.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, ConfigBuilder, ServerConfig, WantsVerifier};

use crate::identity::Identity;
use crate::peer::PeerVerifier;
use crate::pin::PinnedCaVerifier;
use crate::reload::ReloadableIdentity;
use crate::roots::Roots;

const ALPN_HTTP2: &[u8] = b"h2";

/// The one place that chooses the cryptography.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// For the port of agents, users and pipelines: a client must show a certificate signed by one
/// of `client_roots`.
pub fn server_config(identity: &ReloadableIdentity, client_roots: &Roots) -> Arc<ServerConfig> {
    let config = server_builder()
        .with_client_cert_verifier(client_verifier(client_roots))
        .with_cert_resolver(Arc::new(identity.clone()));
    finish_server(config)
}

/// For the enrolment port: clients have no certificate yet, or one that has expired.
pub fn enrol_server_config(identity: &ReloadableIdentity) -> Arc<ServerConfig> {
    let config =
        server_builder().with_no_client_auth().with_cert_resolver(Arc::new(identity.clone()));
    finish_server(config)
}

/// For a client with a certificate that knows its CA.
pub fn client_config(roots: &Roots, identity: &ReloadableIdentity) -> Arc<ClientConfig> {
    let config = client_builder()
        .with_root_certificates(roots.store())
        .with_client_cert_resolver(Arc::new(identity.clone()));
    finish_client(config)
}

/// For an agent that calls another one, which has to be `expected`.
pub fn peer_client_config(
    roots: &Roots,
    identity: &ReloadableIdentity,
    expected: &Identity,
) -> Arc<ClientConfig> {
    let chain = client_verifier(roots);
    let verifier: Arc<dyn ServerCertVerifier> =
        Arc::new(PeerVerifier::new(chain, expected.clone()));
    // "Dangerous" is rustls' word for any verifier but its own; this one asks rustls' own first.
    let config = client_builder()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(identity.clone()));
    finish_client(config)
}

/// For a client that knows its CA but shows no certificate: an agent whose certificate has
/// expired, at the enrolment port.
pub fn anonymous_client_config(roots: &Roots) -> Arc<ClientConfig> {
    let config = client_builder().with_root_certificates(roots.store()).with_no_client_auth();
    finish_client(config)
}

/// For a host with a join token: accepts only a server that shows the CA with this public key
/// and a certificate of that CA for the dialled name. A refusal carries a [`crate::PinError`],
/// which [`crate::diagnose`] finds.
pub fn join_client_config(ca_spki_sha256: [u8; 32]) -> Arc<ClientConfig> {
    let verifier: Arc<dyn ServerCertVerifier> =
        Arc::new(PinnedCaVerifier::new(ca_spki_sha256, provider()));
    // "Dangerous" is rustls' word for any verifier but its own; this one ends in rustls' own.
    let config = client_builder()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    finish_client(config)
}

fn client_verifier(roots: &Roots) -> Arc<dyn ClientCertVerifier> {
    WebPkiClientVerifier::builder_with_provider(roots.store(), provider())
        .build()
        .expect("there is at least one root, and no revocation list")
}

fn server_builder() -> ConfigBuilder<ServerConfig, WantsVerifier> {
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3 cipher suites")
}

fn client_builder() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3 cipher suites")
}

fn finish_server(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

fn finish_client(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}
