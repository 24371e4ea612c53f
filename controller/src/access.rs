//! Who may call what: decided here alone, for every call, before a service sees it.
//!
//! Way in: [`AccessLayer`] around all services of the main port, and [`caller`] in a handler that
//! wants to know who asks. What has no rule is refused.
//!
//! Deliberately absent: the enrolment port, where nobody is anybody yet, and limits to certain
//! fleets.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};

use shoal_core::name::HostId;
use shoal_proto::v1::store::{HostRecord, UserRecord};
use shoal_tls::{CertificateInfo, Identity, Subject, constant_time_eq};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::{Request, Status};
use tower::{Layer, Service};

use crate::app::App;
use crate::listener::ConnectInfo;
use crate::refusal::Refusal;
use crate::store::Records;

/// What people may do; each role may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// See everything but the audit log.
    Viewer,
    /// Also push images and change fleets.
    Deployer,
    /// Also drive instances and hosts.
    Operator,
    /// Also see who did what, and say who may.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Viewer => "viewer",
            Self::Deployer => "deployer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let roles = [Self::Viewer, Self::Deployer, Self::Operator, Self::Admin];
        roles.into_iter().find(|role| role.to_string() == text).ok_or(())
    }
}

/// What a caller was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The agent of an enrolled host, which may act for that host only.
    Agent,
    /// A person with a role.
    Person(Role),
}

/// What an RPC asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Agent,
    /// This role or a higher one.
    AtLeast(Role),
    /// Whoever has proven to be someone we know.
    Known,
}

/// Every RPC of the main port. `Enrol` is not here: it is served on the enrolment port alone.
const RULES: &[(&str, Needs)] = &[
    ("/shoal.v1.AgentLink/Connect", Needs::Agent),
    ("/shoal.v1.AgentLink/PlanTransfer", Needs::Agent),
    ("/shoal.v1.AgentLink/FetchImage", Needs::Agent),
    ("/shoal.v1.AgentLink/FetchAgent", Needs::Agent),
    ("/shoal.v1.AgentLink/Session", Needs::Agent),
    ("/shoal.v1.AgentLink/Renew", Needs::Agent),
    ("/shoal.v1.Segments/Fetch", Needs::Agent),
    ("/shoal.v1.Controller/GetVersion", Needs::AtLeast(Role::Viewer)),
    ("/shoal.v1.Controller/ListAudit", Needs::AtLeast(Role::Admin)),
    ("/shoal.v1.Images/BeginPush", Needs::AtLeast(Role::Deployer)),
    ("/shoal.v1.Images/Push", Needs::AtLeast(Role::Deployer)),
    ("/shoal.v1.Images/SetTag", Needs::AtLeast(Role::Deployer)),
    ("/shoal.v1.Images/List", Needs::AtLeast(Role::Viewer)),
    ("/shoal.v1.Images/Get", Needs::AtLeast(Role::Viewer)),
    ("/shoal.v1.Images/Remove", Needs::AtLeast(Role::Deployer)),
    ("/shoal.v1.Images/SetPin", Needs::AtLeast(Role::Operator)),
    ("/shoal.v1.Images/Prune", Needs::AtLeast(Role::Operator)),
    ("/shoal.v1.Images/Nearest", Needs::AtLeast(Role::Deployer)),
    ("/shoal.v1.Images/Diff", Needs::AtLeast(Role::Viewer)),
    ("/shoal.v1.Images/Stage", Needs::AtLeast(Role::Deployer)),
    ("/shoal.v1.Images/Unstage", Needs::AtLeast(Role::Deployer)),
    ("/shoal.v1.Images/ListStaged", Needs::AtLeast(Role::Viewer)),
    ("/shoal.v1.Hosts/CreateToken", Needs::AtLeast(Role::Operator)),
    ("/shoal.v1.Hosts/List", Needs::AtLeast(Role::Viewer)),
    ("/shoal.v1.Hosts/Get", Needs::AtLeast(Role::Viewer)),
    ("/shoal.v1.Hosts/Label", Needs::AtLeast(Role::Operator)),
    ("/shoal.v1.Hosts/ListTokens", Needs::AtLeast(Role::Operator)),
    ("/shoal.v1.Hosts/RevokeToken", Needs::AtLeast(Role::Operator)),
    ("/shoal.v1.Hosts/Cordon", Needs::AtLeast(Role::Operator)),
    ("/shoal.v1.Hosts/Uncordon", Needs::AtLeast(Role::Operator)),
    ("/shoal.v1.Hosts/Drain", Needs::AtLeast(Role::Operator)),
    ("/shoal.v1.Hosts/Remove", Needs::AtLeast(Role::Admin)),
    ("/shoal.v1.Agents/Push", Needs::AtLeast(Role::Admin)),
    ("/shoal.v1.Agents/List", Needs::AtLeast(Role::Viewer)),
    ("/shoal.v1.Agents/Remove", Needs::AtLeast(Role::Admin)),
    ("/shoal.v1.Agents/Upgrade", Needs::AtLeast(Role::Admin)),
    ("/shoal.v1.Fleets/Plan", Needs::AtLeast(Role::Viewer)),
    ("/shoal.v1.Fleets/Apply", Needs::AtLeast(Role::Deployer)),
    ("/shoal.v1.Fleets/List", Needs::AtLeast(Role::Viewer)),
    ("/shoal.v1.Fleets/GetStatus", Needs::AtLeast(Role::Viewer)),
    ("/shoal.v1.Rollouts/List", Needs::AtLeast(Role::Viewer)),
    ("/shoal.v1.Rollouts/Watch", Needs::AtLeast(Role::Viewer)),
    ("/shoal.v1.Rollouts/Control", Needs::AtLeast(Role::Deployer)),
    ("/shoal.v1.Rollouts/Undo", Needs::AtLeast(Role::Deployer)),
    ("/shoal.v1.Rollouts/Lock", Needs::AtLeast(Role::Deployer)),
    // Of a lock that is someone else's: an operator, which is looked at where that is known.
    ("/shoal.v1.Rollouts/Unlock", Needs::AtLeast(Role::Deployer)),
    ("/shoal.v1.Instances/List", Needs::AtLeast(Role::Viewer)),
    ("/shoal.v1.Instances/Watch", Needs::AtLeast(Role::Viewer)),
    ("/shoal.v1.Instances/SetRun", Needs::AtLeast(Role::Operator)),
    ("/shoal.v1.Instances/Logs", Needs::AtLeast(Role::Viewer)),
    ("/shoal.v1.Instances/Exec", Needs::AtLeast(Role::Operator)),
    ("/shoal.v1.Events/List", Needs::AtLeast(Role::Viewer)),
    ("/shoal.v1.Secrets/Set", Needs::AtLeast(Role::Operator)),
    ("/shoal.v1.Secrets/Generate", Needs::AtLeast(Role::Operator)),
    ("/shoal.v1.Secrets/List", Needs::AtLeast(Role::Deployer)),
    ("/shoal.v1.Secrets/Remove", Needs::AtLeast(Role::Operator)),
    ("/grpc.health.v1.Health/Check", Needs::Known),
    ("/grpc.health.v1.Health/Watch", Needs::Known),
    ("/grpc.health.v1.Health/List", Needs::Known),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Needs::Known),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Needs::Known),
];

