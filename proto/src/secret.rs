//! Messages with secret values, as logs and panics show them: without.

use std::fmt;

use crate::v1;

impl fmt::Debug for v1::SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretValue").field("secret", &self.secret).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::SetSecretRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetSecretRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_never_shown() {
        let value = v1::SecretValue { secret: None, value: b"hunter2".to_vec().into() };
        let message = v1::ControllerMessage {
            message: Some(v1::controller_message::Message::Secrets(v1::SecretValues {
                values: vec![value],
            })),
        };
        let set = v1::SetSecretRequest { name: "db".into(), value: b"hunter2".to_vec().into() };
        for shown in [format!("{message:?}"), format!("{set:#?}")] {
            assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
        }
    }
}
