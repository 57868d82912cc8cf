//! The template of a new plugin: a folder with a crate or a script, a test that passes, and events.
//!
//! The files are those in `new/`, with the plugin's name, its collection and the guest SDK's
//! location filled in. A folder that is not empty is rejected. A script's SDK comes with the host
//! that builds it. A crate's SDK is the first one found: the named one, the one in a checkout
//! around the folder, the one in the checkout that built this host. Otherwise it is the repository
//! at the tag of this host's version.

use std::{
    fs, io, iter,
    path::{Path, PathBuf},
};

use super::Language;
use crate::model::ids::FamilyId;

/// A request for a new plugin.
#[derive(Clone, Debug)]
pub struct NewRequest {
    /// The name of the plugin and its processor.
    pub name: FamilyId,
    /// The plugin's language.
    pub language: Language,
    /// The plugin's folder. Default: a folder with the plugin's name in the current one.
    pub dir: Option<PathBuf>,
    /// The folder of the guest SDK for Rust. Default: found as the module describes.
    pub sdk: Option<PathBuf>,
}

/// A new plugin.
#[derive(Debug)]
pub struct NewPlugin {
    /// The plugin's folder, as requested.
    pub dir: PathBuf,
    /// The files in the folder.
    pub files: Vec<&'static str>,
    /// The plugin's language.
    pub language: Language,
    /// The location of the guest SDK. None for a script, which is built with the host's own SDK.
    pub sdk: Option<Sdk>,
}

/// The location of the guest SDK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sdk {
    /// A folder, as the manifest names it.
    Path(PathBuf),
    /// The repository, at the tag of this version.
    Repository,
}

/// The reason why no plugin was created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NewError {
    /// Cargo or Rust does not accept a crate of this name.
    #[error("`{name}` cannot be the name of a crate: {reason}. Use another one, for example {name}-view.")]
    Name {
        /// The name.
        name: FamilyId,
        /// The reason.
        reason: &'static str,
    },
    /// The folder is not empty, or is not a folder.
    #[error("{} {what}. Name another folder with --dir.", .dir.display())]
    Taken {
        /// The folder.
        dir: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The SDK of a script cannot be chosen.
    #[error(
        "--sdk is for Rust only: a {language} plugin is built with the guest SDK that is part of this host. Omit --sdk; to use \
         another SDK, put it into the plugin's folder."
    )]
    SdkOfScript {
        /// The language.
        language: Language,
    },
    /// The named folder is not the guest SDK.
    #[error(
        "{} does not contain the crate `sandmill-guest`. Name the folder guest-sdk/rust of a checkout of Sandmill.",
        .path.display()
    )]
    NoSdk {
        /// The folder.
        path: PathBuf,
    },
    /// The SDK's path cannot be written in a manifest.
    #[error("the path {} is not UTF-8, which a Cargo.toml must be. Move the guest SDK to another folder.", .path.display())]
    NotUtf8 {
        /// The path.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("cannot {verb} {}: {source}. Check that the folder exists, is yours, and has free space.", .path.display())]
    File {
        /// The operation.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

/// The files of a plugin, each with its template.
fn files(language: Language) -> &'static [(&'static str, &'static str)] {
    const EVENTS: (&str, &str) = ("events.ndjson", include_str!("new/events.ndjson"));
    const EXPECTED: (&str, &str) = ("expected.ndjson", include_str!("new/expected.ndjson"));
    const README: (&str, &str) = ("README.md", include_str!("new/script.md"));
    const IGNORED: (&str, &str) = (".gitignore", include_str!("new/script.gitignore"));
    match language {
        Language::Rust => &[
            ("Cargo.toml", include_str!("new/manifest.toml")),
            ("src/lib.rs", include_str!("new/lib.rs")),
            EVENTS,
            ("README.md", include_str!("new/README.md")),
            (".gitignore", include_str!("new/gitignore")),
        ],
        Language::JavaScript => {
            &[("plugin.js", include_str!("new/javascript/plugin.js")), EVENTS, EXPECTED, README, IGNORED]
        }
        Language::Python => &[("plugin.py", include_str!("new/python/plugin.py")), EVENTS, EXPECTED, README, IGNORED],
    }
}

/// The folder of the guest SDK in a checkout.
const SDK: &str = "guest-sdk/rust";

/// The guest SDK of the checkout that built this host. It may be gone, or on another machine.
const BUILT_BESIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-sdk/rust");

/// Longest name of a collection, bytes.
const LONGEST_COLLECTION: usize = 48;

/// Creates a plugin.
pub fn new(request: &NewRequest) -> Result<NewPlugin, NewError> {
    let NewRequest { name, language, .. } = request;
    let dir = request.dir.clone().unwrap_or_else(|| name.as_str().into());
    let (sdk, dependency) = match language {
        Language::Rust => {
            if let Some(reason) = reserved_name(name.as_str()) {
                return Err(NewError::Name { name: name.clone(), reason });
            }
            check_is_free(&dir)?;
            let sdk = find_sdk(request.sdk.as_deref(), &dir)?;
            let dependency = sdk.dependency()?;
            (Some(sdk), dependency)
        }
        _ if request.sdk.is_some() => return Err(NewError::SdkOfScript { language: *language }),
        _ => {
            check_is_free(&dir)?;
            (None, String::new())
        }
    };

    let collection = collection(name.as_str());
    for (file, template) in files(*language) {
        let text = template.replace("{{name}}", name.as_str()).replace("{{collection}}", &collection);
        let text = text.replace("{{sdk}}", &dependency).replace("{{entry}}", language.entry());
        write(&dir.join(file), &text)?;
    }
    let files = files(*language).iter().map(|(file, _)| *file).collect();
    Ok(NewPlugin { dir, files, language: *language, sdk })
}

fn find_sdk(named_one: Option<&Path>, dir: &Path) -> Result<Sdk, NewError> {
    if let Some(path) = named_one {
        return named(path);
    }
    // Created first, because only an existing folder has a canonical path.
    let made = fs::create_dir_all(dir).and_then(|()| dir.canonicalize());
    let full = made.map_err(|source| NewError::File { verb: "create", path: dir.to_owned(), source })?;
    Ok(nearest(&full, Path::new(BUILT_BESIDE)))
}

/// The reason why a processor's name cannot be a crate's name.
fn reserved_name(name: &str) -> Option<&'static str> {
    const KEYWORDS: &[&str] = &[
        "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn",
        "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro",
        "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super",
        "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
    ];
    match name {
        "alloc" | "core" | "proc-macro" | "std" | "test" => Some("a crate of Rust itself has this name"),
        "sandmill-guest" | "serde" => Some("a crate that every plugin depends on has this name"),
        _ if KEYWORDS.contains(&name) => Some("it is a keyword of Rust"),
        _ => None,
    }
}

