// Plugins in Rust, JavaScript and Python make the same documents from the same events. `make
// test-all` builds the components of JavaScript and Python. Where they are missing, a test prints
// that it is skipped, or fails if TEST_ALL is set.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::Output,
};

use sandmill_tests::{
    empty_database,
    host::{root, sandmill, stderr, stdout},
    random::Random,
};
use serde_json::{Value, json};

/// An example plugin that exists in every language.
struct Example {
    name: &'static str,
    /// Its events, `NAME.ndjson`, and documents, `NAME.expected.ndjson`, in `example-plugins/data`.
    data: &'static str,
    /// Number of events that it skips.
    skipped: u64,
    collection: &'static str,
    /// Ids of some documents, one with unusual characters.
    documents: [&'static str; 2],
}

const EXAMPLES: [Example; 2] = [
    Example {
        name: "cart-summary",
        data: "carts",
        skipped: 13,
        collection: "cart_summary",
        documents: ["comes-and-goes", "Körbchen 🧺"],
    },
    Example {
        name: "room-occupancy",
        data: "bookings",
        skipped: 17,
        collection: "room_occupancy",
        documents: ["12/2026-05-04", "Zimmer \"7\" 🛏/2026-05-10"],
    },
];

/// Suffix of the component's name in each language, and the make target that builds it.
const LANGUAGES: [(&str, &str); 3] = [("", "plugins"), ("-js", "plugins-js"), ("-py", "plugins-py")];

/// Whether no test may be skipped.
fn test_all() -> bool {
    std::env::var_os("TEST_ALL").is_some()
}

impl Example {
    /// The components that are built. Prints those that are not.
    fn components(&self) -> Vec<PathBuf> {
        let mut built = Vec::new();
        for (language, target) in LANGUAGES {
            let path = root().join(format!("target/plugins/{}{language}.wasm", self.name));
            if path.is_file() {
                built.push(path);
            } else {
                assert!(!test_all(), "{} is missing; `make {target}` builds it", path.display());
                println!("skipped for {}{language}, which is not built; `make {target}` builds it", self.name);
            }
        }
        built
    }

