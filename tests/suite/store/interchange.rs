//! Events moved from one store to another with `events` and `import`, and inputs that are not lines
//! of events.

use std::{
    io::Write,
    process::{Output, Stdio},
    time::{Duration, UNIX_EPOCH},
};

use sandmill::db::Session;
use sandmill_client::{Append, NewEvent, append};
use sandmill_tests::{
    Database, database,
    host::{sandmill, stderr, stdout},
};

fn run(database: &Database, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = sandmill(&database.address);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that rejects its input early does not read all of it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// All events in order, without the positions that a store assigns.
async fn contents(session: &Session) -> Vec<String> {
    let sql = "select concat_ws('|', tenant, stream, version, type, id, extract(epoch from recorded_at), data::text, metadata::text)
               from sandmill.events order by position";
    session.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_can_be_imported_into_another_store_and_into_its_own() {
    let (from, into) = (database().await, database().await);
    let (writer, reader) = (from.db.connect("test").await.unwrap(), into.db.connect("test").await.unwrap());
    for (tenant, id, micros) in [
        ("acme", "1", 1_357_016_400_123_456),
        ("globex", "1", -62_135_596_800_000_000),
        ("acme", "2", 1_357_016_400_120_000_i64),
    ] {
        let distance = Duration::from_micros(micros.unsigned_abs());
        let time = if micros < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance };
        let event = NewEvent::new("Ä \"quoted\"", r#"{"b" :1.10,"a":[1e2,"\u00e9\n😀",-0]}"#);
        let event = event.metadata(r#"{"by":"ann"}"#).recorded_at(time).id(id);
        append(&*writer, &Append::to(tenant, "s/ü").event(event).event(NewEvent::new("T", "null"))).await.unwrap();
    }
    let listed = run(&from, &["events", "--json"], b"");
    assert_eq!(listed.status.code(), Some(0), "{}", stderr(&listed));

    let imported = run(&into, &["import", "-", "--json"], &listed.stdout);
    assert!(stdout(&imported).contains(r#""imported":6,"repeated":0"#), "{}{}", stdout(&imported), stderr(&imported));
    assert_eq!(contents(&reader).await, contents(&writer).await);
    for database in [&from, &into] {
        let again = run(database, &["import", "-", "--json"], &listed.stdout);
        assert!(stdout(&again).contains(r#""imported":0,"repeated":6"#), "{}{}", stdout(&again), stderr(&again));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_inputs_are_rejected_with_the_reason_and_a_byte_order_mark_is_accepted() {
    let database = database().await;
    let session = database.db.connect("test").await.unwrap();
    let good = r#"{"tenant":"t","stream":"s","type":"T","data":1}"#;
    // A parser that reads fields by position would mistake this for an event.
    let array = r#"["t","s","T",null,null,{},null]"#;
    for (input, message) in [
        (format!("{good}\n{array}\n").into_bytes(), "line 2: the line is a JSON array; write one object on each line"),
        (
            format!("[\n{good},\n{good}\n]").into_bytes(),
            "line 1: the line is a JSON array; write one object on each line",
        ),
        (format!("{good},\n{good}\n").into_bytes(), "line 1: a comma follows the event (column 48)"),
        (format!("{good} {good}\n").into_bytes(), "line 1: more text follows the event (column 49)"),
        (format!("{good}\n{}", &good[..20]).into_bytes(), "the input ends in the middle of this line"),
        (format!("{good}\n\0\0\n").into_bytes(), "line 2: the line contains U+0000"),
        (good.replace("stream", "Stream").into_bytes(), "line 1: unknown key `Stream`; did you mean `stream`?"),
        (good.encode_utf16().flat_map(u16::to_le_bytes).collect(), "line 1: "),
        (
            [&b"\xff\xfe"[..], &good.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()].concat(),
            "the input is UTF-16",
        ),
    ] {
        let output = run(&database, &["import", "-"], &input);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(stderr(&output).contains(message), "{message}: {}", stderr(&output));
    }
    let before = contents(&session).await.len();
    let output = run(&database, &["import", "-"], format!("\u{feff}{good}\r\n\r\n{good}\r\n").as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(contents(&session).await.len(), before + 2);
}
