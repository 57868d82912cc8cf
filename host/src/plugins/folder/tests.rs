//! Tests on real folders: what a scan lists and refuses, and that no link escapes from a folder.

use std::{
    fs,
    os::unix::{ffi::OsStringExt, fs::symlink},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use super::*;

/// A folder whose files contain their own paths.
struct Tree(tempfile::TempDir);

impl Tree {
    fn of(files: &[&str]) -> Tree {
        let tree = Tree(tempfile::tempdir().unwrap());
        for file in files {
            fs::create_dir_all(tree.path(file).parent().unwrap()).unwrap();
            fs::write(tree.path(file), file).unwrap();
        }
        tree
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn link(&self, name: &str, to: &str) {
        symlink(to, self.path(name)).unwrap();
    }

    fn scan(&self) -> Listing {
        scan(self.0.path()).unwrap()
    }

    /// The plugins, each with the content of its component, or the reason why it is refused.
    fn plugins(&self) -> Vec<(String, String)> {
        let read = |file: &PluginFile| match &file.stamp {
            Ok(_) => io::read_to_string(file.component().unwrap()).unwrap(),
            Err(reason) => reason.split(';').next().unwrap().into(),
        };
        self.scan().files.iter().map(|file| (file.name.clone(), read(file))).collect()
    }

    /// The problems, each with its path.
    fn problems(&self) -> Vec<(String, String)> {
        let problems = self.scan().problems.into_iter();
        problems.map(|p| (p.path, p.problem.split(';').next().unwrap().to_string())).collect()
    }
}

fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
    wanted.iter().map(|(name, read)| (name.to_string(), read.to_string())).collect()
}

#[test]
fn plugins_are_found_with_their_manifests_and_owners() {
    let tree = Tree::of(&["b.wasm", "a.wasm", ".hidden.wasm", "notes.txt", "a.toml", "acme/a.wasm", "c.wasm.error"]);
    let listing = tree.scan();
    let found =
        |file: &PluginFile| (file.name.clone(), file.tenant.as_ref().map(TenantId::to_string), file.manifest.is_some());
    assert_eq!(
        listing.files.iter().map(found).collect::<Vec<_>>(),
        [("a".into(), None, true), ("acme/a".into(), Some("acme".into()), false), ("b".into(), None, false)]
    );
    assert_eq!(listing.left_over, BTreeSet::from(["c".to_string()]));
    assert_eq!((listing.problems, listing.unread), (vec![], BTreeSet::new()));
    assert_eq!(listing.files[0].manifest_text().unwrap(), "a.toml");
    assert!(scan(&tree.path("nowhere")).is_err());
}

#[test]
fn an_entry_that_cannot_be_a_plugin_is_refused_with_a_reason() {
    let tree = Tree::of(&["companion.wasm", "folder.wasm/x", "manifest.wasm", "manifest.toml/x", ".data/in"]);
    assert!(std::process::Command::new("mkfifo").arg(tree.path("pipe.wasm")).status().unwrap().success());
    let _listener = std::os::unix::net::UnixListener::bind(tree.path("socket.wasm")).unwrap();
    tree.link("companion.toml", "/dev/zero");
    tree.link("inside.wasm", ".data/in");
    tree.link("outside.wasm", "../out");
    tree.link("absolute.wasm", "/etc/passwd");
    tree.link("broken.wasm", "nowhere");
    tree.link("round.wasm", "round.wasm");
    let out = "a link that leads out of the plugins folder";
    let special = "a pipe, socket or device and not a regular file";
    assert_eq!(
        tree.plugins(),
        pairs(&[
            ("absolute", out),
            ("broken", "a broken link"),
            ("companion", "its manifest companion.toml: a link that leads out of the plugins folder"),
            ("folder", "a directory and not a file"),
            ("inside", ".data/in"),
            ("manifest", "its manifest manifest.toml: a directory and not a file"),
            ("outside", out),
            ("pipe", special),
            ("round", "a circular link"),
            ("socket", special),
        ])
    );
}

#[test]
fn resolution_of_a_maze_of_links_is_bounded() {
    let tree = Tree::of(&["acme/d/x", "acme/true.wasm"]);
    let step = "d/../".repeat(100);
    for n in 0..9 {
        tree.link(&format!("acme/l{n}"), &format!("{step}l{}", n + 1));
    }
    tree.link("acme/l9", "true.wasm");
    tree.link("acme/maze.wasm", "l0");
    tree.link("acme/near.wasm", "l9");
    let found = tree.plugins();
    let maze = "a link through more than 128 folders and links";
    assert_eq!(found, pairs(&[("acme/maze", maze), ("acme/near", "acme/true.wasm"), ("acme/true", "acme/true.wasm")]));
}

#[test]
fn only_the_first_100_plugins_of_a_tenant_run() {
    let names: Vec<String> = (0..MOST_PLUGINS + 2).map(|n| format!("acme/p{n:03}.wasm")).collect();
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    all.push("globex/p.wasm");
    let listing = Tree::of(&all).scan();
    let of = |tenant: &str| listing.files.iter().filter(|file| file.name.starts_with(tenant)).count();
    assert_eq!((of("acme/"), of("globex/")), (MOST_PLUGINS, 1));
    assert!(!listing.files.iter().any(|file| file.name == "acme/p100"));
    let reported = listing.problems.iter().find(|problem| problem.path == "acme").unwrap();
    assert_eq!(reported.problem, "it has 102 plugins, and only the first 100 by name run");
}

#[test]
fn links_do_not_cross_tenants() {
    let tree =
        Tree::of(&["acme/pay.wasm", "acme/pay.toml", "mallory/own.wasm", "mallory/sub/deep.wasm", "shared.wasm"]);
    // Links to another tenant's code and settings.
    tree.link("mallory/stolen.wasm", "../acme/pay.wasm");
    tree.link("mallory/own.toml", "../acme/pay.toml");
    tree.link("mallory/round.wasm", "sub/../../acme/pay.wasm");
    tree.link("mallory/up.wasm", "../mallory/own.wasm");
    tree.link("mallory/folder", "../acme");
    tree.link("mallory/through.wasm", "folder/pay.wasm");
    tree.link("mallory/for-all.wasm", "../shared.wasm");
    tree.link("mallory/inside.wasm", "sub/deep.wasm");
    tree.link("mallory/inside-again.wasm", "sub/../sub/./deep.wasm");
    // Links from the shared plugins to a tenant's code, directly and through a dot folder.
    fs::create_dir(tree.path(".hidden")).unwrap();
    tree.link("pay.wasm", "acme/pay.wasm");
    tree.link("round.wasm", ".hidden/../acme/pay.wasm");
    tree.link(".hidden/acme", "../acme");
    tree.link("hidden.wasm", ".hidden/acme/pay.wasm");
    let (out, into) = ("a link that leads out of its tenant's folder", "a link into the folder `acme`");
    assert_eq!(
        tree.plugins(),
        pairs(&[
            ("acme/pay", "acme/pay.wasm"),
            ("hidden", into),
            ("mallory/for-all", out),
            ("mallory/inside", "mallory/sub/deep.wasm"),
            ("mallory/inside-again", "mallory/sub/deep.wasm"),
            ("mallory/own", "its manifest own.toml: a link that leads out of its tenant's folder"),
            ("mallory/round", out),
            ("mallory/stolen", out),
            ("mallory/through", out),
            ("mallory/up", out),
            ("pay", into),
            ("round", into),
            ("shared", "shared.wasm"),
        ])
    );
}

#[test]
fn a_link_to_another_folder_is_not_read_as_a_tenants_folder() {
    let tree = Tree::of(&["acme/pay.wasm", "shared.wasm", "file"]);
    tree.link("selfdir", ".");
    tree.link("up", "..");
    tree.link("eve", "acme");
    tree.link("out", "/usr");
    tree.link("round", "round");
    tree.link("readme", "file");
    assert_eq!(tree.plugins(), pairs(&[("acme/pay", "acme/pay.wasm"), ("shared", "shared.wasm")]));
    let not = "not read as a tenant's folder: a link";
    assert_eq!(
        tree.problems(),
        pairs(&[
            ("eve", &format!("{not} to a folder of another name")),
            ("out", &format!("{not} that leads out of the plugins folder")),
            ("round", "not read as a tenant's folder: a circular link"),
            ("selfdir", &format!("{not} to a folder that contains it")),
            ("up", &format!("{not} that leads out of the plugins folder")),
        ])
    );
}

/// The layout that the kubelet writes: visible names are links through `..data`, and an update
/// replaces `..data`.
#[test]
fn a_kubernetes_volume_is_read_and_updated_as_one() {
    let tree = Tree::of(&[
        "..2026_11_28/a.wasm",
        "..2026_11_28/a.toml",
        "..2026_11_28/acme/b.wasm",
        "..2026_11_29/a.wasm",
        "..2026_11_29/a.toml",
        "..2026_11_29/acme/b.wasm",
        "globex/..1/c.wasm",
        "globex/..2/c.wasm",
    ]);
    tree.link("..data", "..2026_11_28");
    tree.link("globex/..data", "..1");
    for (name, to) in [("a.wasm", "..data/a.wasm"), ("a.toml", "..data/a.toml"), ("acme", "..data/acme")] {
        tree.link(name, to);
    }
    tree.link("globex/c.wasm", "..data/c.wasm");
    let plugins = |day: &str, number: u32| {
        let of = |name: &str| format!("..2026_11_{day}/{name}");
        let own = format!("globex/..{number}/c.wasm");
        pairs(&[("a", &of("a.wasm")), ("acme/b", &of("acme/b.wasm")), ("globex/c", &own)])
    };
    let before = tree.scan();
    assert_eq!((tree.plugins(), &before.problems), (plugins("28", 1), &vec![]));
    assert_eq!(before.files[0].manifest_text().unwrap(), "..2026_11_28/a.toml");
    // A tenant's folder must keep its name there too.
    tree.link("eve", "..data/acme");
    for (data, to) in [("..data", "..2026_11_29"), ("globex/..data", "..2")] {
        tree.link("new", to);
        fs::rename(tree.path("new"), tree.path(data)).unwrap();
    }
    let after = tree.scan();
    assert_eq!(tree.plugins(), plugins("29", 2));
    assert_eq!(tree.problems().len(), 1, "{:?}", after.problems);
    for (before, after) in before.files.iter().zip(&after.files) {
        assert_ne!(before.stamp, after.stamp, "{}", before.name);
    }
    assert_ne!(before.files[0].manifest, after.files[0].manifest);
    assert_eq!(after.files[0].manifest_text().unwrap(), "..2026_11_29/a.toml");
}

/// A tenant keeps replacing a file of its own by a link, and a folder of its own by a link.
#[test]
fn a_link_swapped_in_between_check_and_read_gains_nothing() {
    let tree = Tree::of(&["acme/pay.wasm", "mallory/file", "mallory/sub/x.wasm"]);
    tree.link("mallory/link", "../acme/pay.wasm");
    tree.link("mallory/to-acme", "../acme");
    tree.link("mallory/deep.wasm", "sub/pay.wasm");
    fs::write(tree.path("mallory/sub/pay.wasm"), "mallory's own").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                for (from, to) in [("file", "x.wasm"), ("link", "x.wasm")] {
                    let _ = fs::hard_link(tree.path(&format!("mallory/{from}")), tree.path("mallory/new"));
                    let _ = fs::rename(tree.path("mallory/new"), tree.path(&format!("mallory/{to}")));
                }
                for (from, to) in [("sub", "sub-away"), ("to-acme", "sub"), ("sub", "to-acme"), ("sub-away", "sub")] {
                    let _ = fs::rename(tree.path(&format!("mallory/{from}")), tree.path(&format!("mallory/{to}")));
                }
            }
        });
        let file = |name: &str| PluginFile {
            name: format!("mallory/{name}"),
            tenant: Some(TenantId::parse("mallory").unwrap()),
            root: tree.0.path().into(),
            path: PathBuf::new(),
            stamp: Err(String::new()),
            manifest: None,
            signature: None,
        };
        let mut read = 0;
        for _ in 0..3_000 {
            for file in [file("x"), file("deep")] {
                if let Ok(open) = file.component() {
                    let content = io::read_to_string(open).unwrap();
                    assert!(["mallory/file", "mallory's own"].contains(&content.as_str()), "{content}");
                    read += 1;
                }
            }
        }
        done.store(true, Relaxed);
        assert!(read > 0, "some reads find the tenant's own file");
    });
}

