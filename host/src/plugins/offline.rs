//! Versions of plugins that run outside a host, for commands that look into failures: found by
//! their digest, or named as a file.
//!
//! A version is found in the plugins folder, and otherwise among the versions whose bytes the
//! database keeps. Both are checked as a host checks them, with their signatures. A file that
//! someone names on the command line needs no signature, as in a plugin test. Limits and settings
//! come from the plugin's manifest, as in a host.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use tokio::task::spawn_blocking;

use super::{
    check::{self, CheckedFile, FormerVersion, RecallError},
    folder::{self, PluginFile},
    history::components,
    manifest::Manifest,
    signature::PublicKey,
};
use crate::{
    db::Session,
    model::{ids::TenantId, settings::PluginSettings},
    sandbox::{Limits, Plugin, Sandbox, examine},
};

/// The place of a plugin's files.
#[derive(Clone, Debug)]
pub struct PluginPlace {
    /// The plugins folder; none if no folder is known.
    pub folder: Option<PathBuf>,
    /// The name of the plugin's file, without the ending, below its tenant's folder if it has one.
    pub name: String,
    /// The tenant that owns the plugin; none if it is shared.
    pub owner: Option<TenantId>,
}

/// A version that can run here.
pub struct OfflineVersion {
    /// Its code.
    pub plugin: Arc<Plugin>,
    /// Its manifest.
    pub manifest: OfflineManifest,
    /// Where it was found, for people.
    pub found: String,
}

/// The manifest of a plugin outside a host.
#[derive(Clone, Debug)]
pub struct OfflineManifest {
    /// The manifest.
    pub manifest: Manifest,
    /// The limits that result from it.
    pub limits: Limits,
    /// Where it comes from.
    pub source: ManifestSource,
}

/// The source of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestSource {
    /// This file.
    File(PathBuf),
    /// None: the plugin has no manifest, so the defaults apply.
    Default,
    /// Unknown: the plugin's own file was not found, so it may have a manifest elsewhere. The
    /// defaults apply.
    Unknown,
}

impl OfflineManifest {
    fn new(
        manifest: Manifest,
        source: ManifestSource,
        host: &Limits,
        owner: Option<&TenantId>,
    ) -> anyhow::Result<Self> {
        let limits = manifest.limits(host, owner);
        let limits = limits.map_err(|problem| match &source {
            ManifestSource::File(path) => in_manifest(path, &problem),
            ManifestSource::Default | ManifestSource::Unknown => anyhow::anyhow!("{problem}"),
        })?;
        Ok(OfflineManifest { manifest, limits, source })
    }

    fn read(text: &str, path: PathBuf, host: &Limits, owner: Option<&TenantId>) -> anyhow::Result<Self> {
        let manifest = Manifest::parse(text).map_err(|problem| in_manifest(&path, &problem))?;
        OfflineManifest::new(manifest, ManifestSource::File(path), host, owner)
    }

    /// Its file, if it has one.
    pub fn path(&self) -> Option<&Path> {
        match &self.source {
            ManifestSource::File(path) => Some(path),
            ManifestSource::Default | ManifestSource::Unknown => None,
        }
    }
}

fn in_manifest(path: &Path, problem: &str) -> anyhow::Error {
    anyhow::anyhow!("the plugin's manifest {}: {problem}", path.display())
}

impl PluginPlace {
    /// The files of the same owner, the one with the plugin's name first.
    fn files(&self) -> anyhow::Result<Vec<PluginFile>> {
        let Some(folder) = &self.folder else { return Ok(Vec::new()) };
        let listing = folder::scan(folder)
            .with_context(|| format!("read the plugins folder {}; name another with --plugins", folder.display()))?;
        let mut files = listing.files;
        files.retain(|file| file.tenant == self.owner);
        files.sort_by_key(|file| file.name != self.name);
        Ok(files)
    }

    /// The manifest that a host with this folder applies to the plugin. Blocks.
    pub fn manifest(&self, host: &Limits) -> anyhow::Result<OfflineManifest> {
        let file = self.files()?.into_iter().find(|file| file.name == self.name);
        let owner = self.owner.as_ref();
        let Some(file) = file else {
            return OfflineManifest::new(Manifest::default(), ManifestSource::Unknown, host, owner);
        };
        if file.manifest.is_none() {
            return OfflineManifest::new(Manifest::default(), ManifestSource::Default, host, owner);
        }
        let path = file.path.with_extension("toml");
        let text = file.manifest_text().map_err(|refusal| in_manifest(&path, &refusal.to_string()))?;
        OfflineManifest::read(&text, path, host, owner)
    }

    /// The manifest beside a file that someone named, or else [that of the plugin](Self::manifest).
    /// Blocks.
    fn manifest_for(&self, file: &Path, host: &Limits) -> anyhow::Result<OfflineManifest> {
        let path = file.with_extension("toml");
        match std::fs::read_to_string(&path) {
            Ok(text) => OfflineManifest::read(&text, path, host, self.owner.as_ref()),
            Err(error) if error.kind() == ErrorKind::NotFound => self.manifest(host),
            Err(error) => Err(in_manifest(&path, &error.to_string())),
        }
    }

