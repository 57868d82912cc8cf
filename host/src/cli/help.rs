//! The layout of help pages: description, examples (`before_help`), usage, options, details
//! (`after_help`).
//!
//! The page of `sandmill --help` lists the commands in groups, by task. Their names and
//! descriptions come from the commands themselves. Commands without a group are listed under
//! "More", so the page is always complete.

use std::fmt::Write;

use clap::Command;

use super::START;

/// The commands of each group, by the group's title.
const GROUPS: [(&str, &[&str]); 4] = [
    (
        "Run and monitor processors",
        &[
            "run",
            "status",
            "explain",
            "tenants",
            "plugins",
            "processors",
            "pause",
            "resume",
            "dead-letters",
            "audit",
            "documents",
        ],
    ),
    ("Events", &["append", "import", "events"]),
    ("Develop plugins", &["plugin", "dev", "demo"]),
    ("Set up", &["migrate", "config", "completions"]),
];

/// The layout of a command's page. Unlike clap's own, it puts the examples after the description.
const PAGE: &str = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

/// Sets the layout of all pages.
pub(super) fn with_layout(command: Command) -> Command {
    first_page(command.mut_subcommands(page))
}

/// Sets the layout of a command's page and those of its subcommands.
fn page(command: Command) -> Command {
    command.help_template(PAGE).mut_subcommands(page)
}

/// Sets the layout of the page of `sandmill --help`, which lists the commands in groups.
fn first_page(command: Command) -> Command {
    let shown: Vec<(String, String)> = command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set())
        .map(|sub| (sub.get_name().into(), sub.get_about().map(ToString::to_string).unwrap_or_default()))
        .collect();
    let width = shown.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let is_grouped = |name: &str| GROUPS.iter().any(|(_, names)| names.contains(&name));
    let ungrouped: Vec<&str> = shown.iter().map(|(name, _)| name.as_str()).filter(|name| !is_grouped(name)).collect();
    let style = *command.get_styles().get_header();
    let literal = *command.get_styles().get_literal();
    let mut page = format!("{{about-with-newline}}\n{START}\n\n{{usage-heading}} {{usage}}\n");
    for (title, names) in GROUPS.iter().copied().chain([("More", &ungrouped[..])]) {
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
