//! Why a call was not carried out. The only place that knows which `tonic::Code` says so.

use shoal_core::cause::chain;
use tonic::{Code, Status};

use crate::secrets::SecretError;
use crate::store::{CommitError, RecordError, StoreError};

/// Why a call was not carried out. The text is for the caller: what failed, why, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request can't be right, whenever it is made.
    #[error("{0}")]
    Invalid(String),
    /// What it names is not there.
    #[error("{0}")]
    NotFound(String),
    /// What it would make is there already.
    #[error("{0}")]
    AlreadyExists(String),
    /// It can't be done as things stand.
    #[error("{0}")]
    Precondition(String),
    /// Someone else was faster; reading again and repeating may help.
    #[error("{0}")]
    Conflict(String),
    /// No proof of who asks.
    #[error("{0}")]
    Unauthenticated(String),
    /// Who asks may not.
    #[error("{0}")]
    Denied(String),
    /// A host that is needed is not there at the moment.
    #[error("{0}")]
    Unavailable(String),
    /// It took too long.
    #[error("{0}")]
    TimedOut(String),
    /// There is no room.
    #[error("{0}")]
    Exhausted(String),
    /// What arrived is not what was announced.
    #[error("{0}")]
    DataLoss(String),
    /// A fault of the controller's own.
    #[error("the controller failed: {0}")]
    Internal(String),
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Invalid(_) => Code::InvalidArgument,
            Refusal::NotFound(_) => Code::NotFound,
            Refusal::AlreadyExists(_) => Code::AlreadyExists,
            Refusal::Precondition(_) => Code::FailedPrecondition,
            Refusal::Conflict(_) => Code::Aborted,
            Refusal::Unauthenticated(_) => Code::Unauthenticated,
            Refusal::Denied(_) => Code::PermissionDenied,
            Refusal::Unavailable(_) => Code::Unavailable,
            Refusal::TimedOut(_) => Code::DeadlineExceeded,
            Refusal::Exhausted(_) => Code::ResourceExhausted,
            Refusal::DataLoss(_) => Code::DataLoss,
            Refusal::Internal(_) => Code::Internal,
        };
        Status::new(code, refusal.to_string())
    }
}

impl From<shoal_proto::convert::Invalid> for Refusal {
    fn from(error: shoal_proto::convert::Invalid) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Internal(chain(&error))
    }
}

impl From<RecordError> for Refusal {
    fn from(error: RecordError) -> Self {
        Self::Internal(chain(&error))
    }
}

impl From<SecretError> for Refusal {
    fn from(error: SecretError) -> Self {
        match error {
            SecretError::Key(_) | SecretError::Sealed { .. } => Self::Precondition(chain(&error)),
            SecretError::Gone(_) => Self::NotFound(chain(&error)),
            SecretError::Name(_) => Self::Invalid(chain(&error)),
            SecretError::Store(error) => error.into(),
        }
    }
}

impl From<CommitError> for Refusal {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict { .. } => {
                Self::Conflict("someone else changed the same at the same time; try again".into())
            }
            other => Self::Internal(chain(&other)),
        }
    }
}
