//! `shoal context …`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use shoal_tls::ReloadableIdentity;

use super::Shell;
use crate::args::context::ContextCommand;
use crate::clock;
use crate::connect::ConnectError;
use crate::context::{Context, ContextFile};
use crate::exit::{Exit, Failure};
use crate::output::table::{Table, details};
use crate::output::time::At;

#[derive(Debug, Serialize)]
struct ContextsView {
    contexts: Vec<ContextView>,
}

#[derive(Debug, Serialize)]
struct ContextView {
    name: String,
    current: bool,
    controller: String,
    identity: String,
    certificate_expires: At,
}

pub(super) fn run(shell: &Shell, command: ContextCommand) -> Result<Exit, Failure> {
    let mut file = shell.contexts()?;
    match command {
        ContextCommand::List => list(shell, &file)?,
        ContextCommand::Show { name } => {
            let name = name.as_deref().or_else(|| shell.chosen_context());
            let (name, context) = file.choose(name)?;
            show(shell, &view(&file, name, &context)?)?;
        }
        ContextCommand::Use { name } => {
            file.make_current(&name)?;
            let (name, context) = file.choose(Some(&name))?;
            let view = view(&file, name, &context)?;
            let said = format!("current context: {} ({})", view.name, view.controller);
            shell.console.result(said, &view)?;
        }
        ContextCommand::Rename { from, to } => {
            file.rename(&from, &to)?;
            let (name, context) = file.choose(Some(&to))?;
            shell.console.result(format!("{from} is now {to}"), &view(&file, name, &context)?)?;
        }
    }
    Ok(Exit::Done)
}

fn list(shell: &Shell, file: &ContextFile) -> Result<(), Failure> {
    let read = |name: String| {
        let (name, context) = file.choose(Some(&name))?;
        view(file, name, &context)
    };
    let contexts: Result<Vec<_>, Failure> = file.names().into_iter().map(read).collect();
    let contexts = ContextsView { contexts: contexts? };
    let mut table = Table::new(&["CURRENT", "NAME", "CONTROLLER", "IDENTITY", "EXPIRES"]);
    for context in &contexts.contexts {
        let mark = if context.current { "*" } else { " " };
        let expires = context.certificate_expires.relative(clock::now());
        let ContextView { name, controller, identity, .. } = context;
        table.row(vec![
            mark.into(),
            name.into(),
            controller.into(),
            identity.into(),
            expires.into(),
        ]);
    }
    let text = table.render(shell.console.color(), "No contexts.");
    Ok(shell.console.result(text, &contexts)?)
}

fn show(shell: &Shell, view: &ContextView) -> Result<(), Failure> {
    let expires = view.certificate_expires;
    let text = details(&[
        ("Name", view.name.clone()),
        ("Controller", view.controller.clone()),
        ("Identity", view.identity.clone()),
        ("Certificate", format!("expires {expires} ({})", expires.relative(clock::now()))),
    ]);
    Ok(shell.console.result(text, view)?)
}

fn view(file: &ContextFile, name: String, context: &Context) -> Result<ContextView, Failure> {
    let identity = ReloadableIdentity::from_pem(&context.certificate, &context.key)
        .map_err(|source| ConnectError::Identity { source: Box::new(source) })?;
    let info = identity.info();
    Ok(ContextView {
        current: file.current() == Some(name.as_str()),
        name,
        controller: context.controller.clone(),
        identity: info.identity.to_string(),
        certificate_expires: at(info.not_after),
    })
}

fn at(time: SystemTime) -> At {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    At::new(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
