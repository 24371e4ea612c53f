//! The service `Secrets`: set, generate, list, remove.
//!
//! Values go in and are never given out here; the hosts whose instances name them get them over
//! their agents' streams ([`crate::link`]). Deliberately absent: rolling a new version out, which
//! the next apply of a fleet does.

mod random;
mod removal;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_core::name::{HostId, HostName};
use shoal_core::secret::{SecretName, SecretValue};
use shoal_core::time::Timestamp;
use shoal_proto::convert;
use shoal_proto::v1::store::SecretRecord;
use shoal_proto::v1::{
    GenerateSecretRequest, ListSecretsRequest, ListSecretsResponse, RemoveSecretRequest,
    RemoveSecretResponse, Secret, SecretUse, SetSecretRequest, SetSecretResponse, secrets_server,
};
use tonic::{Request, Response, Status, async_trait};

use crate::app::App;
use crate::refusal::Refusal;
use crate::secrets::users::Users;
use crate::secrets::{Making, Newest, Vault};
use crate::store::{Batch, CommitError, Records};
use crate::{access, audit, clock, inventory};

/// How often it is tried again where others change the same.
const ATTEMPTS: u32 = 8;

/// The service.
#[derive(Debug)]
pub struct SecretsApi {
    records: Records,
    vault: Arc<Vault>,
}

/// A value to keep, and what the audit log says of it.
struct Keeping<'a> {
    what: &'static str,
    value: &'a SecretValue,
    /// Characters, where it was generated.
    generated: Option<usize>,
}

impl SecretsApi {
    /// The service over a controller's parts.
    #[must_use]
    pub fn new(app: &App) -> Self {
        Self { records: app.records.clone(), vault: Arc::clone(&app.secrets) }
    }

    async fn set(
        &self,
        request: SetSecretRequest,
        who: &str,
        now: Timestamp,
    ) -> Result<SetSecretResponse, Refusal> {
        let SetSecretRequest { name, value } = request;
        let name: SecretName = convert::parse("name", &name)?;
        let value = SecretValue::new(value.to_vec())
            .map_err(|error| Refusal::Invalid(format!("secret {name}: {error}")))?;
        let keeping = Keeping { what: "Secrets/Set", value: &value, generated: None };
        for _ in 0..ATTEMPTS {
            let newest = Newest::load(&self.records, &name).await?;
            if let Some(version) = self.keep(&name, newest.as_ref(), &keeping, who, now).await? {
                return self.answer(&name, version, true).await;
            }
        }
        Err(contended(&name))
    }

    async fn generate(
        &self,
        request: GenerateSecretRequest,
        who: &str,
        now: Timestamp,
    ) -> Result<SetSecretResponse, Refusal> {
        let GenerateSecretRequest { name, length, if_absent } = request;
        let name: SecretName = convert::parse("name", &name)?;
        let length = random::length(length)?;
        let value = random::value(length);
        let keeping = Keeping { what: "Secrets/Generate", value: &value, generated: Some(length) };
        for _ in 0..ATTEMPTS {
            let newest = Newest::load(&self.records, &name).await?;
            let there = newest.as_ref().filter(|newest| if_absent && newest.record.is_some());
            if let Some(there) = there {
                return self.answer(&name, there.version(), false).await;
            }
            if let Some(version) = self.keep(&name, newest.as_ref(), &keeping, who, now).await? {
                return self.answer(&name, version, true).await;
            }
        }
        Err(contended(&name))
    }

    /// Keeps a value as the version after `newest`, with an audit entry; `None` where someone else
    /// was faster.
    async fn keep(
        &self,
        name: &SecretName,
        newest: Option<&Newest>,
        keeping: &Keeping<'_>,
        who: &str,
        now: Timestamp,
    ) -> Result<Option<u64>, Refusal> {
        let Keeping { what, value, generated } = keeping;
        let mut batch = Batch::new();
        let making = Making { who, now, generated: generated.is_some() };
        let version = self.vault.put(&mut batch, name, newest, value, making)?;
        let detail = match generated {
            Some(length) => format!("version {version}, {length} characters"),
            None => format!("version {version}"),
        };
        let (entry, record) = audit::entry(&who, what, &name.to_string(), &detail, now);
        batch.create(&entry, &record)?;
        match self.records.commit(batch).await {
            Ok(_) => Ok(Some(version)),
            Err(CommitError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn answer(
        &self,
        name: &SecretName,
        version: u64,
        changed: bool,
    ) -> Result<SetSecretResponse, Refusal> {
        let users = Users::load(&self.records).await?;
        let used_by = users.fleets(name).map(ToString::to_string).collect();
        Ok(SetSecretResponse { version, changed, used_by })
    }

    async fn list(&self) -> Result<ListSecretsResponse, Refusal> {
        let records = &self.records;
        let newest = Newest::all(records).await?;
        let users = Users::load(records).await?;
        let names = inventory::host_names(records).await?;
        let secrets = newest.iter().filter_map(|newest| view(newest, &users, &names)).collect();
        Ok(ListSecretsResponse { secrets })
    }
}

fn contended(name: &SecretName) -> Refusal {
    Refusal::Conflict(format!(
        "secret {name} is being changed or applied by others all the time; try again"
    ))
}

/// A secret as it is shown; `None` where it was removed.
fn view(newest: &Newest, users: &Users, names: &BTreeMap<HostId, HostName>) -> Option<Secret> {
    let SecretRecord { nonce: _, sealed: _, created_ms, created_by, generated } =
        newest.record.as_ref()?.record.clone();
    let used_by = users.instances(&newest.name).map(|(instance, host, version)| SecretUse {
        instance: instance.to_string(),
        host: shown(host, names),
        version: *version,
    });
    Some(Secret {
        name: newest.name.to_string(),
        version: newest.version(),
        created_ms,
        created_by,
        generated,
        used_by: used_by.collect(),
    })
}

/// A host's name; its id where it was removed.
fn shown(host: &HostId, names: &BTreeMap<HostId, HostName>) -> String {
    names.get(host).map_or(host.as_str(), HostName::as_str).to_owned()
}

#[async_trait]
impl secrets_server::Secrets for SecretsApi {
    async fn set(
        &self,
        request: Request<SetSecretRequest>,
    ) -> Result<Response<SetSecretResponse>, Status> {
        let who = access::caller(&request)?.to_string();
        Ok(Response::new(Self::set(self, request.into_inner(), &who, clock::now()).await?))
    }

    async fn generate(
        &self,
        request: Request<GenerateSecretRequest>,
    ) -> Result<Response<SetSecretResponse>, Status> {
        let who = access::caller(&request)?.to_string();
        Ok(Response::new(Self::generate(self, request.into_inner(), &who, clock::now()).await?))
    }

    async fn list(
        &self,
        _request: Request<ListSecretsRequest>,
    ) -> Result<Response<ListSecretsResponse>, Status> {
        Ok(Response::new(Self::list(self).await?))
    }

    async fn remove(
        &self,
        request: Request<RemoveSecretRequest>,
    ) -> Result<Response<RemoveSecretResponse>, Status> {
        let who = access::caller(&request)?.to_string();
        Ok(Response::new(Self::remove(self, request.into_inner(), &who, clock::now()).await?))
    }
}
