//! Event ids: unique within a tenant, and invisible to other tenants.

use std::{io::Cursor, time::Duration};

use futures_util::TryStreamExt;
use sandmill::{
    db::Session,
    store::{
        Filter, StoredEvent,
        import::{ImportError, ImportInput, ImportReport, import},
        page,
    },
};
use sandmill_client::{Append, AppendError, NewEvent, append};
use sandmill_tests::database;

async fn session() -> Session {
    database().await.db.connect("test").await.unwrap()
}

async fn import_text(session: &mut Session, text: &str) -> Result<ImportReport, ImportError> {
    import(session, ImportInput::from_reader(Cursor::new(text.to_owned())), |_| {}).await
}

async fn stored(session: &Session) -> Vec<StoredEvent> {
    page(session, &Filter::default(), 0, i64::MAX).await.unwrap().try_collect().await.unwrap()
}

fn line(tenant: &str, stream: &str, id: &str, rest: &str) -> String {
    format!("{{\"tenant\":\"{tenant}\",\"stream\":\"{stream}\",\"type\":\"T\",\"id\":\"{id}\",{rest}}}\n")
}

fn counts(report: &ImportReport) -> (u64, u64) {
    (report.imported, report.repeated)
}

#[tokio::test]
async fn two_tenants_may_use_the_same_id() {
    let mut session = session().await;
    let text = line("acme", "s", "1", r#""data":"of acme""#) + &line("globex", "s", "1", r#""data":"of globex""#);
    assert_eq!(counts(&import_text(&mut session, &text).await.unwrap()), (2, 0));
    assert_eq!(counts(&import_text(&mut session, &text).await.unwrap()), (0, 2));
    let third = Append::to("initech", "s").event(NewEvent::new("T", "\"of initech\"").id("1"));
    append(&*session, &third).await.unwrap();
    let events = stored(&session).await;
    let listed: Vec<(&str, &str)> = events.iter().map(|event| (event.tenant.as_str(), event.data.get())).collect();
    assert_eq!(listed, [("acme", "\"of acme\""), ("globex", "\"of globex\""), ("initech", "\"of initech\"")]);
    assert!(events.iter().all(|event| event.id == "1" && event.version == 1));
}

#[tokio::test]
async fn a_rejected_id_names_its_own_tenant_and_no_other() {
    let session = session().await;
    let with = |tenant: &str, id: &str| Append::to(tenant, "s").event(NewEvent::new("T", "{}").id(id));
    append(&*session, &with("secretive", "shared")).await.unwrap();
    append(&*session, &with("acme", "shared")).await.unwrap();
    let error = append(&*session, &with("acme", "shared")).await.unwrap_err();
    assert!(
        matches!(&error, AppendError::DuplicateId { tenant, id } if tenant == "acme" && id == "shared"),
        "{error:?}"
    );
    let sql = "select sandmill.append('acme', 's', '{T}', '{1}', null, null, '{shared}')";
    let raw = format!("{:?}", session.query(sql, &[]).await.unwrap_err());
    assert!(raw.contains("Key (tenant, id)=(acme, shared)") && !raw.contains("secretive"), "{raw}");
}

#[tokio::test]
async fn a_different_event_with_a_known_id_is_rejected_with_its_line_and_the_difference() {
    let first =
        line("acme", "s", "a", r#""data":{"n":1},"metadata":{"by":"ann"},"recordedAt":"2013-01-01T05:00:00.123456Z""#);
    let fresh = |id: &str| line("acme", "s", id, r#""data":0"#);
    for (other, difference) in [
        (line("acme", "s", "a", r#""data":{"n":2},"metadata":{"by":"ann"}"#), "its data differs"),
        (line("acme", "s", "a", r#""data":{"n":1}"#), "its metadata differs"),
        (line("acme", "t", "a", r#""data":{"n":1},"metadata":{"by":"ann"}"#), "its stream is \"s\", here \"t\""),
        (
            line("acme", "s", "a", r#""data":{"n":1},"metadata":{"by":"ann"},"recordedAt":"2013-01-01T05:00:00.124Z""#),
            "it was recorded at another time",
        ),
    ] {
        for is_in_the_store in [false, true] {
            let mut session = session().await;
            let mut text = first.clone() + &fresh("b");
            if is_in_the_store {
                import_text(&mut session, &text).await.unwrap();
                text = fresh("c") + &fresh("d");
            }
            // The lines before it are stored, and the error names its number.
            let text = text + &other + &fresh("e");
            let error = import_text(&mut session, &text).await.unwrap_err();
            assert!(matches!(error, ImportError::BadLine { line: 3, stored_through: 2, .. }), "{error}");
            let message = format!("line 3: tenant acme has another event with the id \"a\": {difference}");
            assert!(error.to_string().starts_with(&message), "{error}");
            assert_eq!(stored(&session).await.len(), if is_in_the_store { 4 } else { 2 });
        }
    }
}

#[tokio::test]
async fn the_same_event_in_another_form_is_a_repetition() {
    let mut session = session().await;
    let first = line(
        "acme",
        "s",
        "a",
        r#""data":{"n":1.10,"t":"é"},"metadata":{"by":"ann"},"recordedAt":"2013-01-01T05:00:00.123456Z""#,
    );
    import_text(&mut session, &first).await.unwrap();
    for again in [
        first.clone(),
        line("acme", "s", "a", r#""data":{ "n" : 1.1, "t":"\u00e9"},"metadata":{"by": "ann"}"#),
        line(
            "acme",
            "s",
            "a",
            r#""data":{"n":11e-1,"t":"é"},"metadata":{"by":"ann"},"recordedAt":"2013-01-01T06:00:00.123+01:00""#,
        ),
    ] {
        assert_eq!(counts(&import_text(&mut session, &again).await.unwrap()), (0, 1), "{again}");
    }
}

/// An application appends an id with other content while an import with the same id waits for it.
#[tokio::test]
async fn an_id_that_an_application_appends_during_an_import_is_compared_too() {
    let database = database().await;
    let (mut importer, mut application) =
        (database.db.connect("import").await.unwrap(), database.db.connect("test").await.unwrap());
    let watcher = database.db.connect("test").await.unwrap();
    let open = application.client_mut().transaction().await.unwrap();
    append(&open, &Append::to("acme", "s").event(NewEvent::new("T", "1").id("a"))).await.unwrap();
    let text = line("acme", "s", "a", r#""data":2"#);
    let release = async {
        sandmill_tests::until("the import waits for the application", async || {
            let sql = "select count(*) from pg_stat_activity where datname = current_database() \
                       and application_name = 'sandmill import' and wait_event_type = 'Lock'";
            watcher.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
        })
        .await;
        open.commit().await.unwrap();
    };
    let importing = tokio::time::timeout(Duration::from_secs(50), import_text(&mut importer, &text));
    let (result, ()) = tokio::join!(importing, release);
    let error = result.unwrap().unwrap_err();
    assert!(
        error.to_string().starts_with("line 1: tenant acme has another event with the id \"a\": its data"),
        "{error}"
    );
    assert_eq!(stored(&watcher).await.len(), 1);
}
