//! The settings of a private server, as its command line.

use std::path::Path;

use super::Options;

/// Settings unless the options override them: enough for many sessions of tests, or one demo, on a
/// small machine.
const DEFAULTS: [(&str, &str); 10] = [
    ("listen_addresses", ""),
    ("port", "5432"),
    ("unix_socket_permissions", "0700"),
    ("shared_buffers", "256MB"),
    ("max_connections", "200"),
    ("max_wal_size", "2GB"),
    ("checkpoint_timeout", "15min"),
    ("log_line_prefix", "%m [%p] %a: "),
    ("log_timezone", "UTC"),
    ("timezone", "UTC"),
];

/// Further settings of a server that may lose its data if the machine crashes.
const NOT_DURABLE: [(&str, &str); 2] = [("fsync", "off"), ("full_page_writes", "off")];

/// The server's options, quoted for a shell. The last value of a setting wins.
pub(super) fn command_line(run: &Path, options: &Options) -> String {
    let not_durable = if options.durable { &[][..] } else { &NOT_DURABLE[..] };
    let defaults = DEFAULTS.iter().chain(not_durable).map(|(name, value)| (*name, *value));
    let given = options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let run = run.to_string_lossy();
    defaults
        .chain(given)
        .chain([("unix_socket_directories", &*run)])
        .map(|(name, value)| format!("-c '{}'", format!("{name}={value}").replace('\'', r"'\''")))
        .collect::<Vec<_>>()
        .join(" ")
}
