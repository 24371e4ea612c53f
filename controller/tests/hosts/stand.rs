//! A controller to test against, and clients of every kind.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use shoal_controller::app::App;
use shoal_controller::clock;
use shoal_controller::config::{Config, FILE};
use shoal_controller::init::{Plan, init};
use shoal_controller::server::Running;
use shoal_controller::store::Batch;
use shoal_proto::v1::controller_client::ControllerClient;
use shoal_proto::v1::enrol_client::EnrolClient;
use shoal_proto::v1::hosts_client::HostsClient;
use shoal_proto::v1::store::UserRecord;
use shoal_proto::v1::{CreateTokenRequest, Host, JoinRequest};
use shoal_tls::{
    JoinToken, LeafKey, ReloadableIdentity, Roots, anonymous_client_config, client_config,
    join_client_config,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::agent::Agent;

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Stand {
    root: tempfile::TempDir,
    running: Option<Running>,
}

impl Stand {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let any = Some("127.0.0.1:0".parse().unwrap());
        let plan = Plan {
            dir: root.path().join("controller"),
            trust_domain: "shoal.test".parse().unwrap(),
            addresses: vec!["127.0.0.1".parse().unwrap()],
            admin: "ann".parse().unwrap(),
            context_out: root.path().join("config.toml"),
            listen: any,
            enrol_listen: any,
        };
        init(&plan, clock::system_time()).await.unwrap();
        let mut config = Config::read(&plan.dir).unwrap();
        change(&mut config);
        std::fs::write(plan.dir.join(FILE), config.to_toml()).unwrap();
        let mut stand = Self { root, running: None };
        stand.start().await;
        stand
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.root.path().join("controller")
    }

    pub(crate) async fn start(&mut self) {
        let app = App::open(&self.dir()).await.unwrap();
        self.running = Some(Running::start(app).await.unwrap());
    }

    pub(crate) async fn stop(&mut self) {
        self.running.take().unwrap().stop().await.unwrap();
    }

    pub(crate) fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub(crate) fn app(&self) -> &Arc<App> {
        self.running().app()
    }

    pub(crate) fn roots(&self) -> Roots {
        self.app().authority.roots().clone()
    }

    /// A connection to the main port.
    pub(crate) async fn channel(&self, own: &ReloadableIdentity) -> Channel {
        connect(self.running().address(), client_config(&self.roots(), own)).await.unwrap()
    }

    /// The admin, as the context file that `init` wrote says.
    pub(crate) async fn admin(&self) -> Channel {
        let text = std::fs::read_to_string(self.root.path().join("config.toml")).unwrap();
        let contexts: toml::Table = toml::from_str(&text).unwrap();
        let context = contexts["context"]["shoal.test"].as_table().unwrap();
        let text = |key: &str| context[key].as_str().unwrap();
        let own = ReloadableIdentity::from_pem(text("certificate"), text("key")).unwrap();
        self.channel(&own).await
    }

    /// A person with that role, or none where it is empty.
    pub(crate) async fn user(&self, name: &str, role: &str) -> Channel {
        if !role.is_empty() {
            let mut batch = Batch::new();
            batch.put(name, &UserRecord { role: role.into(), created_ms: 1 }).unwrap();
            self.app().records.commit(batch).await.unwrap();
        }
        let key = LeafKey::generate().unwrap();
        let csr = key.csr_der().unwrap();
        let name = name.parse().unwrap();
        let issued = self.app().authority.issue_user(&csr, &name, clock::system_time()).unwrap();
        let own = ReloadableIdentity::from_pem(&issued.chain_pem, &key.to_pem()).unwrap();
        self.channel(&own).await
    }

    pub(crate) async fn hosts(&self) -> HostsClient<Channel> {
        HostsClient::new(self.admin().await)
    }

    pub(crate) async fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.admin().await)
    }

    /// The enrolment port, as an agent that knows the CA sees it.
    pub(crate) async fn enrol(&self) -> EnrolClient<Channel> {
        let config = anonymous_client_config(&self.roots());
        EnrolClient::new(connect(self.running().enrol_address(), config).await.unwrap())
    }

    pub(crate) async fn token(&self, request: CreateTokenRequest) -> JoinToken {
        let response = self.hosts().await.create_token(request).await.unwrap().into_inner();
        response.token.parse().unwrap()
    }

    /// Joins as a host does that has nothing but a token.
    pub(crate) async fn join(
        &self,
        token: &JoinToken,
        name: &str,
        key: &LeafKey,
    ) -> Result<Agent, Status> {
        let config = join_client_config(token.ca_spki_sha256());
        let channel = connect(self.running().enrol_address(), config).await.unwrap();
        let request = JoinRequest {
            token_id: token.id().into(),
            token_secret: token.secret().to_vec().into(),
            host_name: name.into(),
            csr: key.csr_der().unwrap().into(),
        };
        let response = EnrolClient::new(channel).join(request).await?.into_inner();
        Ok(Agent::new(name, key, response))
    }

    /// A host that has just joined.
    pub(crate) async fn host(&self, name: &str) -> Agent {
        let token = self.token(CreateTokenRequest::default()).await;
        self.join(&token, name, &LeafKey::generate().unwrap()).await.unwrap()
    }

    pub(crate) async fn show(&self, name: &str) -> Host {
        let request = shoal_proto::v1::GetHostRequest { name: name.into() };
        self.hosts().await.get(request).await.unwrap().into_inner().host.unwrap()
    }
}

pub(crate) async fn connect(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_| {
        let config = Arc::clone(&config);
        async move {
            let tcp = TcpStream::connect(address).await?;
            let name = ServerName::try_from("127.0.0.1").unwrap();
            let tls = TlsConnector::from(config).connect(name, tcp).await?;
            std::io::Result::Ok(TokioIo::new(tls))
        }
    });
    Endpoint::from_static("http://127.0.0.1").connect_with_connector(connector).await
}

/// Waits until it holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{what}: never");
}
