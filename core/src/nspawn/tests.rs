//! Whole containers, as people run them, and what is made of them.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::fleetfile::{Source, parse};

fn container<'a>(name: &'a str, text: &'a str, unit: &[(&'a str, &'a str)]) -> Container<'a> {
    let unit = unit.iter().map(|(name, text)| Text { name, text }).collect();
    Container { name, settings: Text { name: "x.nspawn", text }, unit }
}

fn imported(name: &str, text: &str, unit: &[(&str, &str)]) -> Import {
    let import = import(&container(name, text, unit));
    let source = Source { name: "fleet.toml", text: &import.toml };
    let read = &mut |_: &str| Err("there is no such file".to_owned());
    let spec = parse(source, read).unwrap_or_else(|e| panic!("{e}\n\n{}", import.toml));
    assert_eq!(spec.fleet, import.fleet);
    import
}

/// The fleet file and the notes, as a person reads them.
fn shown(import: &Import) -> String {
    let mut shown = format!("{}\n", import.toml);
    for Note { file, line, key, why } in &import.notes {
        let place = match (file, line) {
            (Some(file), Some(line)) => format!("{file}:{line}: "),
            _ => String::new(),
        };
        writeln!(shown, "{place}{key}: {why}").unwrap();
    }
    shown
}

const WEB_SERVER: &str = "\
# The voting server.
[Exec]
Boot=yes
Environment=ENGINE_NAME=event_filter \"GREETING=hello world\"
Environment=EMPTY=
Capability=CAP_NET_ADMIN
DropCapability=CAP_NET_RAW cap_sys_time
NoNewPrivileges=no
LimitNOFILE=1024:65536
LinkJournal=try-guest
Timezone=off
ResolvConf=copy-host
SystemCallFilter=@keyring ~bpf

[Files]
Bind=/srv/belenios:/var/belenios
Bind=/home/ada/upload:/var/upload:idmap
BindReadOnly=/etc/ssl/certs
Bind=/srv/other/belenios:/opt/belenios
TemporaryFileSystem=/scratch:size=1G

[Network]
Zone=backend
Port=tcp:8080:80
Port=8443
Port=udp:53
";

const DROP_INS: &[(&str, &str)] = &[
    ("10-limits.conf", "[Service]\nMemoryMax=1G\nCPUQuota=150%\nTasksMax=1024\nMemoryHigh=800M\n"),
    (
        "20-less.conf",
        "[Unit]\nAfter=postgresql.service\n[Service]\nMemoryMax=512M\nCPUQuota=\n[Install]\nWantedBy=x\n",
    ),
];

const DATABASE: &str = "\
[Exec]
Boot=off
ProcessTwo=on
Parameters=/usr/bin/postgres -D '/var/lib/my data' \\
  # with its own settings
  -c max_connections=100 -c listen_addresses=*
User=postgres
WorkingDirectory=/var/lib
PrivateUsers=no
Hostname=db
KillSignal=SIGINT
[Files]
ReadOnly=yes
Bind=/srv/pg:/var/lib/my\\x20data
Bind=/srv/pg/wal:/var/lib/my\\x20data/wal
Bind=/dev/fuse
BindReadOnly=/var/lib/shoal:/shoal
Bind=/run/mysqld/mysqld.sock
[Network]
VirtualEthernet=no
Port=5432
";

#[test]
fn a_web_server_with_limits() {
    insta::assert_snapshot!(shown(&imported("belenios", WEB_SERVER, DROP_INS)));
}

#[test]
fn a_database_run_as_a_command() {
    insta::assert_snapshot!(shown(&imported("db_1", DATABASE, &[])));
}

#[test]
fn an_empty_file_has_the_defaults_of_the_unit() {
    insta::assert_snapshot!(shown(&imported("shop", "", &[])));
}

