//! The values of the secrets that a host's desired state names, for that host alone.
//!
//! A value that can't be had is left out, and the agent waits for it: that holds up the instances
//! that need it, and no other.

use std::collections::BTreeSet;

use shoal_core::cause::chain;
use shoal_core::name::HostId;
use shoal_core::secret::{LARGEST_SECRET, PinnedSecret};
use shoal_proto::LARGEST_MESSAGE;
use shoal_proto::v1::{ControllerMessage, HostSpec, SecretValue, SecretValues, controller_message};

use crate::refusal::Refusal;
use crate::secrets::{LONGEST_NAME, SecretError, Vault};

/// Bytes around a value and its name in a message, at most.
const AROUND: usize = 64;

/// Secrets that one host may need: their values go in one message.
pub(crate) const MOST_SECRETS: usize = 120;
const _: () = assert!(MOST_SECRETS * (LARGEST_SECRET + LONGEST_NAME + AROUND) < LARGEST_MESSAGE);

/// The message with them; `None` where there is none to send.
///
/// # Errors
/// The store fails.
pub(super) async fn of(
    vault: &Vault,
    host: &HostId,
    spec: &HostSpec,
) -> Result<Option<ControllerMessage>, Refusal> {
    let mut values = Vec::new();
    for secret in named(host, spec) {
        if values.len() == MOST_SECRETS {
            tracing::error!(%host, %secret, "a secret is not sent: the host needs too many");
            continue;
        }
        match vault.value(&secret).await {
            Ok(value) => values.push(SecretValue {
                secret: Some(secret.into()),
                value: value.reveal().to_vec().into(),
            }),
            Err(SecretError::Store(error)) => return Err(error.into()),
            Err(error) => {
                let error = chain(&error);
                tracing::error!(%host, %secret, error, "a secret is not sent");
            }
        }
    }
    if values.is_empty() {
        return Ok(None);
    }
    let message = controller_message::Message::Secrets(SecretValues { values });
    Ok(Some(ControllerMessage { message: Some(message) }))
}

/// Those that the desired state names.
fn named(host: &HostId, spec: &HostSpec) -> BTreeSet<PinnedSecret> {
    let settings = spec.instances.iter().filter_map(|i| i.config.as_ref()?.settings.as_ref());
    let secrets = settings.flat_map(|settings| settings.secrets.values().cloned());
    let read = |secret| {
        let read = PinnedSecret::try_from(secret);
        read.inspect_err(|error| tracing::error!(%host, %error, "a secret's name is unreadable"))
    };
    secrets.filter_map(|secret| read(secret).ok()).collect()
}
