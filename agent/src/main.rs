//! `shoal-agent`: the command line of the agent.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shoal_agent::files::FileError;
use shoal_agent::host::doctor::{self, Verdict};
use shoal_agent::host::{clean, container, ending, enter, network, trial};
use shoal_agent::join::{Join, join};
use shoal_agent::paths::Paths;
use shoal_agent::version::version;
use shoal_core::agent_upgrade::Guarded;
use shoal_core::image::Digest;
use shoal_core::name::MachineName;

/// The Shoal agent: runs systemd-nspawn instances on this host as its controller wants them.
#[derive(Debug, Parser)]
#[command(name = "shoal-agent", version = version())]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Join a controller: trade a token of `shoal host token create` for a certificate.
    Join {
        /// Where the controller is: HOST, or HOST:PORT of its enrolment port (7444).
        #[arg(long, value_name = "HOST[:PORT]")]
        controller: String,
        /// The token.
        #[arg(long, env = "SHOAL_JOIN_TOKEN", hide_env_values = true)]
        token: String,
        /// This host's name in Shoal; its hostname if not given.
        #[arg(long)]
        name: Option<String>,
        /// The controller's port for agents.
        #[arg(long, default_value_t = 7443)]
        link_port: u16,
    },
    /// Run the agent. The unit shoal-agent.service does this.
    Run,
    /// Show this host's instances; works with the controller gone and the daemon stopped.
    Status {
        /// `table` for people, `json` for programs.
        #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
        output: String,
    },
    /// Tell what this host lacks to run instances, each with its remedy.
    Doctor {
        /// `table` for people, `json` for programs.
        #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
        output: String,
    },
    /// Become the container of a machine. The unit shoal-instance@.service does this.
    #[command(hide = true)]
    InstanceStart { machine: MachineName },
    /// Become the container in which a hook of a machine is run.
    #[command(hide = true, name = container::hook::VERB)]
    InstanceHook {
        machine: MachineName,
        #[arg(last = true)]
        words: Vec<OsString>,
    },
    /// Give a container that is about to start its network.
    #[command(hide = true, name = network::VERB)]
    InstanceNetwork { machine: MachineName, nspawn: u32 },
    /// Undo what a start of a machine made. The unit shoal-instance@.service does this.
    #[command(hide = true)]
    InstanceClean { machine: MachineName },
    /// Put the agent before back, where the one that is tried has not proved itself. A timer does
    /// this.
    #[command(hide = true, name = trial::VERB)]
    PutBack { digest: Digest, asked: u64, attempt: u32 },
    /// Run a command inside a container, given its first process.
    #[command(hide = true, name = enter::VERB)]
    ExecIn {
        leader: u32,
        unit: String,
        #[arg(last = true)]
        words: Vec<String>,
    },
}