    /// Loads a file that someone named.
    pub async fn load_file(&self, sandbox: &Sandbox, file: &Path) -> anyhow::Result<OfflineVersion> {
        let (place, sandbox, path) = (self.clone(), sandbox.clone(), file.to_path_buf());
        spawn_blocking(move || {
            let manifest = place.manifest_for(&path, sandbox.limits())?;
            place.load(&sandbox, &path, manifest)
        })
        .await?
    }

    /// The same with the sandbox's limits and other settings than those of a manifest. Without
    /// settings, those of the manifest beside the file apply.
    pub async fn load_file_with(
        &self,
        sandbox: &Sandbox,
        file: &Path,
        settings: Option<PluginSettings>,
    ) -> anyhow::Result<OfflineVersion> {
        let (place, sandbox, path) = (self.clone(), sandbox.clone(), file.to_path_buf());
        spawn_blocking(move || {
            let (limits, nowhere) = (sandbox.limits().clone(), PluginPlace { folder: None, ..place.clone() });
            let manifest = match settings {
                Some(settings) => OfflineManifest {
                    manifest: Manifest::of_settings(settings),
                    limits,
                    source: ManifestSource::Unknown,
                },
                None => OfflineManifest { limits, ..nowhere.manifest_for(&path, sandbox.limits())? },
            };
            place.load(&sandbox, &path, manifest)
        })
        .await?
    }

    fn load(&self, sandbox: &Sandbox, path: &Path, manifest: OfflineManifest) -> anyhow::Result<OfflineVersion> {
        let settings = manifest.manifest.settings.clone();
        let sandbox = sandbox.for_plugin(manifest.limits.clone(), settings, self.owner.as_ref());
        let plugin = sandbox.examine(path).loaded.with_context(|| format!("{} does not run here", path.display()))?;
        Ok(OfflineVersion { plugin: Arc::new(plugin), manifest, found: path.display().to_string() })
    }

    /// Finds and loads the version with this digest; none if it is neither in the plugins folder
    /// nor in the database.
    pub async fn load_version(
        &self,
        sandbox: &Sandbox,
        keys: &[PublicKey],
        session: &Session,
        digest: &str,
    ) -> anyhow::Result<Option<OfflineVersion>> {
        let in_folder = spawn_blocking({
            let (place, sandbox, keys, digest) = (self.clone(), sandbox.clone(), keys.to_vec(), digest.to_string());
            move || place.load_from_folder(&sandbox, &keys, &digest)
        });
        if let Some(version) = in_folder.await?? {
            return Ok(Some(version));
        }
        let most = sandbox.limits().component_bytes();
        let Some(stored) = components::find(session, &self.name, digest, most).await? else { return Ok(None) };
        let (place, sandbox, keys, digest) = (self.clone(), sandbox.clone(), keys.to_vec(), digest.to_string());
        spawn_blocking(move || {
            let named = place.files()?.into_iter().find(|file| file.name == place.name);
            let file = named.unwrap_or_else(|| PluginFile::gone(&place.name, place.owner.as_ref()));
            let former = FormerVersion { digest, contract: String::new(), stored: Some(stored) };
            let checked = check::recall(&sandbox, &keys, file, former).map_err(|error| match error {
                RecallError::Rejected(reason) | RecallError::Shortage(reason) => reason,
            });
            let version = checked
                .map_err(anyhow::Error::msg)
                .and_then(|checked| place.version(checked, sandbox.limits(), "the versions in the database".into()));
            version.context("the version in the database does not run here").map(Some)
        })
        .await?
    }

    fn load_from_folder(
        &self,
        sandbox: &Sandbox,
        keys: &[PublicKey],
        digest: &str,
    ) -> anyhow::Result<Option<OfflineVersion>> {
        let most = sandbox.limits().component_bytes();
        for file in self.files()? {
            // A file that cannot be read is not the one, or its bytes may be in the database.
            let Ok(content) =
                file.component().map_err(drop).and_then(|open| examine::content(open, most).map_err(drop))
            else {
                continue;
            };
            if examine::digest(&content) != digest {
                continue;
            }
            let path = file.path.display().to_string();
            let version = self.version(check::check(sandbox, keys, file), sandbox.limits(), path.clone());
            let version = version.with_context(|| format!("{path} does not run here"))?;
            // It may have been replaced in the meantime.
            if version.plugin.digest() == digest {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    /// A checked file as a version, with the manifest that was read for it.
    fn version(&self, checked: CheckedFile, host: &Limits, found: String) -> anyhow::Result<OfflineVersion> {
        let source = match (&checked.file.stamp, checked.file.manifest) {
            (_, Some(_)) => ManifestSource::File(checked.file.path.with_extension("toml")),
            (Ok(_), None) => ManifestSource::Default,
            (Err(_), None) => ManifestSource::Unknown,
        };
        let (plugin, manifest) = checked.outcome.map_err(anyhow::Error::msg)?;
        let manifest = OfflineManifest::new(manifest, source, host, self.owner.as_ref())?;
        Ok(OfflineVersion { plugin, manifest, found })
    }
}
