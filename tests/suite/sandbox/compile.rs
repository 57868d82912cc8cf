// Compiling in a separate process: hostile components, stand-in compilers, and the cache of
// compiled code.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
};

use sandmill::sandbox::{
    Limits, LoadError, Sandbox,
    compile::{CompileError, Config},
};
use sandmill_tests::{
    calls::{call, load, sandbox, unhurried},
    database, handmade,
    host::{compile, component, plugins, root, sandmill, stderr},
    ledger::{EVERY_EVENT, assert_scripted_log},
};
use serde_json::json;

fn small(compile: Config) -> Sandbox {
    Sandbox::new(Limits { instances: 2, ..unhurried() }, compile).expect("start a sandbox")
}

/// A configuration whose compiler cannot start, so only cached code loads.
fn nowhere(cache: &Path) -> Config {
    Config { cache: cache.into(), worker: "/nowhere/sandmill".into(), ..Config::default() }
}

/// A configuration with a script in place of the compiler, and one second of CPU time.
fn stand_in(name: &str) -> Config {
    let worker = root().join("tests/compilers").join(format!("{name}.sh"));
    Config { cache: PathBuf::new(), worker, seconds: 1, ..Config::default() }
}

fn compile_error(result: Result<sandmill::sandbox::Plugin, LoadError>) -> CompileError {
    match result {
        Err(LoadError::Compile(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was loaded"),
    }
}

/// A small component that takes minutes to compile: nested loops, each of which changes a value
/// that the others may change too.
fn long_to_compile() -> Vec<u8> {
    let (locals, depth) = (2_000, 5_000);
    let mut body = format!("(func $body (local {})\n", "i64 ".repeat(locals));
    for level in 0..depth {
        let (to, a, b) = (level % locals, (level * 7 + 1) % locals, (level * 3 + 2) % locals);
        body.push_str(&format!("(loop (local.set {to} (i64.add (local.get {a}) (local.get {b})))\n"));
    }
    for level in 0..depth {
        let to = level % locals;
        body.push_str(&format!("(local.set {to} (i64.mul (local.get {to}) (local.get {})))", (level * 5 + 1) % locals));
        body.push_str(&format!("(br_if 0 (i64.eqz (local.get {to}))))\n"));
    }
    body.push(')');
    handmade::plugin(&body)
}

/// A component that takes much memory to compile: a function with hundreds of values that live to
/// its end, and thousands of branches where they merge.
fn large_to_compile() -> Vec<u8> {
    let locals = 500;
    let mut body = format!("(func $body (local {})\n", "i64 ".repeat(locals));
    for turn in 0..60_000 {
        let (to, a, b) = (turn * 7 % locals, turn * 11 % locals, turn * 13 % locals);
        body.push_str(&format!(
            "(local.set {to} (i64.mul (i64.add (local.get {a}) (local.get {b})) (local.get {to})))\n"
        ));
        if turn % 5 == 0 {
            body.push_str(&format!("(if (i64.eqz (local.get {to})) (then (local.set {b} (local.get {a}))))\n"));
        }
    }
    body.push(')');
    handmade::plugin(&body)
}

#[tokio::test]
async fn sealed_code_is_loaded_from_the_cache_and_any_other_is_compiled_again() {
    let cache = tempfile::tempdir().unwrap();
    let bytes = fs::read(component("scripted")).unwrap();
    let ours = || Config { cache: cache.path().into(), ..compile() };
    let cached = || -> Vec<PathBuf> {
        let files = fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "cwasm")).collect()
    };

    let error = compile_error(small(nowhere(cache.path())).load(&bytes));
    assert!(error.to_string().starts_with("the compiler failed: start /nowhere/sandmill: "), "{error}");
    small(ours()).load(&bytes).expect("compile it");
    let [file] = &cached()[..] else { panic!("{:?}", cached()) };
    let sealed = fs::read(file).unwrap();

    let plugin = Arc::new(small(nowhere(cache.path())).load(&bytes).expect("no compiler is needed"));
    assert!(call(&plugin, "t", "lane", json!({})).await.is_ok());

    let mut altered = sealed.clone();
    altered[sealed.len() / 2] ^= 1;
    let other = tempfile::tempdir().unwrap();
    small(Config { cache: other.path().into(), ..compile() }).load(&bytes).expect("compile it elsewhere");
    let foreign = fs::read(other.path().join(file.file_name().unwrap())).unwrap();
    let unsealed = [&[0; 32], &sealed[32..]].concat();
    for damaged in [sealed[..sealed.len() / 2].to_vec(), Vec::new(), altered, foreign, unsealed] {
        fs::write(file, &damaged).unwrap();
        compile_error(small(nowhere(cache.path())).load(&bytes));
        fs::write(file, &damaged).unwrap();
        small(ours()).load(&bytes).expect("compile it again");
        assert_ne!(fs::read(file).unwrap(), damaged, "the file is replaced");
        small(nowhere(cache.path())).load(&bytes).expect("load the new code");
    }

    // Without a cache, or with a key that other users can read, every start needs a compiler.
    for cache in ["".into(), PathBuf::from("/proc/nowhere")] {
        compile_error(small(nowhere(&cache)).load(&bytes));
        small(Config { cache, ..compile() }).load(&bytes).expect("compile it");
    }
    fs::set_permissions(cache.path().join("key"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    compile_error(small(nowhere(cache.path())).load(&bytes));
    small(ours()).load(&bytes).expect("compile it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_compiles_for_too_long_is_rejected_while_others_run() {
    let running = sandbox(Limits { instances: 2, ..unhurried() });
    let plugin = load(&running, "scripted");
    let cache = tempfile::tempdir().unwrap();
    let slow = Config { cache: cache.path().into(), seconds: 1, ..compile() };
    let (refused, calls) = (Arc::new(AtomicBool::new(false)), AtomicU32::new(0));
    let compiling = tokio::task::spawn_blocking({
        let refused = refused.clone();
        move || {
            let sandbox = small(slow);
            let error = compile_error(sandbox.load(&long_to_compile()));
            refused.store(true, SeqCst);
            (error, sandbox.usage().refusals)
        }
    });
    while !refused.load(SeqCst) {
        call(&plugin, "t", "lane", json!({})).await.expect("a running plugin is not delayed");
        calls.fetch_add(1, SeqCst);
        tokio::task::yield_now().await;
    }
    let (error, refusals) = compiling.await.unwrap();
    // The compiler has the lowest priority, so on a busy machine it may not get its second at all.
    let ends =
        ["compiling it takes more than 1 s of CPU time (compile.seconds)", "compiling it was not done after 4 s"];
    assert!(ends.iter().any(|end| error.to_string().starts_with(end)), "{error}");
    assert_eq!(refusals["compile-time-limit"], 1);
    assert!(calls.load(SeqCst) > 100, "{calls:?} calls meanwhile");
    let files = fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(files, ["key"], "no code of it is cached");
}

#[test]
fn a_component_that_takes_too_much_memory_to_compile_is_rejected() {
    let cache = tempfile::tempdir().unwrap();
    let sandbox = small(Config { cache: cache.path().into(), memory_mib: 128, ..compile() });
    let error = compile_error(sandbox.load(&large_to_compile()));
    let expected = "compiling it takes more than 128 MiB of memory (compile.memory-mib)";
    assert!(error.to_string().starts_with(expected), "{error}");
    assert_eq!(sandbox.usage().refusals["compile-memory-limit"], 1);
    // An ordinary component needs less.
    sandbox.load(&fs::read(component("scripted")).unwrap()).expect("compile it");
}

#[test]
fn an_invalid_component_and_a_broken_compiler_have_different_errors() {
    let cache = tempfile::tempdir().unwrap();
    let mut broken = handmade::plugin("");
    let with = |worker: &str| Config { cache: cache.path().into(), worker: worker.into(), ..compile() };
    let error = compile_error(small(with("/bin/false")).load(&broken));
    assert_eq!(error.to_string(), "the compiler failed: it ended with exit status: 1: ");
    let error = compile_error(small(with("/bin/true")).load(&broken));
    assert!(error.to_string().starts_with("it cannot run here: "), "{error}");
    // A component with a valid outline and invalid code.
    let code = broken.windows(4).position(|bytes| bytes == [0x41, 0x80, 0x08, 0x0b]).expect("i32.const 1024, end");
    broken[code] = 0xff;
    let error = compile_error(small(Config { cache: cache.path().into(), ..compile() }).load(&broken));
    assert!(error.to_string().starts_with("the component does not compile: "), "{error}");
    small(Config { cache: cache.path().into(), ..compile() })
        .load(&handmade::plugin(""))
        .expect("the unaltered component loads");
}

#[test]
fn a_compiler_sees_nothing_of_the_hosts_environment() {
    let error = compile_error(small(stand_in("reports-its-environment")).load(&handmade::plugin(""))).to_string();
    let expected = "arguments: compile-component --memory-mib 2048 --seconds 1\nfolder: /\n";
    assert!(error.starts_with(&format!("the compiler failed: it ended with exit status: 2: {expected}")), "{error}");
    // Variables that a shell sets itself, and the number of threads.
    let names = error.lines().skip(2).filter_map(|line| line.split_once('=')).map(|(name, _)| name);
    assert!(names.clone().all(|name| ["PWD", "OLDPWD", "SHLVL", "_", "RAYON_NUM_THREADS"].contains(&name)), "{error}");
    assert!(names.clone().any(|name| name == "RAYON_NUM_THREADS"), "{error}");
}

/// Takes four seconds: four times the CPU time.
#[test]
fn a_compiler_that_does_not_end_is_killed() {
    std::thread::scope(|scope| {
        for name in ["never-ends", "closes-its-pipes"] {
            scope.spawn(move || {
                let error = compile_error(small(stand_in(name)).load(&handmade::plugin("")));
                let expected = "compiling it was not done after 4 s, four times compile.seconds\n";
                assert!(error.to_string().starts_with(expected), "{name}: {error}");
            });
        }
    });
}

#[tokio::test]
async fn a_host_compiles_with_its_own_program_by_default() {
    let (database, folder, cache) = (database().await, plugins(&["scripted"]), tempfile::tempdir().unwrap());
    database.append("t", "s", &[json!({})]).await;
    let output = sandmill(&database.address)
        .args(["run", "--until-caught-up", "--plugins"])
        .arg(folder.path())
        .env("SANDMILL_COMPILE_CACHE", cache.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 2, "the key and the code");
    assert_scripted_log(&database, EVERY_EVENT).await;
}

#[test]
fn the_compilers_command_is_hidden_and_requires_limits() {
    let output = sandmill("").arg("compile-component").output().unwrap();
    assert!(!output.status.success() && stderr(&output).contains("--memory-mib"), "{}", stderr(&output));
    let help = sandmill("").arg("--help").output().unwrap();
    assert!(!String::from_utf8_lossy(&help.stdout).contains("compile-component"));
}
