use rcgen::KeyPair;
use x509_parser::extensions::GeneralName;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_800_000_000_123)
}

fn ca() -> Ca {
    Ca::generate(&"shoal.test".parse().unwrap(), now(), 365 * DAY).unwrap()
}

fn identity(path: &str) -> Identity {
    format!("spiffe://shoal.test/{path}").parse().unwrap()
}

#[test]
fn the_pair_survives_the_round_trip() {
    let ca = ca();
    let again = Ca::from_pem(ca.cert_pem(), &ca.key_pem()).unwrap();
    assert_eq!(again.spki_sha256(), ca.spki_sha256());
    assert_eq!(again.trust_domain().as_str(), "shoal.test");
    assert_eq!(again.not_after(), UNIX_EPOCH + Duration::from_secs(1_800_000_000) + 365 * DAY);
    let key = LeafKey::generate().unwrap();
    let csr = key.csr_der().unwrap();
    let issued = again.issue(&csr, &identity("agent/h1"), now(), DAY).unwrap();
    assert_eq!(issued.info.spki_sha256, key.spki_sha256());
}

#[test]
fn halves_of_two_cas_are_refused() {
    let (a, b) = (ca(), ca());
    assert!(matches!(Ca::from_pem(a.cert_pem(), &b.key_pem()), Err(CaError::KeyMismatch)));
    assert!(matches!(Ca::from_pem("", &b.key_pem()), Err(CaError::BadCertificate { .. })));
    assert!(matches!(Ca::from_pem(a.cert_pem(), ""), Err(CaError::BadKey(_))));
}

#[test]
fn a_leaf_is_no_ca() {
    let server =
        ca().issue_server(&identity("controller/c"), &["localhost".into()], now(), DAY).unwrap();
    let refused = Ca::from_pem(&server.certificate.chain_pem, &server.key.to_pem());
    assert!(matches!(refused, Err(CaError::BadCertificate { why: "it is not a CA's" })));
}

#[test]
fn dates_are_backdated_and_end_with_the_ca() {
    let ca = ca();
    let csr = LeafKey::generate().unwrap().csr_der().unwrap();
    let second = UNIX_EPOCH + Duration::from_secs(1_800_000_000);

    let day = ca.issue(&csr, &identity("agent/h1"), now(), DAY).unwrap();
    assert_eq!(day.info.not_before, second - BACKDATE);
    assert_eq!(day.info.not_after, second + DAY);

    let long = ca.issue(&csr, &identity("agent/h1"), now(), 1000 * DAY).unwrap();
    assert_eq!(long.info.not_after, ca.not_after());

    let late = ca.issue(&csr, &identity("agent/h1"), now() + 366 * DAY, DAY);
    assert!(matches!(late, Err(CaError::Expired)));
}

#[test]
fn impossible_dates_are_refused() {
    let domain = "shoal.test".parse().unwrap();
    for (now, validity) in [
        (now(), Duration::ZERO),
        (now(), Duration::MAX),
        (now(), Duration::from_secs(END_OF_DATES)),
        (UNIX_EPOCH - DAY, DAY * 2),
    ] {
        let refused = Ca::generate(&domain, now, validity);
        assert!(matches!(refused, Err(CaError::Lifetime)), "{now:?} {validity:?}");
    }
}

#[test]
fn serials_never_repeat_for_one_key() {
    let (ca, csr) = (ca(), LeafKey::generate().unwrap().csr_der().unwrap());
    let serial = || ca.issue(&csr, &identity("agent/h1"), now(), DAY).unwrap().info.serial;
    let (a, b) = (serial(), serial());
    assert_ne!(a, b);
    assert_eq!((a.len(), b.len()), (32, 32));
}

/// A request that asks for everything it must not get.
fn greedy_csr(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params.subject_alt_names.push(uri("spiffe://shoal.test/user/admin").unwrap());
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn what_a_request_asks_for_is_ignored() {
    let csr = greedy_csr(&KeyPair::generate().unwrap());
    let issued = ca().issue(&csr, &identity("agent/h1"), now(), DAY).unwrap();

    assert_eq!(issued.info.identity, identity("agent/h1"));
    let cert = certificate::parse(&issued.der).unwrap();
    assert_eq!(cert.subject().to_string(), "O=agent, CN=h1");
    assert!(!cert.is_ca());
    let usage = cert.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let extended = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && !extended.server_auth);
    let names = &cert.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert!(matches!(names.as_slice(), [GeneralName::URI("spiffe://shoal.test/agent/h1")]));
}

#[test]
fn a_changed_request_is_refused() {
    let mut csr = LeafKey::generate().unwrap().csr_der().unwrap();
    let last = csr.len() - 1;
    csr[last] ^= 1;
    let refused = ca().issue(&csr, &identity("agent/h1"), now(), DAY);
    assert!(matches!(refused, Err(CaError::Csr(CsrError::Signature))), "{refused:?}");
}

#[test]
fn another_trust_domain_is_refused() {
    let csr = LeafKey::generate().unwrap().csr_der().unwrap();
    let foreign = "spiffe://other.test/agent/h1".parse().unwrap();
    let refused = ca().issue(&csr, &foreign, now(), DAY).unwrap_err();
    assert!(matches!(refused, CaError::OtherTrustDomain { .. }));
    assert!(refused.to_string().contains("shoal.test only"), "{refused}");
}

#[test]
fn server_certificates_carry_names_and_the_ca() {
    let ca = ca();
    let names = ["ctl.example.org", "10.77.0.1", "::1"].map(String::from);
    let server = ca.issue_server(&identity("controller/c"), &names, now(), DAY).unwrap();

    let cert = certificate::parse(&server.certificate.der).unwrap();
    let extended = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && extended.server_auth);
    let san = cert.subject_alternative_name().unwrap().unwrap().value;
    assert_eq!(san.general_names.len(), 4);
    assert!(san.general_names.contains(&GeneralName::DNSName("ctl.example.org")));
    assert!(san.general_names.contains(&GeneralName::IPAddress(&[10, 77, 0, 1])));
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(server.certificate.chain_pem.as_bytes()).collect();
    assert_eq!(chain.len(), 2);
    assert_eq!(chain[1].as_ref().unwrap(), ca.cert_der());
}

#[test]
fn server_certificates_are_for_controllers_with_names() {
    let ca = ca();
    let issue = |path: &str, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        ca.issue_server(&identity(path), &names, now(), DAY).unwrap_err()
    };
    assert!(matches!(issue("agent/h1", &["a"]), CaError::NotAController { .. }));
    assert!(matches!(issue("controller/c", &[]), CaError::NoServerNames));
    for bad in ["", "a b", "http://x", "x:7443", "10.0.0.1/24", "ä.example"] {
        assert!(matches!(issue("controller/c", &[bad]), CaError::BadServerName { .. }), "{bad:?}");
    }
}
