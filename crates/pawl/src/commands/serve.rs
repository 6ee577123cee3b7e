//! `pawl serve`: the server.

mod check;

use std::{io::IsTerminal as _, net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use pawl_server::{
    App, Config,
    config::{LogFormat, LogLevel, Logging},
};

/// How long a stopped server waits for threads that do not end.
const STOP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);

/// Options of `pawl serve`.
#[derive(Args, Debug)]
pub struct Serve {
    /// Configuration file, TOML; see `pawl config explain`
    #[arg(long)]
    config: Option<PathBuf>,
    /// Directory that holds everything
    #[arg(long)]
    data: Option<PathBuf>,
    /// Address and port; port 0 lets the system choose
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Accept an address other than loopback although there is no key
    #[arg(long)]
    insecure: bool,
    /// Give up damaged records that stop the start
    #[arg(long)]
    accept_loss: bool,
    /// Tell what a start of this binary would do to the data, change nothing, and end; a server may be running there
    #[arg(long)]
    check: bool,
}

impl Serve {
    fn config(&self) -> Result<Config> {
        let mut config = match &self.config {
            None => Config::default(),
            Some(path) => {
                let shown = path.display();
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read `{shown}`"))?;
                Config::from_toml(&text).map_err(|e| anyhow!("`{shown}`: {e}"))?
            }
        };
        config.data = self.data.clone().unwrap_or(config.data);
        config.listen = self.listen.unwrap_or(config.listen);
        config.insecure |= self.insecure;
        Ok(config)
    }

    /// Runs the server until it is told to stop.
    pub fn run(&self) -> Result<()> {
        if self.check {
            let config = self.config()?;
            check::run(&config.data)?;
            return pawl_server::tls::check(&config.tls)
                .map_err(|e| anyhow!("a start would be refused: {e}"));
        }
        let config = self.config()?;
        log_to_stderr(config.logging);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let served = runtime.block_on(async {
            let data = config.data.display().to_string();
            let app = App::open(config, self.accept_loss).await?;
            let recovery = app.recovery();
            if recovery.torn_bytes > 0 {
                tracing::warn!(bytes = recovery.torn_bytes, "cut a torn tail off the log");
            }
            if let Some(damage) = recovery.accepted {
                tracing::warn!(from = damage.from, to = damage.to, "gave up damaged records");
            }
            let open = app.keys().none_ever();
            let running = pawl_server::serve(app).await?;
            say!("pawl listens on {} with its data in {data}", running.url());
            if open {
                say!("there is no key: anybody on this machine may do anything; make one with `pawl key create`");
            }
            stop_signal().await?;
            tracing::info!("stopping");
            running.stop().await;
            Ok(())
        });
        // What still waits, for a file system that hangs say, is not waited for.
        runtime.shutdown_timeout(STOP_TIMEOUT);
        served
    }
}

fn log_to_stderr(logging: Logging) {
    let level = match logging.level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false);
    match logging.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// Waits for Ctrl-C or SIGTERM.
pub async fn stop_signal() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
