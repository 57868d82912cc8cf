//! A plugin's sources, built whenever something in them is saved.
//!
//! They are looked at a few times a second, which finds whatever an editor does to them. What building leaves behind is not looked at.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::toolchain::{self, BuildRequest, Children, EndOnDrop};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(200);
/// Folders of tools, in which nobody saves anything.
const NOT_SOURCES: [&str; 3] = ["target", "node_modules", "__pycache__"];

/// How many files there are, and when the last of them was saved.
type Look = (usize, Option<SystemTime>);

/// Builds a plugin's folder into the plugins folder, at once and whenever something in it was saved. What is wrong with it is said, and tried again when it is
/// saved again.
pub(super) async fn build_on_save(folder: &Path, plugins: &Path) -> Infallible {
    let (mut built, children) = (None, Children::default());
    // If the build is abandoned, its programs must not go on.
    let _end = EndOnDrop(children.clone());
    loop {
        let now = look(folder, plugins);
        if built != Some(now) {
            built = Some(now);
            build(folder.into(), plugins.into(), children.clone()).await;
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn build(folder: PathBuf, plugins: PathBuf, children: Children) {
    let name = folder.display().to_string();
    tracing::info!("building {name}");
    let request = BuildRequest { dir: folder, output: Some(plugins) };
    let built = tokio::task::spawn_blocking(move || {
        let mut said = Vec::new();
        let built = toolchain::build(&request, &children, &mut |line| said.push(line.to_string()));
        (built, said)
    });
    match built.await {
        Ok((Ok(built), _)) => {
            tracing::info!("built {name} in {:.1} s: {}", built.elapsed.as_secs_f64(), built.path.display())
        }
        Ok((Err(error), said)) => {
            // What the compiler said comes before what became of it.
            said.iter().for_each(|line| tracing::warn!("{line}"));
            tracing::error!("{name} was not built: {error:#}");
        }
        Err(error) => tracing::error!("{name} was not built: {error}"),
    }
}

fn look(folder: &Path, plugins: &Path) -> Look {
    let plugins = plugins.canonicalize().ok();
    let mut look: Look = (0, None);
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let (name, found) = (entry.file_name(), entry.metadata());
            let name = name.to_string_lossy();
            if name.starts_with('.') || NOT_SOURCES.contains(&&*name) {
                continue;
            }
            match found {
                // What is built comes there.
                Ok(found) if found.is_dir() && entry.path().canonicalize().ok() == plugins => {}
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => look = (look.0 + 1, look.1.max(found.modified().ok())),
                Err(_) => {}
            }
        }
    }
    look
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_shows_and_what_tools_leave_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path("src")).unwrap();
        std::fs::create_dir_all(path("target/debug")).unwrap();
        std::fs::write(path("src/lib.rs"), "one").unwrap();
        std::fs::create_dir(path("plugins")).unwrap();
        let look = |folder: &Path| super::look(folder, &path("plugins"));
        let before = look(folder.path());
        assert_eq!(before.0, 1);
        for name in ["target/debug/out", ".swp", "plugins/own.wasm"] {
            std::fs::write(path(name), "x").unwrap();
        }
        assert_eq!(look(folder.path()), before);
        let later = before.1.unwrap() + Duration::from_secs(1);
        std::fs::File::options().write(true).open(path("src/lib.rs")).unwrap().set_modified(later).unwrap();
        assert_ne!(look(folder.path()), before);
        std::fs::write(path("Cargo.toml"), "").unwrap();
        assert_eq!(look(folder.path()).0, 2);
    }
}
