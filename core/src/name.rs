//! Names that users write and that become file names, unit names and certificate fields.
//!
//! Each is checked once, where it enters; a value of one of these types is safe to put into a
//! path or a unit name. Deliberately absent: any way to build one without the check.

use std::fmt;
use std::str::FromStr;

use crate::text::as_text;
use serde::{Deserialize, Serialize};

/// Why a text is not a name of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {text:?} {problem}")]
pub struct InvalidName {
    /// What was being named, such as `fleet name`.
    pub kind: &'static str,
    /// The offending text, shortened to 80 characters.
    pub text: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// The rule that a kind of name follows.
struct Rule {
    kind: &'static str,
    /// Bytes.
    longest: usize,
    /// Characters allowed besides `a-z` and `0-9`.
    extra: &'static str,
    first_letter_only: bool,
    /// Whether `A-Z` is allowed too.
    capitals: bool,
}

impl Rule {
    const fn new(kind: &'static str, longest: usize, extra: &'static str) -> Self {
        Self { kind, longest, extra, first_letter_only: false, capitals: false }
    }

    fn check(&self, text: &str) -> Result<(), InvalidName> {
        self.problem(text).map_or(Ok(()), |problem| {
            Err(InvalidName { kind: self.kind, text: text.chars().take(80).collect(), problem })
        })
    }

    fn problem(&self, text: &str) -> Option<String> {
        let Some(first) = text.chars().next() else { return Some("is empty".into()) };
        if text.len() > self.longest {
            let length = text.len();
            return Some(format!("is {length} bytes long; {} are allowed", self.longest));
        }
        if let Some(bad) = text.chars().find(|c| !self.allows(*c)) {
            return Some(format!("contains {bad:?}; allowed are {}", self.allowed()));
        }
        if self.first_letter_only && !first.is_ascii_lowercase() {
            return Some(format!("starts with {first:?}; it must start with a letter a-z"));
        }
        if !first.is_ascii_alphanumeric() {
            return Some(format!("starts with {first:?}; it must start with a letter or digit"));
        }
        let last = text.chars().last().unwrap_or(first);
        if !last.is_ascii_alphanumeric() {
            return Some(format!("ends with {last:?}; it must end with a letter or digit"));
        }
        None
    }

    fn allows(&self, c: char) -> bool {
        let letter = c.is_ascii_lowercase() || (self.capitals && c.is_ascii_uppercase());
        letter || c.is_ascii_digit() || self.extra.contains(c)
    }