#[test]
fn an_unusable_entry_is_reported_and_the_others_are_read() {
    let tree = Tree::of(&[
        "good.wasm",
        "X.WASM",
        "lonely.toml",
        "no tenant/a.wasm",
        "no plugins/notes",
        "acme/a.wasm",
        "acme/deeper/b.wasm",
        "acme/assets/logo",
        "acme/Y.Wasm",
        "red.toml/x.wasm",
        "good.wasm.error/x",
    ]);
    let not_utf8 = OsString::from_vec(b"r\xe9d.wasm".to_vec());
    fs::write(tree.0.path().join(&not_utf8), "x").unwrap();
    assert_eq!(tree.plugins(), pairs(&[("acme/a", "acme/a.wasm"), ("good", "good.wasm")]));
    assert_eq!(
        tree.problems(),
        pairs(&[
            ("X.WASM", "its extension is not in lower case"),
            ("acme/Y.Wasm", "its extension is not in lower case"),
            ("acme/deeper", "folders in a tenant's folder are not read"),
            ("good.wasm.error", "a folder where the host writes why good.wasm does not run"),
            ("lonely.toml", "a manifest without its component, lonely.wasm"),
            ("no tenant", "this folder is not read, because no tenant can have its name"),
            ("r\\xe9d.wasm", "its name is not printable UTF-8"),
            ("red.toml", "a manifest without its component, red.wasm"),
        ])
    );
    assert!(tree.scan().problems.iter().all(|problem| !problem.remedy.is_empty()));
}

