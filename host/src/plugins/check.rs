//! The check of one file: of its manifest, of its signature if one is required, and of whether the
//! sandbox can load it.
//!
//! Conflicts between files, such as two that claim one processor, are found by the
//! [plan](super::plan).

use std::{cell::RefCell, sync::Arc};

use super::{
    dry_runs::DryRuns,
    folder::{PluginFile, beneath::Refusal},
    history::components::StoredComponent,
    manifest::Manifest,
    signature::{self, PublicKey},
    version::{Provenance, RunnableVersion},
};
use crate::{
    rollout::dry_run::DryRunReport,
    sandbox::{Limits, LoadError, Plugin, Sandbox, compile::CompileError, examine},
};

/// The result of a check.
pub(super) struct CheckedFile {
    /// The file.
    pub(super) file: PluginFile,
    /// Its SHA-256; empty if it was not read.
    pub(super) digest: String,
    /// The contract and signature of the file, as far as they are known.
    pub(super) provenance: Provenance,
    /// The report of its dry run, if there was one.
    pub(super) dry_run: Option<DryRunReport>,
    /// Whether the check must be repeated, because the database or the file system failed.
    pub(super) retry: bool,
    /// Why the check could not finish, if it could not.
    pub(super) unfinished: Option<Unfinished>,
    /// The loaded plugin with its manifest, or the reason for the rejection.
    pub(super) outcome: Result<(Arc<Plugin>, Manifest), String>,
}

/// Why a check could not finish. This does not count against the file, which is checked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfinished {
    /// Compiling takes longer than the time for small files.
    Slow,
    /// The machine is short of memory or another resource.
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

impl CheckedFile {
    /// A file that is rejected before it is read.
    pub(super) fn rejected(file: PluginFile, reason: String) -> Self {
        CheckedFile {
            file,
            digest: String::new(),
            provenance: Provenance::default(),
            dry_run: None,
            retry: false,
            unfinished: None,
            outcome: Err(reason),
        }
    }

    /// The version to run; none if the file is rejected.
    pub(super) fn runnable(&self) -> Option<RunnableVersion> {
        let (plugin, manifest) = self.outcome.as_ref().ok()?;
        Some(RunnableVersion {
            spec: manifest.apply_to(plugin.descriptor(), self.file.tenant.as_ref()),
            plugin: self.file.name.clone(),
            digest: self.digest.clone(),
            handler: plugin.clone(),
            manifest: manifest.clone(),
            provenance: self.provenance.clone(),
        })
    }

    /// Adds a dry run, if the file would replace a running version.
    pub(super) async fn with_dry_run(mut self, dry_runs: &DryRuns) -> Self {
        let Some(candidate) = self.runnable() else { return self };
        match dry_runs.run(&candidate).await {
            Ok(report) => self.dry_run = report,
            Err(error) if candidate.manifest.dry_run => {
                self.retry = true;
                self.outcome =
                    Err(format!("the dry run on recent events failed, and is repeated automatically: {error}"));
            }
            Err(error) => tracing::warn!(plugin = candidate.plugin, "the dry run on recent events failed: {error}"),
        }
        let verdict = self.dry_run.as_ref().map(DryRunReport::verdict);
        if let (true, Some(Err(reason))) = (candidate.manifest.dry_run, verdict) {
            self.outcome = Err(reason);
        }
        self
    }
}

/// Why the file, its manifest or its signature is rejected.
struct Rejection {
    reason: String,
    /// Whether the next check may have a different outcome although the file is unchanged.
    is_transient: bool,
}

impl Rejection {
    fn reading(what: &str, refusal: &Refusal) -> Self {
        Rejection { reason: format!("{what}{refusal}"), is_transient: !matches!(refusal, Refusal::Refused(_)) }
    }

    fn checked(self, file: PluginFile) -> CheckedFile {
        CheckedFile { retry: self.is_transient, ..CheckedFile::rejected(file, self.reason) }
    }
}

