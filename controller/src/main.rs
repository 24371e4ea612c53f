//! The controller's command line.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use shoal_controller::init::{Address, Plan, init};
use shoal_controller::secrets::renew_key;
use shoal_controller::{clock, server};
use shoal_core::name::UserName;
use shoal_tls::TrustDomain;
use tracing_subscriber::EnvFilter;

/// The Shoal controller: keeps what a fleet should be, and tells the agents of its hosts.
#[derive(Debug, Parser)]
#[command(name = "shoal-controller", version)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a controller: its CA, its store, and the context of its first admin
    Init(Init),
    /// Make another key for the secrets, where the one that was is lost
    ///
    /// The values that only the lost key opens are given up, so use this only where no backup of
    /// the controller's directory has its file `secrets.key`. Where the key that is there opens the
    /// secrets, nothing is changed. Stop the controller first. Afterwards set each secret anew
    /// with `shoal secret set` or `shoal secret generate`, and apply the fleets that use it.
    /// Instances that run go on with the values that their hosts have.
    NewSecretsKey {
        /// The controller's directory
        #[arg(long, default_value = "/var/lib/shoal/controller")]
        dir: PathBuf,
    },
    /// Serve until SIGTERM
    Run {
        /// The controller's directory
        #[arg(long, default_value = "/var/lib/shoal/controller")]
        dir: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Init {
    /// The controller's directory, which must be absent or empty
    #[arg(long, default_value = "/var/lib/shoal/controller")]
    dir: PathBuf,
    /// Name of this installation, a part of every identity, such as fleet.example.org
    #[arg(long, value_name = "NAME")]
    trust_domain: TrustDomain,
    /// What clients dial: a host name or an IP address. The first goes into the admin's context
    #[arg(long = "address", value_name = "HOST[:PORT]", required = true)]
    addresses: Vec<Address>,
    /// Name of the first admin
    #[arg(long, value_name = "NAME", default_value = "admin")]
    admin: UserName,
    /// Where the admin's context goes [default: ~/.config/shoal/config.toml]
    #[arg(long, value_name = "FILE")]
    context_out: Option<PathBuf>,
    /// Where to listen for agents and people [default: 0.0.0.0:7443]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Where to listen for hosts that join [default: 0.0.0.0:7444]
    #[arg(long, value_name = "IP:PORT")]
    enrol_listen: Option<SocketAddr>,
}

fn main() -> ExitCode {
    let Args { verb } = Args::parse();
    match dispatch(verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shoal-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match verb {
        Verb::Init(args) => runtime.block_on(make(args)),
        Verb::NewSecretsKey { dir } => {
            let lost = runtime.block_on(renew_key(&dir))?;
            println!("New key of the secrets in {}; values given up: {lost}.", dir.display());
            Ok(())
        }
        Verb::Run { dir } => {
            log();
            Ok(runtime.block_on(server::run(&dir))?)
        }
    }
}

async fn make(args: Init) -> anyhow::Result<()> {
    let Init { dir, trust_domain, addresses, admin, context_out, listen, enrol_listen } = args;
    let context_out = match context_out {
        Some(path) => path,
        None => default_context()?,
    };
    let plan = Plan { dir, trust_domain, addresses, admin, context_out, listen, enrol_listen };
    init(&plan, clock::system_time()).await?;
    println!("Controller made in {}.", plan.dir.display());
    println!("Context of {} written to {}.", plan.admin, plan.context_out.display());
    println!("Next: shoal-controller run --dir {}", plan.dir.display());
    Ok(())
}

fn default_context() -> anyhow::Result<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty());
    let config = config
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    let config =
        config.context("HOME is not set: say with --context-out where the context goes")?;
    Ok(config.join("shoal/config.toml"))
}

/// Text for people, on standard error; the journal has times of its own.
fn log() {
    let filter = EnvFilter::try_from_env("SHOAL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let to_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_writer(std::io::stderr);
    if to_journal { log.without_time().init() } else { log.init() }
}
