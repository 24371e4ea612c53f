use super::*;

fn address() -> Address {
    "c1:7443".parse().unwrap()
}

#[derive(Debug, thiserror::Error)]
#[error("transport error")]
struct Transport(#[source] std::io::Error);

fn broken() -> Status {
    Status::from_error(Box::new(Transport(std::io::ErrorKind::ConnectionReset.into())))
}

#[test]
fn the_controllers_own_words_are_passed_on() {
    let status = Status::failed_precondition("shop:1 is used by shop/main@h1");
    let error =
        describe("remove image shop:1".into(), address(), Answerer::Controller, &status, None);
    assert_eq!(error.to_string(), "cannot remove image shop:1: shop:1 is used by shop/main@h1");
}

#[test]
fn what_the_controller_cant_know_is_added() {
    let old = describe(
        "x".into(),
        address(),
        Answerer::Controller,
        &Status::unimplemented("no such method"),
        None,
    );
    assert!(old.to_string().contains("shoal version"), "{old}");
    let silent = describe("x".into(), address(), Answerer::Controller, &Status::internal(""), None);
    assert!(silent.to_string().contains("no reason") && silent.to_string().contains("journal"));
}

#[test]
fn a_broken_connection_is_not_a_refusal() {
    let error = describe("list hosts".into(), address(), Answerer::Controller, &broken(), None);
    assert!(error.is_lost(), "{error}");
    assert!(error.to_string().contains("c1:7443"), "{error}");
}

#[test]
fn what_tls_said_explains_a_broken_connection() {
    let fault = Some(HandshakeProblem::OwnExpired);
    let error =
        describe("list hosts".into(), address(), Answerer::Controller, &broken(), fault.clone());
    assert!(matches!(error, RemoteError::Certificate { .. }), "{error}");
    // An earlier fault says nothing about an answer that came.
    let refused =
        describe("x".into(), address(), Answerer::Controller, &Status::not_found("no"), fault);
    assert!(matches!(refused, RemoteError::Refused { code: Code::NotFound, .. }));
}

#[test]
fn conflicts_are_known() {
    assert!(
        describe("x".into(), address(), Answerer::Controller, &Status::aborted("y"), None)
            .is_conflict()
    );
    assert!(
        !describe("x".into(), address(), Answerer::Controller, &Status::internal("y"), None)
            .is_conflict()
    );
}

#[test]
fn who_is_not_there_depends_on_who_was_asked() {
    let status = Status::unavailable("not there");
    let away = describe("list hosts".into(), address(), Answerer::Controller, &status, None);
    assert!(matches!(away, RemoteError::Away { .. }) && away.is_lost(), "{away}");
    let offline = describe("run it".into(), address(), Answerer::Host, &status, None);
    assert!(matches!(offline, RemoteError::Refused { code: Code::Unavailable, .. }), "{offline}");
    assert!(!offline.is_lost());
}
