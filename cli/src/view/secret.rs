//! Secrets, as far as anyone may see them.

use std::collections::BTreeMap;

use serde::Serialize;
use shoal_core::secret::SecretName;
use shoal_core::time::Timestamp;
use shoal_proto::convert::{Invalid, parse};
use shoal_proto::v1;

use super::audit::short_identity;
use crate::output::table::Table;
use crate::output::time::At;

/// Instances that a table names of each secret.
const NAMED: usize = 3;

#[derive(Debug, Serialize)]
pub(crate) struct SecretsView {
    secrets: Vec<SecretView>,
}

#[derive(Debug, Serialize)]
struct SecretView {
    name: String,
    version: u64,
    created: At,
    created_by: String,
    generated: bool,
    used_by: Vec<UseView>,
}

#[derive(Debug, Serialize)]
struct UseView {
    instance: String,
    host: String,
    version: u64,
}

impl SecretsView {
    pub(crate) fn read(secrets: Vec<v1::Secret>) -> Result<Self, Invalid> {
        let secrets: Result<_, _> = secrets.into_iter().map(SecretView::try_from).collect();
        Ok(Self { secrets: secrets? })
    }

    pub(crate) fn table(&self, now: Timestamp, color: bool) -> String {
        let header = &["NAME", "VERSION", "CREATED", "BY", "GENERATED", "USED BY"];
        let mut table = Table::new(header);
        for secret in &self.secrets {
            let SecretView { name, version, created, created_by, generated, used_by: _ } = secret;
            table.row(vec![
                name.into(),
                version.into(),
                created.ago(now).into(),
                short_identity(created_by).into(),
                if *generated { "yes" } else { "no" }.into(),
                secret.users().into(),
            ]);
        }
        table.render(color, "No secrets. `shoal secret set NAME` keeps one.")
    }
}

impl TryFrom<v1::Secret> for SecretView {
    type Error = Invalid;

    fn try_from(wire: v1::Secret) -> Result<Self, Invalid> {
        let v1::Secret { name, version, created_ms, created_by, generated, used_by } = wire;
        let used_by = used_by.into_iter().map(|used| {
            let v1::SecretUse { instance, host, version } = used;
            UseView { instance, host, version }
        });
        Ok(Self {
            name: parse::<SecretName>("name", &name)?.to_string(),
            version,
            created: At::new(created_ms),
            created_by,
            generated,
            used_by: used_by.collect(),
        })
    }
}

impl SecretView {
    /// `shop/main, shop/db (version 1)`: each once, with the version where that is an older one.
    fn users(&self) -> String {
        let mut oldest: BTreeMap<&str, u64> = BTreeMap::new();
        for UseView { instance, host: _, version } in &self.used_by {
            let known = oldest.entry(instance).or_insert(*version);
            *known = (*known).min(*version);
        }
        let more = oldest.len().saturating_sub(NAMED);
        let shown = oldest.into_iter().take(NAMED).map(|(instance, version)| {
            let newest = version == self.version;
            if newest { instance.to_owned() } else { format!("{instance} (version {version})") }
        });
        let shown = shown.collect::<Vec<_>>().join(", ");
        if more == 0 { shown } else { format!("{shown} and {more} more") }
    }
}

/// What became of a secret that was to be kept.
#[derive(Debug, Serialize)]
pub(crate) struct KeptView {
    name: String,
    version: u64,
    /// Whether this made the version.
    changed: bool,
    /// Fleets.
    used_by: Vec<String>,
}

impl KeptView {
    pub(crate) fn read(name: &SecretName, wire: v1::SetSecretResponse) -> Result<Self, Invalid> {
        let v1::SetSecretResponse { version, changed, used_by } = wire;
        if version == 0 {
            return Err(Invalid::Missing("version"));
        }
        Ok(Self { name: name.to_string(), version, changed, used_by })
    }

    pub(crate) fn text(&self) -> String {
        let Self { name, version, changed, used_by: _ } = self;
        if *changed {
            format!("{name} is at version {version}")
        } else {
            format!("{name} was there, and stays at version {version}")
        }
    }

    /// What is left to do.
    pub(crate) fn next(&self) -> Option<String> {
        if !self.changed {
            return None;
        }
        Some(match self.used_by.as_slice() {
            [] => "no fleet uses it yet".to_owned(),
            [fleet] => format!("fleet {fleet} uses it, and gets this version by `shoal apply`"),
            fleets => format!(
                "fleets {} use it, and each gets this version by `shoal apply`",
                fleets.join(", ")
            ),
        })
    }
}
