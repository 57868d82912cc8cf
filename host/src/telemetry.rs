//! Log lines: to standard error, for people, coloured only on a terminal and never with `NO_COLOR`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging. `SANDMILL_LOG` takes what `tracing-subscriber` calls directives (`debug`, `sandmill::guest=warn`); default `info`.
pub fn start() -> anyhow::Result<()> {
    let directives = std::env::var("SANDMILL_LOG").unwrap_or_else(|_| "info".into());
    let filter = EnvFilter::try_new(&directives)
        .map_err(|e| anyhow::anyhow!("SANDMILL_LOG={directives}: {e}; try info, debug or sandmill::guest=debug"))?;
    let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours && std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    Ok(())
}
