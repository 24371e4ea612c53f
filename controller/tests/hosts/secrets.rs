//! Values of secrets: to the hosts that name them, before what names them, and to no other.

use shoal_controller::secrets::KEY_FILE;
use shoal_controller::store::Batch;
use shoal_proto::v1::secrets_client::SecretsClient;
use shoal_proto::v1::store::HostSpecRecord;
use shoal_proto::v1::{
    self, GenerateSecretRequest, HostSpec, InstanceConfig, InstanceSpec, ListAuditRequest,
    ListSecretsRequest, RemoveSecretRequest, SetSecretRequest, controller_message,
};
use tonic::Code;
use tonic::transport::Channel;

use crate::agent::{Agent, Stream};
use crate::stand::Stand;

/// A desired state with an instance for each list of secrets and versions.
fn wanted(generation: u64, instances: &[&[(&str, u64)]]) -> HostSpec {
    let instance = |(at, secrets): (usize, &&[(&str, u64)])| {
        let secrets = secrets.iter().enumerate().map(|(at, (name, version))| {
            (format!("c{at}"), v1::PinnedSecret { name: (*name).into(), version: *version })
        });
        let settings = v1::Settings { secrets: secrets.collect(), ..v1::Settings::default() };
        InstanceSpec {
            id: format!("shop/i{at}"),
            config: Some(InstanceConfig { image: None, settings: Some(settings) }),
            ..InstanceSpec::default()
        }
    };
    let instances = instances.iter().enumerate().map(instance).collect();
    HostSpec { generation, instances, ..HostSpec::default() }
}

async fn want(stand: &Stand, agent: &Agent, spec: HostSpec) {
    let mut batch = Batch::new();
    batch.put(agent.id.as_str(), &HostSpecRecord { spec: Some(spec) }).unwrap();
    stand.app().records.commit(batch).await.unwrap();
}

async fn client(stand: &Stand) -> SecretsClient<Channel> {
    SecretsClient::new(stand.admin().await)
}

async fn set(stand: &Stand, name: &str, text: &str) -> u64 {
    let request = SetSecretRequest { name: name.into(), value: text.to_owned().into() };
    client(stand).await.set(request).await.unwrap().into_inner().version
}

/// `NAME VERSION VALUE` of each.
async fn hear_values(stream: &mut Stream) -> Vec<String> {
    let controller_message::Message::Secrets(secrets) = stream.hear().await else {
        panic!("no values")
    };
    let shown = secrets.values.into_iter().map(|value| {
        let v1::SecretValue { secret, value } = value;
        let v1::PinnedSecret { name, version } = secret.unwrap();
        format!("{name} {version} {}", String::from_utf8(value.to_vec()).unwrap())
    });
    shown.collect()
}

#[tokio::test]
async fn a_host_gets_the_values_that_it_needs_before_it_needs_them() {
    let stand = Stand::new().await;
    let (web, db) = (stand.host("web-1").await, stand.host("db-1").await);
    for text in ["one", "two"] {
        set(&stand, "db/creator", text).await;
    }
    set(&stand, "tls", "key").await;
    set(&stand, "other", "unused").await;
    let two: &[&[(&str, u64)]] = &[&[("db/creator", 2), ("tls", 1)], &[("db/creator", 1)], &[]];
    want(&stand, &web, wanted(1, two)).await;
    want(&stand, &db, wanted(1, &[&[]])).await;

    let mut stream = web.connect(&stand).await;
    let values = ["db/creator 1 one", "db/creator 2 two", "tls 1 key"];
    assert_eq!(hear_values(&mut stream).await, values);
    assert_eq!(stream.hear_generation().await, 1);
    let mut other = db.connect(&stand).await;
    assert_eq!(other.hear_generation().await, 1, "it names none, and hears of none");

    want(&stand, &web, wanted(2, &[&[("tls", 1)]])).await;
    assert_eq!(hear_values(&mut stream).await, ["tls 1 key"]);
    assert_eq!(stream.hear_generation().await, 2);
    want(&stand, &web, wanted(3, &[&[]])).await;
    assert_eq!(stream.hear_generation().await, 3);
    want(&stand, &web, wanted(4, two)).await;
    assert_eq!(hear_values(&mut stream).await, values);
    assert_eq!(stream.hear_generation().await, 4);

    let mut again = web.connect(&stand).await;
    assert_eq!(hear_values(&mut again).await, values, "each stream is told anew");
    assert_eq!(again.hear_generation().await, 4);
}

