// `sandmill plugin check`: the description of a good plugin, and the defect and remedy of each kind
// of bad file.

use std::{fs, path::Path};

use sandmill_tests::{
    handmade,
    host::{component, root, stdout},
};
use serde_json::json;

use super::{plugin, report};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A component with a plugin's exports, in name only, and one import.
fn importing(interface: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
            (import "{interface}" (instance (export "open" (func))))
            (instance $nothing)
            (export "sandmill:processor/description@0.1.0" (instance $nothing))
            (export "sandmill:processor/projector@0.1.0" (instance $nothing)))"#
    );
    wat::parse_str(text).unwrap()
}

fn exporting(interface: &str) -> Vec<u8> {
    wat::parse_str(format!(r#"(component (instance $nothing) (export "{interface}" (instance $nothing)))"#)).unwrap()
}

#[test]
fn a_good_plugin_is_described() {
    let file = component("route-performance");
    let output = plugin(&["check", text(&file)]);
    let printed = stdout(&output);
    assert!(output.status.success(), "{printed}");
    for expected in [
        "  id              route-performance\n",
        "  kind            projector\n",
        "  event types     FlightFlown FlightCancelled\n",
        "  collections     route_performance\n",
        "  partitioned by  tenant\n",
        "  contract        sandmill:processor@0.1.0\n",
        "sandmill:processor/documents-packed@0.1.0",
        "\nThis host would run it.\n",
    ] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
    let (code, found) = report(&["check", text(&component("scripted-by-property"))]);
    assert_eq!((code, &found["runs"], &found["rejected"]), (0, &json!(true), &json!(null)));
    let size = fs::metadata(component("scripted-by-property")).unwrap().len();
    assert_eq!((&found["bytes"], found["digest"].as_str().unwrap().len()), (&json!(size), 64));
    let expected = json!({
        "id": "scripted-by-property", "kind": "projector", "version": "0.1.0", "eventTypes": null, "collections": ["scripted_property_log"],
        "partitionBy": "data-property(/lane)", "start": "beginning", "readModelVersion": 1, "maxBatchSize": null,
    });
    assert_eq!(found["plugin"], expected);
    let (_, found) = report(&["check", text(&component("reacting"))]);
    assert_eq!((&found["runs"], &found["plugin"]["kind"]), (&json!(true), &json!("reactor")));
}

#[test]
fn each_kind_of_bad_file_is_reported_with_its_defect_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let guests = root().join("tests/guests");
    let scripted = fs::read(component("scripted")).unwrap();
    let files: [(&str, Vec<u8>, &str, &str); 12] = [
        (
            "core",
            wat::parse_file(guests.join("core_module.wat")).unwrap(),
            "a core module, not a component",
            "wasm-tools component new",
        ),
        (
            "text",
            b"#!/bin/sh\necho hello\n".into(),
            "not a WebAssembly component: magic header not detected: bad magic number\n",
            "sandmill plugin build DIR",
        ),
        ("empty", Vec::new(), "not a WebAssembly component: the file is empty", "sandmill plugin build DIR"),
        (
            "world",
            exporting("wasi:http/incoming-handler@0.2.0"),
            "does not export `sandmill:processor/description@0.1.0`, only `wasi:http/incoming-handler@0.2.0`",
            "export_projector!",
        ),
        (
            "version",
            exporting("sandmill:processor/description@0.9.0"),
            "but `sandmill:processor/description@0.9.0`, a version that this host does not support",
            "A plugin exports",
        ),
        (
            "http",
            importing("wasi:http/outgoing-handler@0.2.0"),
            "imports `wasi:http/outgoing-handler@0.2.0`, which this host does not offer",
            "Remove the other imports; there is no HTTP",
        ),
        (
            "telepathy",
            importing("acme:telepathy/mind@1.0.0"),
            "imports `acme:telepathy/mind@1.0.0`",
            "Remove the other",
        ),
        ("half", scripted[..scripted.len() / 2].into(), "a damaged component: unexpected end", "copy it again"),
        (
            "bad",
            fs::read(component("bad-descriptor")).unwrap(),
            "`describe` broke the contract: `Not an id!` is not a valid processor id: 1 to 63 lowercase",
            "Correct its answer",
        ),
        (
            "traps",
            handmade::plugin("(func $describe unreachable)"),
            "`describe` failed: trap: wasm `unreachable` instruction executed",
            "Let it return constants only",
        ),
        (
            "loops",
            handmade::plugin("(func $describe (loop br 0))"),
            "`describe` failed: cpu-limit: computed for more than 100 ms in one call",
            "a tenth of limits.cpu-ms",
        ),
        (
            "greedy",
            handmade::plugin("(memory (export \"memory\") 2000)"),
            "begins with 125 MiB of memory, more than the 64 MiB of limits.memory-mib",
            "raise the setting",
        ),
    ];
    for (name, bytes, problem, remedy) in files {
        let file = folder.path().join(format!("{name}.wasm"));
        fs::write(&file, &bytes).unwrap();
        let (code, found) = report(&["check", text(&file)]);
        let refused = found["rejected"].as_str().unwrap_or_default();
        assert!(code == 1 && found["runs"] == json!(false), "{name}: {found}");
        assert!(refused.contains(problem) && refused.contains(remedy), "{name}: {refused}");
        assert_eq!((&found["bytes"], &found["plugin"]), (&json!(bytes.len()), &json!(null)), "{name}");
        let printed = stdout(&plugin(&["check", text(&file)]));
        assert!(printed.contains("This host would not run it: ") && printed.contains(problem), "{name}: {printed}");
    }
}

#[test]
fn a_rejected_file_is_described_as_far_as_it_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("http.wasm");
    fs::write(&file, importing("wasi:http/types@0.2.0")).unwrap();
    let (_, found) = report(&["check", text(&file)]);
    assert_eq!(found["contract"], json!("sandmill:processor@0.1.0"));
    assert_eq!(found["imports"], json!(["wasi:http/types@0.2.0"]));
    assert_eq!(found["digest"].as_str().map(str::len), Some(64));
}

