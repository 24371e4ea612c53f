//! Whole fleet files: what they mean, and what is said about those that are wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::label::HostMatch;
use crate::render::LARGEST_FILE;
use crate::spec::Settings;
use crate::spec::{DataVolume, File, FileBody, Health, Network, Owner, Start, Value};

const EXAMPLE: &str = r#"
fleet = "belenios"

[vars]
domain = "vote.example.org"
unused = 7

[instance.main]
image   = "belenios:2.5.1"
hosts   = "role=web"
boot    = true
network = "host"
env     = { ENGINE_NAME = "event_filter" }

[instance.main.data.var]
path   = "/var/belenios"
owner  = "1000:1000"

[instance.main.files."/etc/belenios/ocsigenserver.conf.in"]
template = "config/ocsigenserver.conf.in"

[instance.main.health]
unit = "belenios.service"
tcp  = "127.0.0.1:8001"
grace = "3m"
"#;

/// The local files of all tests.
fn read(path: &str) -> Result<Vec<u8>, String> {
    Ok(match path {
        "config/ocsigenserver.conf.in" => b"<host {{ domain }}/>\n".to_vec(),
        "config/typo.conf" => b"a\nb {{ domian }}\n{{ other }}\n".to_vec(),
        "config/broken.conf" => b"{% if domain %}\n".to_vec(),
        "config/loop.conf" => {
            b"{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}".to_vec()
        }
        "image.bin" => vec![0xff; 3],
        "half.txt" => vec![b'x'; LARGEST_FILE / 2],
        "full.txt" => vec![b'x'; LARGEST_FILE],
        "large.txt" => vec![b'x'; LARGEST_FILE + 1],
        _ => return Err("No such file or directory (os error 2)".into()),
    })
}

fn parsed(text: &str) -> FleetSpec {
    parse(Source { name: "fleet.toml", text }, &mut read).unwrap_or_else(|e| panic!("{e}"))
}

fn problems(text: &str) -> Problems {
    parse(Source { name: "fleet.toml", text }, &mut read).expect_err(text)
}

/// A fleet whose instance `main` has these lines more, and is fine but for them.
fn with(lines: &str) -> String {
    format!(
        "fleet = \"shop\"\n[vars]\ndomain = \"example.org\"\n[instance.main]\n\
         image = \"shop:1\"\nhosts = \"*\"\n{lines}\n"
    )
}

fn booted(lines: &str) -> String {
    with(&format!("boot = true\n{lines}"))
}

fn shown(texts: &[String]) -> String {
    texts.iter().map(|text| problems(text).to_string()).collect::<Vec<_>>().join("\n\n----\n")
}

macro_rules! snapshot {
    ($name:ident, [$($text:expr),+ $(,)?]) => {
        #[test]
        fn $name() {
            insta::assert_snapshot!(stringify!($name), shown(&[$($text.to_string()),+]));
        }
    };
}

#[test]
fn the_designs_example_means_what_it_says() {
    let fleet = parsed(EXAMPLE);
    assert_eq!(fleet.fleet.as_str(), "belenios");
    let main = &fleet.instances[&"main".parse().unwrap()];
    assert_eq!(main.image.to_string(), "belenios:2.5.1");
    assert_eq!(main.hosts, HostMatch::Selector("role=web".parse().unwrap()));
    let body = FileBody::Template("<host {{ domain }}/>\n".into());
    let file = File { body, mode: 0o644, owner: Owner::default(), reload: None };
    let volume = DataVolume {
        path: "/var/belenios".parse().unwrap(),
        owner: Owner { uid: 1000, gid: 1000 },
    };
    let wanted = Settings {
        start: Start::Boot,
        network: Network::Host,
        env: [("ENGINE_NAME".parse().unwrap(), "event_filter".into())].into(),
        data: [("var".parse().unwrap(), volume)].into(),
        files: [("/etc/belenios/ocsigenserver.conf.in".parse().unwrap(), file)].into(),
        vars: [("domain".to_owned(), Value::Text("vote.example.org".into()))].into(),
        health: Some(Health {
            unit: Some("belenios.service".parse().unwrap()),
            tcp: Some("127.0.0.1:8001".parse().unwrap()),
            http: None,
            exec: vec![],
            grace: Duration::from_secs(180),
            interval: Health::DEFAULT_INTERVAL,
            timeout: Health::DEFAULT_TIMEOUT,
            retries: Health::DEFAULT_RETRIES,
        }),
        ..crate::spec::tests_support::settings()
    };
    assert_eq!(main.settings, wanted);
    assert_eq!(fleet.instances.len(), 1);
}

