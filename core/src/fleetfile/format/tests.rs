//! What formatted files look like; and that nothing is lost, whatever the text.

use proptest::prelude::*;

use super::*;

fn formatted(text: &str) -> String {
    format(Source { name: "fleet.toml", text }).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// The formatted text, after seeing that it is stable and has all the comments.
fn checked(text: &str) -> String {
    let once = formatted(text);
    assert_eq!(formatted(&once), once, "not stable, from:\n{text}");
    assert_eq!(comments(&once), comments(text), "comments of:\n{text}\nare not those of:\n{once}");
    for line in once.lines().filter(|line| !line.contains(['"', '\'']) && !text.contains("\"\"\""))
    {
        assert_eq!(line.trim_end(), line, "spaces at the end, from:\n{text}");
    }
    assert!(once.is_empty() || once.ends_with('\n') && !once.ends_with("\n\n"), "{once:?}");
    once
}

/// The string in which tests have a `#` that is no comment.
const NO_COMMENT: &str = "\"a#b\"";

/// The comments of a text, in any order.
fn comments(text: &str) -> Vec<String> {
    let text = text.replace(NO_COMMENT, "");
    let comment = |line: &str| Some(line[line.find('#')?..].trim_end().to_owned());
    let mut found: Vec<String> = text.lines().filter_map(comment).collect();
    found.sort_unstable();
    found
}

const UNTIDY: &str = r##"#:schema ./fleet.schema.json
# The shop's fleet.
# Ask ada before you change it.

# Batches are small on purpose.
[rollout]
on-failure="rollback" # or "pause"
batches   =  [ "1","10%" ,"100%" ]


[instance.web.health]
tcp="127.0.0.1:80"
# Slow disks.
grace = '3m'
[instance."web"] #the site
# Everything about the site.

boot=true
env   = {  B="2",A = "1" }
   hosts= "role=web"


image='shop:1'
# command = ["/bin/sh"]

# The database.
[ instance . db ]
command = ["/usr/bin/db", "--data", "/var/lib/db", "--listen", "127.0.0.1:5432", "--log", "stderr", "--quiet"]
image = "db:1"
hosts = [
 # two of them
  "db-1", "db-2",

  "db-3" # the spare
  , "db-4"

  # no more
  ]
count=0x2
strange = 1
[instance.db.data.wal]
owner="1:1"
path="/wal"
[instance.db.data.base]
path="/base"
[vars]
z = 1
a = { x = [ ], y = {} }
# above fleet
fleet = "not the key"

# last words
"##;

#[test]
fn an_untidy_file_is_made_tidy() {
    let text = format!("{UNTIDY}\n\n").replacen("# Batches", "fleet = \"shop\" \n\n# Batches", 1);
    insta::assert_snapshot!(checked(&text));
}

#[test]
fn a_tidy_file_stays_as_it_is() {
    let tidy = checked(&UNTIDY.replacen("# Batches", "fleet=\"shop\"\n# Batches", 1));
    for text in [tidy.as_str(), "", "fleet = \"shop\"\n", "# nothing yet\n", "[instance]\n"] {
        assert_eq!(checked(text), text);
    }
}

#[test]
fn every_fleet_file_of_this_repository_can_be_formatted() {
    let reference = include_str!("../../../../docs/fleet-file.md");
    let readme = include_str!("../../../../README.md");
    let blocks = reference.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let hello = readme.split("<<'EOF'\n").nth(1).and_then(|rest| rest.split("EOF").next()).unwrap();
    let example = include_str!("../../../../deploy/examples/belenios/fleet.toml");
    for text in blocks.chain([hello, example]) {
        checked(text);
    }
}

#[test]
fn small_things() {
    let cases = [
        ("", ""),
        ("\n\n", ""),
        ("\u{feff}a=1", "a = 1\n"),
        ("a=1\r\n\r\n\r\nb=2\r\n", "a = 1\n\nb = 2\n"),
        ("a.b . c=1", "a.b.c = 1\n"),
        ("\"fleet\"='x'", "\"fleet\" = 'x'\n"),
        ("x=1\nfleet='a'", "fleet = 'a'\nx = 1\n"),
        ("a=[1,2\n]", "a = [\n  1, 2,\n]\n"),
        ("a=[\n]", "a = []\n"),
        ("a=[#x\n]", "a = [ #x\n]\n"),
        ("a=[[\n1],[ ]]", "a = [[\n  1,\n], []]\n"),
        ("a={b={c=1},d.e=2}", "a = { b = { c = 1 }, d.e = 2 }\n"),
        ("a={\n b=1,#x\n}", "a = {\n  b = 1, #x\n}\n"),
        ("a='''\nx  \n''' #c", "a = '''\nx  \n''' #c\n"),
        ("[[a]]\n[a.b]\n[[a]]\nx=1", "[[a]]\n\n[a.b]\n\n[[a]]\nx = 1\n"),
        ("#a\n#b", "#a\n#b\n"),
        ("x=1\n#a\n\n#b\n", "x = 1\n#a\n\n#b\n"),
        ("#top\n\n#vars\n[vars]\n[instance]\n#in\n", "#top\n\n#vars\n[vars]\n\n[instance]\n#in\n"),
    ];
    for (text, wanted) in cases {
        let shown = formatted(text);
        assert_eq!(shown, wanted, "{text:?}");
        assert_eq!(formatted(&shown), shown, "{text:?}");
    }
}

#[test]
fn instances_and_what_they_have_stay_in_the_order_of_their_author() {
    let text = "[instance.b.files.'/z']\nmode = '1'\ncontent = 'x'\n[instance.b.files.'/a']\n\
                [instance.a]\nboot = true\n[instance.b.data.v]\n[instance.b]\nimage = '1'\n";
    let headers: Vec<String> =
        checked(text).lines().filter(|l| l.starts_with('[')).map(str::to_owned).collect();
    assert_eq!(
        headers,
        [
            "[instance.b]",
            "[instance.b.data.v]",
            "[instance.b.files.'/z']",
            "[instance.b.files.'/a']",
            "[instance.a]"
        ]
    );
    let dotted = "instance.b.files.y.mode = 1\ninstance.b.image = 2\ninstance.b.files.y.content = 3\n\
                  instance.b.files.x.content = 4\n";
    assert_eq!(
        checked(dotted),
        "instance.b.image = 2\ninstance.b.files.y.content = 3\ninstance.b.files.y.mode = 1\n\
         instance.b.files.x.content = 4\n"
    );
}

#[test]
fn lists_of_tables_keep_their_order() {
    for text in [
        "[[instance]]\na = 1\n[instance.x]\nb = 1\n[[instance]]\n[instance.x]\nb = 2\n",
        "[[instance.m.data]]\n[instance.m.data.v]\npath = 1\n[[instance.m.data]]\n[instance.m]\nimage = 1\n",
        "[[vars.peers]]\n[vars.peers.smtp]\nx = 1\n[[vars.peers]]\n[vars.peers.smtp]\nx = 2\n[vars]\n",
    ] {
        checked(text);
    }
}

#[test]
fn what_is_not_toml_is_refused_with_its_place() {
    let shown = |name, text| format(Source { name, text }).unwrap_err().to_string();
    let shown = [
        shown("fleet.toml", "fleet = shop\n[instance\n"),
        shown("fleet.toml", "a = 1\na = 2\n"),
        shown("fleet.json", "{ \"fleet\": \"shop\" }"),
        shown("-", " { }"),
    ];
    insta::assert_snapshot!(shown.join("\n\n----\n"));
}

/// A text with a comment wherever TOML can have one, each with its own number.
fn numbered(text: &str) -> String {
    let mut number = 0;
    let mut out = String::new();
    for part in text.split_inclusive('%') {
        out.push_str(part.trim_end_matches('%'));
        if part.ends_with('%') {
            number += 1;
            out.push_str(&format!("#{number} \n"));
        }
    }
    out
}

fn value() -> impl Strategy<Value = String> {
    let scalar = prop::sample::select(vec![
        "1",
        "'x'",
        NO_COMMENT,
        "1.5",
        "true",
        "2024-01-01",
        "0xF",
        "'''\na\n'''",
    ]);
    let gap = || prop::sample::select(vec!["", " ", "%", "\n", "\n\n", "\n%", "%\n\n%", " % \n"]);
    scalar.prop_map(str::to_owned).prop_recursive(3, 12, 4, move |inner| {
        let item = (gap(), inner, gap()).prop_map(|(a, v, b)| format!("{a}{v}{b}"));
        let items = prop::collection::vec(item, 0..4);
        (items, any::<bool>(), gap()).prop_map(|(items, table, end)| {
            let closing = |items: &[String]| if items.is_empty() { "" } else { "," };
            if table {
                let pairs: Vec<String> = items
                    .iter()
                    .enumerate()
                    .map(|(n, item)| {
                        let value = item.trim_start_matches(['%', '\n', ' ']);
                        format!("{}k{n} = {value}", &item[..item.len() - value.len()])
                    })
                    .collect();
                format!("{{{}{}{end}}}", pairs.join(","), closing(&pairs))
            } else {
                format!("[{}{}{end}]", items.join(","), closing(&items))
            }
        })
    })
}

fn piece() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "fleet",
        "image",
        "hosts",
        "boot",
        "command",
        "env",
        "env.A",
        "data.v.path",
        "data.u.path",
        "'image '",
        "owner",
        "path",
        "unit",
        "tcp",
        "content",
        "mode",
        "x",
        "\"y z\"",
        "instance.q.image",
        "batches",
    ]);
    let header = prop::sample::select(vec![
        "[vars]",
        "[instance]",
        "[instance.a]",
        "[ instance . b ]",
        "[instance.\"a\".data.v]",
        "[instance.a.health]",
        "[instance.b.files.'/x']",
        "[instance.b.env]",
        "[rollout]",
        "[other]",
        "[[list]]",
        "[[instance.c.x]]",
        "[[vars.p]]",
        "[vars.p.q]",
    ]);
    let end = || prop::sample::select(vec!["\n", "%", " \t%", "\n\n", "\r\n"]);
    prop_oneof![
        4 => (key, value(), end()).prop_map(|(k, v, e)| format!("{k}={v}{e}")),
        3 => (header, end()).prop_map(|(h, e)| format!("{h}{e}")),
        2 => Just("%".to_owned()),
        2 => Just("\n".to_owned()),
        1 => Just("  \t%".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_is_lost_and_the_result_is_stable(pieces in prop::collection::vec(piece(), 0..14)) {
        let text = numbered(&pieces.concat());
        // Where the pieces set a key twice, there is nothing to format.
        if DeTable::parse(&text).is_ok() {
            checked(&text);
        }
    }

    #[test]
    fn no_text_panics(text in any::<String>(), part in "[a-c\\[\\]{}=,.\"'#\n\r\t 0-9-]{0,60}") {
        for text in [text, part] {
            if let Ok(once) = format(Source { name: "f", text: &text }) {
                assert_eq!(formatted(&once), once);
            }
        }
    }
}
