//! Join tokens without their secrets.

use std::collections::BTreeMap;

use serde::Serialize;
use shoal_core::time::Timestamp;
use shoal_proto::v1;

use crate::output::table::{Cell, Table, Tone};
use crate::output::time::At;
use crate::view::audit::short_identity;

#[derive(Debug, Serialize)]
pub(crate) struct TokensView {
    tokens: Vec<TokenView>,
}

#[derive(Debug, Serialize)]
struct TokenView {
    id: String,
    /// Only a host of this name may use it.
    host: Option<String>,
    labels: BTreeMap<String, String>,
    created_by: String,
    expires: At,
    /// The host that joined with it.
    used_by: Option<String>,
    expired: bool,
}

impl TokensView {
    pub(crate) fn read(tokens: Vec<v1::Token>, now: Timestamp) -> Self {
        let view = |wire| {
            let v1::Token { id, expires_ms, host_name: host, labels, created_by, used_by } = wire;
            let (labels, expires) = (labels.into_iter().collect(), At::new(expires_ms));
            let expired = expires_ms <= now.0;
            TokenView { id, host, labels, created_by, expires, used_by, expired }
        };
        Self { tokens: tokens.into_iter().map(view).collect() }
    }

    pub(crate) fn table(&self, now: Timestamp, color: bool) -> String {
        let header = &["TOKEN", "STATUS", "EXPIRES", "HOST", "LABELS", "MADE BY"];
        let mut table = Table::new(header);
        for token in &self.tokens {
            let labels: Vec<String> =
                token.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            table.row(vec![
                (&token.id).into(),
                token.status(),
                token.expires.relative(now).into(),
                token.host.as_deref().unwrap_or("any").into(),
                labels.join(",").into(),
                short_identity(&token.created_by).into(),
            ]);
        }
        table.render(color, "No join tokens. `shoal host token create` makes one.")
    }
}

impl TokenView {
    fn status(&self) -> Cell {
        match (&self.used_by, self.expired) {
            (Some(host), _) => Cell::toned(format!("used by {host}"), Tone::Plain),
            (None, true) => Cell::toned("expired", Tone::Faint),
            (None, false) => Cell::toned("usable", Tone::Good),
        }
    }
}
