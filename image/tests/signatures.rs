//! What is signed is read only as it was signed: manifests and signatures that were altered, cut
//! off, exchanged, or made by someone else.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::io::Cursor;

use minisign::KeyPair;
use shoal_image::{
    Manifest, ManifestError, Platform, PublicKey, Sha256Sum, Signature, SignatureError,
    UnverifiedError,
};

fn manifest() -> Manifest {
    Manifest {
        name: "shop".into(),
        tag: "2.5.1".into(),
        digest: Sha256Sum::new([7; 32]),
        size: 97_517_568,
        platform: Platform {
            os_id: Some("debian".into()),
            os_version: Some("12".into()),
            os_name: Some("Debian GNU/Linux 12 (bookworm)".into()),
            architecture: Some("x86-64".into()),
        },
        release: 41,
        created: "2026-11-20T09:00:00Z".parse().unwrap(),
        expires: Some("2027-11-20T09:00:00Z".parse().unwrap()),
    }
}

/// The form is a promise: what was signed years ago has to be read.
const TEXT: &str = r#"manifest = 1
name = "shop"
tag = "2.5.1"
digest = "0707070707070707070707070707070707070707070707070707070707070707"
size = 97517568
release = 41
created = "2026-11-20T09:00:00Z"
expires = "2027-11-20T09:00:00Z"

[platform]
os-id = "debian"
os-version = "12"
os-name = "Debian GNU/Linux 12 (bookworm)"
architecture = "x86-64"
"#;

fn pair() -> (KeyPair, PublicKey) {
    let pair = KeyPair::generate_unencrypted_keypair().unwrap();
    let public = PublicKey::parse(&pair.pk.to_box().unwrap().to_string()).unwrap();
    (pair, public)
}

fn signed(pair: &KeyPair, text: &str) -> String {
    let text = Cursor::new(text.as_bytes());
    minisign::sign(None, &pair.sk, text, Some("shop:2.5.1"), None).unwrap().into_string()
}

fn parse(text: &str) -> Result<Manifest, ManifestError> {
    Manifest::parse(text.as_bytes())
}

#[test]
fn a_manifest_is_written_and_read_in_one_form() {
    assert_eq!(manifest().to_text().unwrap(), TEXT);
    assert_eq!(parse(TEXT).unwrap(), manifest());
    let least =
        TEXT.lines().filter(|line| !line.starts_with("release") && !line.contains("expires"));
    let least: Vec<&str> = least.take_while(|line| !line.starts_with('[')).collect();
    let least = parse(&least.join("\n")).unwrap();
    assert_eq!((least.release, least.expires, least.platform), (0, None, Platform::default()));
    let odd = Manifest { created: "2026-11-20T09:00:00.5Z".parse().unwrap(), ..manifest() };
    assert!(odd.to_text().is_err());
}

#[test]
fn what_is_not_just_a_manifest_is_refused() {
    for (from, to, wanted) in [
        ("manifest = 1", "manifest = 2", "version 2, and this program knows 1; upgrade"),
        ("manifest = 1\n", "", "missing field `manifest`"),
        ("release = 41", "release = 41\nprofile = \"x\"", "unknown field `profile`"),
        ("release = 41", "release = -1", "invalid value: integer `-1`"),
        ("release = 41", "release = \"41\"", "invalid type: string"),
        ("release = 41", "release = 41\nrelease = 42", "duplicate key"),
        ("size = 97517568\n", "", "missing field `size`"),
        ("\"shop\"", "\"sh op\"", "its name is not a name"),
        ("\"shop\"", "\"\"", "its name is not a name"),
        ("\"2.5.1\"", "\"2.5.1\\u0000\"", "its tag is not a name"),
        ("0707", "070", "its digest is not a SHA-256"),
        ("2026-11-20T09:00:00Z", "2026-11-20T10:00:00+01:00", "its created is not a time such as"),
        ("2026-11-20T09:00:00Z", "2026-11-20", "its created is not a time such as"),
        ("2027", "2025", "its expires is not after"),
        ("os-id", "os_id", "unknown field `os_id`"),
        ("[platform]", "[platform", "it is no manifest"),
    ] {
        assert!(TEXT.contains(from), "{from}");
        let error = parse(&TEXT.replacen(from, to, 1)).expect_err(to).to_string();
        assert!(error.contains(wanted) && !error.contains('\n'), "{to}: {error}");
    }
    let huge = format!("{TEXT}#{}", "x".repeat(1 << 20));
    assert_eq!(parse(&huge), Err(ManifestError::TooLong(huge.len())));
    assert_eq!(Manifest::parse(b"manifest = 1 # \xff"), Err(ManifestError::NoText));
    for cut in 0..TEXT.find("\n[platform]").unwrap() - "expires = \"2027-11-20T09:00:00Z\"".len() {
        // From the first byte of `release` on, what is left is a manifest of another meaning,
        // which only its signature can tell.
        if let Ok(rest) = parse(&TEXT[..cut]) {
            assert_ne!(rest, manifest(), "{cut}");
        }
    }
}

