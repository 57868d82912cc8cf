//! `sandmill plugin sign` and `sandmill plugin key`: signatures for hosts that require signed
//! plugins, and the keys that make them.

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

/// Signs a component, for hosts that require signed plugins
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples:
  sandmill plugin key signing.key
  sandmill plugin sign plugins/my-plugin.wasm --key signing.key
  sandmill run --plugins plugins --set rollout.public-keys=$(sandmill plugin key signing.key)",
    after_help = "Writes the signature to NAME.wasm.sig beside the component."
)]
pub(super) struct SignArgs {
    /// The component
    file: PathBuf,
    /// The file with the secret key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// Creates a signing key if it is missing, and prints its public key
#[derive(Debug, clap::Args)]
#[command(
    before_help = "Example:\n  sandmill plugin key signing.key",
    after_help = "Hosts list the public key in the setting rollout.public-keys."
)]
pub(super) struct KeyArgs {
    /// The file with the secret key; if it is missing, it is created, readable only by you
    file: PathBuf,
}

/// Signs a component, and writes the signature beside it.
pub(super) fn sign(args: &SignArgs) -> anyhow::Result<ExitCode> {
    let key = read(&args.key)?;
    let content = fs::read(&args.file).with_context(|| format!("read {}", args.file.display()))?;
    let beside = args.file.with_extension("wasm.sig");
    fs::write(&beside, format!("{}\n", key.sign(&content))).with_context(|| format!("write {}", beside.display()))?;
    output::print_plain(&format!("{}\n", beside.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Creates a secret key if the file is missing, and prints its public key.
pub(super) fn key(args: &KeyArgs) -> anyhow::Result<ExitCode> {
    if !args.file.exists() {
        let mut random = [0; 32];
        getrandom::fill(&mut random)
            .map_err(|error| anyhow::anyhow!("cannot get random bytes from the system: {error}"))?;
        let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        // Created with these permissions, so other users can never read it.
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.file);
        let written = file.and_then(|mut file| file.write_all(format!("{secret}\n").as_bytes()));
        written.with_context(|| format!("write {}", args.file.display()))?;
    }
    output::print(&format!("{}\n", read(&args.file)?.public()))?;
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> anyhow::Result<SecretKey> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("read the key {}; `sandmill plugin key {0}` creates one", path.display()))?;
    let key = SecretKey::parse(&text);
    ensure!(key.is_ok(), "{} does not contain a secret key, which is 64 hexadecimal digits", path.display());
    key.map_err(anyhow::Error::msg)
}
