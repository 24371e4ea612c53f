//! Who a peer is: a SPIFFE URI, `spiffe://<trust-domain>/<kind>/<id>`.
//!
//! Way in: [`Identity`] is parsed from a URI or read from a certificate, and is valid once it
//! exists. Deliberately absent: what an identity may do.

use std::fmt;
use std::str::FromStr;

use crate::certificate;

/// Longest id, in bytes: a DNS label, so that host names fit everywhere they are used.
const MAX_ID: usize = 63;
/// Longest trust domain, in bytes: a DNS name.
const MAX_TRUST_DOMAIN: usize = 253;
const SCHEME: &str = "spiffe://";

/// Why text or a certificate names no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "trust domain {value:?} is not valid: {why}; use a name like \"shoal.example.org\" \
         (lower-case letters, digits, dots and hyphens)"
    )]
    TrustDomain { value: String, why: &'static str },
    #[error(
        "{kind} name {value:?} is not valid: it must be 1 to 63 of a-z, 0-9, '.', '_' and '-', \
         beginning with a letter or digit"
    )]
    Id { kind: &'static str, value: String },
    #[error(
        "identity {uri:?} is not valid: {why}; expected spiffe://<trust-domain>/<kind>/<id> with \
         kind agent, user, ci or controller"
    )]
    Uri { uri: String, why: &'static str },
    #[error("the certificate carries {found} URI names, but an identity is exactly one")]
    UriCount { found: usize },
    #[error("the certificate cannot be read: {why}")]
    Certificate { why: String },
}

/// The name of one Shoal installation: what all of its identities share.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// The name, such as `shoal.example.org`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = IdentityError;

    fn from_str(value: &str) -> Result<Self, IdentityError> {
        match trust_domain_fault(value) {
            None => Ok(Self(value.to_owned())),
            Some(why) => Err(IdentityError::TrustDomain { value: value.to_owned(), why }),
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn trust_domain_fault(value: &str) -> Option<&'static str> {
    if value.is_empty() {
        return Some("it is empty");
    }
    if value.len() > MAX_TRUST_DOMAIN {
        return Some("it is longer than 253 bytes");
    }
    if !value.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-')) {
        return Some("it has a character that is not allowed");
    }
    if value.split('.').any(|label| label.is_empty() || label.len() > MAX_ID) {
        return Some("it has an empty part, or one of more than 63 bytes, between its dots");
    }
    if value.split('.').any(|label| label.starts_with('-') || label.ends_with('-')) {
        return Some("a part of it begins or ends with a hyphen");
    }
    None
}

/// What kind of peer, and which one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// The agent of a host, by host id.
    Agent(String),
    /// A person.
    User(String),
    /// A pipeline.
    Ci(String),
    /// A controller.
    Controller(String),
}

impl Subject {
    /// The word in the URI: `agent`, `user`, `ci` or `controller`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Agent(_) => "agent",
            Self::User(_) => "user",
            Self::Ci(_) => "ci",
            Self::Controller(_) => "controller",
        }
    }

    /// The id within the kind.
    pub fn id(&self) -> &str {
        match self {
            Self::Agent(id) | Self::User(id) | Self::Ci(id) | Self::Controller(id) => id,
        }
    }

    fn from_parts(kind: &str, id: &str) -> Option<Self> {
        let id = id.to_owned();
        match kind {
            "agent" => Some(Self::Agent(id)),
            "user" => Some(Self::User(id)),
            "ci" => Some(Self::Ci(id)),
            "controller" => Some(Self::Controller(id)),
            _ => None,
        }
    }
}

/// `<kind>/<id>`, as people and audit records name it within one trust domain.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind(), self.id())
    }
}

/// A peer of one trust domain. Always valid: both names are checked when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    trust_domain: TrustDomain,
    subject: Subject,
}

impl Identity {
    /// The identity of `subject` in `trust_domain`.
    ///
    /// # Errors
    /// [`IdentityError::Id`] when the id has a length or a character that is not allowed.
    pub fn new(trust_domain: TrustDomain, subject: Subject) -> Result<Self, IdentityError> {
        if !is_valid_id(subject.id()) {
            let value = subject.id().to_owned();
            return Err(IdentityError::Id { kind: subject.kind(), value });
        }
        Ok(Self { trust_domain, subject })
    }

