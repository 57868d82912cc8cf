// A start in which files are ready at different times, and compilers that the system kills.

use std::path::PathBuf;

use sandmill_tests::host::binary;

use super::{retained::until_retained, *};

/// A compiler that does first what a script says, with a cache of its own that is empty.
struct Compiler(tempfile::TempDir);

impl Compiler {
    /// `$here` is its folder, and `$size` the size of the component.
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

    /// One that keeps large components until it is told to go on.
    fn that_keeps_large_ones() -> Compiler {
        Self::that("if [ $size -gt 1048576 ]; then while [ ! -e $here/go ]; do /bin/sleep 0.02; done; fi")
    }

    /// One that is killed at each version of `scripted`, until its file `short` is gone.
    fn that_is_short_of_versions() -> Compiler {
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

/// A component with a custom section that makes it as large as one with a language's runtime.
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
async fn a_plugin_begins_while_another_one_is_compiled() {
    let database = database().await;
    let (folder, compiler) = (tempfile::tempdir().unwrap(), Compiler::that_keeps_large_ones());
    place(folder.path(), "a-large.wasm", &large(by_stream()));
    put(folder.path(), "V000001");
    append(&database, "s", 1).await;
    let [worker, cache] = compiler.settings();
    let host = Host::start_in(&database, folder.path(), &[&worker, &cache]);
    until_versions(&database, "s", &[("V000001", 1)]).await;
    // A version that comes meanwhile does not wait either.
    put(folder.path(), "V000002");
    until_event(&database, "scripted", "swapped", 1).await;
    append(&database, "s", 1).await;
    until_versions(&database, "s", &[("V000001", 1), ("V000002", 1)]).await;
    assert_eq!(events(&database, "a-large").await, Vec::<String>::new());
    fs::write(compiler.file("go"), "").unwrap();
    until_counted(&database, &["scripted_stream_log"]).await;
    host.stop().await;
    assert_log(&database, "scripted_stream_log", "true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_until_caught_up_waits_for_what_is_compiled() {
    let database = database().await;
    let (folder, compiler) = (tempfile::tempdir().unwrap(), Compiler::that_keeps_large_ones());
    place(folder.path(), "a-large.wasm", &large(by_stream()));
    put(folder.path(), "V000001");
    append(&database, "s", 1).await;
    let [worker, cache] = compiler.settings();
    let (config, db) = (host::config(folder.path(), &[&worker, &cache]), database.db.clone());
    let never = std::future::pending;
    let run = tokio::spawn(async move { app::run(&config, &db, Until::CaughtUp, never(), never()).await });
    until_versions(&database, "s", &[("V000001", 1)]).await;
    assert!(!run.is_finished());
    fs::write(compiler.file("go"), "").unwrap();
    let ended = run.await.unwrap().unwrap();
    assert!(matches!(ended, Ended::CaughtUp { refused: 0 }), "{ended:?}");
    assert_log(&database, "scripted_stream_log", "true").await;
}

/// Of files that claim one processor, the same one gets it no matter which is ready first.
#[tokio::test(flavor = "multi_thread")]
async fn which_file_gets_a_processor_does_not_depend_on_which_is_ready_first() {
    let database = database().await;
    let (folder, compiler) = (tempfile::tempdir().unwrap(), Compiler::that_keeps_large_ones());
    place(folder.path(), "a-large.wasm", &large(version("scripted", "V000002")));
    place(folder.path(), "b.wasm", &version("scripted", "V000001"));
    append(&database, "s", 1).await;
    let [worker, cache] = compiler.settings();
    let host = Host::start_in(&database, folder.path(), &[&worker, &cache]);
    until_versions(&database, "s", &[("V000001", 1)]).await;
    fs::write(compiler.file("go"), "").unwrap();
    let why = "claims the processor id scripted, which b.wasm already has";
    until_error(folder.path(), "a-large", Some(why)).await;
    host.stop().await;
    // Both are ready at once, with all code at hand; and where it never ran before as well.
    append(&database, "s", 1).await;
    let host = Host::start_in(&database, folder.path(), &[&worker, &cache]);
    until_versions(&database, "s", &[("V000001", 2)]).await;
    host.stop().await;
    let other = sandmill_tests::database().await;
    append(&other, "s", 1).await;
    let host = Host::start_in(&other, folder.path(), &[&worker, &cache]);
    until_versions(&other, "s", &[("V000001", 1)]).await;
    until_error(folder.path(), "a-large", Some(why)).await;
    host.stop().await;
}

/// A file that cannot be compiled now, since its compiler is killed or gets no time, waits and is
/// compiled later; nobody says that it is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_that_the_system_ends_is_no_reason_to_refuse_a_file() {
    for (ends, seconds, why) in [
        ("kill -9 $$", 120, "the system killed its compiler (SIGKILL)"),
        ("exec /bin/sleep 3600", 3, "was not done after 12 s"),
    ] {
        let database = database().await;
        let folder = tempfile::tempdir().unwrap();
        let compiler = Compiler::that(&format!("if [ -e $here/short ]; then {ends}; fi"));
        fs::write(compiler.file("short"), "").unwrap();
        put(folder.path(), "V000001");
        append(&database, "s", 1).await;
        let [worker, cache] = compiler.settings();
        let limit = format!("compile.seconds={seconds}");
        let host = Host::start_in(&database, folder.path(), &[&worker, &cache, &limit]);
        until_error(folder.path(), "scripted", Some("waits, and is compiled again by itself: ")).await;
        until_error(folder.path(), "scripted", Some(why)).await;
        assert!(listed(&database, "scripted").await.is_none());
        fs::remove_file(compiler.file("short")).unwrap();
        let host = match seconds {
            120 => host,
            // On a busy machine the compiler may not be done in such a time.
            _ => {
                host.stop().await;
                Host::start_in(&database, folder.path(), &[&worker, &cache])
            }
        };
        until_versions(&database, "s", &[("V000001", 1)]).await;
        until_error(folder.path(), "scripted", None).await;
        assert_eq!(events(&database, "scripted").await, ["started"]);
        host.stop().await;
    }
}

/// A machine that is too short of memory for a new version and for the one that ran last: no other
/// file waits for them, and the new one runs as soon as it can be compiled.
#[tokio::test(flavor = "multi_thread")]
async fn no_file_waits_for_one_that_the_machine_cannot_compile_now() {
    let database = database().await;
    let (folder, compiler) = (tempfile::tempdir().unwrap(), Compiler::that_is_short_of_versions());
    put(folder.path(), "V000001");
    append(&database, "s", 1).await;
    let host = Host::start_in(&database, folder.path(), &[]);
    until_versions(&database, "s", &[("V000001", 1)]).await;
    until_retained(&database, "scripted", 1).await;
    host.stop().await;
    put(folder.path(), "V000002");
    place(folder.path(), "z-later.wasm", &large(by_stream()));
    append(&database, "s", 1).await;
    let [worker, cache] = compiler.settings();
    let host = Host::start_in(&database, folder.path(), &[&worker, &cache]);
    until_error(folder.path(), "scripted", Some("waits, and is compiled again by itself: ")).await;
    until_event(&database, "z-later", "started", 1).await;
    assert_eq!(versions(&database, "s").await, owned(&[("V000001", 1)]));
    fs::remove_file(compiler.file("short")).unwrap();
    until_event(&database, "scripted", "started", 2).await;
    // Either of the two was ready first.
    until_error(folder.path(), "scripted", None).await;
    eventually("the new version runs", async || {
        let now = listed(&database, "scripted").await?;
        (now.digest == past(&database, "scripted").await.last()?.digest && now.refused.is_none()).then_some(())
    })
    .await;
    append(&database, "s", 1).await;
    until_counted(&database, &["scripted_log", "scripted_stream_log"]).await;
    assert_eq!(versions(&database, "s").await.last().unwrap().0, "V000002");
    host.stop().await;
    assert_log(&database, "scripted_log", "true").await;
}

/// The compiler of a version that ran last is killed, and it is compiled again later.
#[tokio::test(flavor = "multi_thread")]
async fn a_former_version_whose_compiler_was_killed_runs_later() {
    let database = database().await;
    let (folder, compiler) = (tempfile::tempdir().unwrap(), Compiler::that_is_short_of_versions());
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
    until_versions(&database, "s", &[("V000001", 2)]).await;
    host.stop().await;
}