    fn file(&self, extension: &str) -> PathBuf {
        root().join(format!("example-plugins/data/{}.{extension}", self.data))
    }
}

fn run(arguments: &[&str], dir: &Path) -> Output {
    let mut command = sandmill("");
    command.env_remove("DATABASE_URL").env("SANDMILL_LOG", "off").arg("plugin").args(arguments).current_dir(dir);
    command.output().unwrap()
}

/// Runs `plugin test` with `option`, which is --expect or --write, and a file of documents. Returns
/// the numbers of events handled and skipped, and the lines of the first skipped ones.
fn test(component: &Path, events: &Path, expected: &Path, option: &str) -> Value {
    let [component, events, expected] = [component, events, expected].map(|path| path.to_str().unwrap());
    let output = run(&["test", component, "--events", events, option, expected, "--json"], &root());
    assert!(output.status.success(), "{component}: {}{}", stdout(&output), stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let first = report["skipped"]["first"].as_array().unwrap();
    let lines: Vec<&Value> = first.iter().map(|skipped| &skipped["line"]).collect();
    json!({"handled": report["handled"], "total": report["skipped"]["total"], "lines": lines})
}

#[test]
fn every_example_produces_the_expected_documents_in_every_language() {
    for example in EXAMPLES {
        let (events, expected) = (example.file("ndjson"), example.file("expected.ndjson"));
        let components = example.components();
        let outcomes: Vec<Value> =
            components.iter().map(|component| test(component, &events, &expected, "--expect")).collect();
        assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{outcomes:?}");
        assert_eq!(outcomes[0]["total"], example.skipped, "{}", example.name);
    }
}

/// Random events of the cart plugin, some of them invalid.
fn random_carts(random: &mut Random, events: usize) -> String {
    let mut text = String::new();
    for _ in 0..events {
        let (tenant, cart) = (["acme", "umbrella"][random.below(2)], random.below(40));
        let item = json!({"sku": "mug", "quantity": random.below(5), "price": random.below(100_000)});
        let (event_type, data) = match random.below(20) {
            0..12 => ("ItemAdded", item),
            12..17 => ("ItemRemoved", item),
            17 => ("CartCheckedOut", json!({})),
            18 => ("CartAbandoned", json!({})),
            _ => ("ItemAdded", json!({"quantity": 1, "price": "much"})),
        };
        let event = json!({"tenant": tenant, "stream": format!("cart-{cart}"), "type": event_type, "data": data});
        writeln!(text, "{event}").unwrap();
    }
    text
}

/// Random bookings that conflict with each other; most are soon moved or cancelled.
fn random_bookings(random: &mut Random, events: usize) -> String {
    let mut text = String::new();
    for _ in 0..events {
        let (tenant, booking) = (["acme", "umbrella"][random.below(2)], random.below(60));
        let (first, count) = (1 + random.below(20), random.below(5));
        let nights: Vec<String> = (first..first + count).map(|day| format!("2026-05-{day:02}")).collect();
        let stay = json!({"room": (10 + random.below(4)).to_string(), "nights": nights});
        let (event_type, data) = match random.below(20) {
            0..9 => ("BookingMade", stay),
            9..15 => ("BookingMoved", stay),
            15..19 => ("BookingCancelled", json!({})),
            _ => ("BookingMoved", json!({"room": "10", "nights": "all"})),
        };
        let event = json!({"tenant": tenant, "stream": format!("booking-{booking}"), "type": event_type, "data": data});
        writeln!(text, "{event}").unwrap();
    }
    text
}

#[test]
fn all_languages_make_the_same_documents_from_random_events() {
    let folder = tempfile::tempdir().unwrap();
    let (events, expected) = (folder.path().join("events.ndjson"), folder.path().join("expected.ndjson"));
    for (example, random_events) in EXAMPLES.iter().zip([random_carts, random_bookings]) {
        std::fs::write(&events, random_events(&mut Random::seeded(), 1_500)).unwrap();
        let components = example.components();
        let first = test(&components[0], &events, &expected, "--write");
        for component in &components[1..] {
            assert_eq!(test(component, &events, &expected, "--expect"), first, "{}", component.display());
        }
        std::fs::remove_file(&expected).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_runs_plugins_of_every_language_with_default_settings() {
    for example in EXAMPLES {
        for component in example.components() {
            let database = empty_database().await;
            let folder = tempfile::tempdir().unwrap();
            std::fs::copy(&component, folder.path().join("plugin.wasm")).unwrap();
            let address = database.address.clone();
            let (events, collection) = (example.file("ndjson"), example.collection);
            let documents = move || {
                let ran = |arguments: &[&str]| {
                    let output = sandmill(&address).args(arguments).current_dir(root()).output().unwrap();
                    assert!(output.status.success(), "{arguments:?}: {}{}", stdout(&output), stderr(&output));
                    stdout(&output)
                };
                ran(&["migrate"]);
                ran(&["import", events.to_str().unwrap()]);
                ran(&["run", "--until-caught-up", "--plugins", folder.path().to_str().unwrap()]);
                ran(&["documents", collection])
            };
            let documents = tokio::task::spawn_blocking(documents).await.unwrap();
            let expected = std::fs::read_to_string(example.file("expected.ndjson")).unwrap();
            let of_collection = format!(r#""collection":"{collection}""#);
            let expected = expected.lines().filter(|line| line.contains(&of_collection)).count();
            assert!(documents.lines().count() >= expected, "{}: {documents}", component.display());
            for id in example.documents {
                assert!(documents.contains(id), "{}: {documents}", component.display());
            }
        }
    }
}

/// Runs the SDKs' own tests with node and python3.
#[test]
fn the_tests_of_the_sdks_pass() {
    let tests = [
        ("node", ["--test", "guest-sdk/js/sandmill.test.mjs"]),
        ("python3", ["-B", "guest-sdk/python/test_sandmill.py"]),
    ];
    for (program, arguments) in tests {
        match std::process::Command::new(program).args(arguments).current_dir(root()).output() {
            Ok(ran) => assert!(ran.status.success(), "{program}: {}{}", stdout(&ran), stderr(&ran)),
            Err(error) => {
                assert!(!test_all(), "{program}: {error}");
                println!("skipped: {program} is not installed");
            }
        }
    }
}

/// A plugin in each language for events that are hard to represent: language, file name, source.
const PROBES: [(&str, &str, &str); 2] = [
    (
        "js",
        "plugin.js",
        r#"
import { documents, log, skip, text } from 'sandmill';
const cut = (data) => text(data, 'text').slice(0, 3);
export const { description, projector } = documents({
  id: 'probe',
  collection: 'probe',
  initial: { n: 0 },
  documentId: (data, event) => (event.eventType === 'Named' ? cut(data) : event.streamId),
  events: {
    Counted: (document) => ({ n: document.n + 1 }),
    Shown: (document, data) => ({ n: text(data, 'x') }),
    Skipped: (document, data) => { log.warn(cut(data)); throw skip('half', cut(data)); },
    Named: (document) => document,
    Thrown: (document, data) => { throw new Error(cut(data)); },
    Written: (document, data) => ({ text: cut(data) }),
  },
});
"#,
    ),
    (
        "python",
        "plugin.py",
        r#"
from sandmill import Documents, Skip, log, text

HALF = "ab\ud83d"
probe = Documents(
    "probe",
    collection="probe",
    initial={"n": 0},
    document_id=lambda data, event: HALF if event.event_type == "Named" else event.stream_id,
)


@probe.on("Counted")
def counted(document, data):
    return {"n": document["n"] + 1}


@probe.on("Shown")
def shown(document, data):
    return {"n": text(data, "x")}


@probe.on("Skipped")
def skipped(document, data):
    log.warn(HALF)
    print(HALF)
    raise Skip("half", HALF)


@probe.on("Named")
def named(document, data):
    return document


@probe.on("Thrown")
def thrown(document, data):
    raise RuntimeError(HALF)


@probe.on("Written")
def written(document, data):
    return {"text": HALF}


Description, Projector = probe.exports()
"#,
    ),
];

/// Every event that the store accepts can be read within a component's stack, and text that is not
/// valid Unicode ends with a message.
#[test]
fn data_that_a_language_cannot_represent_is_reported_with_a_message() {
    if !test_all() {
        println!("skipped: `make test-all` builds a plugin in JavaScript and in Python");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let nested = |levels: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1));
    let events = |file: &str, events: &[(&str, &str)]| {
        let lines: Vec<String> = events
            .iter()
            .map(|(event_type, data)| {
                format!(r#"{{"tenant":"acme","stream":"s","type":"{event_type}","data":{data}}}"#)
            })
            .collect();
        std::fs::write(folder.path().join(file), lines.join("\n")).unwrap();
    };
    // The store and the readers of events reject deeper nesting and longer numbers.
    let (deepest, number) = (nested(512), format!(r#"{{"x":{}}}"#, "9".repeat(1_000)));
    let text = r#"{"text":"ab😀x"}"#;
    let readable = [("Counted", &*deepest), ("Counted", &number), ("Shown", &deepest)];
    events("readable.ndjson", &[&readable[..], &[("Skipped", text), ("Counted", "{}")]].concat());
    for (language, file, source) in PROBES {
        let dir = folder.path().join(language);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join(file), source).unwrap();
        let built = run(&["build", "-o", "probe.wasm"], &dir);
        assert!(built.status.success(), "{language}: {}", stderr(&built));

        let tested = run(&["test", "probe.wasm", "--events", "../readable.ndjson", "--json"], &dir);
        assert!(tested.status.success(), "{language}: {}{}", stdout(&tested), stderr(&tested));
        let report: Value = serde_json::from_str(&stdout(&tested)).unwrap();
        let skipped = report["skipped"].to_string();
        assert_eq!((&report["handled"], &report["skipped"]["total"]), (&json!(5), &json!(2)), "{language}: {report}");
        assert!(skipped.contains("`x` is not a string") && skipped.contains("ab\u{fffd}"), "{language}: {skipped}");

        for (event_type, expected) in [
            ("Named", "the id of a document of `probe` contains half a character"),
            ("Thrown", "Error: ab\u{fffd}"),
            ("Written", "contains half a character"),
        ] {
            events("half.ndjson", &[("Counted", "{}"), (event_type, text)]);
            let tested = run(&["test", "probe.wasm", "--events", "../half.ndjson"], &dir);
            let printed = stdout(&tested);
            assert!(!tested.status.success() && printed.contains(expected), "{language}, {event_type}: {printed}");
            assert!(
                printed.contains("2 events, 1 handled, 1 not handled because their lane stopped"),
                "{language}, {event_type}: {printed}"
            );
        }
    }
}

/// Needs node, python3 and, the first time, a network, so it runs only with TEST_ALL.
#[test]
fn a_new_plugin_builds_passes_its_test_and_reports_mistakes() {
    if !test_all() {
        println!("skipped: `make test-all` begins and builds a plugin in JavaScript and in Python");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for language in ["js", "python"] {
        let succeeds = |arguments: &[&str], dir: &Path| {
            let output = run(arguments, dir);
            assert!(output.status.success(), "{language}, {arguments:?}: {}{}", stdout(&output), stderr(&output));
            stdout(&output)
        };
        succeeds(&["new", language, "--lang", language], folder.path());
        let dir = folder.path().join(language);
        let built = succeeds(&["build"], &dir);
        assert!(
            built.contains(&format!("target/plugins/{language}.wasm  ")) && built.contains("componentize-"),
            "{built}"
        );
        let component = format!("target/plugins/{language}.wasm");
        succeeds(&["test", &component, "--events", "events.ndjson", "--expect", "expected.ndjson"], &dir);

        // Syntax errors and exceptions are reported in the language's own words.
        let (entry, broken) = if language == "js" { ("plugin.js", "const = 1;") } else { ("plugin.py", "def f(:") };
        let text = std::fs::read_to_string(dir.join(entry)).unwrap();
        std::fs::write(dir.join(entry), format!("{text}\n{broken}\n")).unwrap();
        let refused = stderr(&run(&["build"], &dir));
        assert!(refused.contains("Fix the error in its code:") && refused.contains(entry), "{refused}");
        let wrong = text.replace("entries + 1", "nonsense + 1").replace("[\"entries\"] + 1", "[\"nonsense\"]");
        std::fs::write(dir.join(entry), wrong).unwrap();
        succeeds(&["build"], &dir);
        let tested = run(&["test", &component, "--events", "events.ndjson"], &dir);
        assert!(!tested.status.success() && stdout(&tested).contains("nonsense"), "{}", stdout(&tested));
    }
}

/// Plugins that implement the contract without the SDK and throw an exception: language, file name,
/// source, and parts of the expected message.
const RAW: [(&str, &str, &str, [&str; 3]); 2] = [
    (
        "js",
        "plugin.js",
        r#"
const seatOf = (event) => event.missing.seat;
export const description = {
  describe: () => ({
    id: 'raw',
    version: '1',
    eventTypes: ['Sat'],
    collections: ['seats'],
    partitionBy: { tag: 'tenant' },
    start: 'beginning',
    readModelVersion: 1,
    maxBatchSize: undefined,
  }),
};
export const projector = { project: ({ events }) => ({ changes: events.map(seatOf), skipped: [], halted: undefined }) };
"#,
        ["TypeError: cannot read property 'seat' of undefined", "at seatOf (/plugin.js:2:", "at project (/plugin.js:"],
    ),
    (
        "python",
        "plugin.py",
        r#"
from wit_world.exports.projector import Projection
from wit_world.imports.types import Descriptor, PartitionBy_Tenant, StartPosition


def seat_of(event):
    return {}["seat"]


class Description:
    def describe(self):
        return Descriptor("raw", "1", ["Sat"], ["seats"], PartitionBy_Tenant(), StartPosition.BEGINNING, 1, None)


class Projector:
    def project(self, batch):
        return Projection([seat_of(event) for event in batch.events], [], None)
"#,
        ["KeyError: 'seat'", "at seat_of (plugin.py:7)", "at project (plugin.py:17)"],
    ),
];

#[test]
fn an_exception_of_a_plugin_without_the_sdk_is_reported_with_its_stack() {
    if !test_all() {
        println!("skipped: `make test-all` builds a plugin in JavaScript and in Python");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let event = r#"{"tenant":"acme","stream":"s","type":"Sat","data":{}}"#;
    std::fs::write(folder.path().join("events.ndjson"), event).unwrap();
    for (language, file, source, reported) in RAW {
        let dir = folder.path().join(language);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join(file), source).unwrap();
        let built = run(&["build", "-o", "raw.wasm"], &dir);
        assert!(built.status.success(), "{language}: {}", stderr(&built));
        let tested = stdout(&run(&["test", "raw.wasm", "--events", "../events.ndjson"], &dir));
        for part in reported {
            assert!(tested.contains(part), "{language}, {part}: {tested}");
        }
        assert!(!tested.contains("sandmill_exports"), "{language}: {tested}");
    }
}