#[test]
fn what_no_one_understands_is_told() {
    let text = "Boot=yes\n[Exec\n[Exec]\nwords\nBoot=maybe\nX-Mine=1\nFuture=1\nEnvironment=A\n\
                Environment=1A=2\nCapability=CAP_FLY all\nParameters=\"open\nLimitNOFILE=infinity\n\
                SystemCallFilter=no/such\n[Files]\nBind=\nBind=:/tmp/x\nBind=+/a:/b\nBind=relative\nVolatile=soon\n\
                BindReadOnly=-/srv/keys\n[Network]\nBridge=much-too-long-a-name\nPort=x\nInterface=eth1\n\
                [X-Other]\nA=1\n[Other]\nA=1\n";
    let unit = [(
        "a.conf",
        "[Service]\nMemoryMax=50%\nCPUQuota=half\nTasksMax=10%\nExecStart=\n\
                            ExecStart=systemd-nspawn\nExecStartPre=/bin/true\nDeviceAllow=/dev/fuse\n\
                            Environment=A=1\nSlice=x\n",
    )];
    insta::assert_snapshot!(shown(&imported("ü", text, &unit)));
}

/// Every key of systemd.nspawn(5).
const KEYS: &[(&str, &[&str])] = &[
    (
        "Exec",
        &[
            "Boot",
            "Ephemeral",
            "ProcessTwo",
            "Parameters",
            "Environment",
            "User",
            "WorkingDirectory",
            "PivotRoot",
            "Capability",
            "DropCapability",
            "AmbientCapability",
            "NoNewPrivileges",
            "KillSignal",
            "Personality",
            "MachineID",
            "PrivateUsers",
            "NotifyReady",
            "SystemCallFilter",
            "LimitCPU",
            "LimitFSIZE",
            "LimitDATA",
            "LimitSTACK",
            "LimitCORE",
            "LimitRSS",
            "LimitNOFILE",
            "LimitAS",
            "LimitNPROC",
            "LimitMEMLOCK",
            "LimitLOCKS",
            "LimitSIGPENDING",
            "LimitMSGQUEUE",
            "LimitNICE",
            "LimitRTPRIO",
            "LimitRTTIME",
            "OOMScoreAdjust",
            "CPUAffinity",
            "Hostname",
            "ResolvConf",
            "Timezone",
            "LinkJournal",
            "SuppressSync",
        ],
    ),
    (
        "Files",
        &[
            "ReadOnly",
            "Volatile",
            "Bind",
            "BindReadOnly",
            "BindUser",
            "TemporaryFileSystem",
            "Inaccessible",
            "Overlay",
            "OverlayReadOnly",
            "PrivateUsersOwnership",
            "PrivateUsersChown",
        ],
    ),
    (
        "Network",
        &[
            "Private",
            "VirtualEthernet",
            "VirtualEthernetExtra",
            "Interface",
            "MACVLAN",
            "IPVLAN",
            "Bridge",
            "Zone",
            "Port",
        ],
    ),
];

#[test]
fn every_key_is_known() {
    for (section, keys) in KEYS {
        for key in *keys {
            let import = imported("x", &format!("[{section}]\n{key}=strange value\n"), &[]);
            let unknown = import.notes.iter().find(|note| note.why.contains("not known to shoal"));
            assert_eq!(unknown, None, "{key}");
        }
    }
}

/// What the first instance says, after `[section]` and these lines.
fn lines(text: &str) -> Vec<String> {
    let import = imported("x", text, &[]);
    let all = import.toml.lines().skip_while(|line| !line.starts_with("[instance.main]"));
    all.filter(|line| !line.starts_with('#') && line.contains('=')).map(str::to_owned).collect()
}

fn says(text: &str, line: &str) -> bool {
    lines(text).iter().any(|l| l == line)
}

