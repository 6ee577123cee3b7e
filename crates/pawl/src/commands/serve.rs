//! `pawl serve`: the server.

mod check;

use std::{io::IsTerminal as _, net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use pawl_server::{
    App, Config,
    config::{LogFormat, LogLevel, Logging},
};

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
            return check::run(&self.config()?.data);
        }
        let config = self.config()?;
        log_to_stderr(config.logging);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
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
        })
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
