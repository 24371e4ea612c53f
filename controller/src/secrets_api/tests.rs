use shoal_proto::v1::store::{AuditRecord, SecretHeadRecord};

use super::*;
use crate::fleets_api::tests_support::{ADA, Lab, NOON, fleet, request};
use crate::secrets::{KEY_FILE, record_id};

async fn api(lab: &Lab) -> SecretsApi {
    let vault = Vault::open(lab.dir.path(), lab.records.clone()).await.unwrap();
    SecretsApi { records: lab.records.clone(), vault: Arc::new(vault) }
}

impl SecretsApi {
    async fn set_text(&self, name: &str, text: &str) -> Result<SetSecretResponse, Refusal> {
        let value = text.as_bytes().to_vec().into();
        self.set(SetSecretRequest { name: name.into(), value }, ADA, NOON).await
    }

    async fn made(&self, name: &str, length: u32, if_absent: bool) -> (u64, bool) {
        let request = GenerateSecretRequest { name: name.into(), length, if_absent };
        let made = self.generate(request, ADA, NOON).await.unwrap();
        (made.version, made.changed)
    }

    async fn taken(&self, name: &str) -> Result<u64, Refusal> {
        let request = RemoveSecretRequest { name: name.into() };
        self.remove(request, ADA, NOON).await.map(|removed| removed.versions)
    }

    async fn read(&self, name: &str, version: u64) -> String {
        let secret = shoal_core::secret::PinnedSecret { name: name.parse().unwrap(), version };
        let value = self.vault.value(&secret).await.unwrap();
        String::from_utf8(value.reveal().to_vec()).unwrap()
    }
}

async fn audited(lab: &Lab) -> Vec<String> {
    let entries = lab.records.list::<AuditRecord>().await.unwrap().records.into_iter();
    let mut said: Vec<String> = entries
        .map(|entry| entry.record)
        .map(|entry| format!("{} {} {}", entry.what, entry.target, entry.detail))
        .collect();
    // All are of one moment.
    said.sort();
    said
}

/// A fleet on h1 and h2 whose instance names that secret.
fn shop(secret: &str) -> shoal_core::fleet::FleetSpec {
    let mut spec = fleet("shop", &[("main", "app:1", "role=web")]);
    let declared = spec.instances.values_mut().next().unwrap();
    declared.secrets.insert("password".parse().unwrap(), secret.parse().unwrap());
    spec
}

#[tokio::test]
async fn each_value_is_a_version_of_its_own_and_on_record() {
    let lab = Lab::new().await;
    let api = api(&lab).await;
    for (version, text) in [(1, "one"), (2, "two")] {
        let set = api.set_text("db/creator", text).await.unwrap();
        assert_eq!((set.version, set.changed, set.used_by), (version, true, vec![]));
    }
    assert_eq!(api.set_text("db", "other").await.unwrap().version, 1);
    let read = [api.read("db/creator", 1).await, api.read("db/creator", 2).await];
    assert_eq!(read, ["one", "two"]);
    assert_eq!(
        audited(&lab).await,
        [
            "Secrets/Set db version 1",
            "Secrets/Set db/creator version 1",
            "Secrets/Set db/creator version 2"
        ]
    );
}

#[tokio::test]
async fn the_store_never_sees_a_value() {
    let lab = Lab::new().await;
    let api = api(&lab).await;
    api.set_text("db", "hunter2-in-plain-text").await.unwrap();
    let key = std::fs::read(lab.dir.path().join(KEY_FILE)).unwrap();
    for file in std::fs::read_dir(lab.dir.path()).unwrap().map(|file| file.unwrap().path()) {
        if file.file_name().is_some_and(|name| name == KEY_FILE) {
            continue;
        }
        let bytes = std::fs::read(&file).unwrap();
        let holds = |wanted: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
        assert!(!holds(b"hunter2-in-plain-text") && !holds(&key), "{}", file.display());
    }
}

#[tokio::test]
async fn what_can_not_be_kept_is_refused() {
    let lab = Lab::new().await;
    let api = api(&lab).await;
    let long = ["x".repeat(63).as_str(); 8].join("/");
    for (name, text, wanted) in [
        ("db", "", "secret db: the value is empty"),
        ("db", &"x".repeat((64 << 10) + 1), "a secret may have 65536"),
        ("DB", "x", "contains 'D'"),
        (&long, "x", "a secret's name may have 483 bytes, and this one has 511"),
    ] {
        let error = api.set_text(name, text).await.unwrap_err();
        assert!(matches!(&error, Refusal::Invalid(text) if text.contains(wanted)), "{error}");
    }
    let request = GenerateSecretRequest { name: "db".into(), length: 7, if_absent: false };
    assert!(matches!(api.generate(request, ADA, NOON).await, Err(Refusal::Invalid(_))));
    assert_eq!(audited(&lab).await, [""; 0]);
    api.set_text(&"x".repeat(63), &"x".repeat(64 << 10)).await.unwrap();
}

#[tokio::test]
async fn a_generated_value_may_be_left_as_it_is() {
    let lab = Lab::new().await;
    let api = api(&lab).await;
    assert_eq!(api.made("db", 0, true).await, (1, true));
    let first = api.read("db", 1).await;
    assert_eq!(first.len(), 32);
    assert_eq!(api.made("db", 0, true).await, (1, false));
    assert_eq!(api.made("db", 100, false).await, (2, true));
    assert!(api.read("db", 2).await.len() == 100 && api.read("db", 1).await == first);
    assert_eq!(
        audited(&lab).await,
        [
            "Secrets/Generate db version 1, 32 characters",
            "Secrets/Generate db version 2, 100 characters"
        ]
    );
}

