//! The folder for data of this user that can be made again: compiled code, build tools.

use std::{ffi::OsString, path::PathBuf};

/// The folder `sandmill` in the user's cache folder (`XDG_CACHE_HOME`, or else `~/.cache`). None if
/// the user has no such folder. It need not exist.
pub fn user_cache() -> Option<PathBuf> {
    below(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"))
}

fn below(cache_home: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |path: Option<OsString>| path.map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute(cache_home).or_else(|| Some(absolute(home)?.join(".cache")));
    Some(cache?.join("sandmill"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_in_the_users_cache_folder() {
        let path = |text: &str| Some(OsString::from(text));
        assert_eq!(below(path("/c"), path("/h")), Some("/c/sandmill".into()));
        assert_eq!(below(path("relative"), path("/h")), Some("/h/.cache/sandmill".into()));
        assert_eq!(below(path(""), path("/h")), Some("/h/.cache/sandmill".into()));
        assert_eq!(below(None, path("/h")), Some("/h/.cache/sandmill".into()));
        assert_eq!(below(None, path("")), None);
        assert_eq!(below(None, None), None);
    }
}
