//! A controller's listener for tests: real TLS with a CA of its own, and whatever services a test
//! puts behind it.

use std::time::{Duration, SystemTime};

use shoal_tls::{
    Ca, Identity, LeafKey, ReloadableIdentity, Roots, Subject, TrustDomain, server_config,
};
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Router;

use crate::client::Client;
use crate::connect::connect;
use crate::context::Context;

const DAY: Duration = Duration::from_secs(86_400);
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// One installation: a CA, and those who have certificates of it.
#[derive(Debug)]
pub(crate) struct Site {
    ca: Ca,
}

#[allow(clippy::disallowed_methods)] // rustls compares certificates with the real time
fn now() -> SystemTime {
    SystemTime::now()
}

impl Site {
    pub(crate) fn new() -> Self {
        let domain: TrustDomain = "test.example".parse().unwrap();
        Self { ca: Ca::generate(&domain, now(), DAY).unwrap() }
    }

    fn identity(&self, subject: Subject) -> Identity {
        Identity::new(self.ca.trust_domain().clone(), subject).unwrap()
    }

    pub(crate) fn ca_pem(&self) -> String {
        self.ca.cert_pem().to_owned()
    }

    /// The context of the user ada.
    pub(crate) fn context(&self, controller: &str) -> Context {
        self.context_at(controller, now(), DAY)
    }

    /// The same with a certificate that has expired.
    pub(crate) fn expired_context(&self, controller: &str) -> Context {
        self.context_at(controller, now() - DAY, DAY / 2)
    }

    fn context_at(&self, controller: &str, issued: SystemTime, lifetime: Duration) -> Context {
        let key = LeafKey::generate().unwrap();
        let ada = self.identity(Subject::User("ada".into()));
        let issued = self.ca.issue(&key.csr_der().unwrap(), &ada, issued, lifetime).unwrap();
        Context {
            controller: controller.to_owned(),
            ca: self.ca_pem(),
            certificate: issued.chain_pem,
            key: key.to_pem(),
        }
    }

    fn acceptor(&self) -> TlsAcceptor {
        let identity = self.identity(Subject::Controller("c1".into()));
        let server =
            self.ca.issue_server(&identity, &["127.0.0.1".to_owned()], now(), DAY).unwrap();
        let chain = server.certificate.chain_pem;
        let identity = ReloadableIdentity::from_pem(&chain, &server.key.to_pem()).unwrap();
        TlsAcceptor::from(server_config(&identity, &Roots::from_pem(&self.ca_pem()).unwrap()))
    }

    /// Serves `router` on a port of this computer, until the test's runtime ends. Returns the
    /// address.
    pub(crate) async fn serve(&self, router: Router) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let acceptor = self.acceptor();
        let (secured, incoming) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
                let (near, mut far): (DuplexStream, _) = tokio::io::duplex(1 << 16);
                tokio::spawn(
                    async move { tokio::io::copy_bidirectional(&mut tls, &mut far).await },
                );
                if secured.send(Ok::<_, std::io::Error>(near)).await.is_err() {
                    return;
                }
            }
        });
        tokio::spawn(router.serve_with_incoming(ReceiverStream::new(incoming)));
        address
    }

    /// A client of `router`.
    pub(crate) async fn client(&self, router: Router) -> Client {
        let address = self.serve(router).await;
        Client::new(connect(&self.context(&address), LIMIT).await.unwrap(), LIMIT)
    }
}
