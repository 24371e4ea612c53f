use shoal_proto::v1::controller_server::{Controller, ControllerServer};
use shoal_proto::v1::{
    AuditEntry, GetVersionRequest, GetVersionResponse, ListAuditRequest, ListAuditResponse,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::Server};

use super::*;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::testing::{LIMIT, Site};

#[derive(Debug)]
struct Fake;

#[tonic::async_trait]
impl Controller for Fake {
    async fn get_version(
        &self,
        _: Request<GetVersionRequest>,
    ) -> Result<Response<GetVersionResponse>, Status> {
        let version = "9.9.9".to_owned();
        Ok(Response::new(GetVersionResponse { version, ..Default::default() }))
    }

    /// Never answers.
    async fn list_audit(
        &self,
        _: Request<ListAuditRequest>,
    ) -> Result<Response<ListAuditResponse>, Status> {
        std::future::pending::<()>().await;
        Ok(Response::new(ListAuditResponse { entries: vec![AuditEntry::default()] }))
    }
}

async fn serve(site: &Site) -> String {
    site.serve(Server::builder().add_service(ControllerServer::new(Fake))).await
}

/// Asks for the version as a user of `context`.
async fn ask(context: &Context) -> Result<String, Failure> {
    let client = Client::new(connect(context, LIMIT).await?, LIMIT);
    let reply = client.controller().get_version(client.ask(GetVersionRequest {})).await;
    Ok(reply.map_err(client.refused("ask"))?.into_inner().version)
}

async fn refusal(context: &Context) -> (Exit, String) {
    let failure = ask(context).await.expect_err("it must not be answered");
    (failure.exit(), failure.report().unwrap())
}

#[tokio::test]
async fn a_user_of_the_site_is_answered() {
    let site = Site::new();
    let address = serve(&site).await;
    assert_eq!(ask(&site.context(&address)).await.unwrap(), "9.9.9");
}

#[tokio::test]
async fn a_controller_of_another_ca_is_not_talked_to() {
    let (ours, other) = (Site::new(), Site::new());
    let address = serve(&other).await;
    let (exit, report) = refusal(&ours.context(&address)).await;
    assert_eq!(exit, Exit::Refused, "{report}");
    assert!(report.contains("signed by an unknown CA"), "{report}");
}

#[tokio::test]
async fn a_user_of_another_ca_is_told_so() {
    let (ours, other) = (Site::new(), Site::new());
    let address = serve(&other).await;
    let context = Context { ca: other.ca_pem(), ..ours.context(&address) };
    let (exit, report) = refusal(&context).await;
    assert_eq!(exit, Exit::Refused, "{report}");
    assert!(report.contains("does not know the CA of this side's certificate"), "{report}");
}

#[tokio::test]
async fn an_expired_certificate_is_named_as_such() {
    let site = Site::new();
    let address = serve(&site).await;
    let (exit, report) = refusal(&site.expired_context(&address)).await;
    assert_eq!(exit, Exit::Refused, "{report}");
    assert!(report.contains("this side's certificate has expired"), "{report}");
}

#[tokio::test]
async fn a_port_where_nothing_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (exit, report) = refusal(&Site::new().context(&address)).await;
    assert_eq!(exit, Exit::Unreachable, "{report}");
    assert!(report.contains(&address) && report.contains("nothing listens there"), "{report}");
}

#[tokio::test]
async fn a_name_that_has_no_address() {
    let (exit, report) = refusal(&Site::new().context("shoal.invalid:7443")).await;
    assert_eq!(exit, Exit::Unreachable, "{report}");
    assert!(report.contains("shoal.invalid has no address"), "{report}");
}

#[tokio::test]
async fn a_server_that_is_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let context = Site::new().context(&listener.local_addr().unwrap().to_string());
    let error = connect(&context, Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
    assert_eq!(Failure::from(error).exit(), Exit::Unreachable);
}

#[tokio::test]
async fn a_server_that_speaks_something_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let (exit, report) = refusal(&Site::new().context(&address)).await;
    assert_eq!(exit, Exit::Unreachable, "{report}");
    assert!(report.contains("does not speak TLS"), "{report}");
}

#[tokio::test]
async fn a_question_without_an_answer_ends() {
    let site = Site::new();
    let address = serve(&site).await;
    let connection = connect(&site.context(&address), LIMIT).await.unwrap();
    let client = Client::new(connection, Duration::from_millis(200));
    let reply = client.controller().list_audit(client.ask(ListAuditRequest { limit: 1 })).await;
    let failure = Failure::from(client.refused("list")(reply.unwrap_err()));
    assert_eq!(failure.exit(), Exit::TimedOut, "{failure}");
    assert!(failure.to_string().contains("--request-timeout"), "{failure}");
}

#[tokio::test]
async fn what_the_context_holds_is_checked_before_anyone_is_called() {
    let good = Site::new().context("127.0.0.1:1");
    let bad = [
        Context { controller: "https://x".into(), ..good.clone() },
        Context { ca: "no certificate".into(), ..good.clone() },
        Context { key: "no key".into(), ..good.clone() },
    ];
    for context in bad {
        let failure = Failure::from(connect(&context, LIMIT).await.unwrap_err());
        assert_eq!(failure.exit(), Exit::Usage, "{failure}");
    }
}
