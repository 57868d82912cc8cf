//! Beginning a plugin: a folder with a crate that compiles, or a script, a test that passes and events to try it on.
//!
//! The files are the templates in `new/`, with the plugin's name, its collection and the place of the guest SDK filled in. A folder that
//! holds anything already is left alone. A script's SDK comes with the host that builds it; a crate's is taken from the first place where it is: the one that was named, a checkout around
//! the folder, the checkout that this host was built from, and else the repository, by the tag of this host's version.

use std::{
    fs, io, iter,
    path::{Path, PathBuf},
};

use super::Language;
use crate::model::ids::FamilyId;

/// What is to be begun.
#[derive(Clone, Debug)]
pub struct NewRequest {
    /// The name of the plugin and of its processor.
    pub name: FamilyId,
    /// What it is to be written in.
    pub language: Language,
    /// Its folder. Without it a folder of that name, here.
    pub dir: Option<PathBuf>,
    /// Where the guest SDK for Rust is.
    pub sdk: Option<PathBuf>,
}

/// What was begun.
#[derive(Debug)]
pub struct Begun {
    /// The plugin's folder, as it was asked for.
    pub dir: PathBuf,
    /// The files in it.
    pub files: Vec<&'static str>,
    /// What it is written in.
    pub language: Language,
    /// Where the guest SDK is taken from; none for a script, which is built with the host's own.
    pub sdk: Option<Sdk>,
}

/// Where the guest SDK is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sdk {
    /// In a folder, as the manifest names it.
    Path(PathBuf),
    /// In the repository, at the tag of this version.
    Repository,
}

