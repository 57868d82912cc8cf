//! A plugin's file checked alone: its manifest, its signature where one is asked for, and whether the sandbox takes it.
//!
//! What only all files together show, that two of them claim one processor say, is the [plan](super::plan)'s.

use std::sync::Arc;

use super::{
    folder::{self, PluginFile},
    manifest::Manifest,
    signature::{self, PublicKey},
};
use crate::sandbox::{Limits, Plugin, Sandbox};

/// A file after it was checked.
pub(super) struct Checked {
    /// The file that this is about.
    pub(super) file: PluginFile,
    /// SHA-256 of it; empty where it was not read.
    pub(super) digest: String,
    /// The contract that it keeps; empty where that is not known.
    pub(super) contract: String,
    /// What can run, or why nothing can.
    pub(super) found: Result<(Arc<Plugin>, Manifest), String>,
}

impl Checked {
    /// A file of which nothing is known but why it does not run.
    pub(super) fn refused(file: PluginFile, why: String) -> Self {
        Checked { file, digest: String::new(), contract: String::new(), found: Err(why) }
    }
}

/// Checks a file alone, with its manifest. May take seconds.
pub(super) fn check(sandbox: &Sandbox, keys: &[PublicKey], file: PluginFile) -> Checked {
    if let Err(why) = &file.stamp {
        let why = why.clone();
        return Checked::refused(file, why);
    }
    let (manifest, limits) = match read_manifest(&file, sandbox.limits()) {
        Ok(read) => read,
        Err(why) => return Checked::refused(file, why),
    };
    let accept = |content: &[u8]| {
        if keys.is_empty() {
            return Ok(());
        }
        let signature = folder::read_beside(&file.path.with_extension("wasm.sig")).ok();
        signature::check(content, signature.as_deref(), keys)
    };
    let examined = sandbox.for_plugin(limits, manifest.settings.clone()).examine_if(&file.path, accept);
    let contract = examined.outline.and_then(|outline| outline.contract()).unwrap_or_default();
    let found = examined.loaded.map(|plugin| (Arc::new(plugin), manifest));
    let found = found.map_err(|error| format!("{:#}", anyhow::Error::from(error)));
    Checked { file, digest: examined.digest.unwrap_or_default(), contract, found }
}

/// What is said about a plugin, and what it may use up with that.
fn read_manifest(file: &PluginFile, host: &Limits) -> Result<(Manifest, Limits), String> {
    if file.manifest.is_none() {
        return Ok((Manifest::default(), host.clone()));
    }
    let path = file.path.with_extension("toml");
    let wrong = |why: String| format!("its manifest {}: {why}", path.display());
    let text = folder::read_beside(&path).map_err(|error| wrong(format!("it cannot be read: {error}")))?;
    let manifest = Manifest::parse(&text).map_err(wrong)?;
    if let (Some(tenant), true) = (&file.tenant, manifest.tenants.is_some()) {
        return Err(wrong(format!(
            "tenants: what lies in the folder {tenant} is that tenant's alone; leave the line out"
        )));
    }
    let limits = manifest.limits(host).map_err(wrong)?;
    Ok((manifest, limits))
}
