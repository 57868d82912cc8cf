// Large events and documents: they delay only their own lane, within the host's bounds of memory.

use sandmill::{
    model::{
        cursor::{Progress, Snapshot},
        json::{self, MAX_DEPTH},
    },
    source::{EventSource, Limit, native::Native},
};
use sandmill_tests::{
    Database, database,
    host::{Host, Process, plugins, sandmill, stderr, stdout},
    ledger::{EVERY_EVENT, assert_log, assert_scripted_log, until_counted},
    random::Random,
};
use serde_json::json;

/// Bound on a host's peak memory in these tests, MiB.
const PEAK_MIB: u64 = 256;

/// Appends events for the scripted plugins, each with this many bytes of padding, which compress
/// well.
async fn append_padded(database: &Database, tenant: &str, events: i32, bytes: i32) {
    let session = database.db.connect("test").await.unwrap();
    let sql = "select count(*) from generate_series(1, $2) number
               cross join lateral sandmill.append(
                 $1, 's', array['Scripted'], array[('{\"n\":' || number || ',\"pad\":\"' || repeat('x', $3) || '\"}')::json])";
    session.query_one(sql, &[&tenant, &events, &bytes]).await.unwrap();
}

/// Inserts one event of any size, as an older version of `sandmill.append` did. Returns its
/// position.
async fn insert(database: &Database, tenant: &str, stream: &str, data: &str, metadata: &str) -> i64 {
    let session = database.db.connect("test").await.unwrap();
    let sql = "with moved as (
                 insert into sandmill.streams as s (tenant, stream, version) values ($1, $2, 1)
                 on conflict (tenant, stream) do update set version = s.version + 1 returning version)
               insert into sandmill.events (tenant, stream, version, type, data, metadata)
               select $1, $2, version, 'Scripted', $3::text::json, $4::text::json from moved returning position";
    session.query_one(sql, &[&tenant, &stream, &data, &metadata]).await.unwrap().get(0)
}

