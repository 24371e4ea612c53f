use std::os::unix::fs::PermissionsExt as _;

use super::*;

const FILE: &str = r#"
current = "prod"
colour = "kept"

[context.prod]
controller = "shoal.example.org:7443"
ca = "CA"
certificate = "CERT"
key = "KEY"
note = "kept too"

[context.lab]
controller = "lab:7443"
ca = "CA"
certificate = "CERT"
key = "KEY"
"#;

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    write_private(&path, text.as_bytes()).unwrap();
    (dir, path)
}

#[test]
fn the_current_context_is_chosen_or_another_by_name() {
    let (_dir, path) = file(FILE);
    let contexts = ContextFile::read(&path).unwrap();
    let (name, context) = contexts.choose(None).unwrap();
    assert_eq!((name.as_str(), context.controller.as_str()), ("prod", "shoal.example.org:7443"));
    assert_eq!(contexts.choose(Some("lab")).unwrap().1.controller, "lab:7443");
    assert_eq!(contexts.warning(), None);
}

#[test]
fn errors_say_where_and_what_to_do() {
    let (_dir, path) = file(FILE);
    let unknown = ContextFile::read(&path).unwrap().choose(Some("prd")).unwrap_err().to_string();
    assert!(unknown.contains("\"prd\"") && unknown.contains("lab, prod"), "{unknown}");

    let (_dir, path) = file(&FILE.replace("current = \"prod\"", ""));
    let none = ContextFile::read(&path).unwrap().choose(None).unwrap_err().to_string();
    assert!(none.contains("shoal context use"), "{none}");

    let missing = ContextFile::read(Path::new("/nonexistent/config.toml")).unwrap_err();
    assert!(missing.to_string().contains("shoal-controller init"), "{missing}");

    assert!(default_path(None).unwrap_err().to_string().contains("SHOAL_CONFIG"));
    let home = default_path(Some("/home/ada".into())).unwrap();
    assert_eq!(home, Path::new("/home/ada/.config/shoal/config.toml"));
}

#[test]
fn a_broken_file_is_named_with_its_line() {
    for (text, line) in [("current = \n", ":1:"), ("\n[context.a]\ncontroller = 5\n", ":3:")] {
        let (_dir, path) = file(text);
        let error = ContextFile::read(&path).unwrap_err().to_string();
        assert!(error.contains(line), "{error}");
        assert!(!error.contains("KEY"), "{error}");
    }
}

#[test]
fn a_file_that_others_can_read_is_warned_of() {
    let (_dir, path) = file(FILE);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let warning = ContextFile::read(&path).unwrap().warning().unwrap();
    assert!(warning.contains("chmod 600"), "{warning}");
}

#[test]
fn changes_keep_everything_else_and_stay_private() {
    let (_dir, path) = file(FILE);
    let mut contexts = ContextFile::read(&path).unwrap();
    contexts.make_current("lab").unwrap();
    contexts.rename("lab", "test").unwrap();
    let again = ContextFile::read(&path).unwrap();
    assert_eq!(
        (again.current(), again.names()),
        (Some("test"), vec!["prod".into(), "test".into()])
    );
    assert_eq!(again.choose(None).unwrap().1.controller, "lab:7443");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("colour = \"kept\"") && text.contains("note = \"kept too\""), "{text}");
    assert_eq!(again.warning(), None);
}

#[test]
fn names_that_are_taken_or_unknown_change_nothing() {
    let (_dir, path) = file(FILE);
    let mut contexts = ContextFile::read(&path).unwrap();
    assert!(matches!(contexts.rename("lab", "prod"), Err(ContextError::Taken { .. })));
    assert!(matches!(contexts.rename("x", "y"), Err(ContextError::Unknown { .. })));
    assert!(matches!(contexts.make_current("x"), Err(ContextError::Unknown { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), FILE);
}

#[test]
fn keys_stay_out_of_debug_output() {
    let (_dir, path) = file(FILE);
    let (_, context) = ContextFile::read(&path).unwrap().choose(None).unwrap();
    assert!(!format!("{context:?}").contains("KEY"));
}