#[test]
fn what_is_said_is_what_systemd_nspawn_would_do() {
    let said = [
        ("[Exec]\nBoot=no\nParameters=/bin/x 'a b'", "command = [\"/bin/x\", \"a b\"]"),
        ("[Exec]\nBoot=no", "command = [\"/bin/sh\"]"),
        ("[Exec]\nParameters=a\n", "boot = true"),
        ("[Exec]\nBoot=1\nParameters=b", "boot = true"),
        ("[Exec]\nBoot=no\nParameters=a\nParameters=\nParameters=b", "command = [\"b\"]"),
        (
            "[Exec]\nEnvironment=A=1\nEnvironment=\nEnvironment=B=2 A=3",
            "env = { A = \"3\", B = \"2\" }",
        ),
        ("[Network]\nPrivate=yes", "network = \"private\""),
        ("[Network]\nPrivate=no", "network = \"host\""),
        ("[Network]\nVirtualEthernet=no", "network = \"host\""),
        ("[Network]\nVirtualEthernet=yes\nZone=a", "network = \"zone:a\""),
        ("[Network]\nBridge=br0\nZone=a", "network = \"bridge:br0\""),
        ("[Network]\nMACVLAN=eth0", "network = \"private\""),
        ("[Network]\nPort=80", "network = \"veth\""),
        ("[Network]\nPort=tcp:80:8080\nPort=udp:80", "# ports = [\"80:8080/tcp\", \"80/udp\"]"),
        ("[Files]\nReadOnly=yes", "root = \"read-only\""),
        ("[Files]\nReadOnly=yes\nVolatile=overlay", "root = \"memory\""),
        ("[Files]\nVolatile=state", "root = \"memory\""),
        ("[Exec]\nPrivateUsers=identity", "private-users = false"),
        ("[Exec]\nNoNewPrivileges=off", "new-privileges = true"),
        ("[Exec]\nDropCapability=NET_RAW", "capabilities-drop = [\"CAP_NET_RAW\"]"),
        ("[Exec]\nLimitNOFILE=5", "nofile = 5"),
        ("[Files]\nBind=/srv/a/:/var/a/", "[instance.main.data.a]"),
        ("[Files]\nBind=/home/ada:/ada", "[instance.main.mounts.\"/ada\"]"),
        ("[Files]\nBindReadOnly=/srv/keys", "source = \"/srv/keys\""),
    ];
    for (text, line) in said {
        let found =
            says(text, line) || imported("x", text, &[]).toml.contains(&format!("\n{line}\n"));
        assert!(found, "{text}\n{:#?}", lines(text));
    }
    let unsaid = [
        ("[Exec]\nPrivateUsers=pick", "private-users"),
        ("[Exec]\nPrivateUsers=1", "private-users"),
        ("[Exec]\nNoNewPrivileges=yes", "new-privileges"),
        ("[Exec]\nEphemeral=yes", "root"),
        ("[Exec]\nCapability=CAP_NET_RAW\nDropCapability=CAP_NET_RAW", "capabilities-add"),
        ("[Network]\nPrivate=yes\nPort=80", "# ports"),
    ];
    for (text, key) in unsaid {
        assert!(!lines(text).iter().any(|line| line.starts_with(key)), "{text}");
    }
}

#[test]
fn volumes_have_names_and_places_of_their_own() {
    let import = imported(
        "x",
        "[Files]\nBind=/srv/1:/a/data\nBind=/srv/2:/b/data\nBind=/srv/3:/c/9\nBind=/srv/4:/b/data/x\n\
         BindReadOnly=/etc/x:/a\n",
        &[],
    );
    for header in ["data]", "data-2]", "n9]"] {
        assert!(import.toml.contains(&format!("[instance.main.data.{header}")), "{}", import.toml);
    }
    let refused: Vec<usize> = import
        .notes
        .iter()
        .filter(|n| n.why.contains("inside the other"))
        .filter_map(|n| n.line)
        .collect();
    assert_eq!(refused, [5, 6]);
}

fn piece() -> impl Strategy<Value = String> {
    let keys: Vec<String> = KEYS
        .iter()
        .flat_map(|(section, keys)| keys.iter().map(move |key| format!("[{section}]\n{key}=")))
        .collect();
    let value = prop_oneof![
        prop::sample::select(vec![
            "yes",
            "no",
            "/a",
            "/srv/a:/b:idmap",
            "/home/x:/y",
            "A=1",
            "all",
            "CAP_KILL",
            "80",
            "tcp:1:2",
            "x",
            "1:2",
            "\"",
            "\\",
            "\\x41",
            "~a b",
            "{{ x }}",
            "A={{ x }}",
            "tcp:1:9",
            "4000000000%",
            "12345678901234567890",
            "A=\0",
            "",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    (prop::sample::select(keys), value).prop_map(|(key, value)| format!("{key}{value}\n"))
}

proptest! {
    #[test]
    fn what_comes_out_is_a_fleet_file(
        name in any::<String>(),
        pieces in prop::collection::vec(piece(), 0..12),
    ) {
        imported(&name, &pieces.concat(), &[("x.conf", &pieces.concat())]);
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        imported(&text, &text, &[(&text, &text)]);
    }
}
