use super::*;

const A: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// A key with this number, over and over.
fn key(number: u8) -> PublicKey {
    let digit = char::from(b'A' + number);
    format!("RWQ{digit}{}", &A[4..]).parse().unwrap()
}

fn trust(policy: &str) -> Trust {
    let policy: crate::policy::Policy = toml::from_str(policy).unwrap();
    policy.trust
}

fn pinned(name: &str) -> Trust {
    trust(&format!("[trust.keys]\n\"{name}\" = [\"{A}\"]"))
}

fn image(reference: &str, digest: u8) -> PinnedImage {
    let reference = reference.parse().unwrap();
    PinnedImage { reference, digest: [digest; 32].into(), size: 4096, signed: None }
}

fn manifest(reference: &str, digest: u8, release: u64) -> Manifest {
    let reference = reference.parse().unwrap();
    Manifest { reference, digest: [digest; 32].into(), size: 4096, release, expires: None }
}

fn signed(manifest: Manifest) -> Checked {
    Checked::Signed { key: A.parse::<PublicKey>().unwrap().id(), manifest }
}

/// What a host says that accepted these: name, digest, release.
fn said(
    trust: &Trust,
    accepted: &[(&str, u8, u64)],
    image: &PinnedImage,
    checked: Option<&Checked>,
) -> String {
    let accepted = accepted.iter().fold(Accepted::default(), |all, (name, digest, release)| {
        let manifest = manifest(&format!("{name}:old"), *digest, *release);
        all.with(&manifest, &BTreeSet::new(), NOW).unwrap_or(all)
    });
    let host = "h1".parse().unwrap();
    let judge = HostTrust { host: &host, trust, accepted: &accepted, now: NOW };
    match judge.permits(image, checked) {
        Ok(Permit::Unsigned) => "unsigned".into(),
        Ok(Permit::Signed(manifest)) => format!("release {}", manifest.release),
        Err(distrust) => distrust.to_string(),
    }
}

#[test]
fn unsigned_images_run_where_no_key_is_pinned_and_nothing_else_is_said() {
    let (app, other) = (image("app:1", 1), image("other:1", 1));
    let both = |trust: &Trust| (said(trust, &[], &app, None), said(trust, &[], &other, None));
    assert_eq!(both(&Trust::default()), ("unsigned".into(), "unsigned".into()));
    let (app_says, other_says) = both(&pinned("app"));
    assert_eq!(
        app_says,
        "host h1 does not trust image app:1: it is not signed, and has to be by key \
         E7620F1842B4E81F; sign it with `shoal image sign` and send that along with `shoal image \
         push --manifest`, then apply again"
    );
    assert_eq!(other_says, "unsigned");
    let (app_says, other_says) = both(&trust("[trust]\nunsigned = false"));
    assert_eq!(app_says.replace("app", "other"), other_says);
    assert!(app_says.contains("no key is trusted for this name"), "{app_says}");
    let mut lax = pinned("*");
    assert!(both(&lax).1.contains("is not signed"));
    lax.unsigned = Some(true);
    assert_eq!(both(&lax), ("unsigned".into(), "unsigned".into()));
}