#[test]
fn problems_entries_and_manifests_are_bounded() {
    let tree = Tree::of(&["good.wasm", "acme/a.wasm"]);
    for number in 0..30 {
        fs::write(tree.path(&format!("acme/{number}.toml")), "").unwrap();
    }
    let problems = tree.problems();
    assert_eq!(problems.len(), MOST_PROBLEMS + 1);
    assert!(problems.contains(&("acme".into(), "10 more entries of this folder do not run".into())), "{problems:?}");
    for number in 0..MOST_ENTRIES {
        fs::write(tree.path(&format!("acme/{number}")), "").unwrap();
    }
    let listing = tree.scan();
    assert_eq!(listing.files.iter().map(|file| &*file.name).collect::<Vec<_>>(), ["good"]);
    assert_eq!(listing.unread, BTreeSet::from([TenantId::parse("acme").unwrap()]));
    fs::write(tree.path("good.toml"), vec![b'#'; (64 << 10) + 1]).unwrap();
    let error = tree.scan().files[0].manifest_text().unwrap_err().to_string();
    assert_eq!(error, "it is larger than 64 KiB");
}

#[test]
fn names_are_shown_in_printable_characters() {
    let shown = |name: &[u8]| super::shown(OsStr::from_bytes(name));
    assert_eq!(shown("größe.wasm".as_bytes()), "größe.wasm");
    assert_eq!(shown(b"a\x1b[2J\nb"), "a\\u{1b}[2J\\u{a}b");
    assert_eq!(shown(b"\xff\xfea"), "\\xff\\xfea");
    assert_eq!(shown("a\u{202e}b".as_bytes()), "a\\u{202e}b");
}
