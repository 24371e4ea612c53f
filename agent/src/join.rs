//! Joining a controller: trading a one-time token for a certificate.

use shoal_core::name::HostName;
use shoal_proto::convert::parse;
use shoal_proto::v1;
use shoal_proto::v1::enrol_client::EnrolClient;
use shoal_tls::JoinToken;

use crate::connect::{ConnectError, Connection, connect, split_address};
use crate::identity::{self, About, Identity, IdentityError};
use crate::paths::Paths;

/// What an operator gives.
#[derive(Debug)]
pub struct Join {
    /// `HOST[:PORT]` of enrolment.
    pub controller: String,
    /// Port for agents at the same host.
    pub link_port: u16,
    /// The token.
    pub token: String,
    /// The host's name; its own where it is not given.
    pub name: Option<String>,
}

/// Why a host did not join. Nothing was sent that could be misused, and nothing is half-done: the
/// same command can be run again.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token.
    #[error("the token can't be right: {0}")]
    Token(#[from] shoal_tls::TokenError),
    /// The name.
    #[error("{0}; give another with --name")]
    Name(shoal_core::name::InvalidName),
    /// It has joined before.
    #[error(
        "this host has joined {controller} as {name} before; to move it, stop the agent and remove \
         {directory} first"
    )]
    Joined {
        /// Whom.
        controller: String,
        /// As what.
        name: HostName,
        /// What to remove.
        directory: String,
    },
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke before the answer came.
    #[error(
        "{0}; run the same command again: should the token be used by now, it was by this host"
    )]
    Unanswered(ConnectError),
    /// The controller said no.
    #[error("the controller refused: {0}")]
    Refused(String),
    /// It answered nonsense.
    #[error("the controller's answer makes no sense: {0}")]
    Answer(#[from] shoal_proto::convert::Invalid),
    /// Files.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The key.
    #[error(transparent)]
    Key(#[from] shoal_tls::KeyError),
}

/// Joins, and keeps what was given. Gives the name under which the host is now known.
///
/// # Errors
/// See [`JoinError`].
pub async fn join(paths: &Paths, join: Join) -> Result<About, JoinError> {
    if let Ok(there) = Identity::load(paths) {
        let (controller, name) = (there.about.controller, there.about.host_name);
        let directory = paths.agent().display().to_string();
        return Err(JoinError::Joined { controller, name, directory });
    }
    let token: JoinToken = join.token.trim().parse()?;
    let name = host_name(join.name)?;
    let (host, enrol_port) = split_address(&join.controller, 7444)?;
    paths.prepare().map_err(IdentityError::from)?;
    let key = identity::key(paths)?;
    // The handshake proves that this is the controller of the token before the secret goes out.
    let tls = shoal_tls::join_client_config(token.ca_spki_sha256());
    let connection = connect(&host, enrol_port, tls).await?;
    let request = v1::JoinRequest {
        token_id: token.id().to_owned(),
        token_secret: token.secret().to_vec().into(),
        host_name: name.to_string(),
        csr: key.csr_der()?.into(),
    };
    let answer = EnrolClient::new(connection.channel.clone()).join(request).await;
    let answer = answer.map_err(|status| refused(&connection, &status))?;
    let v1::JoinResponse { host_id, certificate_chain, ca, trust_domain: _ } = answer.into_inner();
    let host_id = parse("host_id", &host_id)?;
    let about = About::new(host_id, name, host, join.link_port, enrol_port);
    identity::save(paths, &about, &certificate_chain, &ca)?;
    Ok(about)
}

fn refused(connection: &Connection, status: &tonic::Status) -> JoinError {
    match connection.lost(status) {
        Some(broken @ ConnectError::Broken { .. }) => JoinError::Unanswered(broken),
        Some(error) => error.into(),
        None => JoinError::Refused(status.message().to_owned()),
    }
}

fn host_name(given: Option<String>) -> Result<HostName, JoinError> {
    let own = || rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    given.unwrap_or_else(own).parse().map_err(JoinError::Name)
}
