//! `sandmill completions`: shell completion scripts, generated from the commands themselves.

use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::{Arguments, output};

const EXAMPLES: &str = "\
Examples:
  source <(sandmill completions bash)      for the current bash only

To install it for new shells (create the folder first if it is missing):
  bash        sandmill completions bash > ~/.local/share/bash-completion/completions/sandmill
  zsh         sandmill completions zsh > ~/.zfunc/_sandmill
              and in ~/.zshrc: fpath=(~/.zfunc $fpath); autoload -Uz compinit; compinit
  fish        sandmill completions fish > ~/.config/fish/completions/sandmill.fish
  elvish      sandmill completions elvish >> ~/.config/elvish/rc.elv
  powershell  sandmill completions powershell >> $PROFILE";

/// Prints a shell completion script
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Runs the command.
pub(super) fn run(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let all = Arguments::command();
    // Hidden commands are not completed.
    let mut visible = Command::new("sandmill")
        .version(env!("CARGO_PKG_VERSION"))
        .args(all.get_arguments().cloned())
        .subcommands(all.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned());
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut visible, "sandmill", &mut script);
    output::print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}
