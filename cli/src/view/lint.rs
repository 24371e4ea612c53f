//! What costs in an image.

use serde::Serialize;
use shoal_image::{Finding, Lint};

use crate::output::size::bytes;
use crate::output::text::{count, printable};

#[derive(Debug, Serialize)]
pub(crate) struct LintView {
    file: String,
    size_bytes: u64,
    findings: Vec<FindingView>,
}

#[derive(Debug, Serialize)]
struct FindingView {
    check: &'static str,
    what: String,
    /// What it costs, where that can be said.
    bytes: Option<u64>,
    remedy: &'static str,
    /// The first ones.
    paths: Vec<String>,
}

impl LintView {
    pub(crate) fn new(file: String, lint: Lint) -> Self {
        let Lint { size, findings } = lint;
        let findings = findings.into_iter().map(FindingView::from).collect();
        Self { file, size_bytes: size, findings }
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    pub(crate) fn text(&self) -> String {
        let Self { file, size_bytes, findings } = self;
        let size = bytes(*size_bytes);
        if findings.is_empty() {
            return format!("{file} ({size}): nothing found that makes it or its updates larger");
        }
        let mut lines: Vec<String> = findings.iter().map(FindingView::text).collect();
        let found = count(findings.len(), "finding");
        lines.push(format!("{file} ({size}): {found}"));
        lines.join("\n\n")
    }
}

impl From<Finding> for FindingView {
    fn from(finding: Finding) -> Self {
        let Finding { check, what, bytes, remedy, paths } = finding;
        Self { check, what, bytes, remedy, paths }
    }
}

impl FindingView {
    fn text(&self) -> String {
        let Self { check, what, bytes: cost, remedy, paths } = self;
        let cost = cost.map(|cost| format!(" ({})", bytes(cost))).unwrap_or_default();
        let mut text = format!("{check}{cost}: {what}");
        for path in paths {
            text.push_str("\n    ");
            text.push_str(&printable(path));
        }
        text.push_str("\n  mend: ");
        text.push_str(remedy);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_what_it_costs_and_what_mends_it() {
        let finding = Finding {
            check: "logs",
            what: "1 log files".into(),
            bytes: Some(2048),
            remedy: "rm",
            paths: vec!["/var/log/a\u{1b}".into()],
        };
        let view =
            LintView::new("a.squashfs".into(), Lint { size: 1 << 20, findings: vec![finding] });
        assert!(!view.is_clean());
        assert_eq!(
            view.text(),
            "logs (2.0 KiB): 1 log files\n    /var/log/a\u{fffd}\n  mend: rm\n\n\
             a.squashfs (1.0 MiB): 1 finding"
        );
    }
}