fn padded(property: &str, bytes: usize) -> String {
    json!({"lane": property, "pad": "x".repeat(bytes)}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_large_events_are_handled_in_bounded_memory() {
    let database = database().await;
    database.append("quiet", "s", &vec![json!({}); 300]).await;
    append_padded(&database, "hog", 1_000, 1_000_000).await;
    database.append("quiet", "s", &vec![json!({}); 300]).await;
    let folder = plugins(&["scripted"]);
    let host = Process::start(&database, folder.path(), &[]);
    database.scripted_settles(&[]).await;
    assert!(host.peak_mib() <= PEAK_MIB, "{} MiB", host.peak_mib());
    // More arrive while it runs, and it is killed in the middle of them.
    append_padded(&database, "hog", 200, 1_000_000).await;
    drop(host);
    append_padded(&database, "hog", 200, 1_000_000).await;
    let host = Process::start(&database, folder.path(), &[]);
    append_padded(&database, "hog", 200, 1_000_000).await;
    database.scripted_settles(&[]).await;
    assert!(host.peak_mib() <= PEAK_MIB, "{} MiB", host.peak_mib());
    drop(host);
    assert_scripted_log(&database, EVERY_EVENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_over_the_limit_blocks_only_its_lane_with_the_reason() {
    let database = database().await;
    database.append("big", "s", &[json!({})]).await;
    let position = insert(&database, "big", "s", &padded("x", 5 << 20), "{}").await;
    database.append("big", "s", &[json!({})]).await;
    database.append("small", "s", &[json!({}), json!({})]).await;
    let host = Host::start(&database, &["scripted"], &[]);
    database.scripted_settles(&["big blocked event-too-large"]).await;
    let lane = database.status("scripted").await.unwrap().lanes_behind.remove(0);
    // The data is compressed, and the database does not decompress it only to report its size.
    for part in
        [format!("at position {position} has "), "more than the limit of 4194304".into(), "sandmill resume".into()]
    {
        assert!(lane.reason.contains(&part), "{}", lane.reason);
    }
    assert_scripted_log(&database, "e.tenant = 'small' or e.tenant = 'big' and e.version = 1").await;
    // An operator makes it smaller.
    let session = database.db.connect("test").await.unwrap();
    session.execute("update sandmill.events set data = '{}' where position = $1", &[&position]).await.unwrap();
    assert_eq!(database.resume(Some("big")).await, 1);
    database.scripted_settles(&[]).await;
    host.stop().await;
    assert_scripted_log(&database, EVERY_EVENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_metadata_is_bounded_like_data() {
    let database = database().await;
    insert(&database, "a", "s", "{}", &padded("x", 300_000)).await;
    insert(&database, "a", "s", &padded("x", 300_000), &padded("x", 300_000)).await;
    insert(&database, "b", "s", "{}", &padded("x", 5 << 20)).await;
    let host = Host::start(&database, &["scripted"], &[]);
    database.scripted_settles(&["b blocked event-too-large"]).await;
    host.stop().await;
    assert_scripted_log(&database, "e.tenant = 'a'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_events_are_routed_by_their_property() {
    let database = database().await;
    for lane in ["north", "south"] {
        database.append("a", lane, &[json!({"lane": lane})]).await;
        insert(&database, "a", lane, &padded(lane, 200_000), "{}").await;
        database.append("a", lane, &[json!({"lane": lane})]).await;
    }
    let position = insert(&database, "a", "south", &padded("south", 5 << 20), "{}").await;
    insert(&database, "a", "west", &padded("west", 33 << 20), "{}").await;
    database.append("a", "south", &[json!({"lane": "south"})]).await;
    database.append("a", "nowhere", &[json!({})]).await;
    let host = Host::start(&database, &["scripted-by-property", "scripted-by-stream"], &["processor.page-events=3"]);
    // The lane of an event that is too large to handle is known, up to the highest limit of a
    // store.
    let by_property = ["a/(unreadable) blocked unreadable-data", "a/south blocked event-too-large"];
    database.settles("scripted-by-property", &by_property).await;
    let by_stream = ["a/south blocked event-too-large", "a/west blocked event-too-large"];
    database.settles("scripted-by-stream", &by_stream).await;
    host.stop().await;
    let session = database.db.connect("test").await.unwrap();
    let sql = "select _id, metadata->>'lane', (data->>'count')::bigint from public.scripted_property_log order by 1";
    let rows = session.query(sql, &[]).await.unwrap();
    let lanes: Vec<(&str, &str, i64)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(lanes, [("north", "north", 3), ("nowhere", "", 1), ("south", "south", 3)]);
    let others = format!("e.stream in ('north', 'nowhere') or e.stream = 'south' and e.position < {position}");
    assert_log(&database, "scripted_stream_log", &others).await;
}

#[tokio::test]
async fn a_page_ends_at_its_limit_of_bytes_and_the_next_one_continues_there() {
    let database = database().await;
    database.append("a", "s", &[json!({})]).await;
    let mut source = Native::new(database.db.clone()).session("test").await.unwrap();
    let live = Progress::at(source.head().await.unwrap());
    let data: Vec<_> = (0..60).map(|number| json!({"n": number, "pad": "x".repeat(1_000)})).collect();
    for part in data.chunks(7) {
        database.append("a", "s", part).await;
    }
    append_padded(&database, "a", 2, 100_000).await;
    // From a recent snapshot, where the narrow form overflows into the wide one, and from the
    // beginning.
    let limit = Limit { events: 100, bytes: 10_000 };
    for (mut progress, expected) in [(live, 62), (Progress::at(Snapshot::nothing()), 63)] {
        let (mut positions, mut deferred) = (Vec::new(), 0);
        loop {
            let page = source.page(&progress, limit).await.unwrap();
            let weight = page.weight();
            assert!(weight <= 2 * limit.bytes + 2_000, "{weight} bytes");
            positions.extend(page.events.iter().map(|event| event.position));
            deferred += page.events.iter().filter(|event| event.deferred.is_some()).count();
            progress = page.to;
            if page.events.is_empty() && progress.is_boundary() {
                break;
            }
        }
        assert!(positions.is_sorted() && positions.len() == expected, "{positions:?}");
        assert_eq!(deferred, 2);
    }
    let last = source.last(None, None, i64::MAX, limit).await.unwrap();
    assert!((2..30).contains(&last.len()) && last.last().unwrap().position == 63, "{}", last.len());
    // As many as fit, but at least one.
    let bodies = source.load(&[62, 63], 150_000, Some(1 << 20)).await.unwrap();
    assert_eq!(bodies.iter().map(|body| (body.position, body.texts.is_some())).collect::<Vec<_>>(), [(62, true)]);
    let bodies = source.load(&[62, 63], 250_000, Some(1 << 20)).await.unwrap();
    assert_eq!(bodies[1].texts.as_ref().unwrap().0.len(), 100_016);
    let bodies = source.load(&[62, 63], 250_000, Some(1_000)).await.unwrap();
    assert_eq!((bodies.len(), bodies[0].texts.is_none()), (1, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_whose_text_in_postgresql_is_too_long_is_rejected_when_written() {
    let database = database().await;
    database.append("a", "s", &[json!({}), json!({"do": "long-numbers", "n": 120_000}), json!({})]).await;
    database.append("b", "s", &[json!({"do": "long-numbers", "n": 120}), json!({})]).await;
    database.append("c", "s", &[json!({"do": "long-numbers", "n": 132}), json!({})]).await;
    let folder = plugins(&["scripted"]);
    let host = Process::start(&database, folder.path(), &[]);
    database.scripted_settles(&["a blocked document-limit", "c blocked document-limit"]).await;
    let lanes = database.status("scripted").await.unwrap().lanes_behind;
    assert!(
        lanes[0].reason.contains("document `x` of `scripted_log` has 937852 KiB as PostgreSQL prints it"),
        "{}",
        lanes[0].reason
    );
    assert!(host.peak_mib() <= PEAK_MIB, "{} MiB", host.peak_mib());
}

/// An older version or a person may have written such documents.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_document_blocks_the_lane_that_reads_it_and_is_named() {
    let database = database().await;
    for tenant in ["long", "longest", "quiet"] {
        database.append(tenant, "s", &[json!({})]).await;
    }
    let folder = plugins(&["scripted"]);
    let settings = ["processor.read-mib=2"];
    let host = Process::start(&database, folder.path(), &settings);
    until_counted(&database, &["scripted_log"]).await;
    drop(host);
    let session = database.db.connect("test").await.unwrap();
    let spoil = "update public.scripted_log set data = data || jsonb_build_object('a',
                   (select jsonb_agg('1e8000'::jsonb) from generate_series(1, $2))) where _partition = $1";
    // 8 MB, and more than the longest text in PostgreSQL.
    session.execute(spoil, &[&"long", &1_000]).await.unwrap();
    session.execute(spoil, &[&"longest", &140_000]).await.unwrap();
    for tenant in ["long", "longest", "quiet"] {
        database.append(tenant, "s", &[json!({})]).await;
    }
    let host = Process::start(&database, folder.path(), &settings);
    database.scripted_settles(&["long blocked document-unreadable", "longest blocked document-unreadable"]).await;
    let lanes = database.status("scripted").await.unwrap().lanes_behind;
    for lane in &lanes {
        assert!(lane.reason.contains("document `s` of `scripted_log` cannot be read: "), "{}", lane.reason);
    }
    assert!(lanes[0].reason.contains("more than the 2 MiB of processor.read-mib"), "{}", lanes[0].reason);
    assert!(!host.log().contains("a term ended"), "{}", host.log());
    assert!(host.peak_mib() <= PEAK_MIB, "{} MiB", host.peak_mib());

    // A listing shows the other documents.
    let mut list = sandmill(&database.address);
    list.args(["documents", "scripted_log", "--json"]);
    let listed = tokio::task::spawn_blocking(move || list.output()).await.unwrap().unwrap();
    let lines = stdout(&listed);
    assert_eq!((lines.lines().count(), listed.status.code()), (2, Some(1)), "{lines}");
    assert!(
        stderr(&listed).starts_with("document \"s\" of tenant longest, version 1, is not shown: "),
        "{}",
        stderr(&listed)
    );

    session.execute("update public.scripted_log set data = data - 'a'", &[]).await.unwrap();
    assert_eq!(database.resume(None).await, 2);
    database.scripted_settles(&[]).await;
    drop(host);
    assert_scripted_log(&database, EVERY_EVENT).await;
}

#[tokio::test]
async fn the_computed_length_of_a_document_is_that_of_its_text_in_postgresql() {
    let database = database().await;
    let session = database.db.connect("test").await.unwrap();
    let mut random = Random::seeded();
    for _ in 0..40 {
        let texts: Vec<String> = (0..100).map(|_| object(&mut random, 4)).collect();
        let sql =
            "select octet_length(text::jsonb::text) from unnest($1::text[]) with ordinality t (text, n) order by n";
        let rows = session.query(sql, &[&texts]).await.unwrap();
        for (text, row) in texts.iter().zip(&rows) {
            assert_eq!(json::check_document(text, MAX_DEPTH), Ok(row.get::<_, i32>(0) as usize), "{text}");
        }
    }
}

/// An object with distinct keys and all kinds of JSON values.
fn object(random: &mut Random, depth: usize) -> String {
    let entries: Vec<String> = (0..random.below(5))
        .map(|number| format!("{}:{}", string(random, &number.to_string()), value(random, depth)))
        .collect();
    format!("{{{}}}", entries.join([",", " , "][random.below(2)]))
}

fn value(random: &mut Random, depth: usize) -> String {
    match random.below(if depth == 0 { 4 } else { 6 }) {
        0 => ["null", "true", "false"][random.below(3)].into(),
        1 => string(random, ""),
        2 | 3 => number(random),
        4 => object(random, depth - 1),
        _ => {
            let values: Vec<String> = (0..random.below(5)).map(|_| value(random, depth - 1)).collect();
            format!("[{}]", values.join(","))
        }
    }
}

/// A JSON string of random parts that need escapes in different ways.
fn string(random: &mut Random, first: &str) -> String {
    const PARTS: [&str; 16] = [
        "a",
        "ä",
        "€",
        "😀",
        "\\n",
        "\\/",
        "\\\\",
        "\\\"",
        "\\b",
        "\\u0041",
        "\\u00e4",
        "\\u20ac",
        "\\ud83d\\ude00",
        "\\u0007",
        "\\u007f",
        "\\u0009",
    ];
    let rest: String = (0..random.below(6)).map(|_| PARTS[random.below(PARTS.len())]).collect();
    format!("\"{first}{rest}\"")
}

/// A JSON number in a random notation.
fn number(random: &mut Random) -> String {
    let sign = ["", "-"][random.below(2)];
    let whole = ["0", "1", "10", "12345", "98765432109876543210"][random.below(5)];
    let fraction = ["", ".0", ".00", ".5", ".050", ".000123", ".120000"][random.below(7)];
    let exponent = match random.below(3) {
        0 => String::new(),
        _ => format!(
            "{}{}{}",
            ["e", "E"][random.below(2)],
            ["", "+", "-"][random.below(3)],
            [0, 1, 2, 3, 7, 40][random.below(6)]
        ),
    };
    format!("{sign}{whole}{fraction}{exponent}")
}