/// Who calls, proven and with the role that the store has for them now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Out of the client's certificate.
    pub identity: Identity,
    /// What they may do.
    pub standing: Standing,
    /// SHA-256 of the certificate's public key.
    pub key_sha256: [u8; 32],
}

/// The SPIFFE id, as the audit log has it.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.identity.fmt(f)
    }
}

impl Caller {
    /// The host whose agent calls.
    ///
    /// # Errors
    /// [`Refusal::Denied`] where it is no agent.
    pub fn host(&self) -> Result<HostId, Refusal> {
        let id = self.identity.agent_id().and_then(|id| id.parse().ok());
        id.ok_or_else(|| Refusal::Denied(format!("{self} is not the agent of a host")))
    }
}

/// Who calls.
///
/// # Errors
/// Where the call did not come through [`AccessLayer`].
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Refusal> {
    let found = request.extensions().get::<Caller>().cloned();
    found.ok_or_else(|| Refusal::Internal("the call came past the access rules".into()))
}

/// Puts [`Caller`] into each request, or refuses it.
#[derive(Debug, Clone)]
pub struct AccessLayer {
    app: Arc<App>,
}

impl AccessLayer {
    /// Around the services of `app`.
    #[must_use]
    pub fn new(app: Arc<App>) -> Self {
        Self { app }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        Access { app: Arc::clone(&self.app), inner }
    }
}

/// The services behind [`AccessLayer`].
#[derive(Debug, Clone)]
pub struct Access<S> {
    app: Arc<App>,
    inner: S,
}

