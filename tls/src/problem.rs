//! What a failed handshake means to the person in front of it.
//!
//! Way in: [`diagnose`], with the error of a connection or of anything that wraps one. In TLS 1.3
//! a server's refusal of the client's certificate reaches the client only with its first read,
//! so errors of early requests are worth diagnosing too.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

use crate::pin::PinError;

/// A handshake's failure in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeProblem {
    #[error(transparent)]
    Pin(PinError),
    #[error(
        "the server's certificate is not for {expected}, but for {}; dial one of these, or have \
         the controller's certificate made for this name too", .presented.join(", ")
    )]
    ServerName { expected: String, presented: Vec<String> },
    #[error(
        "the peer's certificate is signed by an unknown CA; it belongs to another installation, \
         or the CA was replaced"
    )]
    UnknownCa,
    #[error("the peer's certificate has expired; renew it, and check the clocks of both sides")]
    Expired,
    #[error("the peer's certificate is not valid yet; check the clocks of both sides")]
    NotYetValid,
    #[error("the peer's certificate is not usable: {why}")]
    BadCertificate { why: String },
    #[error(
        "the server asks for a client certificate and got none; enrol this host, or choose a \
         context that has one"
    )]
    CertificateRequired,
    #[error(
        "the server does not know the CA of this side's certificate: it is another installation's \
         server, or this certificate is from before the CA was replaced"
    )]
    OwnCaUnknown,
    #[error("the server says that this side's certificate has expired; renew it")]
    OwnExpired,
    #[error("the server refused this side's certificate ({alert})")]
    OwnRefused { alert: String },
    #[error("the other side does not speak TLS; check the address and the port")]
    NotTls,
    #[error("the other side does not speak HTTP/2 over TLS; check the address and the port")]
    NoHttp2,
}

/// Finds a TLS failure anywhere below `error`.
pub fn diagnose(error: &(dyn Error + 'static)) -> Option<HandshakeProblem> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return name(tls);
        }
        if let Some(inner) = inside_io_error(error) {
            // `io::Error` passes over its content when asked for its source.
            return diagnose(inner);
        }
        next = error.source();
    }
    None
}

fn inside_io_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
    Some(inner)
}

fn name(error: &rustls::Error) -> Option<HandshakeProblem> {
    match error {
        rustls::Error::InvalidCertificate(why) => Some(certificate_problem(why)),
        rustls::Error::AlertReceived(alert) => alert_problem(*alert),
        rustls::Error::InvalidMessage(_) => Some(HandshakeProblem::NotTls),
        rustls::Error::NoApplicationProtocol => Some(HandshakeProblem::NoHttp2),
        rustls::Error::NoCertificatesPresented => Some(HandshakeProblem::BadCertificate {
            why: "it showed none, though one is required".to_owned(),
        }),
        _ => None,
    }
}

/// A name of a certificate that someone may dial, from rustls' way to show it, such as
/// `DnsName("a.example")`; `None` for an identity, which nobody dials.
fn dialled(shown: &str) -> Option<String> {
    if shown.starts_with("UniformResourceIdentifier") {
        return None;
    }
    let inside = shown.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    Some(inside.unwrap_or(shown).trim_matches('"').to_owned())
}

fn certificate_problem(error: &CertificateError) -> HandshakeProblem {
    match error {
        CertificateError::Other(other) => match other.0.downcast_ref::<PinError>() {
            Some(pin) => HandshakeProblem::Pin(pin.clone()),
            None => HandshakeProblem::BadCertificate { why: other.to_string() },
        },
        CertificateError::NotValidForNameContext { expected, presented } => {
            HandshakeProblem::ServerName {
                expected: expected.to_str().into_owned(),
                presented: presented.iter().filter_map(|name| dialled(name)).collect(),
            }
        }
        CertificateError::UnknownIssuer => HandshakeProblem::UnknownCa,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            HandshakeProblem::Expired
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            HandshakeProblem::NotYetValid
        }
        other => HandshakeProblem::BadCertificate { why: other.to_string() },
    }
}

fn alert_problem(alert: AlertDescription) -> Option<HandshakeProblem> {
    match alert {
        AlertDescription::CertificateRequired => Some(HandshakeProblem::CertificateRequired),
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            Some(HandshakeProblem::OwnCaUnknown)
        }
        AlertDescription::CertificateExpired => Some(HandshakeProblem::OwnExpired),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => {
            Some(HandshakeProblem::OwnRefused { alert: format!("{alert:?}") })
        }
        AlertDescription::NoApplicationProtocol => Some(HandshakeProblem::NoHttp2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn finds_the_failure_through_wrappers() {
        let tls = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = Outer(io::Error::new(io::ErrorKind::InvalidData, tls));
        assert_eq!(diagnose(&wrapped), Some(HandshakeProblem::UnknownCa));
        let twice = io::Error::other(wrapped);
        assert_eq!(diagnose(&twice), Some(HandshakeProblem::UnknownCa));
    }

    #[test]
    fn other_failures_are_left_alone() {
        assert_eq!(diagnose(&io::Error::from(io::ErrorKind::ConnectionRefused)), None);
        assert_eq!(diagnose(&Outer(io::Error::other("text"))), None);
    }
}
