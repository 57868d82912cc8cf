//! `sandmill plugin sign` and `sandmill plugin key`: what a host that asks for signatures accepts.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, ensure};

use super::output;
use crate::plugins::signature::SecretKey;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sandmill plugin key signing.key
  sandmill plugin sign plugins/my-plugin.wasm --key signing.key
  sandmill run --plugins plugins --set rollout.public-keys=$(sandmill plugin key signing.key)")]
pub(super) struct SignArgs {
    /// The component
    file: PathBuf,
    /// The file with the secret key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct KeyArgs {
    /// The file with the secret key; made, for you alone to read, if there is none
    file: PathBuf,
}

/// Signs a component: the signature goes beside it.
pub(super) fn sign(args: &SignArgs) -> anyhow::Result<ExitCode> {
    let key = read(&args.key)?;
    let content = fs::read(&args.file).with_context(|| format!("read {}", args.file.display()))?;
    let beside = args.file.with_extension("wasm.sig");
    fs::write(&beside, format!("{}\n", key.sign(&content))).with_context(|| format!("write {}", beside.display()))?;
    output::print_plain(&format!("{}\n", beside.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Makes a key where there is none, and prints the public one of it.
pub(super) fn key(args: &KeyArgs) -> anyhow::Result<ExitCode> {
    if !args.file.exists() {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("the system gives no random bytes: {error}"))?;
        let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        // No moment in which others could read it.
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.file);
        let written = file.and_then(|mut file| file.write_all(format!("{secret}\n").as_bytes()));
        written.with_context(|| format!("write {}", args.file.display()))?;
    }
    output::print(&format!("{}\n", read(&args.file)?.public()))?;
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> anyhow::Result<SecretKey> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("read the key {}; `sandmill plugin key {0}` makes one", path.display()))?;
    let key = SecretKey::parse(&text);
    ensure!(key.is_ok(), "{} holds no secret key: 64 hexadecimal digits are expected", path.display());
    key.map_err(anyhow::Error::msg)
}
