use super::*;

fn host(name: &str, online: bool, labels: &[(&str, &str)]) -> Host {
    let labels = labels.iter().map(|(key, value)| (key.to_string(), value.to_string()));
    Host { name: name.into(), online, labels: labels.collect() }
}

fn some_hosts() -> Vec<Host> {
    vec![
        host("h1", true, &[("role", "web"), ("zone", "a")]),
        host("h2", false, &[("role", "web")]),
        host("db-1", true, &[("role", "db"), ("zone", "b")]),
    ]
}

fn some_instances() -> Vec<Instance> {
    let on = |id: &str, host: &str, state: &str| Instance {
        id: id.into(),
        host: host.into(),
        state: state.into(),
    };
    vec![
        on("shop/web", "h1", "running"),
        on("shop/web", "h2", "host offline"),
        on("shop/web-old", "h1", "stopped"),
        on("shop/db", "db-1", "running"),
        on("wiki/main", "h1", "failed"),
        on("wiki/main", "h2", "running"),
    ]
}

fn some_images() -> Vec<Image> {
    let image = |digit: &str, references: &[&str], uses| Image {
        digest: digit.repeat(64),
        references: references.iter().map(ToString::to_string).collect(),
        uses,
    };
    vec![image("a", &["shop:1", "shop:stable"], 2), image("b", &["db:1"], 1), image("c", &[], 0)]
}

/// `value (help)` of each; what is hidden is in brackets.
fn shown(candidates: &[CompletionCandidate]) -> Vec<String> {
    let shown = candidates.iter().map(|candidate| {
        let (value, help) = (candidate.get_value().display(), candidate.get_help().unwrap());
        let text = format!("{value} ({help})");
        if candidate.is_hide_set() { format!("[{text}]") } else { text }
    });
    shown.collect()
}

#[test]
fn secrets_with_their_versions() {
    let secret = |name: &str, version, uses| Secret { name: name.into(), version, uses };
    let known = [secret("db", 1, 0), secret("db/creator", 3, 1), secret("tls", 1, 2)];
    let wanted =
        ["db (version 1, used by 0 instances)", "db/creator (version 3, used by 1 instance)"];
    assert_eq!(shown(&secrets(&known, "db")), wanted);
}

#[test]
fn hosts_and_fleets() {
    let found = shown(&hosts(&some_hosts(), "h"));
    assert_eq!(found, ["h1 (online, role=web, zone=a)", "h2 (offline, role=web)"]);
    assert!(hosts(&some_hosts(), "x").is_empty());
    let known =
        [Fleet { name: "shop".into(), revision: 3 }, Fleet { name: "wiki".into(), revision: 1 }];
    assert_eq!(shown(&fleets(&known, "")), ["shop (revision 3)", "wiki (revision 1)"]);
    assert_eq!(shown(&fleets(&known, "w")), ["wiki (revision 1)"]);
}

#[test]
fn instances_come_first_and_their_hosts_when_one_is_meant() {
    let table: &[(&str, &[&str])] = &[
        (
            "",
            &[
                "shop/db (running on db-1)",
                "shop/web (on 2 hosts)",
                "shop/web-old (stopped on h1)",
                "wiki/main (on 2 hosts)",
            ],
        ),
        // The only one with this beginning.
        ("w", &["wiki/main (on 2 hosts)", "wiki/main@h1 (failed)", "wiki/main@h2 (running)"]),
        // A whole name, although another begins with it.
        (
            "shop/web",
            &[
                "shop/web (on 2 hosts)",
                "shop/web@h1 (running)",
                "shop/web@h2 (host offline)",
                "shop/web-old (stopped on h1)",
            ],
        ),
        // Its host need not be named.
        ("shop/d", &["shop/db (running on db-1)"]),
        ("shop/db@", &["shop/db@db-1 (running)"]),
        ("shop/web@h2", &["shop/web@h2 (host offline)"]),
        ("shop/web@x", &[]),
        ("shop/none@", &[]),
    ];
    for (typed, expected) in table {
        assert_eq!(shown(&instances(&some_instances(), typed)), *expected, "{typed}");
    }
}

#[test]
fn images_have_names_and_digests() {
    let used = |name: &str, digit: &str, by| format!("{name} ({}, used by {by})", digit.repeat(12));
    let names = [
        used("shop:1", "a", "2 instances"),
        used("shop:stable", "a", "2 instances"),
        used("db:1", "b", "1 instance"),
    ];
    assert_eq!(shown(&references(&some_images(), "")), names);
    assert_eq!(shown(&references(&some_images(), "shop:s")), names[1..2]);
    assert!(references(&some_images(), "cc").is_empty());
    assert_eq!(shown(&images(&some_images(), "shop:s")), names[1..2]);
    assert_eq!(shown(&images(&some_images(), "cc")), ["cccccccccccc (no name)"]);
    assert_eq!(shown(&images(&some_images(), "aa")), ["[aaaaaaaaaaaa (shop:1, shop:stable)]"]);
}

#[test]
fn the_last_term_of_a_selector() {
    let table: &[(&str, &[&str])] = &[
        ("", &["role=db (1 host)", "role=web (2 hosts)", "zone=a (1 host)", "zone=b (1 host)"]),
        ("role=w", &["role=web (2 hosts)"]),
        ("role=web,z", &["role=web,zone=a (1 host)", "role=web,zone=b (1 host)"]),
        ("role=web,!", &["role=web,!role (0 hosts)", "role=web,!zone (1 host)"]),
        ("!z", &["!zone (1 host)"]),
        ("role!=", &["role!=db (2 hosts)", "role!=web (1 host)"]),
        ("x", &[]),
    ];
    for (typed, expected) in table {
        let found = selectors(&some_hosts(), typed);
        assert_eq!(shown(&found), *expected, "{typed}");
        for candidate in found {
            let selector = candidate.get_value().to_str().unwrap();
            assert!(selector.parse::<shoal_core::label::Selector>().is_ok(), "{selector}");
        }
    }
}

#[test]
fn labels_to_set_and_to_remove() {
    assert_eq!(shown(&labels(&some_hosts(), "zone")), ["zone=a (1 host)", "zone=b (1 host)"]);
    let edits = ["zone=a (1 host)", "zone=b (1 host)", "zone- (remove zone)"];
    assert_eq!(shown(&label_edits(&some_hosts(), "zone")), edits);
}

#[test]
fn contexts_say_where_they_lead() {
    let context = |name: &str, controller: &str, current| Context {
        name: name.into(),
        controller: controller.into(),
        current,
    };
    let known = [context("lab", "lab:7443", false), context("prod", "shoal.example.org", true)];
    let expected = ["lab (lab:7443)", "prod (shoal.example.org, the current one)"];
    assert_eq!(shown(&contexts(&known, "")), expected);
    assert_eq!(shown(&contexts(&known, "l")), expected[..1]);
}
