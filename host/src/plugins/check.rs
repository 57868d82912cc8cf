//! A plugin's file checked alone: its manifest, its signature where one is asked for, and whether the sandbox takes it.
//!
//! What only all files together show, that two of them claim one processor say, is the [plan](super::plan)'s.

use std::{cell::RefCell, sync::Arc};

use super::{
    dry_runs::DryRuns,
    fleet::{Follower, Origin},
    folder::{PluginFile, beneath::Refusal},
    history::Listed,
    manifest::Manifest,
    signature::{self, PublicKey},
};
use crate::{
    processor::dry_run::DryRun,
    sandbox::{Limits, LoadError, Plugin, Sandbox},
};

/// A file after it was checked.
pub(super) struct Checked {
    /// The file that this is about.
    pub(super) file: PluginFile,
    /// SHA-256 of it; empty where it was not read.
    pub(super) digest: String,
    /// Where it comes from, as far as that is known.
    pub(super) origin: Origin,
    /// What came of trying it on events that are handled already, if it was.
    pub(super) dry_run: Option<DryRun>,
    /// Whether it is to be checked again, since the database or the file system did not let it.
    pub(super) again: bool,
    /// What can run, or why nothing can.
    pub(super) found: Result<(Arc<Plugin>, Manifest), String>,
}

impl Checked {
    /// A file of which nothing is known but why it does not run.
    pub(super) fn refused(file: PluginFile, why: String) -> Self {
        Checked { file, digest: String::new(), origin: Origin::default(), dry_run: None, again: false, found: Err(why) }
    }

    /// What would follow the log; nothing where it does not run.
    pub(super) fn follower(&self) -> Option<Follower> {
        let (plugin, manifest) = self.found.as_ref().ok()?;
        Some(Follower {
            descriptor: manifest.over(plugin.descriptor(), self.file.tenant.as_ref()),
            plugin: self.file.name.clone(),
            digest: self.digest.clone(),
            handler: plugin.clone(),
            manifest: manifest.clone(),
            origin: self.origin.clone(),
        })
    }

    /// Tries it on events that are handled already, where it would take another version's place.
    pub(super) async fn tried(mut self, dry_runs: &DryRuns) -> Self {
        let Some(follower) = self.follower() else { return self };
        match dry_runs.of(&follower).await {
            Ok(dry_run) => self.dry_run = dry_run,
            Err(why) if follower.manifest.dry_run => {
                self.again = true;
                self.found = Err(format!("it could not be tried on earlier events, and will be again: {why}"));
            }
            Err(why) => tracing::warn!(plugin = follower.plugin, "could not be tried on earlier events: {why}"),
        }
        if let (true, Some(Err(why))) = (follower.manifest.dry_run, self.dry_run.as_ref().map(DryRun::verdict)) {
            self.found = Err(why);
        }
        self
    }
}

/// What a file system or an operator says against a file.
struct Wrong {
    why: String,
    /// Whether it may be otherwise the next time, though the file looks the same.
    passes: bool,
}

impl Wrong {
    fn reading(what: &str, refusal: &Refusal) -> Self {
        Wrong { why: format!("{what}{refusal}"), passes: !matches!(refusal, Refusal::Refused(_)) }
    }

    fn checked(self, file: PluginFile) -> Checked {
        Checked { again: self.passes, ..Checked::refused(file, self.why) }
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
        Err(wrong) => return wrong.checked(file),
    };
    let signature = match file.signature_text() {
        Ok(text) => Some(text),
        Err(Refusal::Gone) => None,
        Err(refusal) => return Wrong::reading("its signature: ", &refusal).checked(file),
    };
    let component = match file.component() {
        Ok(component) => component,
        Err(refusal) => return Wrong::reading("", &refusal).checked(file),
    };
    let signed_by = RefCell::new(String::new());
    let accept = |content: &[u8]| {
        if keys.is_empty() {
            return Ok(());
        }
        let signer = signature::check(content, signature.as_deref(), keys)?;
        signed_by.replace(signer.text());
        Ok(())
    };
    let examined =
        sandbox.for_plugin(limits, manifest.settings.clone(), file.tenant.as_ref()).examine_opened(component, accept);
    let contract = examined.outline.and_then(|outline| outline.contract()).unwrap_or_default();
    let again = matches!(examined.loaded, Err(LoadError::Unreadable(_)));
    let found = examined.loaded.map(|plugin| (Arc::new(plugin), manifest));
    let found = found.map_err(|error| format!("{:#}", anyhow::Error::from(error)));
    let origin = Origin { contract, signed_by: signed_by.into_inner() };
    Checked { file, digest: examined.digest.unwrap_or_default(), origin, dry_run: None, again, found }
}

/// The version that ran last where a file does not run, if its code is still at hand and everything but that file says that it may run. May take as long as a start.
pub(super) fn recall(sandbox: &Sandbox, keys: &[PublicKey], file: PluginFile, ran: &Listed) -> Option<Checked> {
    let signed = keys.is_empty() || keys.iter().any(|key| key.text() == ran.signed_by);
    let (manifest, limits) = read_manifest(&file, sandbox.limits()).ok().filter(|_| signed)?;
    let plugin = sandbox.for_plugin(limits, manifest.settings.clone(), file.tenant.as_ref()).recall(&ran.digest)?;
    let origin = Origin { contract: ran.contract.clone(), signed_by: ran.signed_by.clone() };
    let (digest, found) = (ran.digest.clone(), Ok((Arc::new(plugin), manifest)));
    Some(Checked { file, digest, origin, dry_run: None, again: false, found })
}

/// What is said about a plugin, and what it may use up with that.
fn read_manifest(file: &PluginFile, host: &Limits) -> Result<(Manifest, Limits), Wrong> {
    if file.manifest.is_none() {
        return Ok((Manifest::default(), host.clone()));
    }
    let path = file.path.with_extension("toml");
    let before = format!("its manifest {}: ", path.display());
    let wrong = |why: String| Wrong { why: format!("{before}{why}"), passes: false };
    let text = file.manifest_text().map_err(|refusal| Wrong::reading(&before, &refusal))?;
    let manifest = Manifest::parse(&text).map_err(wrong)?;
    if let (Some(tenant), true) = (&file.tenant, manifest.tenants.is_some()) {
        return Err(wrong(format!(
            "tenants: what lies in the folder {tenant} is that tenant's alone; leave the line out"
        )));
    }
    let limits = manifest.limits(host).map_err(wrong)?;
    Ok((manifest, limits))
}