impl<S> Service<http::Request<Body>> for Access<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The one that was polled ready goes with the call, its clone waits for the next.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let app = Arc::clone(&self.app);
        Box::pin(async move {
            let info = request.extensions().get::<ConnectInfo>().cloned();
            match admit(&app.records, info.as_ref(), request.uri().path()).await {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    inner.call(request).await
                }
                Err(refusal) => {
                    let path = request.uri().path();
                    tracing::info!(path, reason = %refusal, "call refused");
                    Ok(Status::from(refusal).into_http())
                }
            }
        })
    }
}

async fn admit(
    records: &Records,
    info: Option<&ConnectInfo>,
    path: &str,
) -> Result<Caller, Refusal> {
    let client = info.and_then(|info| info.client.as_ref()).ok_or_else(|| {
        Refusal::Unauthenticated("there is no client certificate; choose a context".into())
    })?;
    let needs = rule(path).ok_or_else(|| no_rule(path))?;
    let standing = standing(records, client).await?;
    let CertificateInfo { identity, spki_sha256, .. } = client;
    let caller = Caller { identity: identity.clone(), standing, key_sha256: *spki_sha256 };
    check(needs, &caller, path)?;
    Ok(caller)
}

fn rule(path: &str) -> Option<Needs> {
    RULES.iter().find(|(ruled, _)| *ruled == path).map(|(_, needs)| *needs)
}

fn no_rule(path: &str) -> Refusal {
    Refusal::Denied(format!(
        "nobody may call {path} here; is the controller of another version, or is this a call of \
         the enrolment port?"
    ))
}

fn check(needs: Needs, caller: &Caller, path: &str) -> Result<(), Refusal> {
    let call = path.trim_start_matches("/shoal.v1.");
    match (needs, caller.standing) {
        (Needs::Known, _) | (Needs::Agent, Standing::Agent) => Ok(()),
        (Needs::AtLeast(least), Standing::Person(role)) if role >= least => Ok(()),
        (Needs::AtLeast(least), Standing::Person(role)) => Err(Refusal::Denied(format!(
            "{caller} has the role {role}, and {call} needs {least}; ask an admin"
        ))),
        (Needs::AtLeast(_), Standing::Agent) => {
            Err(Refusal::Denied(format!("{caller} is an agent, and {call} is for people")))
        }
        (Needs::Agent, Standing::Person(_)) => {
            Err(Refusal::Denied(format!("{caller} is no agent, and {call} is for agents only")))
        }
    }
}

async fn standing(records: &Records, client: &CertificateInfo) -> Result<Standing, Refusal> {
    let identity = &client.identity;
    match identity.subject() {
        Subject::Agent(id) => {
            let host = records.get::<HostRecord>(id).await?;
            let is_known = host
                .is_some_and(|host| constant_time_eq(&host.record.key_sha256, &client.spki_sha256));
            if is_known { Ok(Standing::Agent) } else { Err(unknown_host(identity)) }
        }
        Subject::User(name) => {
            let user = records.get::<UserRecord>(name).await?;
            let role = user.and_then(|user| user.record.role.parse().ok());
            role.map(Standing::Person).ok_or_else(|| no_role(identity))
        }
        Subject::Ci(_) | Subject::Controller(_) => Err(no_role(identity)),
    }
}

fn unknown_host(identity: &Identity) -> Refusal {
    Refusal::Denied(format!(
        "{identity} is no host of this controller: it was removed, or has enrolled again with \
         another key; to enrol it anew, make a token with `shoal host token create` and run `shoal-agent join`"
    ))
}

