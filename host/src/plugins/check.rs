//! A plugin's file checked alone: its manifest, its signature where one is asked for, and whether the sandbox takes it.
//!
//! What only all files together show, that two of them claim one processor say, is the [plan](super::plan)'s.

use std::{cell::RefCell, sync::Arc};

use super::{
    dry_runs::DryRuns,
    folder::{PluginFile, beneath::Refusal},
    history::components::StoredComponent,
    manifest::Manifest,
    registry::{Follower, Origin},
    signature::{self, PublicKey},
};
use crate::{
    rollout::dry_run::DryRunReport,
    sandbox::{Limits, LoadError, Plugin, Sandbox, compile::CompileError, examine},
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
    pub(super) dry_run: Option<DryRunReport>,
    /// Whether it is to be checked again, since the database or the file system did not let it.
    pub(super) again: bool,
    /// Why it was not checked to its end.
    pub(super) unfinished: Option<Unfinished>,
    /// What can run, or why nothing can.
    pub(super) found: Result<(Arc<Plugin>, Manifest), String>,
}

/// Why a file is checked once more: nothing of it speaks against the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfinished {
    /// Compiling it takes longer than that of small files does.
    Slow,
    /// The machine is short of something.
    Shortage,
}

impl Unfinished {
    fn of(error: &LoadError) -> Option<Self> {
        match error {
            LoadError::Compile(CompileError::Unfinished) => Some(Unfinished::Slow),
            LoadError::Compile(error) if error.is_shortage() => Some(Unfinished::Shortage),
            LoadError::NoInstance(_) => Some(Unfinished::Shortage),
            _ => None,
        }
    }
}

impl Checked {
    /// A file of which nothing is known but why it does not run.
    pub(super) fn refused(file: PluginFile, why: String) -> Self {
        Checked {
            file,
            digest: String::new(),
            origin: Origin::default(),
            dry_run: None,
            again: false,
            unfinished: None,
            found: Err(why),
        }
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
        if let (true, Some(Err(why))) = (follower.manifest.dry_run, self.dry_run.as_ref().map(DryRunReport::verdict)) {
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
    let signed = RefCell::new((String::new(), String::new()));
    let accept = |content: &[u8]| {
        if keys.is_empty() {
            return Ok(());
        }
        let signer = signature::check(content, signature.as_deref(), keys)?;
        signed.replace((signer.text(), signature.as_deref().unwrap_or_default().trim().to_string()));
        Ok(())
    };
    let examined =
        sandbox.for_plugin(limits, manifest.settings.clone(), file.tenant.as_ref()).examine_opened(component, accept);
    let contract = examined.outline.and_then(|outline| outline.contract()).unwrap_or_default();
    let unfinished = examined.loaded.as_ref().err().and_then(Unfinished::of);
    let again = matches!(examined.loaded, Err(LoadError::Unreadable(_)));
    let found = examined.loaded.map(|plugin| (Arc::new(plugin), manifest));
    let found = found.map_err(|error| format!("{:#}", anyhow::Error::from(error)));
    let (signed_by, signature) = signed.into_inner();
    let origin = Origin { contract, signed_by, signature };
    let digest = examined.digest.unwrap_or_default();
    Checked { file, digest, origin, dry_run: None, again, unfinished, found }
}

/// A version that ran before, as far as the database knows it.
pub(super) struct Former {
    /// SHA-256 of its file.
    pub(super) digest: String,
    /// The contract that it keeps; empty where that is not known.
    pub(super) contract: String,
    /// The component, if it is stored.
    pub(super) stored: Option<StoredComponent>,
}

/// Why a version that ran before is not at hand.
pub(super) enum Unrecalled {
    /// It does not run here.
    Refused(String),
    /// The machine is short of something.
    Shortage(String),
}

impl<E: Into<String>> From<E> for Unrecalled {
    fn from(why: E) -> Self {
        Unrecalled::Refused(why.into())
    }
}

/// Loads a version that ran before in the place of a file, from its stored bytes.
///
/// A row of the database is no more trusted than a file: the digest is computed and the signature
/// checked again. Where nothing is stored and no signature is asked for, its compiled code will do.
/// May take as long as a check.
pub(super) fn recall(
    sandbox: &Sandbox,
    keys: &[PublicKey],
    file: PluginFile,
    former: Former,
) -> Result<Checked, Unrecalled> {
    let Former { digest, contract, stored } = former;
    let read = read_manifest(&file, sandbox.limits());
    let (manifest, limits) = read.map_err(|Wrong { why, passes }| match passes {
        true => Unrecalled::Shortage(why),
        false => Unrecalled::Refused(why),
    })?;
    let sandbox = sandbox.for_plugin(limits, manifest.settings.clone(), file.tenant.as_ref());
    let mut origin = Origin { contract, ..Origin::default() };
    let plugin = match stored {
        Some(StoredComponent { bytes: None, .. }) => {
            let mib = sandbox.limits().component_mib;
            return Err(format!("its stored bytes are more than the {mib} MiB of limits.component-mib").into());
        }
        Some(StoredComponent { bytes: Some(bytes), signature }) => {
            if examine::digest(&bytes) != digest {
                return Err("the bytes stored for it are not those that ran (sandmill.components)".into());
            }
            if !keys.is_empty() {
                let given = Some(signature.as_str()).filter(|signature| !signature.is_empty());
                origin.signed_by = signature::check(&bytes, given, keys)?.text();
                origin.signature = signature;
            }
            sandbox.load(&bytes).map_err(|error| {
                let shortage = Unfinished::of(&error) == Some(Unfinished::Shortage);
                let why = format!("{:#}", anyhow::Error::from(error));
                if shortage { Unrecalled::Shortage(why) } else { Unrecalled::Refused(why) }
            })?
        }
        None if keys.is_empty() => sandbox
            .recall(&digest)
            .ok_or("neither its bytes (sandmill.components) nor its compiled code (compile.cache) are at hand")?,
        None => return Err("its bytes are not stored, so that its signature cannot be checked".into()),
    };
    let found = Ok((Arc::new(plugin), manifest));
    Ok(Checked { file, digest, origin, dry_run: None, again: false, unfinished: None, found })
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
    if let (Some(tenant), true) = (&file.tenant, manifest.tenants.is_some() || manifest.settings.have_tenants()) {
        return Err(wrong(format!(
            "tenants: a plugin in the folder {tenant} is that tenant's alone; remove `tenants`, and write its settings under [settings]"
        )));
    }
    let limits = manifest.limits(host, file.tenant.as_ref()).map_err(wrong)?;
    Ok((manifest, limits))
}
