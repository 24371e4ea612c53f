//! JSON fleet files: they mean what their TOML twins mean, and what is wrong has its place.

use proptest::prelude::*;

use crate::fleetfile::{Problems, Source, parse};

const TOML: &str = r#"
fleet = "belenios"
[vars]
domain = "vote.example.org"
ports = [8001, -2]
smtp = { host = "mail", tls = true }
[instance.main]
image = "belenios:2.5.1"
hosts = ["web-1", "web-2"]
boot = true
env = { NAME = "é\n\"😀\"/" }
[instance.main.data.var]
path = "/var/belenios"
[instance.main.files."/etc/x"]
template = "x.conf"
"#;

const JSON: &str = r#"{
  "fleet": "belenios",
  "vars": { "domain": "vote.example.org", "ports": [8001, -2], "smtp": { "host": "mail", "tls": true } },
  "instance": {
    "main": {
      "image": "belenios:2.5.1",
      "hosts": ["web-1", "web-2"],
      "boot": true,
      "env": { "NAME": "\u00e9\n\"\ud83d\ude00\"\/" },
      "data": { "var": { "path": "/var/belenios" } },
      "files": { "/etc/x": { "template": "x.conf" } }
    }
  }
}
"#;

fn read(path: &str) -> Result<Vec<u8>, String> {
    match path {
        "x.conf" => Ok(b"{{ domain }} {{ ports }} {{ smtp.host }}".to_vec()),
        _ => Err("No such file or directory (os error 2)".into()),
    }
}

fn problems(text: &str) -> Problems {
    parse(Source { name: "fleet.json", text }, &mut read).expect_err(text)
}

#[test]
fn json_means_what_its_toml_means() {
    let toml = parse(Source { name: "fleet.toml", text: TOML }, &mut read).unwrap();
    for text in [JSON.to_owned(), format!("\u{feff}{JSON}"), JSON.replace('\n', "\r\n\t")] {
        for name in ["fleet.json", "FLEET.JSON", "fleet", "fleet.toml"] {
            let json = parse(Source { name, text: &text }, &mut read);
            assert_eq!(json.unwrap_or_else(|e| panic!("{e}")), toml, "{name}");
        }
    }
}

/// A fleet in which `value` is somewhere.
fn with(value: &str) -> String {
    format!("{{\n  \"fleet\": \"shop\",\n  \"x\": {value}\n}}\n")
}

#[test]
fn what_is_not_json_is_told_with_its_place() {
    let texts = [
        "".to_owned(),
        "\n\n".to_owned(),
        "[]".to_owned(),
        "fleet = \"shop\"\n".to_owned(),
        "{ \"fleet\": \"shop\" } {}".to_owned(),
        "{\n  \"fleet\": \"shop\",\n}\n".to_owned(),
        "{\n  \"fleet\": \"shop\"\n  \"x\": 1\n}\n".to_owned(),
        "{\n  fleet: \"shop\"\n}\n".to_owned(),
        "{ \"fleet\" = \"shop\" }".to_owned(),
        "{\n  // no comments\n  \"fleet\": \"shop\"\n}\n".to_owned(),
        "{\n  \"fleet\": \"shop\",\n  \"instance\": {\n    \"main\": {\n".to_owned(),
        with("'a'"),
        with("True"),
        with("undefined"),
        with(""),
        with("[1, 2,]"),
        with("[1 2]"),
        with("01"),
        with("+1"),
        with("1."),
        with(".5"),
        with("0x1f"),
        with("1e"),
        with("--1"),
        with("\"a\nb\""),
        with("\"a\tb\""),
        with("\"\\x41\""),
        with("\"\\u12g4\""),
        with("\"\\ud83d\""),
        with("\"\\ud83d\\u0041\""),
        with("\"\\udc00\""),
        with("\"\\u00"),
        "{ \"fleet\": \"shop".to_owned(),
        "{ \"fleet\": 1 \u{a0}}".to_owned(),
    ];
    let shown: Vec<String> = texts.iter().map(|text| problems(text).to_string()).collect();
    insta::assert_snapshot!(shown.join("\n\n----\n"));
}