fn main() -> ExitCode {
    let paths = Paths::default();
    let result = match Arguments::parse().command {
        // No runtime: this changes the process as a whole and must have one thread.
        Command::ExecIn { leader, unit, words } => {
            return enter::run(&enter::Container { leader, unit }, &words);
        }
        Command::InstanceStart { machine } => return start(&paths, &machine),
        Command::InstanceHook { machine, words } => {
            let ran = container::hook::become_hook(&paths, &machine, &words);
            ran.map(|never| match never {}).map_err(anyhow::Error::from)
        }
        Command::InstanceNetwork { machine, nspawn } => {
            return network::attend(&paths, &machine, nspawn);
        }
        Command::InstanceClean { machine } => {
            told(ending::end(&paths, &machine));
            clean::clean(&paths, &machine).map_err(Into::into)
        }
        Command::PutBack { digest, asked, attempt } => {
            put_back(&paths, &Guarded { digest, asked, attempt })
        }
        Command::Run => {
            log_to_journal();
            in_runtime(shoal_agent::daemon::run(paths))
        }
        Command::Join { controller, token, name, link_port } => {
            in_runtime(joining(paths, Join { controller, link_port, token, name }))
        }
        Command::Status { output } => in_runtime(show(paths, output == "json")),
        Command::Doctor { output } => return in_runtime_code(examine(paths, output == "json")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", shoal_core::cause::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn put_back(paths: &Paths, guarded: &Guarded) -> anyhow::Result<()> {
    if trial::put_back(paths, guarded)? {
        println!("the agent that was tried has not proved itself in time; the one before is back");
    }
    Ok(())
}

/// What a unit counts as a stop that went well.
const STOPPED: u8 = 143;

fn start(paths: &Paths, machine: &MachineName) -> ExitCode {
    let error = match container::start(paths, machine) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    eprintln!("error: {}", shoal_core::cause::chain(&error));
    if error.is_as_wanted() { ExitCode::from(STOPPED) } else { ExitCode::FAILURE }
}

/// A note that could not be written keeps nothing from starting or ending.
fn told(noted: Result<(), FileError>) {
    if let Err(error) = noted {
        eprintln!("warning: {}", shoal_core::cause::chain(&error));
    }
}

fn in_runtime(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        // For files, names and checks: enough for all of a host's checks to hang at once, and few
        // enough that what their stacks take stays small.
        .max_blocking_threads(64)
        .enable_all()
        .build()?
        .block_on(work)
}

fn in_runtime_code(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => {
            eprintln!("error: can't start: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The journal adds time and host by itself.
fn log_to_journal() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SHOAL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false).init();
}

async fn joining(paths: Paths, wanted: Join) -> anyhow::Result<()> {
    let about = join(&paths, wanted).await?;
    println!("joined {} as {}", about.controller, about.host_name);
    println!("next: systemctl enable --now shoal-agent");
    Ok(())
}

async fn show(paths: Paths, json: bool) -> anyhow::Result<()> {
    let local = shoal_agent::local::look(&paths).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&local)?);
        return Ok(());
    }
    println!("{} of {}, generation {}", local.host, local.controller, local.generation);
    if local.infra.is_some() || local.infra_wanted.is_some() {
        let shown = |v: &Option<_>| v.as_ref().map_or("none".to_owned(), ToString::to_string);
        let (has, wants) = (shown(&local.infra), shown(&local.infra_wanted));
        println!("infra version {has}, wanted {wants}");
    }
    for problem in &local.problems {
        println!("problem: {problem}");
    }
    if local.instances.is_empty() {
        println!("no instances");
        return Ok(());
    }
    println!("{:<32} {:<8} {:<12} {:<24} LEADER", "INSTANCE", "WANTED", "UNIT", "IMAGE");
    for row in local.instances {
        let leader = row.leader.map_or_else(|| "-".into(), |pid| pid.to_string());
        println!(
            "{:<32} {:<8} {:<12} {:<24} {leader}",
            row.instance, row.wanted, row.unit, row.image
        );
    }
    for (fleet, why) in local.went_back {
        println!("{fleet} went back to what was healthy before: {why}");
    }
    Ok(())
}

async fn examine(paths: Paths, json: bool) -> ExitCode {
    let findings = doctor::examine(&paths).await;
    let mut bad = false;
    let mut rows = Vec::new();
    for finding in &findings {
        let (word, text) = match &finding.verdict {
            Verdict::Good(text) => ("ok", text),
            Verdict::Warning(text) => ("warn", text),
            Verdict::Bad(text) => ("FAIL", text),
        };
        bad |= word == "FAIL";
        if json {
            rows.push(serde_json::json!({
                "subject": finding.subject,
                "verdict": word.to_lowercase(),
                "found": text,
                "remedy": finding.remedy,
            }));
            continue;
        }
        println!("{word:<5} {:<18} {text}", finding.subject);
        if let Some(remedy) = &finding.remedy {
            println!("      {:<18} -> {remedy}", "");
        }
    }
    if json {
        println!("{:#}", serde_json::Value::Array(rows));
    }
    if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
