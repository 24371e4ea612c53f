//! Join tokens: made, listed without their secrets, and revoked.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_core::name::HostName;
use shoal_core::time::Timestamp;
use shoal_proto::v1::store::{HostNameRecord, HostRecord, TokenRecord};
use shoal_proto::v1::{CreateTokenRequest, CreateTokenResponse, ListTokensResponse, Token};
use shoal_tls::JoinToken;

use super::{checked, parse_name};
use crate::access::Caller;
use crate::app::App;
use crate::refusal::Refusal;
use crate::store::{Batch, Records, Stored};
use crate::{audit, clock, inventory};

/// How long a join token is good where nothing is said.
const DEFAULT_TTL: Duration = Duration::from_secs(15 * 60);
/// The longest that one can be.
const LONGEST_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Makes one. The answer is the only time that its secret is told.
pub(super) async fn create(
    app: &App,
    caller: &Caller,
    request: CreateTokenRequest,
) -> Result<CreateTokenResponse, Refusal> {
    let CreateTokenRequest { host_name, labels, ttl_ms } = request;
    let labels = checked(labels)?;
    let life = lifetime(ttl_ms)?;
    if let Some(name) = &host_name {
        must_be_free(&app.records, name).await?;
    }
    let token = JoinToken::generate(app.authority.ca().spki_sha256())
        .map_err(|error| Refusal::Internal(error.to_string()))?;
    let now = clock::now();
    let expires_ms = now.after(life).0;
    let detail = format!(
        "for {}, good for {} s",
        host_name.as_deref().unwrap_or("any host"),
        life.as_secs()
    );
    let record = TokenRecord {
        secret_sha256: token.secret_hash().to_vec().into(),
        expires_ms,
        host_name,
        labels,
        created_by: caller.to_string(),
        used: None,
    };
    let (id, entry) = audit::entry(caller, "Hosts/CreateToken", token.id(), &detail, now);
    let mut batch = Batch::new();
    batch.create(token.id(), &record)?.create(&id, &entry)?;
    app.records.commit(batch).await?;
    let enrol_port = app.config.enrol_listen.port().into();
    Ok(CreateTokenResponse { token: token.to_string(), expires_ms, enrol_port })
}

async fn must_be_free(records: &Records, name: &str) -> Result<(), Refusal> {
    let name: HostName = parse_name(name)?;
    match records.get::<HostNameRecord>(name.as_str()).await? {
        None => Ok(()),
        Some(_) => Err(Refusal::AlreadyExists(format!(
            "host {name} is enrolled already; `shoal host show {name}` shows it"
        ))),
    }
}

fn lifetime(ttl_ms: u64) -> Result<Duration, Refusal> {
    let life = if ttl_ms == 0 { DEFAULT_TTL } else { Duration::from_millis(ttl_ms) };
    if life > LONGEST_TTL {
        return Err(Refusal::Invalid(format!(
            "a join token can be good for 7 days at most, not {} h; make it when it is needed",
            life.as_secs() / 3600
        )));
    }
    Ok(life)
}

/// Those that can be used at `now`, or `all`; the ones that end first are first.
pub(super) async fn list(
    records: &Records,
    all: bool,
    now: Timestamp,
) -> Result<ListTokensResponse, Refusal> {
    let hosts = records.list::<HostRecord>().await?.records.into_iter();
    let names: BTreeMap<String, String> =
        hosts.map(|stored| (stored.id, stored.record.name)).collect();
    let tokens = records.list::<TokenRecord>().await?.records.into_iter();
    let usable = |token: &TokenRecord| token.used.is_none() && token.expires_ms > now.0;
    let tokens = tokens.filter(|stored| all || usable(&stored.record));
    let mut tokens: Vec<Token> = tokens.map(|stored| wire(stored, &names)).collect();
    tokens.sort_by(|a, b| (a.expires_ms, &a.id).cmp(&(b.expires_ms, &b.id)));
    Ok(ListTokensResponse { tokens })
}

fn wire(stored: Stored<TokenRecord>, names: &BTreeMap<String, String>) -> Token {
    let Stored { id, record, .. } = stored;
    let TokenRecord { secret_sha256: _, expires_ms, host_name, labels, created_by, used } = record;
    let used_by = used.map(|used| names.get(&used.host_id).cloned().unwrap_or(used.host_id));
    Token { id, expires_ms, host_name, labels, created_by, used_by }
}

/// Makes a token worthless.
pub(super) async fn revoke(
    records: &Records,
    caller: &impl std::fmt::Display,
    id: &str,
    now: Timestamp,
) -> Result<(), Refusal> {
    let is_plain = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric());
    let stored = if is_plain { records.get::<TokenRecord>(id).await? } else { None };
    let Some(stored) = stored else { return Err(unknown(records, id).await?) };
    if let Some(used) = &stored.record.used {
        let host = records.get::<HostRecord>(&used.host_id).await?;
        let host = host.map_or_else(|| used.host_id.clone(), |host| host.record.name);
        return Err(Refusal::Precondition(format!(
            "host {host} has joined with token {id}, which is good for nothing any more; to keep \
             the host out, `shoal host remove {host}`"
        )));
    }
    let (entry, record) = audit::entry(caller, "Hosts/RevokeToken", id, "", now);
    let mut batch = Batch::new();
    batch.remove(&stored)?.create(&entry, &record)?;
    records.commit(batch).await?;
    Ok(())
}

async fn unknown(records: &Records, id: &str) -> Result<Refusal, Refusal> {
    let known = records.list::<TokenRecord>().await?.records;
    let meant = inventory::meant(id, known.iter().map(|token| token.id.as_str()));
    let id: String = id.chars().filter(|c| !c.is_control()).take(64).collect();
    Ok(Refusal::NotFound(format!(
        "there is no join token with the id {id:?}{meant}; `shoal host token list` shows them"
    )))
}