/// Checks a file with its manifest and signature. Blocks, for seconds if it compiles.
pub(super) fn check(sandbox: &Sandbox, keys: &[PublicKey], file: PluginFile) -> CheckedFile {
    if let Err(reason) = &file.stamp {
        let reason = reason.clone();
        return CheckedFile::rejected(file, reason);
    }
    let (manifest, limits) = match read_manifest(&file, sandbox.limits()) {
        Ok(read) => read,
        Err(rejection) => return rejection.checked(file),
    };
    let signature = match file.signature_text() {
        Ok(text) => Some(text),
        Err(Refusal::Gone) => None,
        Err(refusal) => return Rejection::reading("its signature: ", &refusal).checked(file),
    };
    let component = match file.component() {
        Ok(component) => component,
        Err(refusal) => return Rejection::reading("", &refusal).checked(file),
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
    let retry = matches!(examined.loaded, Err(LoadError::Unreadable(_)));
    let outcome = examined.loaded.map_err(|error| format!("{:#}", anyhow::Error::from(error)));
    let outcome = outcome.and_then(|plugin| {
        manifest.check_lanes(&plugin.descriptor().partition_by)?;
        Ok((Arc::new(plugin), manifest))
    });
    let (signed_by, signature) = signed.into_inner();
    let provenance = Provenance { contract, signed_by, signature };
    let digest = examined.digest.unwrap_or_default();
    CheckedFile { file, digest, provenance, dry_run: None, retry, unfinished, outcome }
}

/// A version that ran before, as the database knows it.
pub(super) struct FormerVersion {
    /// SHA-256 of its file.
    pub(super) digest: String,
    /// The version of its contract; empty if unknown.
    pub(super) contract: String,
    /// Its component, if it is stored.
    pub(super) stored: Option<StoredComponent>,
}

/// Why a former version cannot be loaded.
pub(super) enum RecallError {
    /// It cannot run on this host.
    Rejected(String),
    /// The machine is short of memory or another resource.
    Shortage(String),
}

impl<E: Into<String>> From<E> for RecallError {
    fn from(reason: E) -> Self {
        RecallError::Rejected(reason.into())
    }
}

/// Loads a former version in place of a file, from its stored bytes.
///
/// A database row is trusted no more than a file: the digest is computed and the signature verified
/// again. If nothing is stored and no signature is required, cached compiled code suffices. Blocks
/// as long as a check.
pub(super) fn recall(
    sandbox: &Sandbox,
    keys: &[PublicKey],
    file: PluginFile,
    former: FormerVersion,
) -> Result<CheckedFile, RecallError> {
    let FormerVersion { digest, contract, stored } = former;
    let read = read_manifest(&file, sandbox.limits());
    let (manifest, limits) = read.map_err(|Rejection { reason, is_transient }| match is_transient {
        true => RecallError::Shortage(reason),
        false => RecallError::Rejected(reason),
    })?;
    let sandbox = sandbox.for_plugin(limits, manifest.settings.clone(), file.tenant.as_ref());
    let mut provenance = Provenance { contract, ..Provenance::default() };
    let plugin = match stored {
        Some(StoredComponent { bytes: None, .. }) => {
            let mib = sandbox.limits().component_mib;
            return Err(format!("it is larger than limits.component-mib, {mib} MiB").into());
        }
        Some(StoredComponent { bytes: Some(bytes), signature }) => {
            if examine::digest(&bytes) != digest {
                return Err("its stored bytes were altered (sandmill.components)".into());
            }
            if !keys.is_empty() {
                let given = Some(signature.as_str()).filter(|signature| !signature.is_empty());
                provenance.signed_by = signature::check(&bytes, given, keys)?.text();
                provenance.signature = signature;
            }
            sandbox.load(&bytes).map_err(|error| {
                let shortage = Unfinished::of(&error) == Some(Unfinished::Shortage);
                let reason = format!("{:#}", anyhow::Error::from(error));
                if shortage { RecallError::Shortage(reason) } else { RecallError::Rejected(reason) }
            })?
        }
        None if keys.is_empty() => sandbox
            .recall(&digest)
            .ok_or("neither its bytes (sandmill.components) nor its compiled code (compile.cache) are available")?,
        None => return Err("its bytes are not stored, so its signature cannot be verified".into()),
    };
    let outcome = Ok((Arc::new(plugin), manifest));
    Ok(CheckedFile { file, digest, provenance, dry_run: None, retry: false, unfinished: None, outcome })
}

/// Reads a plugin's manifest, and the limits that result from it.
fn read_manifest(file: &PluginFile, host: &Limits) -> Result<(Manifest, Limits), Rejection> {
    if file.manifest.is_none() {
        return Ok((Manifest::default(), host.clone()));
    }
    let path = file.path.with_extension("toml");
    let before = format!("its manifest {}: ", path.display());
    let rejection = |reason: String| Rejection { reason: format!("{before}{reason}"), is_transient: false };
    let text = file.manifest_text().map_err(|refusal| Rejection::reading(&before, &refusal))?;
    let manifest = Manifest::parse(&text).map_err(rejection)?;
    if let (Some(tenant), true) = (&file.tenant, manifest.tenants.is_some() || manifest.settings.have_tenants()) {
        return Err(rejection(format!(
            "tenants: a plugin in the folder {tenant} belongs to that tenant alone; remove `tenants` and put its settings under [settings]"
        )));
    }
    let limits = manifest.limits(host, file.tenant.as_ref()).map_err(rejection)?;
    Ok((manifest, limits))
}