#[test]
fn the_reference_is_true() {
    const REFERENCE: &str = include_str!("../../../docs/fleet-file.md");
    let blocks: Vec<&str> =
        REFERENCE.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(parsed(blocks[0]).fleet.as_str(), "belenios");
    let instance = &booted("")[booted("").find("[inst").unwrap()..];
    for block in &blocks[1..] {
        // A whole file, its variables, or what an instance is told.
        let text = match block {
            whole if whole.contains("fleet =") => (*whole).to_owned(),
            vars if vars.starts_with("[vars]") => format!("fleet = \"shop\"\n{vars}{instance}"),
            told => booted(told),
        };
        parsed(&text);
    }
    // What the file may say is what the reference names: the error of a wrong key lists the keys.
    for section in [
        "",
        "[instance.main]\n",
        "[instance.main.data.v]\n",
        "[instance.main.health]\n",
        "[instance.main.files.\"/x\"]\n",
        "[instance.main.mounts.\"/x\"]\n",
        "[instance.main.limits]\n",
        "[instance.main.security]\n",
        "[instance.main.hooks]\n",
        "[rollout]\n",
    ] {
        let shown = problems(&format!("{section}no-such-key-at-all = 1\n")).to_string();
        let known = shown.split("known here are ").nth(1).and_then(|l| l.lines().next()).unwrap();
        for key in known.split(", ") {
            assert!(REFERENCE.contains(&format!("\n| {key} |")), "{section}{key}");
        }
    }
}

#[test]
fn what_is_left_out_has_the_safe_default() {
    let fleet = parsed(&with("command = [\"/bin/app\", \"-v\"]"));
    let settings = &fleet.instances[&"main".parse().unwrap()].settings;
    assert_eq!(settings.start, Start::Command(vec!["/bin/app".into(), "-v".into()]));
    assert_eq!(settings.network, Network::Private);
    assert_eq!((settings.health.as_ref(), settings.env.len()), (None, 0));
    assert_eq!(settings.vars, BTreeMap::new());
}

#[test]
fn hosts_are_a_selector_or_names() {
    let cases = [
        ("\"*\"", HostMatch::All),
        ("\"web-1.example.org\"", HostMatch::Names(vec!["web-1.example.org".parse().unwrap()])),
        ("[\"b\", \"a\"]", HostMatch::Names(vec!["b".parse().unwrap(), "a".parse().unwrap()])),
        ("\"role=web,site!=b\"", HostMatch::Selector("role=web,site!=b".parse().unwrap())),
        ("\"!old\"", HostMatch::Selector("!old".parse().unwrap())),
    ];
    for (hosts, wanted) in cases {
        let text = booted("").replace("\"*\"", hosts);
        let fleet = parsed(&text);
        assert_eq!(fleet.instances[&"main".parse().unwrap()].hosts, wanted, "{hosts}");
    }
}

#[test]
fn files_take_in_what_they_name() {
    let text = booted(
        "[instance.main.files]\n\
         \"/etc/a\" = { content = \"x\", mode = \"4755\", owner = \"1:2\" }\n\
         \"/etc/b\" = { source = \"image.bin\", mode = \"600\" }\n\
         \"/etc/c\" = { source = \"config/typo.conf\" }\n",
    );
    let fleet = parsed(&text);
    let files = &fleet.instances[&"main".parse().unwrap()].settings.files;
    let file = |path: &str| &files[&path.parse().unwrap()];
    let body = FileBody::Text("x".into());
    let owner = Owner { uid: 1, gid: 2 };
    assert_eq!(file("/etc/a"), &File { body, mode: 0o4755, owner, reload: None });
    assert_eq!(file("/etc/b").body, FileBody::Bytes(vec![0xff; 3]));
    assert_eq!(file("/etc/b").mode, 0o600);
    assert!(matches!(&file("/etc/c").body, FileBody::Text(text) if text.contains("{{ domian }}")));
}

#[test]
fn a_fleet_may_be_emptied_on_purpose() {
    assert!(parsed("fleet = \"shop\"\n[instance]\n").instances.is_empty());
}

#[test]
fn another_variable_changes_no_instance() {
    let changed = EXAMPLE.replace("unused = 7", "unused = 8\nmore = [1, { a = true }]");
    assert_eq!(parsed(EXAMPLE), parsed(&changed));
    assert_ne!(parsed(EXAMPLE), parsed(&EXAMPLE.replace("vote.", "vote2.")));
}

#[test]
fn a_spec_is_bounded_as_a_whole() {
    let files = |source: &str, number: usize| {
        let line = |n| format!("[instance.main.files.\"/etc/{n}\"]\nsource = \"{source}\"\n");
        booted(&(0..number).map(line).collect::<String>())
    };
    parsed(&files("half.txt", 2));
    let problems = problems(&files("full.txt", 2));
    assert_eq!(problems.all().len(), 1, "{problems}");
    assert!(problems.to_string().contains("over 786432 bytes"), "{problems}");
    let text = "#".repeat(LARGEST_SPEC + 1);
    assert!(super::parse(Source { name: "f", text: &text }, &mut read).is_err());
}

