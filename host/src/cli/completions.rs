//! `sandmill completions`: a script that completes commands and flags in a shell, made from the commands themselves.

use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::{Arguments, output};

/// Prints a script that completes commands and flags in a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Where the script goes:
  bash        sandmill completions bash > ~/.local/share/bash-completion/completions/sandmill
  zsh         sandmill completions zsh > ~/.zfunc/_sandmill
              and in ~/.zshrc: fpath=(~/.zfunc $fpath); autoload -Uz compinit; compinit
  fish        sandmill completions fish > ~/.config/fish/completions/sandmill.fish
  elvish      sandmill completions elvish >> ~/.config/elvish/rc.elv
  powershell  sandmill completions powershell >> $PROFILE

Make the folder first if it is not there; a new shell knows the commands. Or for this shell alone:
  source <(sandmill completions bash)")]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Runs the command.
pub(super) fn run(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let all = Arguments::command();
    // What is hidden from people is not offered to them either.
    let mut offered = Command::new("sandmill")
        .version(env!("CARGO_PKG_VERSION"))
        .args(all.get_arguments().cloned())
        .subcommands(all.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned());
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut offered, "sandmill", &mut script);
    output::print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}
