//! Identities, certificate authority, join tokens and rustls configurations.
//!
//! Way in: [`Ca`] signs, [`LeafKey`] asks, [`JoinToken`] introduces a host to its controller, and
//! [`config`] turns a [`ReloadableIdentity`] and [`Roots`] into rustls configurations.
//!
//! Deliberately absent: roles and revocation (they live in the controller's store, not in
//! certificates), sockets, gRPC, and a clock. Every function that needs the time takes it; only
//! rustls itself reads the system's, when it checks a certificate during a handshake.

mod ca;
mod certificate;
pub mod config;
mod csr;
mod fingerprint;
mod identity;
mod key;
mod peer;
mod pin;
mod private_file;
mod problem;
mod recovery;
mod reload;
mod roots;
mod token;
mod watched;

pub use ca::{Ca, CaError, IssuedCertificate, IssuedServer};
pub use certificate::{CertificateInfo, CertificateInfoError};
pub use config::{
    anonymous_client_config, client_config, enrol_server_config, join_client_config,
    peer_client_config, provider, server_config,
};
pub use csr::{Csr, CsrError};
pub use fingerprint::{Fingerprint, constant_time_eq, sha256};
pub use identity::{Identity, IdentityError, Subject, TrustDomain};
pub use key::{KeyError, LeafKey};
pub use pin::PinError;
pub use private_file::{PrivateFileError, write_private};
pub use problem::{HandshakeProblem, diagnose};
pub use recovery::{RecoveryError, verify_for_recovery};
pub use reload::{ReloadError, ReloadableIdentity};
pub use roots::{Roots, RootsError};
pub use token::{JoinToken, TokenError};
pub use watched::{Faults, Watched};

use std::time::Duration;

/// How far a certificate's start lies before its issue, so that a host whose clock is a little
/// behind the controller's can use it at once.
pub const BACKDATE: Duration = Duration::from_secs(5 * 60);