    /// Reads the one SPIFFE URI out of a certificate. Checks no signature and no date.
    ///
    /// # Errors
    /// When the certificate cannot be parsed, or does not carry exactly one URI, or that URI is
    /// no identity.
    pub fn from_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let parsed = certificate::parse(der)
            .map_err(|why| IdentityError::Certificate { why: why.to_owned() })?;
        certificate::single_uri(&parsed)?.parse()
    }

    /// The installation this identity belongs to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The kind and id.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The host id, when this is an agent.
    pub fn agent_id(&self) -> Option<&str> {
        match &self.subject {
            Subject::Agent(id) => Some(id),
            Subject::User(_) | Subject::Ci(_) | Subject::Controller(_) => None,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.trust_domain, self.subject)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let fault = |why| IdentityError::Uri { uri: uri.to_owned(), why };
        let rest = uri.strip_prefix(SCHEME).ok_or_else(|| fault("it is no spiffe:// URI"))?;
        let mut parts = rest.split('/');
        let (Some(domain), Some(kind), Some(id), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(fault("it does not have the three parts"));
        };
        let subject = Subject::from_parts(kind, id).ok_or_else(|| fault("its kind is unknown"))?;
        Self::new(domain.parse()?, subject)
    }
}

fn is_valid_id(id: &str) -> bool {
    let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    id.len() <= MAX_ID
        && id.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && id.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_round_trip() {
        for uri in [
            "spiffe://shoal.example.org/agent/web-1",
            "spiffe://shoal.example.org/user/ann.b_c",
            "spiffe://x/ci/0",
            "spiffe://a-b.c/controller/main",
        ] {
            let identity: Identity = uri.parse().unwrap();
            assert_eq!(identity.to_string(), uri);
        }
    }

    #[test]
    fn only_agents_have_a_host() {
        let agent: Identity = "spiffe://x/agent/h1".parse().unwrap();
        let user: Identity = "spiffe://x/user/h1".parse().unwrap();
        assert_eq!(agent.agent_id(), Some("h1"));
        assert_eq!(user.agent_id(), None);
    }

    #[test]
    fn malformed_uris_are_refused() {
        for uri in [
            "",
            "spiffe://",
            "spiffe:///agent/h",
            "SPIFFE://x/agent/h",
            "https://x/agent/h",
            "spiffe://x",
            "spiffe://x/agent",
            "spiffe://x/agent/",
            "spiffe://x/agent/h/",
            "spiffe://x/agent/h/more",
            "spiffe://x//agent/h",
            "spiffe://x/Agent/h",
            "spiffe://x/node/h",
            "spiffe://x:443/agent/h",
            "spiffe://u@x/agent/h",
            "spiffe://x/agent/h?a=b",
            "spiffe://x/agent/h#f",
            "spiffe://x/agent/%68",
            "spiffe://x/agent/h\0",
            " spiffe://x/agent/h",
        ] {
            assert!(uri.parse::<Identity>().is_err(), "{uri:?} was accepted");
        }
    }

    #[test]
    fn ids_table() {
        let longest = "a".repeat(63);
        for id in ["a", "0", "web-1", "a.b_c-d", longest.as_str()] {
            assert!(is_valid_id(id), "{id:?}");
        }
        let too_long = "a".repeat(64);
        for id in ["", "-a", ".a", "..", "_a", "A", "a/b", "a b", "ä", "a\n", too_long.as_str()] {
            assert!(!is_valid_id(id), "{id:?}");
        }
    }

    #[test]
    fn trust_domains_table() {
        for domain in ["x", "shoal.example.org", "a-b.0"] {
            assert_eq!(domain.parse::<TrustDomain>().unwrap().as_str(), domain);
        }
        let long_label = "a".repeat(64);
        let too_long = ["abcdefg"; 33].join(".");
        for domain in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "a.-b",
            "A",
            "a_b",
            "a/b",
            "a:1",
            "ä",
            long_label.as_str(),
            too_long.as_str(),
        ] {
            assert!(domain.parse::<TrustDomain>().is_err(), "{domain:?} was accepted");
        }
    }

    #[test]
    fn errors_name_the_value_and_the_rule() {
        let error = Identity::new("x".parse().unwrap(), Subject::Agent("Web/1".into()));
        let text = error.unwrap_err().to_string();
        assert!(text.contains("\"Web/1\"") && text.contains("a-z"), "{text}");
    }

    #[test]
    fn garbage_is_no_certificate() {
        let error = Identity::from_certificate(b"\x30\x03abc").unwrap_err();
        assert!(matches!(error, IdentityError::Certificate { .. }), "{error:?}");
    }
}
