//! The check of the log filter in `SANDMILL_LOG`. Without it, an unknown level or module would
//! silence the log.
//!
//! Directives are separated by commas: a level for everything, or `PART=LEVEL`. Parts are targets
//! of `tracing`: `sandmill`, a module of it, or `sandmill::guest` for the lines of plugins. Pure.

use tracing::level_filters::LevelFilter;

use super::VARIABLE;
use crate::model::nearest::nearest;

/// The names of the levels.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// The target of the whole host.
const ROOT: &str = "sandmill";
/// The target of plugins' lines, which is not a module.
const GUEST: &str = "guest";

/// A value of `SANDMILL_LOG` that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "variable {name}: {0}\nIt takes a level ({levels}), PART=LEVEL for one part of the host, as in sandmill::guest=debug, or several of these separated by commas.",
    name = VARIABLE,
    levels = LEVELS.join(", ")
)]
pub struct InvalidFilter(pub(super) String);

/// Checks every directive, and returns them without spaces.
pub(super) fn check(directives: &str) -> Result<String, InvalidFilter> {
    let each: Vec<&str> = directives.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect();
    each.iter().try_for_each(|directive| check_directive(directive))?;
    if each.is_empty() { Err(InvalidFilter("a level is missing".into())) } else { Ok(each.join(",")) }
}

/// Checks one directive.
fn check_directive(directive: &str) -> Result<(), InvalidFilter> {
    let level = match directive.split_once('=') {
        Some((part, level)) => {
            check_part(part)?;
            level
        }
        // A part alone selects all levels of that part.
        None if directive.contains("::") || directive == ROOT => return check_part(directive),
        None => directive,
    };
    match level {
        "" => Err(InvalidFilter(format!("a level is missing in `{directive}`"))),
        level if level.parse::<LevelFilter>().is_err() => Err(InvalidFilter(format!("`{level}` is not a level"))),
        _ => Ok(()),
    }
}

/// Checks the first two segments of a part. Inner modules are not checked, as they may change.
fn check_part(part: &str) -> Result<(), InvalidFilter> {
    let mut segments = part.splitn(3, "::");
    let (root, module) = (segments.next(), segments.next());
    let is_known = root == Some(ROOT) && module.is_none_or(|module| modules().any(|known| known == module));
    if is_known {
        return Ok(());
    }
    let parts = modules().map(|module| format!("{ROOT}::{module}")).chain([ROOT.into()]);
    Err(InvalidFilter(format!("`{part}` is not a part of the host; the nearest is {}", nearest(part, parts))))
}

/// The host's modules, as `lib.rs` declares them, and the target of plugins' lines.
fn modules() -> impl Iterator<Item = &'static str> {
    let declared = include_str!("../lib.rs").lines();
    declared.filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).chain([GUEST])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_levels_and_parts_are_accepted() {
        for directives in ["info", "WARN", "off", "5", "sandmill::guest=debug", "sandmill::guest", "sandmill"] {
            assert_eq!(check(directives), Ok(directives.into()), "{directives}");
        }
        let several = check("warn,sandmill=info, sandmill::plugins::reconciler=trace,");
        assert_eq!(several, Ok("warn,sandmill=info,sandmill::plugins::reconciler=trace".into()));
    }

    #[test]
    fn mistakes_are_named_with_the_allowed_values() {
        for (directives, problem) in [
            ("verbose", "`verbose` is not a level"),
            (" , ", "a level is missing"),
            ("sandmill::guest=", "a level is missing in `sandmill::guest=`"),
            ("sandmill::guest=loud", "`loud` is not a level"),
            ("guests=debug", "`guests` is not a part of the host; the nearest is sandmill"),
            ("sandmill::gest=debug", "`sandmill::gest` is not a part of the host; the nearest is sandmill::guest"),
            ("sandmil", "`sandmil` is not a level"),
            ("[lane]=info", "`[lane]` is not a part of the host; the nearest is sandmill"),
        ] {
            assert_eq!(check(directives), Err(InvalidFilter(problem.into())), "{directives}");
        }
        let text = InvalidFilter("`x` is not a level".into()).to_string();
        assert!(
            text.starts_with("variable SANDMILL_LOG: `x` is not a level\nIt takes a level (off, error, "),
            "{text}"
        );
    }
}