fn no_role(identity: &Identity) -> Refusal {
    Refusal::Denied(format!("{identity} has no role on this controller; ask an admin for one"))
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;

    fn rpcs() -> Vec<String> {
        let pool = DescriptorPool::decode(shoal_proto::DESCRIPTORS).unwrap();
        let services: Vec<_> = pool.services().collect();
        let path = |m: prost_reflect::MethodDescriptor| {
            format!("/{}/{}", m.parent_service().full_name(), m.name())
        };
        services.iter().flat_map(|service| service.methods().map(path)).collect()
    }

    fn may(standing: Standing, path: &str) -> bool {
        let identity = "spiffe://x/user/ann".parse().unwrap();
        let caller = Caller { identity, standing, key_sha256: [0; 32] };
        rule(path).is_some_and(|needs| check(needs, &caller, path).is_ok())
    }

    #[test]
    fn every_rpc_has_a_rule_but_those_of_the_enrolment_port() {
        let rpcs = rpcs();
        assert!(rpcs.len() > 20, "{rpcs:?}");
        for path in &rpcs {
            let is_enrol = path.starts_with("/shoal.v1.Enrol/");
            assert_eq!(rule(path).is_none(), is_enrol, "{path}");
        }
        for (path, _) in RULES.iter().filter(|(path, _)| path.starts_with("/shoal.")) {
            assert!(rpcs.iter().any(|rpc| rpc == path), "a rule for {path}, which is no RPC");
        }
    }

    #[test]
    fn agents_call_their_link_and_people_never_do() {
        for path in rpcs() {
            let links = ["/shoal.v1.AgentLink/", "/shoal.v1.Segments/"];
            let is_link = links.iter().any(|service| path.starts_with(service));
            assert_eq!(may(Standing::Agent, &path), is_link, "an agent calling {path}");
            let is_peoples = !is_link && !path.starts_with("/shoal.v1.Enrol/");
            assert_eq!(may(Standing::Person(Role::Admin), &path), is_peoples, "an admin: {path}");
        }
    }

    #[test]
    fn roles_table() {
        let mutating = [
            "CreateToken",
            "Label",
            "RevokeToken",
            "Cordon",
            "Uncordon",
            "Drain",
            "Push",
            "SetTag",
            "Remove",
            "Apply",
            "SetRun",
            "Exec",
            "Set",
            "Generate",
            "Control",
            "Undo",
            "Lock",
            "Unlock",
            "Upgrade",
        ];
        for path in rpcs() {
            if mutating.iter().any(|verb| path.ends_with(&format!("/{verb}"))) {
                assert!(!may(Standing::Person(Role::Viewer), &path), "a viewer may {path}");
            }
        }
        let person = |role: &str| Standing::Person(role.parse().unwrap());
        for (role, path, wanted) in [
            ("viewer", "/shoal.v1.Instances/Logs", true),
            ("viewer", "/shoal.v1.Fleets/Plan", true),
            ("viewer", "/shoal.v1.Events/List", true),
            ("deployer", "/shoal.v1.Fleets/Apply", true),
            ("deployer", "/shoal.v1.Instances/Exec", false),
            ("deployer", "/shoal.v1.Hosts/CreateToken", false),
            ("operator", "/shoal.v1.Instances/Exec", true),
            ("operator", "/shoal.v1.Agents/Push", false),
            ("operator", "/shoal.v1.Agents/Upgrade", false),
            ("viewer", "/shoal.v1.Secrets/List", false),
            ("deployer", "/shoal.v1.Secrets/List", true),
            ("deployer", "/shoal.v1.Secrets/Set", false),
            ("deployer", "/shoal.v1.Secrets/Generate", false),
            ("deployer", "/shoal.v1.Secrets/Remove", false),
            ("operator", "/shoal.v1.Secrets/Set", true),
            ("operator", "/shoal.v1.Secrets/Generate", true),
            ("operator", "/shoal.v1.Secrets/Remove", true),
            ("viewer", "/shoal.v1.Rollouts/Watch", true),
            ("deployer", "/shoal.v1.Rollouts/Control", true),
            ("deployer", "/shoal.v1.Rollouts/Undo", true),
            ("deployer", "/shoal.v1.Rollouts/Lock", true),
            ("deployer", "/shoal.v1.Rollouts/Unlock", true),
            ("deployer", "/shoal.v1.Hosts/Cordon", false),
            ("deployer", "/shoal.v1.Hosts/ListTokens", false),
            ("operator", "/shoal.v1.Hosts/Uncordon", true),
            ("operator", "/shoal.v1.Hosts/Drain", true),
            ("operator", "/shoal.v1.Hosts/RevokeToken", true),
            ("operator", "/shoal.v1.Hosts/Remove", false),
            ("admin", "/shoal.v1.Hosts/Remove", true),
            ("operator", "/shoal.v1.Controller/ListAudit", false),
            ("admin", "/shoal.v1.Controller/ListAudit", true),
            ("admin", "/shoal.v1.Hosts/Nothing", false),
        ] {
            assert_eq!(may(person(role), path), wanted, "{role} {path}");
        }
    }

    #[test]
    fn a_refusal_names_who_and_what_is_needed() {
        let identity: Identity = "spiffe://x/user/ann".parse().unwrap();
        let standing = Standing::Person(Role::Viewer);
        let caller = Caller { identity, standing, key_sha256: [0; 32] };
        let path = "/shoal.v1.Fleets/Apply";
        let error = check(rule(path).unwrap(), &caller, path).unwrap_err().to_string();
        assert_eq!(
            error,
            "spiffe://x/user/ann has the role viewer, and Fleets/Apply needs deployer; ask an admin"
        );
    }
}