#[test]
fn a_fleet_too_large_is_not_read_on() {
    let line = |n| format!("[instance.main.files.\"/etc/{n}\"]\nsource = \"full.txt\"\n");
    let text = booted(&(0..500).map(line).collect::<String>());
    let mut reads = 0;
    let counted = parse(Source { name: "fleet.toml", text: &text }, &mut |path| {
        reads += 1;
        read(path)
    });
    assert!(counted.is_err());
    assert!(reads < 6, "{reads} files were read");
}

#[test]
fn many_problems_are_counted_and_not_all_shown() {
    let lines: String = (0..150).map(|n| format!("key-of-no-meaning-{n} = 1\n")).collect();
    let problems = problems(&booted(&lines));
    assert_eq!((problems.all().len(), problems.left_out()), (100, 50));
    assert!(problems.to_string().ends_with("fleet.toml: 50 more errors are not shown"));
}

#[test]
fn problems_are_ordered_and_placed() {
    let problems = problems("fleet = 1\n[instance.main]\n\t\"büöt\" = true\nx = 1");
    let places: Vec<_> = problems.all().iter().map(|p| (p.line, p.column)).collect();
    assert_eq!(places, [(1, 9), (2, 11), (2, 11), (2, 11), (3, 2), (4, 1)]);
    assert_eq!(problems.file(), "fleet.toml");
}

#[test]
fn nothing_in_an_error_reaches_a_terminal_as_a_command() {
    let problems = problems(&booted("\"\\u001b[2J\\u0007\" = \"\t\"\nimagé = '\x7f'")).to_string();
    assert!(problems.chars().all(|c| c == '\n' || !c.is_control()), "{problems:?}");
}

snapshot!(
    unknown_keys,
    [
        booted("imgae = \"shop:2\""),
        booted("[instance.main.health]\nunit = \"a.service\"\nGrace = \"1s\""),
        booted("[instance.main.data.var]\npth = \"/var/x\""),
        "flet = \"shop\"\n[instances.main]\nimage = \"a:1\"\n",
        booted("something-else = 1"),
        "fleet = \"shop\"\ninstnace = {}\nrolout = 1\n",
        booted("hook = {}").replace("boot =", "Boot ="),
    ]
);

snapshot!(
    wrong_types,
    [
        booted("").replace("image = \"shop:1\"", "image = 251"),
        booted("").replace("hosts = \"*\"", "hosts = { role = \"web\" }"),
        booted("").replace("boot = true", "boot = \"yes\""),
        booted("").replace("boot = true", "boot = false"),
        with("command = \"/bin/app -v\""),
        with("command = [\"/bin/app\", 1]"),
        with("command = []"),
        booted("env = { PORT = 8080, HOME = true }"),
        booted("network = [\"host\"]"),
        booted("[instance.main.files.\"/etc/x\"]\ncontent = \"a\"\nmode = 644"),
        booted("[instance.main.health]\ntcp = 8001\nretries = 1.5\ngrace = 30"),
        booted("data = \"/var/x\""),
        booted("").replace(
            "domain = \"example.org\"",
            "domain = 1.5\nday = 2024-01-01\nbig = 99999999999999999999"
        ),
        "fleet = \"shop\"\nvars = 1\n[[instance]]\nname = \"main\"\n",
    ]
);

snapshot!(
    bad_names,
    [
        booted("").replace("\"shop\"", "\"a/b\""),
        booted("").replace("\"shop\"", "\"..\""),
        booted("").replace("\"shop\"", "\"Shop\""),
        booted("").replace("\"shop\"", "\"\""),
        booted("").replace("\"shop\"", &format!("\"{}\"", "x".repeat(200))),
        booted("").replace("instance.main", "instance.\"a/b\""),
        booted("").replace("instance.main", "instance.\"..\""),
        booted("").replace("instance.main", "instance.Main"),
        booted("").replace("instance.main", &format!("instance.{}", "x".repeat(200))),
        booted("").replace("shop:1", "shop"),
        booted("").replace("shop:1", "../shop:1"),
        booted("").replace("\"*\"", "\"Web\""),
        booted("").replace("\"*\"", "\"web-1,web-2\""),
        booted("").replace("\"*\"", "[\"web-1\", \"role=web\"]"),
        booted("").replace("\"*\"", "[\"web-1\", \"web-1\"]"),
        booted("").replace("\"*\"", "[]"),
        booted("").replace("\"*\"", "\"role=\""),
        booted("env = { 1X = \"a\" }"),
        booted("[instance.main.data.Var]\npath = \"var/x\"\nowner = \"root\""),
        booted(
            "[instance.main.files.\"/etc/../x\"]\ncontent = \"\"\nmode = \"0999\"\nowner = \"0:70000\""
        ),
        booted("network = \"hots\""),
    ]
);