/// The collection of a plugin: its name, with the characters that a collection may have.
fn collection(name: &str) -> String {
    name.chars().map(|c| if c == '-' { '_' } else { c }).take(LONGEST_COLLECTION).collect()
}

/// Fails unless the folder is missing or empty, so that nothing is overwritten.
fn check_is_free(dir: &Path) -> Result<(), NewError> {
    let taken = |what| Err(NewError::Taken { dir: dir.to_owned(), what });
    match fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => taken("is not empty"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => taken("is not a folder"),
        Err(source) => Err(NewError::File { verb: "read", path: dir.to_owned(), source }),
    }
}

fn write(path: &Path, text: &str) -> Result<(), NewError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let written = fs::create_dir_all(parent).and_then(|()| fs::write(path, text));
    written.map_err(|source| NewError::File { verb: "write", path: path.to_owned(), source })
}

fn named(path: &Path) -> Result<Sdk, NewError> {
    let full = path.canonicalize().ok().filter(|path| is_sdk(path));
    full.map(Sdk::Path).ok_or_else(|| NewError::NoSdk { path: path.to_owned() })
}

/// The SDK for a crate in the folder `dir`, a canonical path.
fn nearest(dir: &Path, built_beside: &Path) -> Sdk {
    // A relative path, so that a checkout can move with the plugins in it.
    for (up, ancestor) in dir.ancestors().enumerate().skip(1) {
        if is_sdk(&ancestor.join(SDK)) {
            return Sdk::Path(iter::repeat_n("..", up).chain([SDK]).collect());
        }
    }
    match built_beside.canonicalize() {
        Ok(path) if is_sdk(&path) => Sdk::Path(path),
        _ => Sdk::Repository,
    }
}

fn is_sdk(path: &Path) -> bool {
    let manifest = fs::read_to_string(path.join("Cargo.toml"));
    manifest.is_ok_and(|manifest| manifest.lines().any(|line| line == "name = \"sandmill-guest\""))
}