#[test]
fn what_json_has_and_a_fleet_file_has_not_is_told_all_at_once() {
    let text = "{\n  \"fleet\": null,\n  \"x\": { \"a\": 1, \"b\": null, \"a\": 2 },\n  \"x\": 1,\n  \
                \"\\u0078\": 2\n}\n";
    insta::assert_snapshot!(problems(text));
}

#[test]
fn a_fleet_in_json_has_the_problems_of_any_fleet() {
    let text = JSON
        .replace("\"image\"", "\"imgae\"")
        .replace("\"path\": \"/var/belenios\"", "\"path\": 1.5e3")
        .replace("\"boot\": true", "\"boot\": 99999999999999999999")
        .replace("-2", "-99999999999999999999")
        .replace("\"x.conf\"", "\"y.conf\"");
    insta::assert_snapshot!(problems(&text));
}

#[test]
fn numbers_are_those_of_json() {
    for good in
        ["0", "-0", "10", "-1", "1.5", "0.0", "1e5", "1E+5", "-1.25e-05", "9223372036854775807"]
    {
        assert!(super::is_number(good), "{good}");
        assert!(toml::de::DeValue::parse(good).is_ok(), "{good}");
    }
    for bad in ["", "-", "00", "-01", "1.", ".1", "1.e1", "1e", "1e+", "1_000", "0x1", "inf", "1-"]
    {
        assert!(!super::is_number(bad), "{bad}");
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_overflow() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = |n: usize| with(&format!("{}1{}", open.repeat(n), close.repeat(n)));
        assert!(problems(&deep(79)).to_string().contains("unknown key"));
        for n in [80, 50_000] {
            let shown = problems(&deep(n)).to_string();
            assert!(shown.contains("nested more than 80 deep"), "{n}: {shown}");
        }
    }
    assert!(!problems(&"[{".repeat(200_000)).all().is_empty());
}

#[test]
fn many_keys_take_no_more_than_linear_time() {
    let keys: String = (0..30_000).map(|n| format!("\"key{n}\": {n},")).collect();
    assert!(problems(&format!("{{{keys}\"fleet\": \"shop\"}}")).left_out() > 0);
}

/// Says something, with a place that is in the text, or reads it.
fn check_any(text: &str) {
    if let Err(problems) = parse(Source { name: "fleet.json", text }, &mut read) {
        assert!(!problems.all().is_empty(), "an error says something");
        let lines = text.lines().count().max(1) + 1;
        assert!(problems.all().iter().all(|p| (1..=lines).contains(&p.line) && p.column >= 1));
        assert!(problems.to_string().len() <= problems.all().len() * 4000);
    }
}

#[test]
fn every_part_of_a_good_file_is_an_error_with_a_place() {
    for end in (0..JSON.trim_end().len()).filter(|end| JSON.is_char_boundary(*end)) {
        let cut = &JSON[..end];
        assert!(parse(Source { name: "f.json", text: cut }, &mut read).is_err(), "{cut}");
        check_any(cut);
        check_any(&JSON[end..]);
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>(), part in "[\\[\\]{}:,\"\\\\u0-9a-f.eE+ \\-\n\té]{0,60}") {
        check_any(&text);
        check_any(&format!("{{{part}"));
        check_any(&with(&part));
    }

    #[test]
    fn no_damage_to_a_good_file_panics(
        at in 0..JSON.len(), cut in 0..8_usize, bytes in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        let mut damaged = JSON.as_bytes().to_vec();
        let end = (at + cut).min(damaged.len());
        damaged.splice(at..end, bytes);
        check_any(&String::from_utf8_lossy(&damaged));
    }

    #[test]
    fn strings_and_numbers_come_through(text in any::<String>(), number in any::<i64>()) {
        let quoted = serde_json::to_string(&text).unwrap();
        let json = serde_json::to_string(&serde_json::json!({ "v": number })).unwrap();
        let text_of = |json: &str| {
            let source = Source { name: "f.json", text: json };
            let mut report = crate::fleetfile::report::Report::new(source);
            let table = super::read(json, &mut report)?;
            let value = table.get_key_value("v")?.1.get_ref();
            Some(value.as_str().map_or_else(|| value.as_integer().unwrap().to_string(), str::to_owned))
        };
        prop_assert_eq!(text_of(&format!("{{\"v\":{quoted}}}")), Some(text));
        prop_assert_eq!(text_of(&json), Some(number.to_string()));
    }
}