#[tokio::test]
async fn a_value_that_is_not_there_holds_up_no_other() {
    let stand = Stand::new().await;
    let web = stand.host("web-1").await;
    set(&stand, "tls", "key").await;
    want(&stand, &web, wanted(1, &[&[("gone", 1), ("tls", 1), ("tls", 2)]])).await;
    let mut stream = web.connect(&stand).await;
    assert_eq!(hear_values(&mut stream).await, ["tls 1 key"]);
    assert_eq!(stream.hear_generation().await, 1);
    want(&stand, &web, wanted(2, &[&[("gone", 1)]])).await;
    assert_eq!(stream.hear_generation().await, 2);
}

#[tokio::test]
async fn without_the_key_all_but_secrets_goes_on_and_with_it_they_do_too() {
    let mut stand = Stand::new().await;
    let web = stand.host("web-1").await;
    set(&stand, "tls", "key").await;
    want(&stand, &web, wanted(1, &[&[("tls", 1)]])).await;
    stand.stop().await;
    let key = stand.dir().join(KEY_FILE);
    let good = std::fs::read(&key).unwrap();
    for wrong in [None, Some([7; 32])] {
        match wrong {
            Some(bytes) => std::fs::write(&key, bytes).unwrap(),
            None => std::fs::remove_file(&key).unwrap(),
        }
        stand.start().await;
        let mut stream = web.connect(&stand).await;
        assert_eq!(stream.hear_generation().await, 1);
        let request = SetSecretRequest { name: "x".into(), value: "x".into() };
        let status = client(&stand).await.set(request).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert!(status.message().contains("from a backup"), "{status:?}");
        stand.stop().await;
        drop(stream);
    }
    std::fs::write(&key, good).unwrap();
    stand.start().await;
    let mut stream = web.connect(&stand).await;
    assert_eq!(hear_values(&mut stream).await, ["tls 1 key"]);
}

/// What an earlier version made has no key, and no secrets.
#[tokio::test]
async fn a_controller_of_before_gets_its_key_at_its_start() {
    let mut stand = Stand::new().await;
    stand.stop().await;
    std::fs::remove_file(stand.dir().join(KEY_FILE)).unwrap();
    stand.start().await;
    assert_eq!(set(&stand, "tls", "key").await, 1);
    assert_eq!(std::fs::read(stand.dir().join(KEY_FILE)).unwrap().len(), 32);
}

#[tokio::test]
async fn roles_decide_and_no_answer_has_a_value() {
    let stand = Stand::new().await;
    set(&stand, "tls", "hunter2").await;
    let of = async |name: &str, role: &str| SecretsClient::new(stand.user(name, role).await);
    let mut viewer = of("vera", "viewer").await;
    let status = viewer.list(ListSecretsRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let mut deployer = of("dora", "deployer").await;
    let listed = deployer.list(ListSecretsRequest {}).await.unwrap().into_inner();
    assert!(!format!("{listed:?}").contains("hunter2"));
    assert_eq!(listed.secrets[0].created_by, "spiffe://shoal.test/user/ann");
    let request = SetSecretRequest { name: "tls".into(), value: "x".into() };
    assert_eq!(deployer.set(request).await.unwrap_err().code(), Code::PermissionDenied);
    let mut operator = of("otto", "operator").await;
    let request = GenerateSecretRequest { name: "tls".into(), length: 0, if_absent: false };
    assert_eq!(operator.generate(request).await.unwrap().into_inner().version, 2);
    let request = RemoveSecretRequest { name: "tls".into() };
    assert_eq!(operator.remove(request).await.unwrap().into_inner().versions, 2);

    let audit = stand.controller().await.list_audit(ListAuditRequest::default()).await.unwrap();
    let entries = audit.into_inner().entries;
    assert!(!format!("{entries:?}").contains("hunter2"));
    let of_secrets = entries.iter().filter(|entry| entry.what.starts_with("Secrets/"));
    let said: Vec<_> =
        of_secrets.map(|e| format!("{} {} {}", e.what, e.target, e.detail)).collect();
    let wanted = [
        "Secrets/Remove tls 2 versions",
        "Secrets/Generate tls version 2, 32 characters",
        "Secrets/Set tls version 1",
    ];
    assert_eq!(said, wanted);
}

#[tokio::test]
async fn as_many_and_as_large_as_may_be_fit_a_message() {
    let stand = Stand::new().await;
    let web = stand.host("web-1").await;
    let part = "x".repeat(60);
    let names: Vec<String> =
        (0..121).map(|n| format!("{}{n:03}", format!("{part}/").repeat(7))).collect();
    let value = "v".repeat(64 << 10);
    for name in &names {
        set(&stand, name, &value).await;
    }
    let all: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    want(&stand, &web, wanted(1, &[&all])).await;
    let mut stream = web.connect(&stand).await;
    // A plan does not let it come to one more; were there one all the same, the rest is sent.
    let values = hear_values(&mut stream).await;
    assert_eq!(values.len(), 120);
    assert!(values.iter().all(|said| said.ends_with(&value)));
    assert_eq!(stream.hear_generation().await, 1);
}
