//! What each command does. Each takes its arguments and a [`Shell`], and ends with an [`Exit`] or
//! a [`Failure`].

pub(crate) mod agent;
mod apply;
mod audit;
pub(crate) mod chosen;
mod context;
pub(crate) mod difference;
mod events;
pub(crate) mod exec;
mod fleet;
pub(crate) mod fleet_file;
mod fmt;
pub(crate) mod host;
mod image;
pub(crate) mod import;
mod infra;
mod instance;
mod lint;
pub(crate) mod locked;
pub(crate) mod logs;
pub(crate) mod man;
mod outage;
pub(crate) mod push;
mod rollout;
pub(crate) mod run;
mod schema;
pub(crate) mod secret;
mod seen;
pub(crate) mod signature;
pub(crate) mod stage;
mod version;
pub(crate) mod watch;

use std::path::PathBuf;

use crate::args::{Cli, Command, CompletionArgs, Globals};
use crate::client::Client;
use crate::completion;
use crate::connect::connect;
use crate::context::{ContextError, ContextFile, default_path};
use crate::exit::{Exit, Failure};
use crate::output::{Console, Surroundings};
use fleet_file::Kind;
use shoal_proto::v1::RunVerb;

/// What every command works with.
#[derive(Debug)]
pub(crate) struct Shell {
    pub(crate) console: Console,
    globals: Globals,
    home: Option<PathBuf>,
}

impl Shell {
    fn new(globals: Globals) -> Self {
        let console = Console::new(globals.output, globals.color, Surroundings::look());
        Self { console, globals, home: std::env::home_dir() }
    }

    /// The file of contexts, with a warning where others can read it.
    fn contexts(&self) -> Result<ContextFile, ContextError> {
        let path = match &self.globals.config {
            Some(path) => path.clone(),
            None => default_path(self.home.clone())?,
        };
        let file = ContextFile::read(&path)?;
        if let Some(warning) = file.warning() {
            self.console.note(format!("warning: {warning}"));
        }
        Ok(file)
    }

    /// The name of the context that the command line or the environment asks for.
    fn chosen_context(&self) -> Option<&str> {
        self.globals.context.as_deref()
    }

    /// A connection to the controller of the chosen context.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        let (_, context) = self.contexts()?.choose(self.chosen_context())?;
        let limit = self.globals.request_timeout;
        Ok(Client::new(connect(&context, limit).await?, limit))
    }
}

/// Carries out a command line.
pub(crate) async fn run(cli: Cli) -> Result<Exit, Failure> {
    let Cli { globals, command } = cli;
    let shell = &Shell::new(globals);
    match command {
        Command::Host(command) => host::run(shell, command).await,
        Command::Agent(command) => agent::run(shell, command).await,
        Command::Image(command) => image::run(shell, command).await,
        Command::Secret(command) => secret::run(shell, command).await,
        Command::Check(args) => fleet::check(shell, &args),
        Command::Fmt(args) => fmt::run(shell, &args),
        Command::Import(args) => import::run(shell, &args),
        Command::Schema(args) => schema::run(shell, &args),
        Command::Plan(args) => {
            apply::plan(shell, args.file.path(), Kind::Fleet, args.recreate.wanted()).await
        }
        Command::Apply(args) => {
            let recreate = args.recreate.wanted();
            apply::apply(shell, args.file.path(), Kind::Fleet, &args.how, recreate).await
        }
        Command::Infra(command) => infra::run(shell, command).await,
        Command::Status(args) => fleet::status(shell, args).await,
        Command::Rollout(command) => rollout::run(shell, command).await,
        Command::Ps(args) => instance::ps(shell, args).await,
        Command::Start(args) => run::run(shell, args, RunVerb::Start).await,
        Command::Stop(args) => run::run(shell, args, RunVerb::Stop).await,
        Command::Restart(args) => run::run(shell, args, RunVerb::Restart).await,
        Command::Pause(args) => run::run(shell, args, RunVerb::Pause).await,
        Command::Unpause(args) => run::run(shell, args, RunVerb::Unpause).await,
        Command::Logs(args) => logs::run(shell, args).await,
        Command::Exec(args) if args.tty => Err(exec::NoTerminal.into()),
        Command::Exec(args) => {
            exec::run(shell, args).await.map_err(|failure| Failure::Exec(Box::new(failure)))
        }
        Command::Data(command) => instance::data(shell, command).await,
        Command::Events(args) => events::run(shell, args).await,
        Command::Audit(args) => audit::run(shell, &args).await,
        Command::Context(command) => context::run(shell, command),
        Command::Version(args) => version::run(shell, &args).await,
        Command::Completion(CompletionArgs { shell: of }) => {
            shell.console.raw(of.script(&completion::this_command()).as_bytes())?;
            Ok(Exit::Done)
        }
        Command::Man(args) => man::run(shell, &args),
    }
}

/// Waits for Ctrl-C, which is how what is followed is ended.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Then the signal still ends the process, as it does where nobody waits for it.
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests;
