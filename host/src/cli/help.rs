//! The first page of help: commands in groups by what a person is about to do, made from the commands themselves.
//!
//! A command that no group names stands in the last one, so that none can be missing.

use std::fmt::Write;

use clap::Command;

/// What people are about to do, and the commands for it.
const GROUPS: [(&str, &[&str]); 4] = [
    (
        "Run and look after processors",
        &["run", "status", "explain", "tenants", "plugins", "processors", "pause", "resume", "documents"],
    ),
    ("Events", &["append", "import", "events"]),
    ("Write plugins", &["plugin", "dev", "demo"]),
    ("Set up", &["migrate", "config", "completions"]),
];

/// Gives the command its first page.
pub(super) fn grouped(command: Command) -> Command {
    let shown: Vec<(String, String)> = command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set())
        .map(|sub| (sub.get_name().into(), sub.get_about().map(ToString::to_string).unwrap_or_default()))
        .collect();
    let width = shown.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let is_grouped = |name: &str| GROUPS.iter().any(|(_, names)| names.contains(&name));
    let others: Vec<&str> = shown.iter().map(|(name, _)| name.as_str()).filter(|name| !is_grouped(name)).collect();
    let style = *command.get_styles().get_header();
    let literal = *command.get_styles().get_literal();
    let mut page = String::from("{about-with-newline}\n{usage-heading} {usage}\n");
    for (title, names) in GROUPS.iter().copied().chain([("More", &others[..])]) {
        let lines: Vec<_> = names.iter().filter_map(|name| shown.iter().find(|(known, _)| known == name)).collect();
        if !lines.is_empty() {
            // Writing to a string does not fail.
            let _ = write!(page, "\n{style}{title}:{style:#}\n");
        }
        for (name, about) in lines {
            let _ = writeln!(page, "  {literal}{name:<width$}{literal:#}  {about}");
        }
    }
    let _ = write!(page, "\n{style}Options:{style:#}\n{{options}}{{after-help}}");
    command.help_template(page)
}
