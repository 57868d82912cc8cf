//! Listings of events by position: filters and pages.

use futures_util::TryStreamExt;
use sandmill::{
    db::Session,
    store::{Filter, StoredEvent, page},
};
use sandmill_client::{Append, NewEvent, append};
use sandmill_tests::database;

async fn list(session: &Session, filter: &Filter, after: i64, limit: i64) -> Vec<StoredEvent> {
    page(session, filter, after, limit).await.unwrap().try_collect().await.unwrap()
}

#[tokio::test]
async fn filters_select_events_and_pages_continue_after_a_position() {
    let session = database().await.db.connect("test").await.unwrap();
    for (tenant, stream, event_type) in
        [("a", "s", "T"), ("b", "s", "T"), ("a", "t", "T"), ("a", "s", "U"), ("b", "t", "U"), ("a", "s", "T")]
    {
        let event = NewEvent::new(event_type, "{\n}");
        append(&*session, &Append::to(tenant, stream).event(event)).await.unwrap();
    }
    let all = list(&session, &Filter::default(), 0, 100).await;
    let positions = |events: &[StoredEvent]| events.iter().map(|event| event.position).collect::<Vec<_>>();
    assert_eq!(positions(&all), [1, 2, 3, 4, 5, 6]);
    assert_eq!((all[3].tenant.as_str(), all[3].version, all[3].event_type.as_str()), ("a", 2, "U"));
    assert_eq!(all[0].data.get(), "{ }");

    let some = |text: &str| Some(text.to_owned());
    let of_a = Filter { tenant: some("a"), ..Filter::default() };
    assert_eq!(positions(&list(&session, &of_a, 0, 100).await), [1, 3, 4, 6]);
    assert_eq!(positions(&list(&session, &of_a, 1, 2).await), [3, 4]);
    let of_stream = Filter { stream: some("s"), ..Filter::default() };
    assert_eq!(positions(&list(&session, &of_stream, 0, 100).await), [1, 2, 4, 6]);
    let all_three = Filter { tenant: some("a"), stream: some("s"), event_type: some("T") };
    assert_eq!(positions(&list(&session, &all_three, 1, 100).await), [6]);
    assert!(list(&session, &Filter { tenant: some("c"), ..Filter::default() }, 0, 100).await.is_empty());
}