#[test]
fn whose_signature_it_is_is_told() {
    let ((pair, key), (other_pair, other)) = (self::pair(), self::pair());
    let signature = signed(&pair, TEXT);
    let verify = |keys: &[PublicKey]| Manifest::verified(TEXT.as_bytes(), &signature, keys);
    assert_eq!(verify(std::slice::from_ref(&key)), Ok((key.id(), manifest())));
    assert_eq!(verify(&[other.clone(), key.clone()]), Ok((key.id(), manifest())));
    let refused = UnverifiedError::Signature(SignatureError::OtherKey { key: key.id() });
    assert_eq!(verify(std::slice::from_ref(&other)), Err(refused.clone()));
    assert_eq!(verify(&[]), Err(refused));
    assert_eq!(Signature::parse(&signature).unwrap().key(), key.id());
    // What another key signed, under this key's number.
    let lie = other_pair.sk.to_box(None).unwrap().into_string();
    let lie = minisign::SecretKeyBox::from_string(&lie).unwrap();
    let lie = minisign::sign(
        None,
        &lie.into_unencrypted_secret_key().unwrap(),
        Cursor::new(TEXT.as_bytes()),
        None,
        None,
    );
    let lie = renumbered(&lie.unwrap().into_string(), &signature);
    let forged = UnverifiedError::Signature(SignatureError::Forged { key: key.id() });
    assert_eq!(Manifest::verified(TEXT.as_bytes(), &lie, &[key]), Err(forged));
}

/// A signature with the number of the key that another is of.
fn renumbered(signature: &str, like: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let line = |text: &str| STANDARD.decode(text.lines().nth(1).unwrap()).unwrap();
    let (mut bytes, other) = (line(signature), line(like));
    bytes[2..10].copy_from_slice(&other[2..10]);
    let mut lines: Vec<String> = signature.lines().map(str::to_owned).collect();
    lines[1] = STANDARD.encode(bytes);
    lines.join("\n")
}

#[test]
fn a_bit_that_flips_in_what_was_signed_is_found() {
    let (pair, key) = pair();
    let signature = signed(&pair, TEXT);
    let keys = [key];
    for at in 0..TEXT.len() {
        let mut text = TEXT.as_bytes().to_vec();
        text[at] ^= 1 << (at % 8);
        let error = Manifest::verified(&text, &signature, &keys).unwrap_err();
        assert!(matches!(error, UnverifiedError::Signature(SignatureError::Forged { .. })), "{at}");
    }
    for cut in [0, 1, TEXT.len() / 2, TEXT.len() - 1] {
        assert!(Manifest::verified(&TEXT.as_bytes()[..cut], &signature, &keys).is_err(), "{cut}");
    }
    assert!(Manifest::verified(format!("{TEXT}\n").as_bytes(), &signature, &keys).is_err());
}

#[test]
fn a_signature_that_was_altered_or_cut_off_is_none() {
    let (pair, key) = pair();
    let signature = signed(&pair, TEXT);
    let keys = [key];
    let verify = |signature: &str| Manifest::verified(TEXT.as_bytes(), signature, &keys);
    assert!(verify(&signature).is_ok());
    // The first line is a comment that nobody signed.
    let begin = signature.find('\n').unwrap() + 1;
    for at in begin..signature.trim_end().len() {
        let mut bytes = signature.clone().into_bytes();
        bytes[at] ^= 1;
        let Ok(altered) = String::from_utf8(bytes) else { continue };
        assert!(verify(&altered).is_err(), "{at}: {altered}");
    }
    for cut in (0..signature.trim_end().len()).step_by(7) {
        assert!(verify(&signature[..cut]).is_err(), "{cut}");
    }
    let huge = format!("{signature}{}", "x".repeat(1 << 20));
    let too_long = UnverifiedError::Signature(SignatureError::TooLong(huge.len()));
    assert_eq!(verify(&huge), Err(too_long));
}

#[test]
fn what_is_signed_and_no_manifest_is_no_manifest() {
    let (pair, key) = pair();
    let text = "any other file of this key's owner\n";
    let error = Manifest::verified(text.as_bytes(), &signed(&pair, text), &[key]).unwrap_err();
    assert_eq!(error.to_string(), "the manifest can't be used, though it is signed");
    assert!(matches!(error, UnverifiedError::Manifest(ManifestError::Malformed(_))));
}

/// Made by minisign 0.11, so that files of that program are read whatever becomes of the library
/// that signs here.
#[test]
fn files_of_minisign_are_read() {
    let key = "untrusted comment: minisign public key\n\
               RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\n";
    let key = PublicKey::parse(key).unwrap();
    assert_eq!(format!("{:016X}", key.id()), "E7620F1842B4E81F");
    let prehashed = "untrusted comment: signature from minisign secret key\n\
        RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\n\
        trusted comment: timestamp:1633700835\tfile:test\tprehashed\n\
        wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==\n";
    let read = Signature::parse(prehashed).unwrap();
    assert_eq!(read.verify(b"test", std::slice::from_ref(&key)), Ok(key.id()));
    assert!(read.verify(b"Test", std::slice::from_ref(&key)).is_err());
    let old = "untrusted comment: signature from minisign secret key\n\
        RWQf6LRCGA9i59SLOFxz6NxvASXDJeRtuZykwQepbDEGt87ig1BNpWaVWuNrm73YiIiJbq71Wi+dP9eKL8OC351vwIasSSbXxwA=\n\
        trusted comment: timestamp:1555779966\tfile:test\n\
        QtKMXWyYcwdpZAlPF7tE2ENJkRd1ujvKjlj1m9RtHTBnZPa5WKU5uWRs5GoP5M/VqE81QFuMKI5k/SfNQUaOAA==\n";
    assert_eq!(Signature::parse(old).unwrap_err(), SignatureError::OldKind);
    for bad in ["", "RW", "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\nx", prehashed]
    {
        assert!(PublicKey::parse(bad).is_err(), "{bad}");
    }
}
