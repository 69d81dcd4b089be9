//! The binary: arguments, configuration, logging, run, exit code.

#![forbid(unsafe_code)]

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use mesh_agent::admin::AdminToken;
use mesh_agent::admin::probe::{self, Probe};
use mesh_agent::cni::plugin;
use mesh_agent::config::{
    AdminArgs, CaArgs, CheckArgs, Cli, Command, ExplainArgs, ExplainOutput, ProbeArgs, ProbeKind, RunArgs,
    StatusArgs, StatusOutput, UninstallArgs,
};
use mesh_agent::proxy::explain::Question;
use mesh_agent::snapshot::SnapshotSettings;
use mesh_agent::telemetry::plain::harmless;
use mesh_agent::{admin, app, control, status, telemetry};
use mimalloc::MiMalloc;

/// Gives memory back to the system after a spike of connections, which the C library's allocator does not.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let done = match Cli::of_process().command {
        Command::Run(args) => run(*args),
        Command::Ca(args) => ca(*args),
        Command::Status(args) => print_status(&args),
        Command::Explain(args) => explain(&args),
        Command::Check(args) => check(&args),
        Command::Uninstall(args) => uninstall(&args),
        Command::Probe(args) => probe(&args),
        Command::Cni(args) => cni(&args.into()),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let config = args.resolve(cores)?;
    telemetry::log::init(&config.log_level)?;
    app::run(&config)?;
    Ok(ExitCode::SUCCESS)
}

fn ca(args: CaArgs) -> anyhow::Result<ExitCode> {
    let config = args.resolve()?;
    telemetry::log::init(&config.log_level)?;
    app::ca::run(&config)?;
    Ok(ExitCode::SUCCESS)
}

fn print_status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let page = page_of(&args.admin, "/status").context("no status")?;
    let text = match args.output {
        StatusOutput::Json => page,
        StatusOutput::Table => status::for_humans(&page)?,
    };
    say(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn explain(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let question = Question::new(&args.from, &args.to, args.method.as_deref(), &args.headers)?;
    let page = page_of(&args.admin, &question.page()).context("no explanation")?;
    let text = match args.output {
        ExplainOutput::Json => page,
        ExplainOutput::Tree => status::explained(&page)?,
    };
    say(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// A page of the running agent.
fn page_of(agent: &AdminArgs, path: &str) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let token = agent
        .admin_token_file
        .as_deref()
        .map(AdminToken::read)
        .transpose()?;
    let answer = runtime
        .block_on(admin::client::get(agent.admin_addr, token.as_ref(), path))
        .context("does the agent, or the CA, run here, with this --admin-addr?")?;
    anyhow::ensure!(
        answer.status.is_success(),
        "the agent answers {}: {}",
        answer.status,
        answer.body.trim()
    );
    Ok(answer.body)
}

fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let settings = SnapshotSettings {
        node: "".into(),
        root_namespace: args.root_namespace.as_str().into(),
        trust_domains: Arc::new([]),
    };
    let reading = control::check_dir(&args.dir, &args.trust_domain, &settings)?;
    let rejections = &reading.rejections;
    for rejection in rejections {
        say(&rejection.to_string())?;
    }
    if let Some(digest) = &reading.digest {
        say(&format!("digest {digest}"))?;
    }
    if rejections.is_empty() {
        say(&format!("{}: every object can be used", shown(&args.dir)))?;
        return Ok(ExitCode::SUCCESS);
    }
    complain(&format!(
        "{}: {} rejected, see above",
        shown(&args.dir),
        rejections.len()
    ));
    Ok(ExitCode::FAILURE)
}

fn uninstall(args: &UninstallArgs) -> anyhow::Result<ExitCode> {
    let removed = app::uninstall(args)?;
    say(&removed.to_string())?;
    if removed.left.is_empty() {
        if args.stay {
            app::vacancy::stay(args.admin_addr)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    complain("something is left, see above; does an agent still run on this node?");
    Ok(ExitCode::FAILURE)
}

fn probe(args: &ProbeArgs) -> anyhow::Result<ExitCode> {
    let asked = match args.what {
        ProbeKind::Live => Probe::Live,
        ProbeKind::Ready => Probe::Ready,
    };
    say(&probe::ask(&args.probe_socket, asked)?)?;
    Ok(ExitCode::SUCCESS)
}

/// The specification wants JSON on standard output whatever happens, and no other line.
fn cni(call: &plugin::Call) -> anyhow::Result<ExitCode> {
    let mut conf = Vec::new();
    std::io::stdin()
        .take(MAX_NETCONF)
        .read_to_end(&mut conf)
        .context("cannot read the configuration on standard input")?;
    let outcome = plugin::run(call, &conf);
    if let Some(note) = &outcome.noted {
        complain(note);
    }
    if let Some(said) = &outcome.said {
        say(&said.to_string())?;
    }
    Ok(if outcome.is_ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn shown(dir: &Path) -> String {
    dir.display().to_string()
}

/// Of what a runtime gives a plugin: some KiB.
const MAX_NETCONF: u64 = 4 * 1024 * 1024;

/// Writes to standard output; a reader that went away is no failure.
fn say(text: &str) -> anyhow::Result<()> {
    // Names in manifests are somebody else's; the terminal is the operator's.
    let lines = [&*harmless(text.trim_end().as_bytes()), b"\n"].concat();
    match std::io::stdout().write_all(&lines) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

/// One line on standard error; nothing more can be done when even that fails.
fn complain(text: &str) {
    let line = format!("mesh-agent: {text}\n");
    if std::io::stderr().write_all(&harmless(line.as_bytes())).is_err() {
        tracing::error!(text, "cannot write to standard error");
    }
}
