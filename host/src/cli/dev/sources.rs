//! Rebuilds of a plugin each time that its sources are saved.
//!
//! The folder is polled a few times a second, which works no matter how an editor saves. Outputs of
//! builds are ignored.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::toolchain::{self, BuildRequest, Children, EndOnDrop};

/// Time between two polls.
const INTERVAL: Duration = Duration::from_millis(200);
/// Folders that tools write to, which have no sources.
const NOT_SOURCES: [&str; 3] = ["target", "node_modules", "__pycache__"];

/// The state of a folder: the number of files, and the latest time at which one was saved.
type SourceState = (usize, Option<SystemTime>);

/// Builds a plugin's folder into the plugins folder, now and after each save. Logs errors.
pub(super) async fn build_on_save(folder: &Path, plugins: &Path) -> Infallible {
    let (mut built, children) = (None, Children::default());
    // An abandoned build must not leave its programs running.
    let _end = EndOnDrop(children.clone());
    loop {
        let now = scan(folder, plugins);
        if built != Some(now) {
            built = Some(now);
            build(folder.into(), plugins.into(), children.clone()).await;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Builds the plugin once, and logs the result.
async fn build(folder: PathBuf, plugins: PathBuf, children: Children) {
    let name = folder.display().to_string();
    tracing::info!("building {name}");
    let request = BuildRequest { dir: folder, output: Some(plugins) };
    let built = tokio::task::spawn_blocking(move || {
        let mut output = Vec::new();
        let built = toolchain::build(&request, &children, &mut |line| output.push(line.to_string()));
        (built, output)
    });
    match built.await {
        Ok((Ok(built), _)) => {
            tracing::info!("built {name} in {:.1} s: {}", built.elapsed.as_secs_f64(), built.path.display())
        }
        Ok((Err(error), output)) => {
            // The compiler's output explains the error below it.
            output.iter().for_each(|line| tracing::warn!("{line}"));
            tracing::error!("could not build {name}: {error:#}");
        }
        Err(error) => tracing::error!("could not build {name}: {error}"),
    }
}

/// Reads the state of a folder, without outputs of builds and the plugins folder.
fn scan(folder: &Path, plugins: &Path) -> SourceState {
    let plugins = plugins.canonicalize().ok();
    let mut sources: SourceState = (0, None);
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let (name, found) = (entry.file_name(), entry.metadata());
            let name = name.to_string_lossy();
            if name.starts_with('.') || NOT_SOURCES.contains(&&*name) {
                continue;
            }
            match found {
                // Builds write there.
                Ok(found) if found.is_dir() && entry.path().canonicalize().ok() == plugins => {}
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => sources = (sources.0 + 1, sources.1.max(found.modified().ok())),
                Err(_) => {}
            }
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_sources_are_noticed_and_outputs_of_tools_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path("src")).unwrap();
        std::fs::create_dir_all(path("target/debug")).unwrap();
        std::fs::write(path("src/lib.rs"), "one").unwrap();
        std::fs::create_dir(path("plugins")).unwrap();
        let scan = |folder: &Path| super::scan(folder, &path("plugins"));
        let before = scan(folder.path());
        assert_eq!(before.0, 1);
        for name in ["target/debug/out", ".swp", "plugins/own.wasm"] {
            std::fs::write(path(name), "x").unwrap();
        }
        assert_eq!(scan(folder.path()), before);
        let later = before.1.unwrap() + Duration::from_secs(1);
        std::fs::File::options().write(true).open(path("src/lib.rs")).unwrap().set_modified(later).unwrap();
        assert_ne!(scan(folder.path()), before);
        std::fs::write(path("Cargo.toml"), "").unwrap();
        assert_eq!(scan(folder.path()).0, 2);
    }
}
