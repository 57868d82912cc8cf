// Starts whose files are ready at different times, and compilers that the system kills.

use std::path::PathBuf;

use sandmill_tests::host::binary;

use super::{retained::until_retained, *};

/// A compiler that runs a script first, with an empty cache.
struct Compiler(tempfile::TempDir);

impl Compiler {
    /// A compiler that runs these commands first. In them, `$here` is the compiler's folder and
    /// `$size` the size of the component.
    fn that(does: &str) -> Compiler {
        let here = tempfile::tempdir().unwrap();
        let (path, sandmill) = (here.path().display().to_string(), binary().display().to_string());
        let script = format!(
            "#!/bin/sh\nhere={path}\ninput=$here/input.$$\n/bin/cat > $input\nsize=$(/usr/bin/wc -c < $input)\n{does}\nexec {sandmill} \"$@\" < $input\n"
        );
        let program = here.path().join("compiler");
        host::script(&program, &script);
        Compiler(here)
    }

    /// A compiler that delays large components until there is a file `go`.
    fn that_delays_large_components() -> Compiler {
        Self::that("if [ $size -gt 1048576 ]; then while [ ! -e $here/go ]; do /bin/sleep 0.02; done; fi")
    }

    /// A compiler that is killed at each version of `scripted` until its file `short` is removed.
    fn that_is_killed_at_versions() -> Compiler {
        let killed = "if [ -e $here/short ] && /bin/grep -q scripted-mark-V $input; then echo killed >> $here/killed; kill -9 $$; fi";
        let compiler = Self::that(killed);
        fs::write(compiler.file("short"), "").unwrap();
        compiler
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn settings(&self) -> [String; 2] {
        let cache = self.file("cache");
        [format!("compile.worker={}", self.file("compiler").display()), format!("compile.cache={}", cache.display())]
    }
}

/// The component with a custom section of 2 MiB, as large as one with a language runtime.
fn large(mut component: Vec<u8>) -> Vec<u8> {
    let content = [&[3][..], b"pad", &vec![0; 2 << 20]].concat();
    component.push(0);
    let mut length = content.len();
    while length > 0x7f {
        component.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    component.push(length as u8);
    component.extend(content);
    component
}

fn by_stream() -> Vec<u8> {
    fs::read(component("scripted-by-stream")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_starts_while_another_one_is_compiled() {
    let database = database().await;
    let (folder, compiler) = (tempfile::tempdir().unwrap(), Compiler::that_delays_large_components());
    place(folder.path(), "a-large.wasm", &large(by_stream()));
    put(folder.path(), GOOD[1]);
    append(&database, "s", 1).await;
    let [worker, cache] = compiler.settings();
    let host = Host::start_in(&database, folder.path(), &[&worker, &cache]);
    until_versions(&database, "s", &[(GOOD[1], 1)]).await;
    // A version that is added in the meantime does not wait either.
    put(folder.path(), GOOD[2]);
    until_event(&database, "scripted", "swapped", 1).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[(GOOD[1], 1), (GOOD[2], 1)]).await;
    assert_eq!(events(&database, "a-large").await, Vec::<String>::new());
    fs::write(compiler.file("go"), "").unwrap();
    until_counted(&database, &["scripted_stream_log"]).await;
    host.stop().await;
    assert_log(&database, "scripted_stream_log", EVERY_EVENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_until_caught_up_waits_for_plugins_under_compilation() {
    let database = database().await;
    let (folder, compiler) = (tempfile::tempdir().unwrap(), Compiler::that_delays_large_components());
    place(folder.path(), "a-large.wasm", &large(by_stream()));
    put(folder.path(), GOOD[1]);
    append(&database, "s", 1).await;
    let [worker, cache] = compiler.settings();
    let (config, db) = (host::config(folder.path(), &[&worker, &cache]), database.db.clone());
    let never = std::future::pending;
    let run = tokio::spawn(async move { app::run(&config, &db, Until::CaughtUp, never(), never()).await });
    until_versions(&database, "s", &[(GOOD[1], 1)]).await;
    assert!(!run.is_finished());
    fs::write(compiler.file("go"), "").unwrap();
    let ended = run.await.unwrap().unwrap();
    assert!(matches!(ended, Ended::CaughtUp { rejected: 0 }), "{ended:?}");
    assert_log(&database, "scripted_stream_log", EVERY_EVENT).await;
}

/// Of two files that claim one processor, the same one always gets it.
#[tokio::test(flavor = "multi_thread")]
async fn which_file_gets_a_processor_does_not_depend_on_which_is_ready_first() {
    let database = database().await;
    let (folder, compiler) = (tempfile::tempdir().unwrap(), Compiler::that_delays_large_components());
    place(folder.path(), "a-large.wasm", &large(version("scripted", GOOD[2])));
    place(folder.path(), "b.wasm", &version("scripted", GOOD[1]));
    append(&database, "s", 1).await;
    let [worker, cache] = compiler.settings();
    let host = Host::start_in(&database, folder.path(), &[&worker, &cache]);
    until_versions(&database, "s", &[(GOOD[1], 1)]).await;
    fs::write(compiler.file("go"), "").unwrap();
    let why = "claims the processor id scripted, which b.wasm already has";
    until_error(folder.path(), "a-large", Some(why)).await;
    host.stop().await;
    // With cached code both are ready immediately, even in a database where neither ran before.
    append(&database, "s", 1).await;
    let host = Host::start_in(&database, folder.path(), &[&worker, &cache]);
    until_versions(&database, "s", &[(GOOD[1], 2)]).await;
    host.stop().await;
    let other = sandmill_tests::database().await;
    append(&other, "s", 1).await;
    let host = Host::start_in(&other, folder.path(), &[&worker, &cache]);
    until_versions(&other, "s", &[(GOOD[1], 1)]).await;
    until_error(folder.path(), "a-large", Some(why)).await;
    host.stop().await;
}

/// A file whose compiler is killed or times out waits and is compiled later.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_not_rejected_because_its_compiler_was_killed() {
    for (ends, seconds, why) in [
        ("kill -9 $$", 120, "the system killed its compiler (SIGKILL)"),
        ("exec /bin/sleep 3600", 3, "was not done after 12 s"),
    ] {
        let database = database().await;
        let folder = tempfile::tempdir().unwrap();
        let compiler = Compiler::that(&format!("if [ -e $here/short ]; then {ends}; fi"));
        fs::write(compiler.file("short"), "").unwrap();
        put(folder.path(), GOOD[1]);
        append(&database, "s", 1).await;
        let [worker, cache] = compiler.settings();
        let limit = format!("compile.seconds={seconds}");
        let host = Host::start_in(&database, folder.path(), &[&worker, &cache, &limit]);
        until_error(folder.path(), "scripted", Some("waiting, and compiled again automatically: ")).await;
        until_error(folder.path(), "scripted", Some(why)).await;
        assert!(listed(&database, "scripted").await.is_none());
        fs::remove_file(compiler.file("short")).unwrap();
        let host = match seconds {
            120 => host,
            // On a busy machine 3 s may be too short for the real compiler.
            _ => {
                host.stop().await;
                Host::start_in(&database, folder.path(), &[&worker, &cache])
            }
        };
        until_versions(&database, "s", &[(GOOD[1], 1)]).await;
        until_error(folder.path(), "scripted", None).await;
        assert_eq!(events(&database, "scripted").await, ["started"]);
        host.stop().await;
    }
}

/// The machine lacks memory for a new version and for the former one. Other files do not wait for
/// them, and the new version runs as soon as it can be compiled.
#[tokio::test(flavor = "multi_thread")]
async fn no_file_waits_for_one_that_the_machine_cannot_compile_now() {
    let database = database().await;
    let (folder, compiler) = (tempfile::tempdir().unwrap(), Compiler::that_is_killed_at_versions());
    put(folder.path(), GOOD[1]);
    append(&database, "s", 1).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_versions(&database, "s", &[(GOOD[1], 1)]).await;
    until_retained(&database, "scripted", 1).await;
    host.stop().await;
    put(folder.path(), GOOD[2]);
    place(folder.path(), "z-later.wasm", &large(by_stream()));
    append(&database, "s", 1).await;
    let [worker, cache] = compiler.settings();
    let host = Host::start_in(&database, folder.path(), &[&worker, &cache]);
    until_error(folder.path(), "scripted", Some("waiting, and compiled again automatically: ")).await;
    until_event(&database, "z-later", "started", 1).await;
    assert_eq!(versions(&database, "s").await, owned(&[(GOOD[1], 1)]));
    fs::remove_file(compiler.file("short")).unwrap();
    until_event(&database, "scripted", "started", 2).await;
    // Either version may have been ready first.
    until_error(folder.path(), "scripted", None).await;
    eventually("the new version runs", async || {
        let now = listed(&database, "scripted").await?;
        (now.digest == entries(&database, "scripted").await.last()?.digest && now.rejected.is_none()).then_some(())
    })
    .await;
    append(&database, "s", 1).await;
    until_counted(&database, &["scripted_log", "scripted_stream_log"]).await;
    assert_eq!(versions(&database, "s").await.last().unwrap().0, GOOD[2]);
    host.stop().await;
    assert_log(&database, "scripted_log", EVERY_EVENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_version_whose_compiler_was_killed_runs_later() {
    let database = database().await;
    let (folder, compiler) = (tempfile::tempdir().unwrap(), Compiler::that_is_killed_at_versions());
    let host = first_version(&database, folder.path(), 1).await;
    until_retained(&database, "scripted", 1).await;
    host.stop().await;
    fs::write(folder.path().join("scripted.wasm"), "broken").unwrap();
    append(&database, "s", 1).await;
    let [worker, cache] = compiler.settings();
    let host = Host::start_in(&database, folder.path(), &[&worker, &cache]);
    eventually("its compiler was killed twice", async || {
        (fs::read_to_string(compiler.file("killed")).ok()?.lines().count() >= 2).then_some(())
    })
    .await;
    fs::remove_file(compiler.file("short")).unwrap();
    until_versions(&database, "s", &[(GOOD[1], 2)]).await;
    host.stop().await;
}
