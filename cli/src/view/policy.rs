//! How a fleet is rolled out, in the words of the fleet file's `[rollout]`.

use serde::Serialize;
use shoal_core::rollout::{OnFailure, Policy, Promote};
use shoal_proto::convert::millis;

use super::plan::FieldView;
use crate::output::time::exact;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PolicyView {
    batches: Vec<String>,
    pub(crate) monitor_ms: u64,
    max_failures: u32,
    /// `rollback` or `pause`.
    on_failure: &'static str,
    batch_timeout_ms: u64,
    spread: Option<String>,
    /// `auto`, `canary` or `each`.
    promote: &'static str,
    windows: Vec<String>,
    stage_ahead: bool,
}

impl From<Policy> for PolicyView {
    fn from(policy: Policy) -> Self {
        let Policy {
            batches,
            monitor,
            max_failures,
            on_failure,
            batch_timeout,
            spread,
            promote,
            windows,
            stage_ahead,
        } = policy;
        Self {
            batches: batches.iter().map(ToString::to_string).collect(),
            monitor_ms: millis(monitor),
            max_failures,
            on_failure: match on_failure {
                OnFailure::Rollback => "rollback",
                OnFailure::Pause => "pause",
            },
            batch_timeout_ms: millis(batch_timeout),
            spread,
            promote: match promote {
                Promote::Auto => "auto",
                Promote::Canary => "canary",
                Promote::Each => "each",
            },
            windows: windows.iter().map(ToString::to_string).collect(),
            stage_ahead,
        }
    }
}

impl PolicyView {
    /// Each key of the fleet file and its value; `None` where it may be left out and is.
    fn fields(&self) -> [(&'static str, Option<String>); 9] {
        [
            ("batches", Some(self.batches.join(", "))),
            ("monitor", Some(exact(self.monitor_ms))),
            ("max-failures", Some(self.max_failures.to_string())),
            ("on-failure", Some(self.on_failure.to_owned())),
            ("batch-timeout", Some(exact(self.batch_timeout_ms))),
            ("spread", self.spread.clone()),
            ("promote", (self.promote != "auto").then(|| self.promote.to_owned())),
            ("windows", (!self.windows.is_empty()).then(|| self.windows.join("; "))),
            ("stage-ahead", self.stage_ahead.then(|| "true".to_owned())),
        ]
    }

    /// A line for each key.
    pub(crate) fn text(&self) -> String {
        let fields = self.fields().into_iter();
        let lines = fields.filter_map(|(key, value)| Some(format!("{key} {}", value?)));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// What becomes different from `before`.
    pub(crate) fn changes_from(&self, before: &Self) -> Vec<FieldView> {
        let both = before.fields().into_iter().zip(self.fields());
        both.filter(|((_, from), (_, to))| from != to)
            .map(|((key, from), (_, to))| FieldView { field: key.to_owned(), from, to })
            .collect()
    }
}
