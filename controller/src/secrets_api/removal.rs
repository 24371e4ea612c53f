//! Taking a secret away with all its versions, unless that would take it from someone.

use shoal_core::secret::SecretName;
use shoal_core::time::Timestamp;
use shoal_proto::convert;
use shoal_proto::v1::store::{SecretHeadRecord, SecretRecord};
use shoal_proto::v1::{RemoveSecretRequest, RemoveSecretResponse};

use super::{ATTEMPTS, SecretsApi, contended, shown};
use crate::refusal::Refusal;
use crate::secrets::users::Users;
use crate::secrets::{Newest, record_id};
use crate::store::{Batch, CommitError, Stored};
use crate::{audit, inventory};

/// How many users of a secret a refusal names.
const NAMED_USERS: usize = 5;
/// Versions that go in one transaction.
const AT_ONCE: usize = 100;

impl SecretsApi {
    pub(super) async fn remove(
        &self,
        request: RemoveSecretRequest,
        who: &str,
        now: Timestamp,
    ) -> Result<RemoveSecretResponse, Refusal> {
        let RemoveSecretRequest { name } = request;
        let name: SecretName = convert::parse("name", &name)?;
        let (mut removed, mut attempts) = (0, 0..ATTEMPTS);
        loop {
            let newest = Newest::load(&self.records, &name).await?;
            let newest = newest.filter(|newest| newest.record.is_some());
            let Some(newest) = newest else { return Err(self.unknown(&name).await?) };
            // After the head was read, so that a use which comes later fails the removal.
            self.check_unused(&name).await?;
            let versions = self.versions(&newest).await?;
            // The newest goes last: until then the secret is there, and removing can go on.
            let going = &versions[versions.len().saturating_sub(AT_ONCE)..];
            match self.records.commit(batch(&newest, going, who, now)?).await {
                Ok(_) => removed += u64::try_from(going.len()).unwrap_or(u64::MAX),
                Err(CommitError::Conflict { .. }) if attempts.next().is_some() => continue,
                Err(CommitError::Conflict { .. }) => return Err(contended(&name)),
                Err(error) => return Err(error.into()),
            }
            if going.len() == versions.len() {
                return Ok(RemoveSecretResponse { versions: removed });
            }
        }
    }

    /// The versions that are there, newest first.
    pub(super) async fn versions(
        &self,
        newest: &Newest,
    ) -> Result<Vec<Stored<SecretRecord>>, Refusal> {
        let mut versions = Vec::new();
        for version in (1..=newest.version()).rev() {
            let id = record_id(&newest.name, version)?;
            let Some(stored) = self.records.get::<SecretRecord>(&id).await? else { break };
            // Its value is of no use here, and there may be many.
            let record = SecretRecord::default();
            versions.push(Stored { record, ..stored });
        }
        Ok(versions)
    }

    async fn check_unused(&self, name: &SecretName) -> Result<(), Refusal> {
        let users = Users::load(&self.records).await?;
        let names = inventory::host_names(&self.records).await?;
        let fleets = users.fleets(name).map(|fleet| format!("fleet {fleet}"));
        let told = users.told(name).map(|(id, host, _)| format!("{id}@{}", shown(host, &names)));
        let users: Vec<String> = fleets.chain(told).collect();
        if users.is_empty() { Ok(()) } else { Err(Refusal::Precondition(in_use(name, &users))) }
    }

    async fn unknown(&self, name: &SecretName) -> Result<Refusal, Refusal> {
        let known = Newest::all(&self.records).await?;
        let known: Vec<String> = known.iter().map(|newest| newest.name.to_string()).collect();
        let meant = inventory::meant(&name.to_string(), known.iter().map(String::as_str));
        Ok(Refusal::NotFound(format!(
            "there is no secret {name}{meant}; `shoal secret list` shows the secrets"
        )))
    }
}

fn in_use(name: &SecretName, users: &[String]) -> String {
    let named = users.iter().take(NAMED_USERS).cloned().collect::<Vec<_>>().join(", ");
    let more = match users.len().saturating_sub(NAMED_USERS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("secret {name} is named by {named}{more}; apply fleets without it first")
}

pub(super) fn batch(
    newest: &Newest,
    going: &[Stored<SecretRecord>],
    who: &str,
    now: Timestamp,
) -> Result<Batch, Refusal> {
    let mut batch = Batch::new();
    // It stays, and is written again as it is: whoever is applying a fleet with the secret at this
    // moment then fails.
    let head = SecretHeadRecord { version: newest.version() };
    batch.replace(&newest.head, &head)?;
    for stored in going {
        batch.remove(stored)?;
    }
    let detail = match going.len() {
        1 => "1 version".to_owned(),
        several => format!("{several} versions"),
    };
    let target = newest.name.to_string();
    let (entry, record) = audit::entry(&who, "Secrets/Remove", &target, &detail, now);
    batch.create(&entry, &record)?;
    Ok(batch)
}