/// Why nothing was begun.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NewError {
    /// Cargo or Rust would stumble over a crate of this name.
    #[error("`{name}` cannot be the name of a crate: {why}. Take another, for instance {name}-view.")]
    Name {
        /// The name.
        name: FamilyId,
        /// Why.
        why: &'static str,
    },
    /// There is something already.
    #[error("{} {what}. Name another folder with --dir.", .dir.display())]
    Taken {
        /// The folder.
        dir: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// A script's SDK is not named.
    #[error(
        "a plugin in {language} is built with the guest SDK of the host that builds it. Leave --sdk out; to use another, put it beside the plugin."
    )]
    SdkOfScript {
        /// The language.
        language: Language,
    },
    /// The folder that was named for it is not the guest SDK.
    #[error("{} holds no crate `sandmill-guest`. Name the folder guest-sdk/rust of a checkout of Sandmill.", .path.display())]
    NoSdk {
        /// The folder.
        path: PathBuf,
    },
    /// A path that a manifest cannot name.
    #[error("{} is not UTF-8, which a Cargo.toml must be. Put it where its path is.", .path.display())]
    NotUtf8 {
        /// The path.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("cannot {verb} {}: {source}. See whether the place exists, has room and is yours.", .path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The templates and where they go.
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

/// Where the guest SDK lies in a checkout.
const SDK: &str = "guest-sdk/rust";

/// The guest SDK of the checkout that this host was built from, which may be gone or on another machine.
const BUILT_BESIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-sdk/rust");

/// The longest name of a collection.
const LONGEST_COLLECTION: usize = 48;

/// Begins a plugin.
pub fn new(request: &NewRequest) -> Result<Begun, NewError> {
    let NewRequest { name, language, .. } = request;
    let dir = request.dir.clone().unwrap_or_else(|| name.as_str().into());
    let (sdk, dependency) = match language {
        Language::Rust => {
            if let Some(why) = unfit(name.as_str()) {
                return Err(NewError::Name { name: name.clone(), why });
            }
            free(&dir)?;
            let sdk = find_sdk(request.sdk.as_deref(), &dir)?;
            let dependency = sdk.dependency()?;
            (Some(sdk), dependency)
        }
        _ if request.sdk.is_some() => return Err(NewError::SdkOfScript { language: *language }),
        _ => {
            free(&dir)?;
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
    Ok(Begun { dir, files, language: *language, sdk })
}

fn find_sdk(named_one: Option<&Path>, dir: &Path) -> Result<Sdk, NewError> {
    if let Some(path) = named_one {
        return named(path);
    }
    // Made first, since the way from it to what lies around it is known only then.
    let made = fs::create_dir_all(dir).and_then(|()| dir.canonicalize());
    let full = made.map_err(|source| NewError::File { verb: "make", path: dir.to_owned(), source })?;
    Ok(nearest(&full, Path::new(BUILT_BESIDE)))
}

/// Why a processor's name is none for a crate.
fn unfit(name: &str) -> Option<&'static str> {
    const KEYWORDS: &[&str] = &[
        "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn",
        "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro",
        "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super",
        "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
    ];
    match name {
        "alloc" | "core" | "proc-macro" | "std" | "test" => Some("a crate of Rust itself has it"),
        "sandmill-guest" | "serde" => Some("a crate that every plugin depends on has it"),
        _ if KEYWORDS.contains(&name) => Some("it is a keyword of Rust"),
        _ => None,
    }
}

/// The collection of a plugin: its name with what collections may be named with.
fn collection(name: &str) -> String {
    name.chars().map(|c| if c == '-' { '_' } else { c }).take(LONGEST_COLLECTION).collect()
}

/// Makes sure that nothing is there that could be overwritten.
fn free(dir: &Path) -> Result<(), NewError> {
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

/// Where to take the SDK from, for a crate in the folder `dir`, a canonical path.
fn nearest(dir: &Path, built_beside: &Path) -> Sdk {
    // What lies above the folder is named by the way there, so that both can move together.
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
    /// The dependency as the manifest says it.
    fn dependency(&self) -> Result<String, NewError> {
        match self {
            Sdk::Path(path) => {
                let text = path.to_str().ok_or_else(|| NewError::NotUtf8 { path: path.clone() })?;
                // A path with a quote or a backslash in it is escaped as JSON does, which TOML's basic strings read.
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
    fn every_file_is_filled_in() {
        let here = tempfile::tempdir().unwrap();
        let cases = [
            (Language::Rust, "src/lib.rs", "descriptor!(\"door-watch\")", "= \"door_watch\""),
            (Language::JavaScript, "plugin.js", "id: 'door-watch'", "collection: 'door_watch'"),
            (Language::Python, "plugin.py", "\"door-watch\"", "collection=\"door_watch\""),
        ];
        for (language, entry, id, collection) in cases {
            let dir = here.path().join(language.to_string());
            let begun = new(&NewRequest { language, ..request("door-watch", &dir) }).unwrap();
            for file in begun.files {
                let text = fs::read_to_string(dir.join(file)).unwrap();
                assert!(!text.contains("{{"), "{file}: {text}");
            }
            let code = fs::read_to_string(dir.join(entry)).unwrap();
            assert!(code.contains(id) && code.contains(collection), "{code}");
        }
    }

    #[test]
    fn a_scripts_sdk_is_not_named() {
        let here = tempfile::tempdir().unwrap();
        let with_sdk = NewRequest { sdk: Some("x".into()), ..request("a", &here.path().join("a")) };
        let error = new(&NewRequest { language: Language::Python, ..with_sdk }).unwrap_err().to_string();
        assert!(error.contains("a plugin in Python") && error.contains("Leave --sdk out"), "{error}");
        assert!(!here.path().join("a").exists());
    }

    #[test]
    fn a_folder_that_holds_something_is_left_alone() {
        let here = tempfile::tempdir().unwrap();
        new(&request("a", here.path())).expect("an empty folder is free");
        let error = new(&request("a", here.path())).unwrap_err().to_string();
        assert!(error.ends_with("is not empty. Name another folder with --dir."), "{error}");
        let error = new(&request("a", &here.path().join("README.md"))).unwrap_err().to_string();
        assert!(error.contains("README.md is not a folder."), "{error}");
    }

    #[test]
    fn names_that_rust_would_stumble_over_are_refused() {
        let here = tempfile::tempdir().unwrap();
        for name in ["match", "std", "serde", "test"] {
            let error = new(&request(name, &here.path().join(name))).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{name}` cannot be the name of a crate: ")), "{error}");
            assert!(!here.path().join(name).exists());
        }
    }

    #[test]
    fn a_collection_keeps_its_rule_whatever_the_plugin_is_called() {
        for name in ["a", "door-watch-2", "a--", &"x-".repeat(31)] {
            assert!(CollectionName::parse(&collection(name)).is_ok(), "{name}");
        }
    }

    #[test]
    fn the_nearest_sdk_is_taken() {
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
        assert!(error.contains("nowhere holds no crate `sandmill-guest`"), "{error}");
    }

    #[test]
    fn a_dependency_is_as_cargo_reads_it() {
        let path = Sdk::Path("C:\\my \"sdk\"".into()).dependency().unwrap();
        assert_eq!(path, r#"{ path = "C:\\my \"sdk\"" }"#);
        let repository = Sdk::Repository.dependency().unwrap();
        assert!(repository.starts_with("{ git = \"https://") && repository.contains("tag = \"v"), "{repository}");
    }
}
