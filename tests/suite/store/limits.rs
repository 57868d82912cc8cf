//! Limits of an event: its size, its nesting and its numbers, for the client, the SQL function and
//! the import.

use std::io::Cursor;

use sandmill::{
    db::{Session, SqlState, describe},
    store::import::{ImportError, ImportInput, ImportReport, import},
};
use sandmill_client::{Append, AppendError, NewEvent, append};
use sandmill_tests::{
    database,
    host::{sandmill, stderr, stdout},
};

async fn session() -> Session {
    database().await.db.connect("test").await.unwrap()
}

fn event(data: impl Into<String>) -> Append {
    Append::to("acme", "s").event(NewEvent::new("T", data))
}

fn nested(levels: usize) -> String {
    format!("{}1{}", "[".repeat(levels), "]".repeat(levels))
}

/// A JSON string of this many bytes.
fn text(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes - 2))
}

fn line(data: &str) -> String {
    format!("{{\"tenant\":\"acme\",\"stream\":\"s\",\"type\":\"T\",\"data\":{data}}}\n")
}

async fn import_text(session: &mut Session, text: String) -> Result<ImportReport, ImportError> {
    import(session, ImportInput::from_reader(Cursor::new(text)), |_| {}).await
}

async fn count(session: &Session) -> i64 {
    session.query_one("select count(*) from sandmill.events", &[]).await.unwrap().get(0)
}

/// Appends with the SQL function, which must fail. Returns its SQLSTATE and its message.
async fn refusal(session: &Session, data: &[&str], metadata: Option<&[&str]>) -> (String, String) {
    let types = vec!["T"; data.len()];
    let sql = "select sandmill.append('acme', 's', $1, $2::text[]::json[], null, $3::text[]::json[])";
    let error = session.query(sql, &[&types, &data, &metadata]).await.unwrap_err();
    (error.code().unwrap().code().to_owned(), describe(&error))
}