impl Sdk {
    /// The value of the dependency in the manifest.
    fn dependency(&self) -> Result<String, NewError> {
        match self {
            Sdk::Path(path) => {
                let text = path.to_str().ok_or_else(|| NewError::NotUtf8 { path: path.clone() })?;
                // JSON's escapes of quotes and backslashes are valid in TOML's basic strings.
                Ok(format!("{{ path = {} }}", serde_json::Value::from(text)))
            }
            Sdk::Repository => {
                let (repository, version) = (env!("CARGO_PKG_REPOSITORY"), env!("CARGO_PKG_VERSION"));
                Ok(format!("{{ git = \"{repository}\", tag = \"v{version}\" }}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::CollectionName;

    fn request(name: &str, dir: &Path) -> NewRequest {
        let name = FamilyId::parse(name).unwrap();
        NewRequest { name, language: Language::Rust, dir: Some(dir.to_owned()), sdk: None }
    }

    fn checkout(at: &Path) -> PathBuf {
        let sdk = at.join(SDK);
        write(&sdk.join("Cargo.toml"), "[package]\nname = \"sandmill-guest\"\n").unwrap();
        sdk
    }

    #[test]
    fn every_placeholder_is_filled_in() {
        let here = tempfile::tempdir().unwrap();
        let cases = [
            (Language::Rust, "src/lib.rs", "descriptor!(\"door-watch\")", "= \"door_watch\""),
            (Language::JavaScript, "plugin.js", "id: 'door-watch'", "collection: 'door_watch'"),
            (Language::Python, "plugin.py", "\"door-watch\"", "collection=\"door_watch\""),
        ];
        for (language, entry, id, collection) in cases {
            let dir = here.path().join(language.to_string());
            let plugin = new(&NewRequest { language, ..request("door-watch", &dir) }).unwrap();
            for file in plugin.files {
                let text = fs::read_to_string(dir.join(file)).unwrap();
                assert!(!text.contains("{{"), "{file}: {text}");
            }
            let code = fs::read_to_string(dir.join(entry)).unwrap();
            assert!(code.contains(id) && code.contains(collection), "{code}");
        }
    }

    #[test]
    fn a_request_that_names_the_sdk_of_a_script_is_rejected() {
        let here = tempfile::tempdir().unwrap();
        let with_sdk = NewRequest { sdk: Some("x".into()), ..request("a", &here.path().join("a")) };
        let error = new(&NewRequest { language: Language::Python, ..with_sdk }).unwrap_err().to_string();
        assert!(error.contains("a Python plugin") && error.contains("Omit --sdk"), "{error}");
        assert!(!here.path().join("a").exists());
    }

    #[test]
    fn a_folder_that_is_not_empty_is_rejected() {
        let here = tempfile::tempdir().unwrap();
        new(&request("a", here.path())).expect("an empty folder is free");
        let error = new(&request("a", here.path())).unwrap_err().to_string();
        assert!(error.ends_with("is not empty. Name another folder with --dir."), "{error}");
        let error = new(&request("a", &here.path().join("README.md"))).unwrap_err().to_string();
        assert!(error.contains("README.md is not a folder."), "{error}");
    }

    #[test]
    fn names_that_are_no_crate_names_are_rejected() {
        let here = tempfile::tempdir().unwrap();
        for name in ["match", "std", "serde", "test"] {
            let error = new(&request(name, &here.path().join(name))).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{name}` cannot be the name of a crate: ")), "{error}");
            assert!(!here.path().join(name).exists());
        }
    }

    #[test]
    fn every_plugin_name_makes_a_valid_collection() {
        for name in ["a", "door-watch-2", "a--", &"x-".repeat(31)] {
            assert!(CollectionName::parse(&collection(name)).is_ok(), "{name}");
        }
    }

    #[test]
    fn the_nearest_sdk_is_found() {
        let here = tempfile::tempdir().unwrap();
        let here = here.path().canonicalize().unwrap();
        let (dir, nowhere) = (here.join("repo/plugins/mine"), here.join("nowhere"));
        assert_eq!(nearest(&dir, &nowhere), Sdk::Repository);
        let beside = checkout(&here.join("built"));
        assert_eq!(nearest(&dir, &beside), Sdk::Path(beside.clone()));
        checkout(&here.join("repo"));
        assert_eq!(nearest(&dir, &beside), Sdk::Path("../../guest-sdk/rust".into()));
        assert_eq!(named(&beside).unwrap(), Sdk::Path(beside));
        let error = named(&nowhere).unwrap_err().to_string();
        assert!(error.contains("nowhere does not contain the crate `sandmill-guest`"), "{error}");
    }

    #[test]
    fn a_dependency_is_valid_toml() {
        let path = Sdk::Path("C:\\my \"sdk\"".into()).dependency().unwrap();
        assert_eq!(path, r#"{ path = "C:\\my \"sdk\"" }"#);
        let repository = Sdk::Repository.dependency().unwrap();
        assert!(repository.starts_with("{ git = \"https://") && repository.contains("tag = \"v"), "{repository}");
    }
}
