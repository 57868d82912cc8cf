//! Imports of lines: stored and repeated lines, bad lines, and concurrent appends.

use std::{
    collections::BTreeSet,
    io::{Cursor, Write},
    time::SystemTime,
};

use flate2::{Compression, write::GzEncoder};
use futures_util::TryStreamExt;
use sandmill::{
    db::Session,
    model::time,
    store::{
        Filter, Ordering, StoredEvent,
        import::{ImportError, ImportInput, ImportProgress, ImportReport, import},
        page, set_ordering,
    },
};
use sandmill_client::{Append, NewEvent, append};
use sandmill_tests::{database, until};

async fn session() -> Session {
    database().await.db.connect("test").await.unwrap()
}

async fn import_text(session: &mut Session, text: &str) -> Result<ImportReport, ImportError> {
    import(session, ImportInput::from_reader(Cursor::new(text.to_owned())), |_| {}).await
}

async fn stored(session: &Session) -> Vec<StoredEvent> {
    page(session, &Filter::default(), 0, i64::MAX).await.unwrap().try_collect().await.unwrap()
}

/// A line whose data is its number.
fn line(number: usize) -> String {
    let (tenant, stream) = (number % 3, number % 7);
    format!(
        "{{\"tenant\":\"t{tenant}\",\"stream\":\"s{stream}\",\"type\":\"T\",\"id\":\"e{number}\",\"data\":{number}}}\n"
    )
}

fn lines(numbers: std::ops::Range<usize>) -> String {
    numbers.map(line).collect()
}

fn counts(report: &ImportReport) -> (u64, u64, u64) {
    (report.imported, report.repeated, report.lines)
}

/// Asserts that the versions of every stream count from 1 without gaps in the order of positions,
/// and that the stream's row has the last version.
async fn assert_sound(session: &Session) {
    let sql = "select count(*) from (
                 select e.version, row_number() over (partition by tenant, stream order by position) as nth,
                        count(*) over (partition by tenant, stream) as events, s.version as last
                 from sandmill.events e full join sandmill.streams s using (tenant, stream)) as checked
               where version is distinct from nth or last is distinct from events";
    let wrong: i64 = session.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(wrong, 0);
}

#[tokio::test]
async fn positions_follow_lines_across_commits_in_both_orderings() {
    for order in [Ordering::Stream, Ordering::Tenant] {
        let mut session = session().await;
        set_ordering(&mut session, order, "ann").await.unwrap();
        let mut reports = Vec::new();
        let input = ImportInput::from_reader(Cursor::new(lines(0..12_000)));
        let report = import(&mut session, input, |progress| reports.push(progress)).await.unwrap();
        assert_eq!(counts(&report), (12_000, 0, 12_000));
        let data: Vec<String> = stored(&session).await.iter().map(|event| event.data.get().to_owned()).collect();
        assert_eq!(data, (0..12_000).map(|number| number.to_string()).collect::<Vec<_>>());
        assert_sound(&session).await;
        assert_eq!(reports.iter().map(|p| p.imported).collect::<Vec<_>>(), [5_000, 10_000, 12_000]);
        assert_eq!(
            reports.last().unwrap(),
            &ImportProgress { bytes_read: lines(0..12_000).len() as u64, imported: 12_000, repeated: 0 }
        );
    }
}

#[tokio::test]
async fn a_compressed_file_is_detected_by_its_bytes() {
    let mut session = session().await;
    let mut encoder = GzEncoder::new(tempfile::NamedTempFile::new().unwrap(), Compression::fast());
    encoder.write_all(lines(0..10).as_bytes()).unwrap();
    let file = encoder.finish().unwrap();
    let input = ImportInput::open(file.path()).unwrap();
    assert_eq!(input.bytes(), Some(file.path().metadata().unwrap().len()));
    assert_eq!(counts(&import(&mut session, input, |_| {}).await.unwrap()), (10, 0, 10));
    assert_eq!(stored(&session).await.len(), 10);
}

#[tokio::test]
async fn a_repeated_import_is_harmless_and_takes_no_versions() {
    let mut session = session().await;
    import_text(&mut session, &lines(0..6_000)).await.unwrap();
    assert_eq!(counts(&import_text(&mut session, &lines(0..6_000)).await.unwrap()), (0, 6_000, 6_000));
    // Stored, repeated and new lines, and lines without an id.
    let without = "{\"stream\":\"x\",\"type\":\"T\",\"data\":1}\n";
    let mixed = lines(5_999..6_002) + &lines(6_001..6_003) + without + without;
    assert_eq!(counts(&import_text(&mut session, &mixed).await.unwrap()), (5, 2, 7));
    assert_sound(&session).await;
}