#[tokio::test]
async fn an_event_of_4_mib_is_stored_and_one_byte_more_is_rejected() {
    let mut session = session().await;
    const LIMIT: usize = 4 << 20;
    append(&*session, &event(text(LIMIT - 2))).await.unwrap();
    import_text(&mut session, line(&text(LIMIT))).await.unwrap();
    assert_eq!(count(&session).await, 2);

    let request = event("1").event(NewEvent::new("T", text(LIMIT - 9)).metadata(r#"{"k":"v"}"#));
    append(&*session, &request).await.unwrap();
    let request = event("1").event(NewEvent::new("T", text(LIMIT - 8)).metadata(r#"{"k":"v"}"#));
    let error = append(&*session, &request).await.unwrap_err();
    assert!(matches!(error, AppendError::Invalid(_)), "{error:?}");
    let message = "event 2 of 2 for stream s of tenant acme has 4194305 bytes of data and metadata; this store allows at most 4194304";
    assert!(error.to_string().starts_with(message) && error.to_string().contains("--max-event-bytes"), "{error}");
    let (code, _) = refusal(&session, &[&text(LIMIT + 1)], None).await;
    assert_eq!(code, "SM413");

    let lines = line("1") + &line(&text(LIMIT + 1)) + &line("2");
    let error = import_text(&mut session, lines).await.unwrap_err();
    assert!(matches!(error, ImportError::BadLine { line: 2, stored_through: 1, .. }), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("line 2: the event has 4194305 bytes of data and metadata, more than this store's limit"),
        "{error}"
    );
    assert_eq!(count(&session).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn lowering_the_size_limit_rejects_new_events_and_keeps_stored_ones() {
    let database = database().await;
    let session = database.db.connect("test").await.unwrap();
    let run = |arguments: &[&str]| sandmill(&database.address).args(arguments).output().unwrap();
    append(&*session, &event(text(3_000))).await.unwrap();

    let done = run(&["migrate", "--max-event-bytes", "2000", "--json"]);
    assert!(stdout(&done).contains(r#""maxEventBytes":{"before":4194304,"now":2000}"#), "{}", stdout(&done));
    let data = text(2_001);
    let refused = run(&["append", "--tenant", "acme", "--stream", "s", "--type", "T", "--data", &data]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("has 2001 bytes of data and metadata; this store allows at most 2000"),
        "{}",
        stderr(&refused)
    );
    let kept = "select count(*) from sandmill.events where octet_length(data::text) = 3000";
    assert_eq!(session.query_one(kept, &[]).await.unwrap().get::<_, i64>(0), 1);
    for wrong in ["1023", "33554433", "-1", "4MiB"] {
        let refused = run(&["migrate", &format!("--max-event-bytes={wrong}")]);
        assert_eq!(refused.status.code(), Some(2), "{wrong}");
    }
    // The table has the same bounds.
    let beyond = session.execute("update sandmill.store set max_event_bytes = 33554433", &[]).await.unwrap_err();
    assert_eq!(beyond.code(), Some(&SqlState::CHECK_VIOLATION));
}

#[tokio::test]
async fn json_that_a_plugin_language_cannot_parse_is_rejected() {
    let mut session = session().await;
    let objects =
        |levels: usize| format!("{}1{}", r#"{"a":[{"b":"]]}\"}","c":"#.repeat(levels / 3), "}]}".repeat(levels / 3));
    let deep = "is nested deeper than 512 levels";
    let long = "has a number of more than 1,000 characters";
    for (data, problem) in [
        // These would trap in the SDKs for Python and JavaScript.
        (nested(1_200), deep),
        (nested(3_000), deep),
        ("7".repeat(4_301), long),
        // Variants: at the bounds, with brackets in strings, and with a number that jsonb cannot
        // hold.
        (nested(513), deep),
        (objects(513), deep),
        (format!("[1e400000,{}]", nested(512)), deep),
        ("1".repeat(1_001), long),
        (format!("[{},-0.{}e-7]", "1,".repeat(700) + "1", "3".repeat(995)), long),
    ] {
        let (code, message) = refusal(&session, &["1", &data], None).await;
        assert_eq!(code, "SM422", "{message}");
        let expected = format!("event 2 of 2 for stream s of tenant acme: its data {problem}");
        assert!(message.contains(&expected), "{message}");
        let error = append(&*session, &event(&*data)).await.unwrap_err();
        assert!(matches!(&error, AppendError::Invalid(message) if message.contains(problem)), "{error:?}");
        let error = import_text(&mut session, line(&data)).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("line 1: data {problem}")), "{error}");
        let metadata = format!("{{\"a\":{data}}}");
        let (code, message) = refusal(&session, &["1"], Some(&[&metadata])).await;
        assert!(code == "SM422" && message.contains(&format!("its metadata {problem}")), "{code} {message}");
    }
    assert_eq!(count(&session).await, 0);
    for data in [
        nested(512),
        objects(512),
        format!("[1e400000,{}]", nested(511)),
        "1".repeat(1_000),
        format!("[{}1]", "-1.5e+9,".repeat(2_000)),
        // Brackets and digits in strings do not count.
        format!("\"{}\"", "[{".repeat(2_000)),
        format!("\"{}\"", "1234567890".repeat(500)),
        format!("[{}1]", r#"{"a":[[]]},"#.repeat(3_000)),
    ] {
        append(&*session, &event(&*data)).await.unwrap();
        import_text(&mut session, line(&data)).await.unwrap();
    }
    assert_eq!(count(&session).await, 16);
}

#[tokio::test]
async fn no_form_of_array_hides_an_event_from_the_checks() {
    let session = session().await;
    let number = "1".repeat(1_001);
    for array in [format!("[7:8]={{1,{number}}}"), format!("{{{{1}},{{{number}}}}}"), format!("[0:1]={{1,{number}}}")] {
        let sql = "select sandmill.append('acme', 's', '{T,T}', $1::text::json[])";
        let error = session.query(sql, &[&array]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "SM422", "{array}");
    }
    let sql = "select (sandmill.append('acme', 's', '{T,T}', '[7:8]={1,2}')).stream_version";
    assert_eq!(session.query(sql, &[]).await.unwrap().len(), 2);
}

/// The check must not keep a database busy, even for the largest texts of the worst kinds.
#[tokio::test]
async fn the_exact_check_handles_a_million_brackets() {
    let session = session().await;
    let check = async |json: String| {
        let sql = "select sandmill.unreadable_json($1)";
        session.query_one(sql, &[&json]).await.unwrap().get::<_, Option<String>>(0)
    };
    assert_eq!(check("[".repeat(1_000_000)).await.as_deref(), Some("is nested deeper than 512 levels"));
    assert_eq!(check(format!("[{}1]", "[[]],".repeat(250_000))).await, None);
    assert_eq!(check(format!("[1e400000,{}1]", "[[]],".repeat(250_000))).await, None);
    assert_eq!(check(format!("[\"{}\"]", "\\\"[".repeat(1_000_000))).await, None);
}

/// Another role could create functions that match an append's arguments better than the built-in
/// ones.
#[tokio::test]
async fn an_append_calls_no_function_of_another_schema() {
    let session = session().await;
    session.batch_execute("create schema hostile").await.unwrap();
    for function in [
        "cardinality(text[]) returns int",
        "cardinality(json[]) returns int",
        "pg_column_size(json[]) returns int",
        "array_ndims(json[]) returns int",
        "array_lower(json[], int) returns int",
        "unnest(text[]) returns text",
        "unnest(json[]) returns json",
        "hashtext(text) returns int",
        "format(text, text, text) returns text",
        "jsonb_path_exists(jsonb, jsonpath) returns boolean",
    ] {
        let sql = format!("create function hostile.{function} language plpgsql as $$ begin raise 'hostile'; end $$");
        session.batch_execute(&sql).await.unwrap();
    }
    session.batch_execute("set search_path = hostile, public").await.unwrap();
    let data = format!("[{}1]", r#"{"a":1},"#.repeat(400));
    append(&*session, &event(data).event(NewEvent::new("T", "2").metadata("{}"))).await.unwrap();
    assert_eq!(count(&session).await, 2);
}