snapshot!(
    bad_health,
    [
        booted("[instance.main.health]\ngrace = \"1s\""),
        booted("[instance.main.health]\nunit = \"nginx\"\ntcp = \"localhost:80\""),
        booted(
            "[instance.main.health]\nunit = \"a.service\"\ngrace = \"90\"\ninterval = \"0s\"\n\
         timeout = \"25h\"\nretries = 0"
        ),
        with("command = [\"/bin/app\"]\n[instance.main.health]\nunit = \"a.service\""),
    ]
);

snapshot!(
    missing,
    [
        "",
        "fleet = \"shop\"\n",
        "fleet = \"shop\"\n[instance.main]\n",
        "fleet = \"shop\"\ninstance = { main = {} }\n",
        booted("[instance.main.data.var]\n[instance.main.files.\"/etc/x\"]\n"),
    ]
);

snapshot!(
    one_of_several,
    [
        booted("command = [\"/bin/app\"]"),
        booted(
            "[instance.main.files.\"/etc/x\"]\ntemplate = \"config/typo.conf\"\ncontent = \"x\""
        ),
    ]
);

snapshot!(later_keys, [booted("[instance.main.data.var]\npath = \"/var/x\"\nbackup = true"),]);

snapshot!(
    bad_secrets,
    [
        booted("[instance.main.secrets]\n\"db password\" = \"db\"\nkey = \"../etc\"\nother = 1"),
        booted(
            "env = { A = { template = \"{{ secret('db') }}\" } }\n[instance.main.secrets]\ndb = \"db\""
        ),
    ]
);

#[test]
fn a_template_asks_for_the_secrets_of_its_instance() {
    let instance = |template: &str| {
        let file = "[instance.main.secrets]\ndb-password = \"db/creator\"\n\
                    [instance.main.files.\"/etc/app.conf\"]\ntemplate = \"app.conf\"";
        let text = booted(file);
        let template = template.to_owned();
        let mut read = move |_: &str| Ok(template.clone().into_bytes());
        parse(Source { name: "fleet.toml", text: &text }, &mut read)
    };
    let fleet = instance("p={{ secret('db-password') }}").unwrap();
    let main = fleet.instances.values().next().unwrap();
    let named: Vec<String> = main.secrets.iter().map(|(c, s)| format!("{c}={s}")).collect();
    assert_eq!(named, ["db-password=db/creator"]);
    let why = instance("\n{{ secret('db') }}").unwrap_err().to_string();
    assert!(why.contains("line 2") && why.contains("names no `db`"), "{why}");
}

snapshot!(
    bad_networks,
    [
        booted("address = \"10.0.0.2/24\""),
        booted("network = \"zone:much-too-long\"\nports = [\"80\", \"80/tcp\"]"),
        booted("network = \"bridge:a/b\"\nports = \"80\""),
        booted("network = \"veth\"\naddress = \"10.0.0.2\""),
        booted("network = \"veth\"\naddress = \"10.0.0.2/24\"\ngateway = \"10.0.1.1\""),
        booted("network = \"veth\"\naddress = \"10.0.0.2/24\"\ngateway = \"10.0.0.2\""),
        booted("network = \"veth\"\naddress = \"{{ adress }}/24\"\nports = [\"0:80\", 80]"),
        booted("network = \"host\"\nports = [\"8001:80/tcp\"]"),
        booted("ports = [\"80\"]"),
        booted("network = \"veth\"\nports = [\"80\"]\ngateway = \"10.0.0.1\""),
    ]
);

snapshot!(
    bad_limits,
    [
        booted(
            "[instance.main.limits]\nmemory = \"512\"\ncpu = \"1.5\"\ntasks = 0\nnofile = \"many\"\n\
         [instance.main.files.\"/etc/x\"]\ncontent = \"x\"\nreload = \"nginx\""
        ),
        booted("[instance.main.limits]\nmemory = \"1.5G\"\nmem = 1"),
        with(
            "command = [\"/bin/app\"]\n[instance.main.files.\"/x\"]\ncontent = \"\"\nreload = \"a.service\""
        )
    ]
);

snapshot!(
    bad_security,
    [
        booted(
            "[instance.main.security]\ncapabilities-add = [\"CAP_NET_RAWW\", \"SYS_NICE\", 1]\n\
             new-privileges = \"yes\"\nsystem-calls-allow = [\"~bpf\"]\ncap-drop = []"
        ),
        booted(
            "[instance.main.security]\ncapabilities-add = [\"CAP_SYS_NICE\"]\n\
             capabilities-drop = [\"CAP_SYS_NICE\"]"
        ),
    ]
);

snapshot!(
    bad_hooks,
    [booted(
        "[instance.main.hooks]\ninit = \"/bin/app init\"\nmigrate = []\nrestore = [\"\", 1]\nmigrat = []"
    )]
);

/// A fleet that is fine but for its rollout.
fn rolled(lines: &str) -> String {
    booted(&format!("[rollout]\n{lines}"))
}

