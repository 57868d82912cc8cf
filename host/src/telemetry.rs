//! Log lines: to standard error, for people, coloured only on a terminal and never with `NO_COLOR`. They carry words of plugins and
//! applications, so what could steer a terminal is taken out of every message and field.

use std::{fmt, io::IsTerminal};

use tracing_subscriber::{EnvFilter, field::MakeExt, fmt::format};

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
        .fmt_fields(format::debug_fn(|writer, field, value| write_field(writer, field.name(), value)).delimited(" "))
        .init();
    Ok(())
}

fn write_field(writer: &mut format::Writer<'_>, name: &str, value: &dyn fmt::Debug) -> fmt::Result {
    if name != "message" {
        write!(writer, "{name}=")?;
    }
    let value = format!("{value:?}");
    value.chars().try_for_each(|c| match c {
        '\n' | '\t' => writer.write_char(c),
        c if c.is_control() => writer.write_char(char::REPLACEMENT_CHARACTER),
        c => writer.write_char(c),
    })
}