#[tokio::test]
async fn a_line_is_stored_with_all_its_values() {
    let mut session = session().await;
    let text = "{\"stream\":\"s\",\"type\":\"Ä\",\"id\":\"e1\",\"recordedAt\":\"2013-01-01T07:00:00.123456+02:00\",\
                \"metadata\":{\"user\" : \"ann\"},\"data\": {\"b\" :1.10,\"a\":[1e2,\"\\u00e9\\n\"]} }\n\
                {\"stream\":\"s\",\"type\":\"T\",\"data\":null}";
    import_text(&mut session, text).await.unwrap();
    let events = stored(&session).await;
    let [full, plain] = &events[..] else { panic!("{events:?}") };
    assert_eq!((full.tenant.as_str(), full.event_type.as_str(), full.id.as_str()), ("default", "Ä", "e1"));
    assert_eq!(full.recorded_at, time::from_micros(1_357_016_400_123_456));
    assert_eq!(full.metadata.get(), "{\"user\" : \"ann\"}");
    assert_eq!(full.data.get(), "{\"b\" :1.10,\"a\":[1e2,\"\\u00e9\\n\"]}");
    assert_eq!((plain.data.get(), plain.metadata.get(), plain.id.len()), ("null", "{}", 36));
    let sql = "select recorded_at between now() - interval '1 minute' and now() from sandmill.events where version = 2";
    assert!(session.query_one(sql, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn times_are_parsed_and_formatted_as_by_the_database() {
    let session = session().await;
    for text in [
        "0001-01-01T00:00:00Z",
        "1582-10-15T12:00:00-11:59",
        "1969-12-31T23:59:59.999999Z",
        "2000-02-29T23:59:60+01:00",
        "2024-12-31T23:59:59.5-00:30",
        "9999-12-31T23:59:59.999999Z",
    ] {
        let sql = "select $1::text::timestamptz";
        let theirs: SystemTime = session.query_one(sql, &[&text]).await.unwrap().get(0);
        assert_eq!(time::from_micros(time::parse(text).unwrap()), theirs, "{text}");
        let sql = "select to_char($1::timestamptz, 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')";
        let written: String = session.query_one(sql, &[&theirs]).await.unwrap().get(0);
        assert_eq!(time::format(theirs), written);
    }
}

#[tokio::test]
async fn the_first_bad_line_ends_an_import_and_the_lines_before_it_are_stored() {
    // Errors that the parser finds, and errors that only the database finds.
    for (bad, message) in [
        ("{\"stream\":\"s\",\"type\":\"T\",\"data\":{}", "EOF while parsing an object (column 34)"),
        ("{\"stream\":\"s\",\"type\":\"T\",\"data\":\"\\u0000\"}", "unsupported Unicode escape sequence"),
        ("{\"stream\":\"s\",\"type\":\"T\",\"data\":\"\\udc00\"}", "invalid input syntax for type json"),
    ] {
        let mut session = session().await;
        let text = lines(0..7_321) + bad + "\n" + &lines(7_321..9_000);
        let error = import_text(&mut session, &text).await.unwrap_err();
        let ImportError::BadLine { line, message: reason, stored_through, report } = &error else { panic!("{error}") };
        assert_eq!((*line, *stored_through), (7_322, 7_321));
        assert_eq!(counts(report), (7_321, 0, 7_321));
        assert!(reason.contains(message), "{reason}");
        assert!(error.to_string().contains("Lines up to 7321 are stored"), "{error}");
        assert_eq!(stored(&session).await.len(), 7_321);
        assert_sound(&session).await;

        // Once the line is fixed, the whole input can be imported again.
        assert_eq!(counts(&import_text(&mut session, &lines(0..9_000)).await.unwrap()), (1_679, 7_321, 9_000));
    }
    let error = import_text(&mut session().await, "nonsense").await.unwrap_err();
    assert!(
        error.to_string().starts_with("line 1: the line is not a JSON object; an event is an object such as {"),
        "{error}"
    );
    assert!(error.to_string().ends_with("Nothing was stored."), "{error}");
}

#[tokio::test]
async fn concurrent_imports_and_appends_store_each_event_once() {
    for order in [Ordering::Stream, Ordering::Tenant] {
        let database = database().await;
        let mut sessions = Vec::new();
        for _ in 0..4 {
            sessions.push(database.db.connect("test").await.unwrap());
        }
        set_ordering(&mut sessions[0], order, "ann").await.unwrap();
        let [one, two, three, appender] = &mut sessions[..] else { unreachable!() };
        // Three imports of the same ids into the same streams, in different orders within a commit.
        let backwards: String = (0..6_000).rev().map(line).collect();
        let appends = async {
            for number in 0..200 {
                let request = Append::to(format!("t{}", number % 3), format!("s{}", number % 7));
                append(&**appender, &request.event(NewEvent::new("A", "{}"))).await.unwrap();
            }
        };
        let forwards = lines(0..6_000);
        let (first, second, third, ()) = tokio::join!(
            import_text(one, &forwards),
            import_text(two, &backwards),
            import_text(three, &forwards),
            appends
        );
        let reports = [first.unwrap(), second.unwrap(), third.unwrap()];
        assert_eq!(reports.iter().map(|report| report.imported).sum::<u64>(), 6_000);
        assert_eq!(reports.iter().map(|report| report.lines).sum::<u64>(), 18_000);
        assert_sound(appender).await;
        assert_eq!(stored(appender).await.len(), 6_200);
    }
}

#[tokio::test]
async fn an_import_yields_to_an_applications_lock_and_continues_after_it() {
    let database = database().await;
    let (mut importer, mut application) =
        (database.db.connect("import").await.unwrap(), database.db.connect("test").await.unwrap());
    let watcher = database.db.connect("test").await.unwrap();
    let open = application.client_mut().transaction().await.unwrap();
    append(&open, &Append::to("t1", "s1").event(NewEvent::new("A", "{}"))).await.unwrap();
    let text = lines(0..100);
    let release = async {
        let mut attempts = BTreeSet::new();
        until("the import retries", async || {
            let sql = "select xact_start from pg_stat_activity where datname = current_database() \
                       and application_name = 'sandmill import' and wait_event_type = 'Lock'";
            attempts.extend(watcher.query_opt(sql, &[]).await.unwrap().map(|row| row.get::<_, SystemTime>(0)));
            attempts.len() > 1
        })
        .await;
        open.commit().await.unwrap();
    };
    let (report, ()) = tokio::join!(import_text(&mut importer, &text), release);
    assert_eq!(counts(&report.unwrap()), (100, 0, 100));
    assert_sound(&watcher).await;
}