#[test]
fn a_name_of_its_own_entry_is_not_for_everyones_keys() {
    let policy = format!("[trust.keys]\n\"*\" = [\"{}\"]\napp = [\"{A}\"]", key(1));
    let trust = trust(&policy);
    let ids = |name: &str| {
        let keys = trust.keys_for(&name.parse().unwrap()).unwrap();
        keys.iter().map(|key| key.id().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(ids("app"), ["E7620F1842B4E81F"]);
    assert_eq!(ids("other"), [key(1).id().to_string()]);
    assert_ne!(ids("app"), ids("other"));
}

#[test]
fn what_is_signed_runs_only_as_what_it_was_signed_as() {
    let trust = pinned("app");
    let app = image("app:1", 1);
    let check = |checked: Checked| said(&trust, &[], &app, Some(&checked));
    assert_eq!(check(signed(manifest("app:1", 1, 7))), "release 7");
    assert_eq!(
        check(Checked::OtherKey(KeyId(1))),
        "host h1 does not trust image app:1: it is signed by key 0000000000000001, and has to be \
         by key E7620F1842B4E81F; sign it with that, or pin the other key in the host's \
         /etc/shoal/policy.toml, under [trust.keys]"
    );
    assert!(check(Checked::Invalid("it was altered".into())).contains("not: it was altered;"));
    let mut longer = manifest("app:1", 1, 7);
    longer.size += 1;
    let others = [manifest("app:2", 1, 7), manifest("other:1", 1, 7), manifest("app:1", 2, 7)];
    for other in others.into_iter().chain([longer]) {
        let said = check(signed(other));
        assert!(said.contains("is of ") && said.contains("not of app:1 (010101010101"), "{said}");
    }
    // Where nobody is trusted for a name, a signature is worth nothing, and asked for by no one.
    let free = said(&Trust::default(), &[], &app, Some(&Checked::OtherKey(KeyId(1))));
    assert_eq!(free, "unsigned");
    // That unsigned images may run makes no wrong signature right.
    let lax = Trust { unsigned: Some(true), ..trust.clone() };
    let wrong = said(&lax, &[], &app, Some(&Checked::OtherKey(KeyId(1))));
    assert!(wrong.contains("is signed by key 0000000000000001"), "{wrong}");
}

#[test]
fn no_older_release_comes_but_what_ran_here() {
    let trust = pinned("app");
    let ran = [("app", 1, 3), ("app", 2, 5)];
    let check = |digest: u8, release: u64| {
        let checked = signed(manifest("app:x", digest, release));
        said(&trust, &ran, &image("app:x", digest), Some(&checked))
    };
    assert_eq!(check(1, 3), "release 3", "it ran here");
    assert_eq!(check(9, 5), "release 5");
    assert_eq!(check(9, 6), "release 6");
    let refused = "host h1 does not trust image app:x: it is release 4, this host has run release \
                   5 and never this one; sign it with a release above 5 if it is to run here";
    assert_eq!(check(9, 4), refused);
    assert!(check(9, 0).contains("it is release 0"), "no counter is the lowest one");
    // Of another name, it ran nothing.
    let other = signed(manifest("other:x", 9, 0));
    assert_eq!(said(&pinned("*"), &ran, &image("other:x", 9), Some(&other)), "release 0");
}

#[test]
fn what_has_expired_is_not_taken_into_use_and_goes_on_where_it_is() {
    let trust = pinned("app");
    let check = |expires: u64, ran: &[(&str, u8, u64)]| {
        let expires = Some(Timestamp(expires));
        let checked = signed(Manifest { expires, ..manifest("app:1", 1, 1) });
        said(&trust, ran, &image("app:1", 1), Some(&checked))
    };
    assert_eq!(check(NOW.0 + 1, &[]), "release 1");
    assert_eq!(
        check(NOW.0, &[]),
        "host h1 does not trust image app:1: what key E7620F1842B4E81F signed expired at \
         2027-01-15 08:00:00 UTC; sign it anew and push it again"
    );
    assert_eq!(check(NOW.0, &[("app", 1, 1)]), "release 1");
    assert!(check(NOW.0, &[("other", 1, 1)]).contains("expired"));
}

#[test]
fn what_is_accepted_is_remembered_once() {
    let here = BTreeSet::new();
    let first = Accepted::default().with(&manifest("app:1", 1, 3), &here, NOW).unwrap();
    assert!(first.with(&manifest("app:2", 1, 3), &here, NOW).is_none());
    assert!(first.with(&manifest("app:2", 1, 2), &here, NOW).is_none());
    let higher = first.with(&manifest("app:2", 1, 4), &here, NOW).unwrap();
    assert_eq!(higher.highest(&"app".parse().unwrap()), 4);
    // One that ran before and is older takes nothing back.
    let older = higher.with(&manifest("app:0", 2, 1), &here, NOW).unwrap();
    assert_eq!(older.highest(&"app".parse().unwrap()), 4);
}

#[test]
fn what_was_accepted_long_ago_is_forgotten_unless_it_is_here() {
    let digest = |number: u64| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        Digest::from(bytes)
    };
    let here: BTreeSet<Digest> = [digest(3)].into();
    let mut accepted = Accepted::default();
    for number in 0..1000 {
        let manifest = Manifest { digest: digest(number), ..manifest("app:1", 0, number) };
        accepted = accepted.with(&manifest, &here, Timestamp(number)).unwrap();
    }
    let name = "app".parse().unwrap();
    let known: Vec<u64> = (0..1000).filter(|n| accepted.has(&name, &digest(*n))).collect();
    let wanted: Vec<u64> = [3].into_iter().chain(799..1000).collect();
    assert_eq!(known, wanted);
    assert_eq!(accepted.highest(&name), 999);
}

#[test]
fn keys_are_what_minisign_writes() {
    let key: PublicKey = A.parse().unwrap();
    assert_eq!((key.id().to_string().as_str(), key.as_str()), ("E7620F1842B4E81F", A));
    let (short, other) = (&A[..52], A.replacen("RWQ", "RUQ", 1));
    for bad in ["", "RW", short, other.as_str(), &format!("{A}AAAA"), &A.replace('f', "é")] {
        assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
    }
}

#[test]
fn a_policy_with_a_bad_key_is_refused_where_it_stands() {
    for (text, line, wanted) in [
        ("[trust.keys]\napp = [\"RWabc\"]", "line 2", "\"RWabc\" is not a public key"),
        ("[trust.keys]\napp = \"RWabc\"", "line 2", "expected a sequence"),
        ("[trust.keys]\n\"App!\" = []", "line", "App!"),
        ("[trust]\nunsinged = true", "line 2", "unknown field `unsinged`"),
    ] {
        let error = toml::from_str::<crate::policy::Policy>(text).unwrap_err().to_string();
        assert!(error.contains(line) && error.contains(wanted), "{error}");
    }
}

#[test]
fn moments_are_shown_as_calendars_have_them() {
    for (seconds, wanted) in [
        (0, "1970-01-01 00:00:00 UTC"),
        (951_782_400, "2000-02-29 00:00:00 UTC"),
        (1_709_251_199, "2024-02-29 23:59:59 UTC"),
        (4_107_542_400, "2100-03-01 00:00:00 UTC"),
    ] {
        assert_eq!(Moment(Timestamp(seconds * 1000)).to_string(), wanted);
    }
}