    fn allowed(&self) -> String {
        let extra: Vec<String> = self.extra.chars().map(|c| format!("{c:?}")).collect();
        let letters = if self.capitals { "A-Z, a-z" } else { "a-z" };
        format!("{letters}, 0-9 and {}", extra.join(" "))
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $rule:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                const RULE: Rule = $rule;
                RULE.check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        as_text!($name);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name!(
    /// The name of a fleet: at most 31 bytes of `a-z0-9-`, so that a machine name fits machined.
    FleetName,
    Rule { first_letter_only: true, ..Rule::new("fleet name", 31, "-") }
);
name!(
    /// The name of an instance within its fleet: at most 31 bytes of `a-z0-9-`.
    InstanceName,
    Rule { first_letter_only: true, ..Rule::new("instance name", 31, "-") }
);
name!(
    /// The name of a data volume within its instance.
    VolumeName,
    Rule { first_letter_only: true, ..Rule::new("data volume name", 31, "-_") }
);
name!(
    /// The name of a host, as people write it; unique among the enrolled hosts.
    HostName,
    Rule::new("host name", 63, "-.")
);
name!(
    /// The controller's own name for a host; never used again after the host is removed.
    HostId,
    Rule::new("host id", 32, "-")
);
name!(
    /// The name of a person, as in certificates and roles.
    UserName,
    Rule::new("user name", 63, "-._")
);
name!(
    /// The name part of an image reference.
    ImageName,
    Rule::new("image name", 63, "-_.")
);

name!(
    /// The tag part of an image reference: at most 63 bytes of `A-Za-z0-9._-`.
    ///
    /// Tags are often version numbers of others' making, so capitals are allowed here only.
    Tag,
    Rule { capitals: true, ..Rule::new("tag", 63, "-_.") }
);
name!(
    /// A version of the infra, as people write it: at most 63 bytes of `A-Za-z0-9._-`.
    InfraVersion,
    Rule { capitals: true, ..Rule::new("infra version", 63, "-_.") }
);
name!(
    /// The name of a backup on a host.
    BackupName,
    Rule { capitals: true, ..Rule::new("backup name", 63, "-_.") }
);
name!(
    /// What an instance calls one of its secrets: the name of a systemd credential.
    CredentialName,
    Rule { capitals: true, ..Rule::new("credential name", 63, "-_.") }
);
name!(
    /// One part of a secret's name.
    SecretPart,
    Rule::new("secret name", 63, "-_.")
);
name!(
    /// The name of a running object of systemd-machined: `<fleet>-<instance>`.
    MachineName,
    Rule { first_letter_only: true, ..Rule::new("machine name", 63, "-") }
);

impl MachineName {
    /// The systemd unit that runs this machine.
    #[must_use]
    pub fn unit(&self) -> String {
        format!("shoal-instance@{}.service", self.0)
    }
}

/// An instance of a fleet, written `fleet/instance`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId {
    /// The fleet.
    pub fleet: FleetName,
    /// The instance within it.
    pub instance: InstanceName,
}

impl InstanceId {
    /// The name of the instance's machine, of its unit and of its directories.
    ///
    /// `a-b/c` and `a/b-c` share one; the controller refuses a fleet that would make two
    /// instances meet in one machine name.
    #[must_use]
    pub fn machine(&self) -> MachineName {
        MachineName(format!("{}-{}", self.fleet, self.instance))
    }
}

impl FromStr for InstanceId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let Some((fleet, instance)) = text.split_once('/') else {
            return Err(InvalidName {
                kind: "instance",
                text: text.chars().take(80).collect(),
                problem: "has no '/'; write FLEET/INSTANCE".into(),
            });
        };
        Ok(Self { fleet: fleet.parse()?, instance: instance.parse()? })
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.fleet, self.instance))
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

as_text!(InstanceId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_pass() {
        for text in ["a", "belenios", "relay-tools", "v2", "a1-b2"] {
            assert_eq!(text.parse::<FleetName>().unwrap().as_str(), text);
        }
        assert!("web-1.example.org".parse::<HostName>().is_ok());
        assert!("1host".parse::<HostName>().is_ok());
        assert!("2.5.1-RC1".parse::<Tag>().is_ok());
    }

    #[test]
    fn bad_names_say_what_is_wrong() {
        let long = "x".repeat(200);
        let cases = [
            ("", "is empty"),
            ("a/b", "contains '/'"),
            ("..", "contains '.'"),
            ("Belenios", "contains 'B'"),
            ("1a", "must start with a letter"),
            ("-a", "starts with '-'"),
            ("a-", "ends with '-'"),
            ("a b", "contains ' '"),
            ("ä", "contains 'ä'"),
            (&long, "is 200 bytes long; 31 are allowed"),
        ];
        for (text, wanted) in cases {
            let error = text.parse::<FleetName>().unwrap_err().to_string();
            assert!(error.contains(wanted), "{text:?}: {error}");
            assert!(error.len() < 220, "an error never repeats a huge name: {error}");
        }
        assert!("..".parse::<HostName>().is_err());
        assert!("../x".parse::<Tag>().is_err());
    }

    #[test]
    fn an_instance_names_its_machine_and_unit() {
        let id: InstanceId = "belenios/main".parse().unwrap();
        assert_eq!(id.machine().as_str(), "belenios-main");
        assert_eq!(id.machine().unit(), "shoal-instance@belenios-main.service");
        assert!(
            "belenios".parse::<InstanceId>().unwrap_err().to_string().contains("FLEET/INSTANCE")
        );
    }

    #[test]
    fn the_longest_machine_name_fits_machined() {
        let part = "a".repeat(31);
        let id: InstanceId = format!("{part}/{part}").parse().unwrap();
        assert_eq!(id.machine().as_str().len(), 63);
    }
}