snapshot!(
    bad_rollouts,
    [
        rolled("batches = [\"1\", \"0\", \"101%\", 10, \"some\"]"),
        rolled("batches = \"1\"\nwindows = \"12:00-13:00\""),
        rolled("batches = []"),
        rolled("batches = [\"2\", \"10%\", \"50%\", \"20%\"]"),
        rolled("batches = [\"4\", \"4\"]"),
        rolled(&format!(
            "batches = [{}]",
            (1..=101).map(|n| format!("\"{n}\",")).collect::<String>()
        )),
        rolled("monitor = \"25h\"\nbatch-timeout = \"0s\""),
        rolled("monitor = 30\nbatch-timeout = \"soon\""),
        rolled("max-failures = -1"),
        rolled("max-failures = \"none\""),
        rolled("on-failure = \"ignore\"\npromote = \"never\""),
        rolled("on-failure = true\npromote = 1\nstage-ahead = \"yes\""),
        rolled("spread = \"site=a\""),
        rolled("windows = [\"22-04\", \"Sat 10:00-12:00\", \"24:00-02:00\", \"mon 12:00\", 3]"),
        rolled("batch = [\"1\"]\nmax_failures = 1\ncanary = true"),
        booted("rollout = 1").replace("fleet =", "rollout = []\nfleet ="),
    ]
);

#[test]
fn what_a_rollout_is_not_told_is_as_usual() {
    use crate::rollout::{OnFailure, Policy, Promote, Reach};
    assert_eq!(parsed(&booted("")).rollout, Policy::default());
    assert_eq!(parsed(&rolled("")).rollout, Policy::default());
    let all = rolled(
        "batches = [\"2\", \"25%\"]\nmonitor = \"30s\"\nmax-failures = 3\non-failure = \"pause\"\n\
         batch-timeout = \"10m\"\nspread = \"site\"\npromote = \"each\"\n\
         windows = [\"sat,sun 22:00-04:00\"]\nstage-ahead = true",
    );
    let wanted = Policy {
        batches: vec![Reach::Hosts(2), Reach::Percent(25)],
        monitor: Duration::from_secs(30),
        max_failures: 3,
        on_failure: OnFailure::Pause,
        batch_timeout: Duration::from_secs(600),
        spread: Some("site".into()),
        promote: Promote::Each,
        windows: vec!["sat,sun 22:00-04:00".parse().unwrap()],
        stage_ahead: true,
    };
    assert_eq!(parsed(&all).rollout, wanted);
}

#[test]
fn hooks_are_commands() {
    let fleet = parsed(&booted(
        "[instance.main.hooks]\ninit = [\"/bin/app\", \"init\"]\nrestore = [\"/r\"]",
    ));
    let hooks = &fleet.instances[&"main".parse().unwrap()].settings.hooks;
    assert_eq!(hooks.init, ["/bin/app", "init"]);
    assert_eq!(hooks.restore, ["/r"]);
    assert!(hooks.migrate.is_empty());
}

const INFRA: &str = r#"
infra = "50.2.0"
hosts = "role=platform"
agent = "0.3.0"
snapshot = true
going-back = "image-and-data"
restore = "nightly"

[vars]
domain = "example.org"

[instance.mysql]
image = "mysql:10.11"
boot = true

[instance.mail]
image = "mail:1"
hosts = ["mail-1"]
after = ["mysql"]
boot = true
env = { DOMAIN = { template = "{{ domain }}" } }

[rollout]
batches = ["1"]
"#;

#[test]
fn an_infra_file_means_the_fleet_infra_with_a_version() {
    use crate::infra::{GoingBack, Infra};
    let fleet = parsed(INFRA);
    assert_eq!(fleet.fleet.as_str(), "infra");
    let infra = Infra {
        version: "50.2.0".parse().unwrap(),
        snapshot: true,
        going_back: GoingBack::ImageAndData,
        restore: Some("nightly".parse().unwrap()),
        agent: Some("0.3.0".parse().unwrap()),
    };
    assert_eq!(fleet.infra, Some(infra));
    let [mail, mysql] = ["mail", "mysql"].map(|name| &fleet.instances[&name.parse().unwrap()]);
    assert_eq!(mysql.hosts, HostMatch::Selector("role=platform".parse().unwrap()));
    assert_eq!(mail.hosts, HostMatch::Names(vec!["mail-1".parse().unwrap()]));
    assert!(mail.settings.after.contains(&"infra/mysql".parse().unwrap()));
    assert_eq!(fleet.rollout.batches, vec![crate::rollout::Reach::Hosts(1)]);
}

