//! One command's dealings with the controller: its services, and its refusals in words.

use std::error::Error as _;
use std::time::Duration;

use shoal_proto::LARGEST_MESSAGE;
use shoal_proto::convert::Invalid;
use shoal_proto::v1::agents_client::AgentsClient;
use shoal_proto::v1::controller_client::ControllerClient;
use shoal_proto::v1::events_client::EventsClient;
use shoal_proto::v1::fleets_client::FleetsClient;
use shoal_proto::v1::hosts_client::HostsClient;
use shoal_proto::v1::images_client::ImagesClient;
use shoal_proto::v1::instances_client::InstancesClient;
use shoal_proto::v1::rollouts_client::RolloutsClient;
use shoal_proto::v1::secrets_client::SecretsClient;
use shoal_tls::HandshakeProblem;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::connect::{Address, Connection};
use crate::output::text::printable;

/// How the controller says that someone keeps others from changing a fleet; its code, ABORTED, is
/// that of every conflict.
const LOCKED: &str = "is locked:";

/// Why the controller did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    #[error(
        "cannot {doing}: the connection to the controller at {address} was lost ({why}); it may \
         be restarting: try again, and look at its journal"
    )]
    Lost { doing: String, address: Address, why: String },
    #[error("cannot {doing}: the controller at {address}: {problem}")]
    Certificate { doing: String, address: Address, problem: Box<HandshakeProblem> },
    #[error(
        "cannot {doing}: the controller at {address} did not answer in time; try again, or give it \
         longer with --request-timeout"
    )]
    Slow { doing: String, address: Address },
    /// The controller answered, and that it is about to go or can't for now.
    #[error("cannot {doing}: {message}")]
    Away { doing: String, message: String },
    #[error("cannot {doing}: {}", explained(*.code, .message))]
    Refused { doing: String, code: Code, message: String },
}

impl RemoteError {
    /// Whether the controller went away, so that the same may work in a moment.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Away { .. })
    }

    /// Whether a host that is needed is not there, so that the same may work when it is back.
    pub(crate) fn is_offline(&self) -> bool {
        matches!(self, Self::Refused { code: Code::Unavailable, .. })
    }

    /// Whether someone keeps others from changing the fleet, so that the same may work later.
    pub(crate) fn is_locked(&self) -> bool {
        matches!(self, Self::Refused { code: Code::Aborted, message, .. } if message.contains(LOCKED))
    }

    /// Whether it is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: Code::NotFound, .. })
    }

    /// Whether what was sent could not be made into what it should be.
    pub(crate) fn needs_other_bytes(&self) -> bool {
        let codes = [Code::FailedPrecondition, Code::DataLoss];
        matches!(self, Self::Refused { code, .. } if codes.contains(code))
    }

    /// Whether someone else was faster.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { code: Code::Aborted, .. })
    }
}

/// The controller's own words, with what to do where these can't know it.
fn explained(code: Code, message: &str) -> String {
    let message = if message.is_empty() { "the controller gave no reason" } else { message };
    match code {
        Code::Unimplemented => format!(
            "the controller does not know this request ({message}); it is of another version \
             (compare `shoal version`), or the context names the wrong port (the API's is 7443)"
        ),
        Code::Internal | Code::Unknown => format!("{message}; the controller's journal says more"),
        _ => message.to_owned(),
    }
}

/// An answer of the controller's that can't be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "the controller's answer about {about} makes no sense to this version of shoal; compare \
     `shoal version`"
)]
pub(crate) struct ReplyError {
    about: String,
    source: Invalid,
}

impl ReplyError {
    pub(crate) fn about(about: impl Into<String>) -> impl FnOnce(Invalid) -> Self {
        let about = about.into();
        move |source| Self { about, source }
    }
}

/// A connection to one controller.
#[derive(Debug)]
pub(crate) struct Client {
    connection: Connection,
    limit: Duration,
}

macro_rules! services {
    ($($(#[$doc:meta])* $name:ident: $client:ident),+ $(,)?) => {
        impl Client {
            $($(#[$doc])*
            pub(crate) fn $name(&self) -> $client<Channel> {
                $client::new(self.connection.channel.clone())
                    .max_decoding_message_size(LARGEST_MESSAGE)
            })+
        }
    };
}

services! {
    agents: AgentsClient,
    controller: ControllerClient,
    events: EventsClient,
    fleets: FleetsClient,
    hosts: HostsClient,
    images: ImagesClient,
    instances: InstancesClient,
    rollouts: RolloutsClient,
    secrets: SecretsClient,
}

impl Client {
    /// `limit` is how long one question may take.
    pub(crate) fn new(connection: Connection, limit: Duration) -> Self {
        Self { connection, limit }
    }

    /// Where the controller is.
    pub(crate) fn address(&self) -> &Address {
        &self.connection.address
    }

    /// A question with the deadline of all questions. Streams must not have one.
    pub(crate) fn ask<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.limit);
        request
    }

    /// Makes an error of a refusal. `doing` follows "cannot", such as `list hosts`.
    pub(crate) fn refused(&self, doing: impl Into<String>) -> impl FnOnce(Status) -> RemoteError {
        self.refused_by(Answerer::Controller, doing.into())
    }

    /// The same for what only the agent of a host can do: what is not there then is the host.
    pub(crate) fn refused_for_host(
        &self,
        doing: impl Into<String>,
    ) -> impl FnOnce(Status) -> RemoteError {
        self.refused_by(Answerer::Host, doing.into())
    }

    fn refused_by(
        &self,
        answerer: Answerer,
        doing: String,
    ) -> impl FnOnce(Status) -> RemoteError + use<> {
        let (address, faults) = (self.connection.address.clone(), self.connection.faults.clone());
        move |status| describe(doing, address, answerer, &status, faults.last())
    }
}

/// Who has to be there for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answerer {
    Controller,
    Host,
}

/// A status that our side made carries the error it was made from; one that the controller sent
/// does not.
fn describe(
    doing: String,
    address: Address,
    answerer: Answerer,
    status: &Status,
    fault: Option<HandshakeProblem>,
) -> RemoteError {
    // It may quote what an agent or an instance said, and a terminal obeys control characters.
    let lines: Vec<String> = status.message().lines().map(printable).collect();
    let (code, message) = (status.code(), lines.join("\n"));
    if is_expired(status) {
        return RemoteError::Slow { doing, address };
    }
    if status.source().is_none() {
        return match (code, answerer) {
            (Code::Unavailable, Answerer::Controller) => RemoteError::Away { doing, message },
            _ => RemoteError::Refused { doing, code, message },
        };
    }
    match fault {
        Some(problem) => RemoteError::Certificate { doing, address, problem: Box::new(problem) },
        None => RemoteError::Lost { doing, address, why: innermost(status) },
    }
}

fn is_expired(status: &Status) -> bool {
    let mut next = status.source();
    while let Some(error) = next {
        if error.is::<tonic::TimeoutExpired>() {
            return true;
        }
        next = error.source();
    }
    status.code() == Code::Cancelled && status.message() == "Timeout expired"
}

/// The first cause, which says the most.
fn innermost(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut next = status.source();
    while let Some(error) = next {
        text = error.to_string();
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
