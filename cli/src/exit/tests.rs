use std::collections::BTreeSet;

use tonic::Code;

use super::*;
use crate::context::ContextError;

const DOC: &str = include_str!("../../../docs/exit-codes.md");

#[test]
fn codes_are_distinct_and_documented() {
    let codes: BTreeSet<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
    assert_eq!(codes.len(), Exit::ALL.len());
    for exit in Exit::ALL {
        assert!(DOC.contains(&format!("| {} |", exit.code())), "{exit:?} is not documented");
    }
    assert_eq!(Exit::Command(42).code(), 42);
}

/// Scripts depend on these: a number may be added, never changed.
#[test]
fn codes_are_stable() {
    insta::assert_snapshot!(help());
}

#[test]
fn refusals_have_their_codes() {
    let table = [
        (Code::InvalidArgument, 2),
        (Code::OutOfRange, 2),
        (Code::DeadlineExceeded, 6),
        (Code::Aborted, 7),
        (Code::AlreadyExists, 7),
        (Code::PermissionDenied, 9),
        (Code::Unauthenticated, 9),
        (Code::NotFound, 10),
        (Code::FailedPrecondition, 11),
        (Code::ResourceExhausted, 11),
        (Code::Unavailable, 12),
        (Code::Internal, 70),
        (Code::DataLoss, 70),
        (Code::Unimplemented, 70),
    ];
    for (code, expected) in table {
        assert_eq!(status(code).code(), expected, "{code:?}");
        // `plan` means changes by 1.
        assert!(status(code).code() > 1);
    }
}

#[test]
fn a_failure_of_exec_itself_is_told_from_the_commands() {
    let inner = Failure::from(ContextError::NoHome);
    assert_eq!(inner.exit(), Exit::Usage);
    let failure = Failure::Exec(Box::new(inner));
    assert_eq!(failure.exit(), Exit::ExecFailed);
    let report = failure.report().unwrap();
    assert!(report.starts_with("error: there is no home directory"), "{report}");
}

#[test]
fn a_reader_that_went_away_is_no_news() {
    let gone = || Failure::from(OutputError::Write(std::io::ErrorKind::BrokenPipe.into()));
    assert_eq!((gone().exit(), gone().report()), (Exit::ReaderGone, None));
    assert_eq!(Failure::Exec(Box::new(gone())).exit(), Exit::ReaderGone);
}

#[test]
fn causes_are_told_once() {
    let source = std::io::Error::other("the disk is on fire");
    let failure = Failure::from(ContextError::Read { path: "/x".into(), source });
    let report = failure.report().unwrap();
    assert_eq!(report, "error: cannot read the file of contexts /x: the disk is on fire");
}
