// Plugins in three languages: each makes the same documents of the same events. The components of JavaScript and Python are built by
// `make test-all`; where they were not, a test says that it is skipped, and fails only if TEST_ALL asks for all.

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

/// A plugin that is written in every language.
struct Example {
    name: &'static str,
    /// Its events, `NAME.ndjson`, and documents, `NAME.expected.ndjson`, in `example-plugins/data`.
    data: &'static str,
    /// How many of the events it skips.
    skipped: u64,
    collection: &'static str,
    /// Ids of documents, such as those with odd characters.
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

/// What the name of a component in a language ends with, and what builds it.
const LANGUAGES: [(&str, &str); 3] = [("", "plugins"), ("-js", "plugins-js"), ("-py", "plugins-py")];

/// Whether a test must not be skipped.
fn all_is_asked_for() -> bool {
    std::env::var_os("TEST_ALL").is_some()
}

impl Example {
    /// The components that were built. It names those that were not.
    fn components(&self) -> Vec<PathBuf> {
        let mut there = Vec::new();
        for (language, target) in LANGUAGES {
            let path = root().join(format!("target/plugins/{}{language}.wasm", self.name));
            if path.is_file() {
                there.push(path);
            } else {
                assert!(!all_is_asked_for(), "{} is not there; `make {target}` builds it", path.display());
                println!("skipped for {}{language}, which was not built: `make {target}` does", self.name);
            }
        }
        there
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

/// What a component makes of events: the indexes of what it skips, after its documents were compared with the expected ones.
fn test(component: &Path, events: &Path, expected: &Path, how: &str) -> Value {
    let [component, events, expected] = [component, events, expected].map(|path| path.to_str().unwrap());
    let output = run(&["test", component, "--events", events, how, expected, "--json"], &root());
    assert!(output.status.success(), "{component}: {}{}", stdout(&output), stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let first = report["skipped"]["first"].as_array().unwrap();
    let lines: Vec<&Value> = first.iter().map(|skipped| &skipped["line"]).collect();
    json!({"handled": report["handled"], "total": report["skipped"]["total"], "lines": lines})
}

#[test]
fn the_cases_of_each_example_hold_in_every_language() {
    for example in EXAMPLES {
        let (events, expected) = (example.file("ndjson"), example.file("expected.ndjson"));
        let components = example.components();
        let outcomes: Vec<Value> =
            components.iter().map(|component| test(component, &events, &expected, "--expect")).collect();
        assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{outcomes:?}");
        assert_eq!(outcomes[0]["total"], example.skipped, "{}", example.name);
    }
}

/// Events of all kinds, some of them wrong.
fn some_carts(random: &mut Random, events: usize) -> String {
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

/// Bookings that get into each other's way, most of them soon moved or cancelled.
fn some_bookings(random: &mut Random, events: usize) -> String {
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
fn every_language_makes_the_same_documents() {
    let folder = tempfile::tempdir().unwrap();
    let (events, expected) = (folder.path().join("events.ndjson"), folder.path().join("expected.ndjson"));
    for (example, some_events) in EXAMPLES.iter().zip([some_carts, some_bookings]) {
        std::fs::write(&events, some_events(&mut Random::seeded(), 1_500)).unwrap();
        let components = example.components();
        let first = test(&components[0], &events, &expected, "--write");
        for component in &components[1..] {
            assert_eq!(test(component, &events, &expected, "--expect"), first, "{}", component.display());
        }
        std::fs::remove_file(&expected).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_runs_every_language_with_the_settings_it_begins_with() {
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

/// The SDKs' own tests, in the languages that they are for.
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
                assert!(!all_is_asked_for(), "{program}: {error}");
                println!("skipped: {program} is not there");
            }
        }
    }
}

/// A plugin of the probe's events in each language, and the name of its file.
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

/// All that a store accepts is read within a component's stack, and no text that a language can make traps without words.
#[test]
fn what_a_language_cannot_hold_ends_in_words() {
    if !all_is_asked_for() {
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
    // More than this is refused by the store, and by whatever reads events for a plugin.
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
        assert!(skipped.contains("`x` is not a text") && skipped.contains("ab\u{fffd}"), "{language}: {skipped}");

        for (event_type, expected) in [
            ("Named", "the id of a document of `probe` holds half a character"),
            ("Thrown", "Error: ab\u{fffd}"),
            ("Written", "holds half a character"),
        ] {
            events("half.ndjson", &[("Counted", "{}"), (event_type, text)]);
            let tested = run(&["test", "probe.wasm", "--events", "../half.ndjson"], &dir);
            let said = stdout(&tested);
            assert!(!tested.status.success() && said.contains(expected), "{language}, {event_type}: {said}");
            assert!(said.contains("2 events, 1 handled, 1 behind a stop"), "{language}, {event_type}: {said}");
        }
    }
}

/// Takes node and python3, and a network the first time: only where all is asked for.
#[test]
fn a_script_that_was_begun_does_what_it_says() {
    if !all_is_asked_for() {
        println!("skipped: `make test-all` begins and builds a plugin in JavaScript and in Python");
        return;
    }
    // Below the checkout, whose tools they share.
    let folder = tempfile::tempdir_in(root().join("target/tmp")).unwrap();
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

        // A mistake is told in the language's own words, and so is what goes wrong in a call.
        let (entry, broken) = if language == "js" { ("plugin.js", "const = 1;") } else { ("plugin.py", "def f(:") };
        let text = std::fs::read_to_string(dir.join(entry)).unwrap();
        std::fs::write(dir.join(entry), format!("{text}\n{broken}\n")).unwrap();
        let refused = stderr(&run(&["build"], &dir));
        assert!(refused.contains("Correct what its language says of it") && refused.contains(entry), "{refused}");
        let wrong = text.replace("bookings + 1", "nonsense + 1").replace("[\"bookings\"] + 1", "[\"nonsense\"]");
        std::fs::write(dir.join(entry), wrong).unwrap();
        succeeds(&["build"], &dir);
        let tested = run(&["test", &component, "--events", "events.ndjson"], &dir);
        assert!(!tested.status.success() && stdout(&tested).contains("nonsense"), "{}", stdout(&tested));
    }
}

/// Plugins without the SDK, which export the contract's functions by themselves, and what they say of a mistake.
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
    if !all_is_asked_for() {
        println!("skipped: `make test-all` builds a plugin in JavaScript and in Python");
        return;
    }
    let folder = tempfile::tempdir_in(root().join("target/tmp")).unwrap();
    let event = r#"{"tenant":"acme","stream":"s","type":"Sat","data":{}}"#;
    std::fs::write(folder.path().join("events.ndjson"), event).unwrap();
    for (language, file, source, reported) in RAW {
        let dir = folder.path().join(language);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join(file), source).unwrap();
        let built = run(&["build", "-o", "raw.wasm"], &dir);
        assert!(built.status.success(), "{language}: {}", stderr(&built));
        let tested = stdout(&run(&["test", "raw.wasm", "--events", "../events.ndjson"], &dir));
        for words in reported {
            assert!(tested.contains(words), "{language}, {words}: {tested}");
        }
        assert!(!tested.contains("sandmill_exports"), "{language}: {tested}");
    }
}
