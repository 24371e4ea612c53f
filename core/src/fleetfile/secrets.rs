//! `[instance.NAME.secrets]`: systemd credentials of the instance, and the secrets they are.

use std::collections::BTreeMap;

use crate::name::CredentialName;
use crate::secret::SecretName;

use super::report::Report;
use super::table::Section;

/// Reads the table.
pub(super) fn read(
    section: &Section<'_>,
    report: &mut Report<'_>,
) -> BTreeMap<CredentialName, SecretName> {
    let mut secrets = BTreeMap::new();
    for item in section.entries() {
        let name: Option<CredentialName> = item.named(report);
        let secret = item.parsed("\"db/creator\"", report);
        secrets.extend(name.zip(secret));
    }
    secrets
}