#[tokio::test]
async fn who_uses_a_secret_is_told() {
    let lab = Lab::new().await;
    let api = api(&lab).await;
    api.set_text("db", "one").await.unwrap();
    api.set_text("unused", "x").await.unwrap();
    lab.fleets().apply(request(&shop("db")), ADA, NOON).await.unwrap();
    lab.tell("shop", 1).await;
    assert_eq!(api.set_text("db", "two").await.unwrap().used_by, ["shop"]);
    // The driver has told nobody of it yet.
    lab.fleets().apply(request(&shop("db")), ADA, NOON).await.unwrap();
    let secrets = api.list().await.unwrap().secrets;
    let shown = |secret: &Secret| {
        let uses =
            secret.used_by.iter().map(|u| format!("{}@{} {}", u.instance, u.host, u.version));
        (secret.name.clone(), secret.version, uses.collect::<Vec<_>>())
    };
    let uses = ["shop/main@h1 1", "shop/main@h1 2", "shop/main@h2 1", "shop/main@h2 2"];
    assert_eq!(shown(&secrets[0]), ("db".into(), 2, uses.map(str::to_owned).to_vec()));
    assert_eq!(shown(&secrets[1]), ("unused".into(), 1, vec![]));
    let Secret { created_ms, created_by, generated, .. } = &secrets[0];
    assert_eq!((*created_ms, created_by.as_str(), *generated), (NOON.0, ADA, false));
}

#[tokio::test]
async fn what_is_in_use_stays() {
    let lab = Lab::new().await;
    let api = api(&lab).await;
    api.set_text("db", "one").await.unwrap();
    lab.fleets().apply(request(&shop("db")), ADA, NOON).await.unwrap();
    let refused = async || match api.taken("db").await {
        Err(Refusal::Precondition(text)) => text,
        other => panic!("{other:?}"),
    };
    let advice = "apply fleets without it first";
    assert_eq!(refused().await, format!("secret db is named by fleet shop; {advice}"));
    lab.tell("shop", 1).await;
    lab.apply("shop", &[("main", "app:1", "role=web")]).await.unwrap();
    let on = "shop/main@h1, shop/main@h2";
    assert_eq!(refused().await, format!("secret db is named by {on}; {advice}"));
    lab.tell("shop", 2).await;
    assert_eq!(api.taken("db").await.unwrap(), 1);
    let error = api.taken("db").await.unwrap_err();
    assert!(matches!(&error, Refusal::NotFound(_)), "{error}");
    api.set_text("dbs", "x").await.unwrap();
    let error = api.taken("db").await.unwrap_err().to_string();
    assert!(error.starts_with("there is no secret db (did you mean dbs?);"), "{error}");
}

/// Hosts and revisions know a value by its version alone.
#[tokio::test]
async fn a_version_is_never_given_twice() {
    let lab = Lab::new().await;
    let api = api(&lab).await;
    for _ in 0..230 {
        api.set_text("db", "x").await.unwrap();
    }
    api.set_text("db/creator", "y").await.unwrap();
    assert_eq!(api.taken("db").await.unwrap(), 230);
    let left: Vec<_> = lab.records.list::<SecretRecord>().await.unwrap().records;
    assert_eq!(
        left.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(),
        [record_id(&"db/creator".parse().unwrap(), 1).unwrap()]
    );
    let removals: Vec<_> =
        audited(&lab).await.into_iter().filter(|said| said.contains("Remove")).collect();
    let counts = ["100 versions", "100 versions", "30 versions"];
    assert_eq!(removals, counts.map(|count| format!("Secrets/Remove db {count}")));
    assert_eq!(api.list().await.unwrap().secrets.len(), 1);
    assert_eq!(api.made("db", 0, true).await, (231, true), "what was removed is absent");
}

#[tokio::test]
async fn a_fleet_that_is_applied_meanwhile_keeps_its_secret() {
    let lab = Lab::new().await;
    let api = api(&lab).await;
    api.set_text("db", "one").await.unwrap();
    let stale = Newest::load(&lab.records, &"db".parse().unwrap()).await.unwrap().unwrap();
    lab.fleets().apply(request(&shop("db")), ADA, NOON).await.unwrap();
    let versions = api.versions(&stale).await.unwrap();
    let batch = removal::batch(&stale, &versions, ADA, NOON).unwrap();
    let outcome = lab.records.commit(batch).await;
    assert!(matches!(outcome, Err(CommitError::Conflict { .. })), "{outcome:?}");
}

#[tokio::test]
async fn without_its_key_only_secrets_stand_still() {
    let lab = Lab::new().await;
    api(&lab).await.set_text("db", "one").await.unwrap();
    std::fs::remove_file(lab.dir.path().join(KEY_FILE)).unwrap();
    let api = api(&lab).await;
    let error = api.set_text("db", "two").await.unwrap_err();
    assert!(matches!(&error, Refusal::Precondition(_)), "{error}");
    let wanted = "secrets can't be used: ";
    assert!(error.to_string().starts_with(wanted), "{error}");
    assert!(error.to_string().contains("secrets.key, the key of the secrets, is not there"));
    assert_eq!(api.made("db", 0, true).await, (1, false));
    assert_eq!(api.list().await.unwrap().secrets.len(), 1);
    assert!(lab.fleets().apply(request(&shop("db")), ADA, NOON).await.is_ok());
    assert_eq!(lab.records.list::<SecretHeadRecord>().await.unwrap().records.len(), 1);
}