#[test]
fn an_infra_file_may_say_little() {
    use crate::infra::{GoingBack, Infra};
    let plain = Infra {
        version: "1".parse().unwrap(),
        snapshot: false,
        going_back: GoingBack::Image,
        restore: None,
        agent: None,
    };
    let own = "infra = \"1\"\n[instance.a]\nimage = \"a:1\"\nhosts = \"*\"\nboot = true\n";
    assert_eq!(parsed(own).infra, Some(plain.clone()));
    let gone = parsed("infra = \"1\"\n[instance]\n");
    assert_eq!((gone.instances.len(), gone.infra), (0, Some(plain.clone())));
    let json = "{ \"infra\": \"1\", \"hosts\": \"*\", \"instance\": { \"a\": { \"image\": \"a:1\", \
                \"boot\": true } } }";
    assert_eq!(parsed(json), parsed(own));
    assert_eq!(parsed("fleet = \"infra\"\n[instance]\n").infra, None);
}

snapshot!(
    bad_infras,
    [
        INFRA.replace("infra =", "infre ="),
        INFRA.replace("infra =", "fleet = \"infra\"\ninfra ="),
        INFRA.replace("hosts = \"role=platform\"", ""),
        INFRA.replace("hosts = \"role=platform\"", "hosts = \"role=\""),
        INFRA.replace("hosts = \"role=platform\"", "host = \"role=platform\""),
        INFRA.replace("snapshot = true", ""),
        INFRA.replace("snapshot = true", "snapshot = false"),
        INFRA.replace("snapshot = true", "snapshot = 1").replace("and-data", "and-dat"),
        INFRA.replace("\"50.2.0\"", "50.2").replace("\"0.3.0\"", "0.3"),
        INFRA.replace("\"50.2.0\"", "\"50 2\"").replace("\"0.3.0\"", "\"v0.3.0\""),
        INFRA.replace("\"nightly\"", "\"/var/backups\"").replace("mysql\"]", "mysq\"]"),
        INFRA.replace("going-back", "goingback").replace("restore", "backup-to-restore"),
        "infra = \"1\"\n",
        "infra = \"1\"\nhosts = \"*\"\n[instance.a]\n",
        "fleet = \"shop\"\nsnapshot = true\ninfre = \"1\"\n[instance]\n",
    ]
);

#[test]
fn an_infra_file_has_one_form() {
    let text = "[instance]\n[rollout]\n[vars]\n";
    let top = "restore = 'a'\ngoing-back = 'image'\nsnapshot = true\nagent = '1.2.3'\n\
               hosts = '*'\ninfra = '1'\n";
    let wanted = "infra = '1'\nhosts = '*'\nagent = '1.2.3'\nsnapshot = true\n\
                  going-back = 'image'\nrestore = 'a'\n\n[vars]\n\n[instance]\n\n[rollout]\n";
    let text = format!("{top}{text}");
    assert_eq!(format(Source { name: "infra.toml", text: &text }).unwrap(), wanted);
}

snapshot!(
    bad_mounts,
    [booted(
        "root = \"memory:1G\"\n[instance.main.mounts.\"/media\"]\nshared = true\nsource = \"srv\"\n\
         [instance.main.mounts.\"/media/x\"]\nsource = \"/var/lib/shoal/images\"\n\
         [instance.main.mounts.\"/y\"]\nwritable = 1"
    )]
);

/// Further instances of [`with`]'s fleet.
fn others(after: &[(&str, &str)]) -> String {
    let one = |(name, after): &(&str, &str)| {
        format!(
            "[instance.{name}]\nimage = \"shop:1\"\nhosts = \"*\"\nboot = true\nafter = {after}\n"
        )
    };
    after.iter().map(one).collect()
}

snapshot!(
    bad_order,
    [
        booted(&format!("after = [\"dbb\", \"a b\", 1]\n{}", others(&[("db", "[]")]))),
        booted(&format!("after = [\"dbb\", \"cache\"]\n{}", others(&[("db", "[]")]))),
        booted(&format!(
            "after = [\"app\"]\n{}",
            others(&[("app", "[\"db\"]"), ("db", "[\"infra/mysql\", \"main\"]")])
        )),
        booted("after = [\"main\"]"),
        booted("after = \"db\"\ncount = 0"),
        booted("count = 3").replace("\"*\"", "[\"h1\", \"h2\"]"),
    ]
);

snapshot!(
    instances_that_surely_clash,
    [booted(
        "network = \"host\"\nports = [\"80\"]\n[instance.main.mounts.\"/x\"]\nsource = \"/srv\"\n\
         [instance.other]\nimage = \"shop:1\"\nhosts = \"role=web\"\nboot = true\n\
         network = \"bridge:br0\"\nports = [\"80:8080\"]\naddress = \"10.0.0.2/24\"\n\
         [instance.other.mounts.\"/y\"]\nsource = \"/srv/y\"\nwritable = true\n\
         [instance.third]\nimage = \"shop:1\"\nhosts = \"role=web\"\nboot = true\n\
         network = \"bridge:br0\"\naddress = \"10.0.0.2/24\"\n\
         [instance.few]\nimage = \"shop:1\"\nhosts = \"*\"\ncount = 1\nboot = true\n\
         network = \"host\"\nports = [\"80\"]\n\
         [instance.elsewhere]\nimage = \"shop:1\"\nhosts = \"role=db\"\nboot = true\n\
         network = \"bridge:br0\"\naddress = \"10.0.0.2/24\""
    )]
);