/// The size is checked first: a file that is too large has no digest, because it was not read.
#[test]
fn a_file_that_is_too_large_or_missing_or_a_directory_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large.wasm");
    fs::File::create(&large).unwrap().set_len(200 << 20).unwrap();
    let (code, found) = report(&["check", text(&large)]);
    let refused = found["rejected"].as_str().unwrap();
    assert!(refused.starts_with("200 MiB large, more than the 64 MiB of limits.component-mib\n"), "{refused}");
    assert!(refused.contains("or raise the setting"), "{refused}");
    assert_eq!((code, &found["bytes"], &found["digest"]), (1, &json!(200 << 20), &json!(null)));

    for (path, problem, remedy) in [
        (folder.path().join("nowhere.wasm"), "it cannot be read: No such file", "Name a component file"),
        (folder.path().into(), "a directory, not a component file", "sandmill plugin build DIR"),
    ] {
        let (code, found) = report(&["check", text(&path)]);
        let refused = found["rejected"].as_str().unwrap();
        assert!(code == 1 && refused.starts_with(problem) && refused.contains(remedy), "{refused}");
        assert_eq!(found["bytes"], json!(null));
    }
}

#[test]
fn the_limits_of_run_apply_and_can_be_set() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("padded.wasm");
    let mut bytes = fs::read(component("scripted")).unwrap();
    // An ignored custom section of 1 MiB: its number, its length in LEB128, an empty name.
    bytes.extend([0, 0x81, 0x80, 0x40, 0]);
    bytes.resize(bytes.len() + (1 << 20), 0);
    fs::write(&file, &bytes).unwrap();
    assert_eq!(report(&["check", text(&file)]).0, 0);
    let (code, found) = report(&["check", text(&file), "--set", "limits.component-mib=1"]);
    let refused = found["rejected"].as_str().unwrap();
    assert!(code == 1 && refused.starts_with("2 MiB large, more than the 1 MiB of limits.component-mib"), "{refused}");
    let output = plugin(&["check", text(&file), "--set", "limits.component=1"]);
    assert_eq!(output.status.code(), Some(2));
}