snapshot!(
    bad_overrides,
    [
        booted("[vars.\"site=\"]\ndomain = \"x\"\n[vars.\"@A b\"]\n[vars.\"!x\"]\nfor = 1"),
        booted("[vars.\"site=b\"]\ndomain = 1.5\n[vars.\"@h1\"]\n\"site=c\" = 2"),
        booted(
            "env = { A = { template = \"{{ domian }}\" }, B = { tmpl = \"x\" }, C = { template = 1 } }"
        ),
    ]
);

#[test]
fn the_whole_file_means_what_it_says() {
    let text = r#"
fleet = "shop"
[vars]
domain = "example.org"
[vars."site=b"]
domain = "b.example.org"
only = 1
[vars."@h1"]
address = "10.0.0.7"
[instance.db]
image = "db:1"
hosts = "role=db"
boot = true
[instance.web]
image = "shop:1"
hosts = "role=web"
count = 2
after = ["db", "infra/mysql"]
boot = true
network = "bridge:br0"
address = "{{ address }}/24"
gateway = "10.0.0.1"
ports = ["8001:80", "53/udp"]
env = { PLAIN = "x", DOMAIN = { template = "www.{{ domain }}" } }
root = "memory"
[instance.web.files."/etc/x"]
content = "x"
reload = "x.service"
[instance.web.mounts."/media"]
source = "/srv/media"
writable = true
shared = true
[instance.web.limits]
memory = "512M"
cpu = "150%"
tasks = 1024
nofile = 65536
[instance.web.security]
capabilities-add = ["CAP_SYS_NICE"]
capabilities-drop = ["CAP_NET_RAW"]
new-privileges = true
private-users = false
system-calls-allow = ["@keyring"]
[instance.web.health]
http = "http://127.0.0.1:80/health"
exec = ["/bin/true", "-x"]
"#;
    let fleet = parsed(text);
    let web = &fleet.instances[&"web".parse().unwrap()];
    insta::assert_debug_snapshot!("the_whole_file", web);
}

snapshot!(
    syntax,
    [
        "fleet = shop\n",
        "fleet = \"shop\n[instance.main]\nimage = \"a:1\"\n",
        "fleet = \"shop\"\n[instance.main\nimage = \"a:1\"\n",
        "fleet = \"shop\"\nfleet = \"shop2\"\n",
        booted("[instance.main]\nboot = true"),
        "\u{feff}fleet = {\r\n",
    ]
);

snapshot!(
    templates,
    [
        booted("[instance.main.files.\"/etc/x\"]\ntemplate = \"config/typo.conf\""),
        booted("[instance.main.files.\"/etc/x\"]\ntemplate = \"config/broken.conf\""),
        booted("[instance.main.files.\"/etc/x\"]\ntemplate = \"config/loop.conf\""),
        booted("[instance.main.files.\"/etc/x\"]\ntemplate = \"config/none.conf\""),
        booted("[instance.main.files.\"/etc/x\"]\ntemplate = \"image.bin\""),
        booted("[instance.main.files.\"/etc/x\"]\nsource = \"large.txt\""),
        booted("[instance.main.files.\"/etc/x\"]\ntemplate = \"config/typo.conf\"")
            .replace("domain = ", "shoal = 1\nrange = 2\nmy-var = 3\nfor = 4\ndomian = "),
    ]
);

snapshot!(
    paths_that_meet,
    [
        booted(
            "[instance.main.data.a]\npath = \"/var/x\"\n[instance.main.data.b]\npath = \"/var/x\"\n\
         [instance.main.data.c]\npath = \"/var/x/y/z\"\n[instance.main.data.d]\npath = \"/var/xy\""
        ),
        booted(
            "[instance.main.files.\"/etc/x\"]\ncontent = \"\"\n\
         [instance.main.files.\"/etc/x/y\"]\ncontent = \"\"\n\
         [instance.main.files.\"/var/x/conf\"]\ncontent = \"\"\n\
         [instance.main.data.a]\npath = \"/var/x\"\n[instance.main.data.b]\npath = \"/etc/x\""
        ),
    ]
);

snapshot!(
    long_lines_are_cut,
    [booted("").replace(
        "image = \"shop:1\"",
        &format!(
            "env = {{ A = \"{}\", B = 1, C = \"{}\" }}\nimage = \"shop:1\"",
            "x".repeat(300),
            "y".repeat(300)
        )
    ),]
);

snapshot!(
    several_at_once,
    [
        "fleet = \"Shop\"\nrolout = 1\n\n[instance.main]\nimgae = \"shop:1\"\nhosts = []\nboot = 1\n\n\
     [instance.DB]\nimage = \"db:1\"\nhosts = \"db-1\"\ncommand = [\"/bin/db\"]\n\
     [instance.DB.files.\"etc/x\"]\ntemplate = \"config/typo.conf\"\n",
    ]
);

#[test]
fn deep_nesting_is_an_error_and_no_overflow() {
    for (open, close) in [("[", "]"), ("{ a = ", " }")] {
        let nested = format!("{}1{}", open.repeat(50_000), close.repeat(50_000));
        check_any(&format!("fleet = {nested}\n"), &mut read);
        check_any(&with(&format!("[vars]\nx = {nested}\n")), &mut read);
    }
    check_any(&format!("{}x = 1\n", "a.".repeat(50_000)), &mut read);
    for (open, close) in [("(", ")"), ("[", "]"), ("not ", "x"), ("-", "1"), ("{% if 1 %}", "")] {
        let nested = format!("{{{{ {}1{} }}}}", open.repeat(50_000), close.repeat(50_000));
        check_any(EXAMPLE, &mut |_| Ok(nested.clone().into_bytes()));
    }
    check_any(EXAMPLE, &mut |_| Ok("{% if 1 %}".repeat(50_000).into_bytes()));
}

#[test]
fn large_files_take_no_more_than_linear_time() {
    let names: String = (0..60_000).map(|n| format!("{{{{ x{n}|d(1) }}}}")).collect();
    check_any(EXAMPLE, &mut |_| Ok(names.clone().into_bytes()));
    let keys: String = (0..60_000).map(|n| format!("key{n} = 1\n")).collect();
    check_any(&booted(&keys), &mut read);
    let files: String =
        (0..20_000).map(|n| format!("[instance.main.files.\"/a/{n}\"]\ncontent=''\n")).collect();
    check_any(&booted(&files), &mut read);
}

/// Pieces of fleet files, to be put together at random.
fn piece() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "fleet = \"shop\"\n",
        "[vars]\n",
        "domain = ",
        "[instance.main]\n",
        "[instance.",
        "]\n",
        "image = \"a:1\"\n",
        "hosts = ",
        "\"*\"\n",
        "boot = true\n",
        "command = [",
        "\"x\"",
        "]",
        "env = { A = ",
        "}\n",
        "[instance.main.data.v]\n",
        "path = \"/a/b\"\n",
        "owner = ",
        "[instance.main.files.\"/a\"]\n",
        "template = \"config/typo.conf\"\n",
        "mode = \"0644\"\n",
        "[instance.main.health]\n",
        "tcp = \"1.2.3.4:5\"\n",
        "grace = \"1s\"\n",
        "unit = ",
        "'''",
        "\"\"\"",
        "\r\n",
        "\n",
        "\t",
        "ü",
        "\u{feff}",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        ".",
        "1",
        "-0x1",
        "1.5",
        "true",
        "#",
        "\\",
        "\"",
        "instance",
        "vars",
        "rollout = 1\n",
        "[rollout]\n",
        "batches = [\"1\"]\n",
        "windows = [",
        "[instance.main.hooks]\n",
        "init = [\"a\"]\n",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => any::<String>()]
}

fn check_any(text: &str, read: &mut dyn FnMut(&str) -> Result<Vec<u8>, String>) {
    if let Err(problems) = parse(Source { name: "fleet.toml", text }, read) {
        assert!(!problems.all().is_empty(), "an error says something");
        assert!(problems.all().iter().all(|p| p.line >= 1 && p.column >= 1));
        let shown = problems.to_string();
        assert!(shown.len() <= problems.all().len() * 4000, "{} bytes", shown.len());
    }
}

proptest! {
    #[test]
    fn no_text_panics(pieces in prop::collection::vec(piece(), 0..40)) {
        check_any(&pieces.concat(), &mut read);
    }

    #[test]
    fn no_damage_to_a_good_file_panics(at in 0..EXAMPLE.len(), piece in piece()) {
        let at = EXAMPLE.floor_char_boundary(at);
        check_any(&format!("{}{piece}{}", &EXAMPLE[..at], &EXAMPLE[at..]), &mut read);
        check_any(&EXAMPLE[..at], &mut read);
    }

    #[test]
    fn no_template_panics(template in any::<Vec<u8>>(), tag in "[{%}# |.a-z\"'\n]{0,40}") {
        check_any(EXAMPLE, &mut |_| Ok(template.clone()));
        check_any(EXAMPLE, &mut |_| Ok(format!("{{{{ {tag} }}}}").into_bytes()));
    }

    #[test]
    fn a_good_name_passes_where_it_belongs(name in "[a-z][a-z0-9]{0,20}") {
        let fleet = parsed(&booted("").replace("instance.main", &format!("instance.{name}")));
        prop_assert!(fleet.instances.contains_key(&name.parse().unwrap()));
    }
}
